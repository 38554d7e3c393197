"""What goes wrong in a child costs that child, is told in one sentence, and leaves nothing running."""

import importlib
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.system.child import Child, ChildError, call

pytestmark = pytest.mark.integration

TIMEOUT_S = 30.0

# What the children do; they import it as `jobs`.
JOBS = """
import contextlib, ctypes, logging, os, signal, struct, sys, time
import numpy as np
from workbench.errors import WorkbenchError

def segfault():
    ctypes.string_at(0)

def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)

def leave():
    os._exit(3)

def half_an_answer():
    os.write(int(sys.argv[1]), struct.pack("!i", 1000) + b"cut short")
    os._exit(3)

def hang():
    print("hanging", flush=True)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)

def refuse():
    raise WorkbenchError("photo.jpg is not a photo", hint="remove it")

def translate():
    try:
        int("seven")
    except ValueError as error:
        raise WorkbenchError("the converter cannot take the network", hint="its log has more") from error

def stumble():
    raise KeyError("gamma\\nand a page of advice")

def unpicklable():
    return lambda: 1

def chat():
    print("said on stdout", flush=True)
    os.write(1, b"written to descriptor 1\\n")
    print("said on stderr", file=sys.stderr, flush=True)
    logging.getLogger("workbench.steps").info("logged by us")
    logging.getLogger("library").info("a library's details")
    return "done"

def zeros(megabytes):
    return np.zeros((megabytes, 1024, 256), np.float32) + np.arange(256, dtype=np.float32)

@contextlib.contextmanager
def counter(start, farewell):
    count = start

    def handler(request):
        nonlocal count
        if request == "stumble":
            raise ValueError("not that")
        if request == "segfault":
            segfault()
        if request == "hang":
            hang()
        count += request
        return count

    yield handler
    with open(farewell, "w") as file:
        file.write("closed in an orderly way")
"""


@pytest.fixture(autouse=True)
def jobs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "jobs.py").write_text(JOBS)
    monkeypatch.setenv("PYTHONPATH", str(folder))  # for processes that start children of their own
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield
    sys.modules.pop("jobs", None)


def job(name: str) -> Any:
    return getattr(importlib.import_module("jobs"), name)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.txt"


@pytest.fixture
def counting(log: Path, tmp_path: Path) -> Iterator[Child]:
    """A child that adds what it is sent to a number that starts at 40."""
    with Child(job("counter"), 40, str(tmp_path / "farewell"), log=log, label="the counter") as child:
        child.ready(TIMEOUT_S)
        yield child


def error_of(name: str, log: Path, timeout_s: float = TIMEOUT_S) -> ChildError:
    with pytest.raises(ChildError) as caught:
        call(job(name), log=log, timeout_s=timeout_s, label="the build")
    return caught.value


def wait_for(met: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_answer_comes_back(log: Path) -> None:
    assert call(math.hypot, 3, 4, log=log, timeout_s=TIMEOUT_S, label="the job") == 5.0


def test_what_lies_in_the_current_folder_is_not_taken_for_a_module_of_ours(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workbench.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "pickle.py").write_text("raise SystemExit('nor this one')")
    monkeypatch.chdir(tmp_path)
    assert call(math.hypot, 3, 4, log=log, timeout_s=TIMEOUT_S, label="the job") == 5.0


def test_large_arrays_come_back_whole(log: Path) -> None:
    got = call(job("zeros"), 200, log=log, timeout_s=TIMEOUT_S, label="the job")
    assert got.shape == (200, 1024, 256)
    assert np.array_equal(got[137, 5], np.arange(256, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "death"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("kill_oneself", "was killed by SIGKILL, which is what running out of memory looks like"),
        ("leave", "ended with exit code 3"),
        ("half_an_answer", "ended with exit code 3"),
    ],
)
def test_a_death_is_reported_by_its_cause_and_log(log: Path, name: str, death: str) -> None:
    error = error_of(name, log)
    assert (error.message, error.hint) == (f"the build {death}", f"see {log}")


def test_a_hang_ends_at_its_time_limit(log: Path) -> None:
    message = "the build took longer than 1.5 s and was stopped"
    assert error_of("hang", log, timeout_s=1.5).message == message


def test_an_expected_error_crosses_with_its_hint_and_without_a_traceback(log: Path) -> None:
    error = error_of("refuse", log)
    assert (error.message, error.hint) == ("photo.jpg is not a photo", "remove it")
    assert "Traceback" not in log.read_text()


def test_what_an_expected_error_was_made_of_is_in_the_log(log: Path) -> None:
    error = error_of("translate", log)
    assert (error.message, error.hint) == (
        "the converter cannot take the network",
        "its log has more",
    )
    assert "ValueError: invalid literal for int() with base 10: 'seven'" in log.read_text()


def test_any_other_error_is_one_line_and_its_traceback_is_in_the_log(log: Path) -> None:
    error = error_of("stumble", log)
    assert error.message.startswith("the build failed: KeyError: 'gamma")
    assert "\n" not in error.message
    assert error.hint == f"see {log}"
    assert "in stumble" in log.read_text()
    assert "Traceback" in log.read_text()


def test_an_answer_that_cannot_be_sent_is_an_error(log: Path) -> None:
    error = error_of("unpicklable", log)
    assert error.message.startswith("the build failed: ")
    assert "Traceback" in log.read_text()


def test_what_a_child_prints_goes_to_its_log_and_not_to_ours(
    log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(job("chat"), log=log, timeout_s=TIMEOUT_S, label="the job") == "done"
    assert log.read_text().splitlines() == [
        "said on stdout",
        "written to descriptor 1",
        "said on stderr",
        "INFO workbench.steps: logged by us",
    ]
    assert capfd.readouterr() == ("", "")


def test_a_log_is_added_to(log: Path) -> None:
    for _ in range(2):
        call(job("chat"), log=log, timeout_s=TIMEOUT_S, label="the job")
    assert log.read_text().count("said on stdout") == 2


def test_a_child_keeps_its_state_from_one_request_to_the_next(counting: Child) -> None:
    assert [counting.ask(1, TIMEOUT_S), counting.ask(1, TIMEOUT_S)] == [41, 42]


def test_a_child_survives_an_error_it_could_tell(counting: Child) -> None:
    with pytest.raises(ChildError, match="the counter failed: ValueError: not that"):
        counting.ask("stumble", TIMEOUT_S)
    assert counting.ask(2, TIMEOUT_S) == 42


def test_asking_a_dead_child_again_tells_the_same_death(counting: Child) -> None:
    for _ in range(3):
        with pytest.raises(ChildError, match="the counter was killed by SIGSEGV"):
            counting.ask("segfault", TIMEOUT_S)


def test_a_child_that_hung_is_gone_and_stays_gone(counting: Child) -> None:
    with pytest.raises(ChildError, match=r"took longer than 0\.5 s and was stopped"):
        counting.ask("hang", 0.5)
    assert not is_running(counting.process.pid)
    with pytest.raises(ChildError, match="was killed by SIGKILL"):
        counting.ask(1, TIMEOUT_S)


def test_a_child_ends_in_an_orderly_way_when_it_is_closed(log: Path, tmp_path: Path) -> None:
    with Child(job("counter"), 0, str(tmp_path / "farewell"), log=log, label="the counter") as child:
        child.ready(TIMEOUT_S)
    assert (child.process.returncode, (tmp_path / "farewell").read_text()) == (0, "closed in an orderly way")


def test_a_child_is_killed_at_once_when_its_block_fails(log: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Child(job("counter"), 0, str(tmp_path / "farewell"), log=log, label="the counter") as child,
    ):
        child.ready(TIMEOUT_S)
        raise KeyboardInterrupt
    assert child.process.returncode == -signal.SIGKILL
    assert not (tmp_path / "farewell").exists()


# Whole families of processes

PARENT = """
import pathlib, sys
import jobs
from workbench.system.child import Child, one_call
log = pathlib.Path(sys.argv[1])
with Child(one_call, jobs.hang, (), log=log, label="it") as child:
    child.ready(30)
    print(child.process.pid, flush=True)
    try:
        child.ask(None, 60)
    except KeyboardInterrupt:
        print("interrupted", child.process.poll(), flush=True)
        raise
"""


@pytest.fixture
def family(log: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A parent that waits for a busy child, in a process group of their own; and the child's pid."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_for(lambda: "hanging" in log.read_text())
    yield parent, child
    parent.kill()
    parent.wait()
    parent.stdout.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; needs PR_SET_PDEATHSIG")
def test_a_child_dies_with_its_parent(family: tuple["subprocess.Popen[str]", int]) -> None:
    parent, child = family
    assert is_running(child)
    parent.kill()
    wait_for(lambda: not is_running(child))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_is_the_parents_to_handle(family: tuple["subprocess.Popen[str]", int], log: Path) -> None:
    parent, child = family
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does: all of the group get it
    assert parent.stdout is not None
    assert parent.stdout.readline() == "interrupted None\n"  # the child had not noticed
    parent.wait(20)
    wait_for(lambda: not is_running(child))
    assert "KeyboardInterrupt" not in log.read_text()
