"""`compare` sorted, filtered and plotted, from made-up trials."""

from pathlib import Path

import pytest

from tests.builders import run_info, trial
from workbench.cli import main
from workbench.report import plot
from workbench.report.arrangement import Order, arranged
from workbench.results.folder import RunFolder
from workbench.results.verdict import Comparison, compare

TRIALS = (
    trial("baseline"),
    trial("small", speedup=2.0, size_mb=2.0, losses=5, peak_memory_bytes=50_000_000),
    trial("worse", speedup=1.5, size_mb=9.0, losses=400),
    trial("untimed", latency=None, size_mb=1.0, peak_memory_bytes=None),
)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(run_info(), TRIALS)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (None, ["baseline", "small", "worse", "untimed"]),
        ("speed", ["small", "worse", "baseline", "untimed"]),
        ("size", ["untimed", "small", "baseline", "worse"]),
        ("accuracy", ["baseline", "untimed", "small", "worse"]),
        ("memory", ["baseline", "worse", "small", "untimed"]),
        ("p50", ["small", "worse", "baseline", "untimed"]),
    ],
)
def test_rows_are_sorted_best_first_and_what_was_not_measured_comes_last(
    comparison: Comparison, order: Order | None, names: list[str]
) -> None:
    assert [row.variant for row in arranged(comparison, order=order).rows] == names


def test_only_the_pareto_front_is_shown_and_nothing_is_decided_anew(comparison: Comparison) -> None:
    shown = arranged(comparison, only="pareto")
    assert [row.variant for row in shown.rows] == ["baseline", "small"]
    assert shown.verdict == comparison.verdict


def test_the_plot_has_a_mark_for_each_variant_that_was_timed(comparison: Comparison) -> None:
    pytest.importorskip("plotext")
    text = plot.render(comparison, color=False, width=80)
    drawing = text[text.index("\n") :]
    assert (drawing.count("▶"), drawing.count("•"), drawing.count("o")) == (
        1,
        1,
        1 + "drop, points".count("o"),
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "\x1b" in plot.render(comparison, color=True, width=80)


def test_nothing_timed_is_no_plot() -> None:
    assert plot.render(compare(run_info(), TRIALS[3:]), color=False, width=80) == ""


def test_compare_plots_below_a_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotext")
    folder = RunFolder(tmp_path / "results" / "20260102-030405")
    folder.path.mkdir(parents=True)
    folder.save_info(run_info())
    for each in TRIALS:
        folder.append(each)
    monkeypatch.chdir(tmp_path)
    code = main(["compare"])
    capsys.readouterr()
    assert main(["compare", "--plot", "--only", "pareto", "--sort", "size"]) == code
    shown = capsys.readouterr().out
    assert "worse  " not in shown and plot.TITLE in shown
    assert main(["compare", "--plot", "--format", "json"]) == 2
    assert "only below a table" in capsys.readouterr().err
