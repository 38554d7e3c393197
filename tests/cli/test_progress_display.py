"""What long work shows: a live display on a terminal, plain lines elsewhere, nothing where it is quiet."""

import io
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from workbench.cli.progress_display import describe, describe_time_left, draw
from workbench.system.progress import Progress, Standing, time_left_s

ROOT = Path(__file__).parents[2]
STANDINGS = (
    Standing("int8[method=minmax]", 2.084, (1.993, 2.141), False),
    Standing("baseline", 1.0, None, False),
    Standing("fp32[dynamo,opset=21]", 0.612, None, True),
    Standing("fp16", None, None, False),
)
SCRIPT = """
import sys, time
from workbench.cli.progress_display import ProgressDisplay
from workbench.system.progress import Progress, Standing
with ProgressDisplay(quiet="--quiet" in sys.argv) as report:
    report(Progress("failed", 0, 0, "fp16[keep=Conv]: no GPU"))
    report(Progress("building", 3, 7, "fp32[dynamo,opset=21], checking"))
    report(Progress("building", 4, 7, "fp32[dynamo,opset=22], checking"))
    time.sleep(0.7)
    standings = (Standing("int8[method=minmax]", 2.084, (1.993, 2.141), False),)
    report(Progress("timing", 3, 20, "race of 4", 40.0, standings))
    time.sleep(0.7)
print("the data")
"""


def shown_on_a_terminal(*arguments: str) -> str:
    """Everything that a process writes where stdout and stderr are one terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_on_a_terminal_brackets_are_shown_and_not_taken_for_markup() -> None:
    shown = shown_on_a_terminal()
    assert "fp32[dynamo,opset=22], checking" in shown
    assert "4 of 7" in shown
    assert "int8[method=minmax]  2.08×  1.99-2.14" in shown
    assert "about 40 s left" in shown
    assert shown.count("failed fp16[keep=Conv]: no GPU") == 1, "an event is printed once and stays"
    assert shown.rstrip().endswith("the data")


def test_a_quiet_terminal_shows_the_data_alone() -> None:
    assert shown_on_a_terminal("--quiet") == "the data\r\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            [],
            "failed fp16[keep=Conv]: no GPU\n"
            "building: 3 of 7, fp32[dynamo,opset=21], checking\n"
            "timing: 3 of 20, race of 4, about 40 s left\n",
        ),
        (["--quiet"], ""),
    ],
)
def test_where_there_is_no_terminal_plain_lines_go_to_stderr(arguments: list[str], lines: str) -> None:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("the data\n", lines)


def test_the_standings_name_speed_interval_and_who_was_dropped() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(draw(Progress("timing", 7, 20, "race of 4", 75.0, STANDINGS), 65.4))
    assert isinstance(console.file, io.StringIO)
    first, what, *rows = (line.rstrip() for line in console.file.getvalue().splitlines())
    assert first.startswith("timing ") and first.endswith(" 7 of 20 1:05 about 75 s left")
    assert what == "  race of 4"
    assert [row.split() for row in rows] == [
        ["int8[method=minmax]", "2.08×", "1.99-2.14"],
        ["baseline", "1.00×"],
        ["fp32[dynamo,opset=21]", "0.61×", "dropped"],
        ["fp16"],
    ]


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "budget_s", "left_s"),
    [
        (0, 20, 5.0, 60.0, 55.0),  # no round yet: the budget alone is known
        (2, 20, 10.0, 60.0, 50.0),  # 90 s at this pace, but the budget ends sooner
        (10, 20, 20.0, 60.0, 20.0),  # all rounds are made before the budget ends
        (3, 20, 70.0, 60.0, 0.0),
        (20, 20, 50.0, 60.0, 0.0),
    ],
)
def test_the_time_left_is_that_of_the_pace_within_the_budget(
    done: int, total: int, elapsed_s: float, budget_s: float, left_s: float
) -> None:
    assert time_left_s(done, total, elapsed_s, budget_s) == pytest.approx(left_s)


def test_without_a_budget_the_pace_says_what_is_left_once_there_is_one() -> None:
    assert time_left_s(0, 7, 30.0) is None
    assert time_left_s(2, 7, 30.0) == pytest.approx(75.0)
    assert describe_time_left(Progress("building", 1, 7), 1.0) == ""
    assert describe_time_left(Progress("building", 2, 7), 30.0) == "about 75 s left"
    assert describe_time_left(Progress("building", 1, 7), 60.0) == "about 6 min left"
    assert describe_time_left(Progress("building", 7, 7), 60.0) == ""
    assert describe_time_left(Progress("timing", 1, 20, left_s=12.4), 60.0) == "about 12 s left"


def test_work_of_unknown_extent_is_described_with_its_time_left() -> None:
    searching = Progress("searching", 4, 0, "fp16 (suggested)", 200.0)
    assert describe(searching, 9.0) == "searching fp16 (suggested), about 3 min left"
