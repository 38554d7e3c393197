"""Tables of plain text on narrow terminals: versions, devices, and variants by classes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.simulated import FACTS, fleet_of
from tests.report.large_fleet import large_fleet
from workbench.cli import main
from workbench.fleet.matrix import matrix_of
from workbench.fleet.standing import DeviceStanding
from workbench.report.fleet import matrix_text, standings_text
from workbench.report.registry import versions
from workbench.report.text_table import folded, text_table

CPU = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_a_cell_is_folded_between_its_parts_and_cut_only_where_a_part_is_too_long() -> None:
    assert folded("production@pi5,production@x86", 12) == ["production", "@pi5,", "production", "@x86"]
    assert folded("20260101-030405/devices/pi5-a", 16) == ["20260101-030405/", "devices/pi5-a"]
    assert folded("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_columns_are_folded_first_then_left_out_and_only_then_cut() -> None:
    rows = [["name", "text", "more"], ["a", "one two three four", "0123456789"]]
    assert text_table(rows, 60, folds=[1], drops=[2])[1] == "a     one two three four  0123456789"
    assert text_table(rows, 30, folds=[1], drops=[2])[1:] == [
        "a     one two       0123456789",
        "      three four",
    ]
    assert text_table(rows, 20, folds=[1], drops=[2])[0] == "name  text"
    assert text_table([["a", "0123456789abcdef"]], 14, folds=[1]) == ["a  0123456789a", "   bcdef"]


def entry(**more: Any) -> dict[str, Any]:
    known = {
        "name": "krishi-student",
        "version": "1.2.0",
        "variant": "int8[size=192]",
        "run": "20261130-011500",
    }
    known |= {"aliases": [], "created_at": "2026-11-30T01:20:00+00:00", "size_bytes": 4_200_000}
    return {**known, "top1": 0.9312, "forced": None, "problems": [], "servers": [], **more}


@pytest.mark.parametrize("width", [100, 80])
def test_models_with_aliases_of_many_classes_fit_the_terminal(width: int) -> None:
    aliases = ["production@pi5", "production@x86-avx2", "staging@pi5", "production"]
    text = versions([entry(aliases=aliases, run="20261130-011500/devices/pi5-a"), entry()], width)
    assert widest(text) <= width
    for part in ("@x86-avx2,", "staging", "devices/pi5-a"):
        assert part in text
    assert ("published" in text) == (width == 100)


def test_the_state_of_devices_fits_80_columns_and_keeps_what_matters_most() -> None:
    fleet = fleet_of({"pi5-a": "pi5", "edge-1": "x86-avx2"})
    facts = FACTS.model_copy(update={"machine": FACTS.machine.model_copy(update={"cpu": CPU})})
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    standings = [
        DeviceStanding("pi5-a", fleet.devices["pi5-a"], "free", facts=facts, clock={"noise_floor": 0.011}),
        DeviceStanding("edge-1", fleet.devices["edge-1"], "busy", "user 0 has it " * 9, since, facts),
    ]
    for width in (100, 80, 50):
        text = standings_text(standings, width)
        assert widest(text) <= width
        for word in ("class", "pi5-a", "free", "busy", "01-02 03:04", "1.1 %"):
            assert word in text
    assert "Platinum" in standings_text(standings, 80)


def test_classes_that_do_not_fit_beside_each_other_stand_below_each_other(tmp_path: Path) -> None:
    folder = large_fleet(tmp_path / "results")
    matrix, status = matrix_of(folder), folder.status()
    wide, narrow = (matrix_text(matrix, status, width) for width in (100, 60))
    assert widest(wide) <= 100 and widest(narrow) <= 60
    assert (wide.count("variant  "), narrow.count("variant  ")) == (1, 2)
    for text in (wide, narrow):
        assert "▶ 2.82× [2.79, 2.85]" in text and "▶ 1.95× [1.92, 1.98]" in text


def test_a_finished_run_is_compared_without_its_photos_and_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "krishi.yaml").write_text(
        "model: {checkpoint: gone.ckpt, factory: 'gone.py:create_model'}\ndata: {validation: gone}\n"
    )
    folder = large_fleet(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", folder.run_id]) == 1  # a class without a device
    assert "pi5: int8 wins" in capsys.readouterr().out
    assert main(["compare", f"{folder.run_id}/devices/pi5-a"]) == 0
    assert main(["models"]) == 0
    assert main(["run", "--quiet"]) == 2
    assert "does not exist" in capsys.readouterr().err
