"""What the end of a run needs is made ready before anything is timed, and computes nothing while it is."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from workbench.cli import report_ahead
from workbench.cli.report_ahead import ReportAhead
from workbench.errors import WorkbenchError
from workbench.report.vega import ChartDrawer

pytestmark = pytest.mark.integration
IMPORTS = """
import sys, time
from workbench.cli.report_ahead import MODULES, ReportAhead
assert not any(module in sys.modules for module in MODULES)
with ReportAhead() as ahead:
    with ahead.before_timing():
        while not all(module in sys.modules for module in MODULES):
            time.sleep(0.01)
    print(*(module in sys.modules for module in MODULES))
"""


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has left."""
    monkeypatch.setattr(report_ahead, "available_cpus", lambda: (0, 1))
    monkeypatch.setattr(report_ahead, "free_memory_bytes", lambda: 2 * report_ahead.ROOM_BYTES)


def process_of(drawer: ChartDrawer | None) -> psutil.Process:
    assert drawer is not None
    return psutil.Process(drawer.pid)


def test_what_draws_the_charts_has_started_before_the_timing_and_rests_while_it_lasts() -> None:
    with ReportAhead() as ahead:
        with ahead.before_timing():
            pass
        assert "imports ahead" not in [thread.name for thread in threading.enumerate()]
        process = process_of(ahead.drawer)
        before = process.cpu_times()
        time.sleep(1.0)
        assert process.cpu_times() == before
        assert ahead.drawer is not None
        assert ahead.drawer.live({"mark": "point", "data": {"values": []}})["marks"]
    assert not process.is_running()


def test_a_run_that_fails_leaves_no_process_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WorkbenchError, match="no such class"), ReportAhead() as ahead, ahead.before_timing():
        process = process_of(ahead.drawer)
        raise WorkbenchError("no such class")
    assert not process.is_running()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_imported_is_left_to_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_ahead, "MODULES", ("no_such_package", "this"))
    sys.modules.pop("this", None)
    with ReportAhead() as ahead, ahead.before_timing():
        deadline = time.monotonic() + 20
        while "this" not in sys.modules and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "this" in sys.modules


def test_what_ended_meanwhile_is_not_asked_to_draw() -> None:
    with ReportAhead() as ahead:
        with ahead.before_timing():
            process = process_of(ahead.drawer)
        process.kill()
        process.wait(10)
        assert ahead.drawer is None


def test_a_library_of_charts_that_does_not_load_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with ReportAhead() as ahead, ahead.before_timing():
        assert ahead.drawer is None


@pytest.mark.parametrize(
    ("name", "found"), [("available_cpus", (0,)), ("free_memory_bytes", report_ahead.ROOM_BYTES - 1)]
)
def test_on_a_small_machine_nothing_is_made_ahead(
    name: str, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_ahead, name, lambda: found)
    with ReportAhead() as ahead, ahead.before_timing():
        assert ahead.drawer is None
        assert "imports ahead" not in [thread.name for thread in threading.enumerate()]


def test_the_modules_are_not_loaded_before_and_are_there_when_timing_begins() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"] * len(report_ahead.MODULES), done.stderr
