"""What fits into memory is timed; what does not is skipped, with the numbers."""

from dataclasses import replace

import pytest
import typer

from tests.builders import error_of, trial
from workbench.cli.options import parse_bytes
from workbench.measure.latency import Plan
from workbench.measure.records import BASELINE, TWIN
from workbench.results.reasons import TooLarge
from workbench.run.memory import fitted, heats_ahead, together, with_room
from workbench.system.machine import available_cpus

NEEDS = {BASELINE: 300, TWIN: 300, "small": 200, "large": 600}
TRIALS = [trial(name, latency=None) for name in (BASELINE, "small", "large")]


def test_what_does_not_fit_beside_the_baseline_and_its_copy_is_skipped_with_the_numbers() -> None:
    got = fitted(TRIALS, NEEDS, 1000)
    assert [t.status for t in got] == ["ok", "ok", "skipped"]
    assert got[2].cause == TooLarge(variant="large", needs_bytes=600, beside_bytes=600, limit_bytes=1000)
    assert fitted(TRIALS, NEEDS, 1200) == TRIALS


def test_without_room_for_the_baseline_and_its_copy_nothing_can_be_timed() -> None:
    needs = {name: 1_000_000 * count for name, count in NEEDS.items()}
    error = error_of(lambda: fitted(TRIALS, needs, 500_000_000))
    assert "need 600 MB at a time to be timed; there are 500" in error.message
    assert "--memory" in (error.hint or "")


def test_as_many_heats_are_started_as_there_are_processors_and_room_for() -> None:
    cpus = len(available_cpus())
    assert heats_ahead([300, 300, 200], None) == heats_ahead([300, 300, 200], 10**9) == cpus
    assert heats_ahead([300, 300, 200], 1599) == 1
    assert heats_ahead([300, 300, 200], 1600) == min(cpus, 2)
    assert heats_ahead([300, 300, 200], 0) == 1  # in heats


def test_a_limit_is_for_this_process_too_and_without_one_some_of_the_free_memory_is_left() -> None:
    limited = with_room(replace(Plan(), memory_bytes=2_000_000_000)).memory_bytes or 0
    assert 0 < limited < 1_995_000_000
    assert (with_room(Plan()).memory_bytes or 0) > 10_000_000


@pytest.mark.parametrize(
    ("given", "size"), [("2GB", 2 * 10**9), ("500mb", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("1MiB", 2**20)]
)
def test_an_amount_of_memory_has_a_unit(given: str, size: int) -> None:
    assert parse_bytes(given) == size


@pytest.mark.parametrize("given", ["2", "2G", "-1GB", "0GB", "1.2.3GB", "many"])
def test_anything_else_is_no_amount(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="give 500MB, 2GB or 2GiB"):
        parse_bytes(given)


def test_as_many_are_open_beside_the_baseline_as_fit_whichever_they_are() -> None:
    needs = {BASELINE: 100, TWIN: 100, "small": 50, "large": 400}
    assert [together(needs, room) for room in (600, 549, 450, 0)] == [2, 1, 1, 1]
