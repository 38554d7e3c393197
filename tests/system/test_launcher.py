"""A launcher's children are processes of their own: what fails in one costs that one, and none is left."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.system.child import Child, ChildDied, ChildError, call
from workbench.system.launcher import Launcher, available, end_shared_launcher, sharing_imports
from workbench.system.nvidia import driver_here

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not available(), reason="this system cannot wait for another process's children"),
]
TIMEOUT_S = 60.0
# What the children do; the launchers import it as `forked_jobs`.
JOBS = """
import ctypes, os, signal, sys, time

def parent():
    return os.getppid()

def library_at():
    return ctypes.cast(ctypes.CDLL(None).printf, ctypes.c_void_p).value

def handler():
    made = []
    def answer(request):
        if request == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if request == "hang":
            time.sleep(600)
        if request == "print":
            print("printed by", os.getpid(), flush=True)
        if request == "append":
            made.append(request)
        return os.getpid(), os.getppid(), library_at(), len(made)
    return answer
"""


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("forked")
    (folder / "forked_jobs.py").write_text(JOBS)
    (folder / "counted.py").write_text("print('imported', flush=True)")
    (folder / "broken.py").write_text("raise RuntimeError('this library is broken')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        import forked_jobs  # type: ignore[import-not-found]

        yield forked_jobs.handler


@pytest.fixture
def launcher(handler: Any, tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(log=tmp_path / "launcher.txt") as launcher:
        yield launcher


def child(handler: Any, launcher: Launcher, log: Path, *imports: str) -> Child:
    return Child(handler, log=log, label="the job", launcher=launcher, imports=imports, exit_at_once=True)


def test_each_is_a_process_of_its_own_with_its_own_memory_and_log(
    launcher: Launcher, handler: Any, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        logs = [tmp_path / "one.txt", tmp_path / "two.txt"]
        one, two = (stack.enter_context(child(handler, launcher, log)) for log in logs)
        for each in (one, two):
            each.ready(TIMEOUT_S)
        one.ask("append", TIMEOUT_S)
        answers = [each.ask("print", TIMEOUT_S) for each in (one, two)]
        assert [answer[0] for answer in answers] == [one.process.pid, two.process.pid]
        assert {answer[1] for answer in answers} == {launcher.pid}
        assert [answer[3] for answer in answers] == [1, 0]
        assert [log.read_text() for log in logs] == [
            f"printed by {each.process.pid}\n" for each in (one, two)
        ]
    assert [each.process.wait() for each in (one, two)] == [0, 0]


def test_libraries_lie_where_the_launcher_has_them_and_elsewhere_in_the_next(
    handler: Any, tmp_path: Path
) -> None:
    places = []
    for _ in range(3):
        with Launcher(log=tmp_path / "launcher.txt") as launcher, ExitStack() as stack:
            pair = [stack.enter_context(child(handler, launcher, tmp_path / "log.txt")) for _ in range(2)]
            for each in pair:
                each.ready(TIMEOUT_S)
            places.append({each.ask("where", TIMEOUT_S)[2] for each in pair})
    assert all(len(place) == 1 for place in places)
    if Path("/proc/sys/kernel/randomize_va_space").read_text().strip() != "0":
        assert len(set.union(*places)) > 1


def test_a_crash_is_told_and_costs_that_one_alone(launcher: Launcher, handler: Any, tmp_path: Path) -> None:
    with (
        child(handler, launcher, tmp_path / "a.txt") as one,
        child(handler, launcher, tmp_path / "b.txt") as two,
    ):
        for each in (one, two):
            each.ready(TIMEOUT_S)
        with pytest.raises(ChildDied, match="the job was killed by SIGSEGV"):
            one.ask("crash", TIMEOUT_S)
        assert two.ask("append", TIMEOUT_S)[3] == 1


def test_one_that_hangs_is_stopped(launcher: Launcher, handler: Any, tmp_path: Path) -> None:
    with child(handler, launcher, tmp_path / "log.txt") as each:
        each.ready(TIMEOUT_S)
        with pytest.raises(ChildError, match=r"the job took longer than 0\.2 s and was stopped"):
            each.ask("hang", 0.2)
        assert each.process.wait() == -signal.SIGKILL


def test_modules_are_imported_once_and_what_cannot_be_is_left_to_the_child(
    launcher: Launcher, handler: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        with child(
            handler, launcher, tmp_path / "log.txt", "forked_jobs", "no_such_module", "counted"
        ) as each:
            each.ready(TIMEOUT_S)
            assert each.ask("append", TIMEOUT_S)[3] == 1
    assert (tmp_path / "launcher.txt").read_text() == "imported\n"


def test_an_import_that_fails_ends_it_and_its_log_says_why(
    launcher: Launcher, handler: Any, tmp_path: Path
) -> None:
    launcher.prepare(["counted", "broken"])
    launcher.prepared()
    with (
        pytest.raises(ChildDied, match="the job ended with exit code 1"),
        child(handler, launcher, tmp_path / "log.txt") as each,
    ):
        each.ready(TIMEOUT_S)
    assert "RuntimeError: this library is broken" in (tmp_path / "launcher.txt").read_text()


@pytest.mark.skipif(driver_here(), reason="CUDA does not survive a fork")
def test_calls_share_the_imports_where_they_are_told_to(handler: Any, tmp_path: Path) -> None:
    import forked_jobs

    def parent_of_call() -> int:
        return call(forked_jobs.parent, log=tmp_path / "log.txt", timeout_s=TIMEOUT_S, label="the job")

    assert parent_of_call() == os.getpid()
    with sharing_imports():
        first, second = parent_of_call(), parent_of_call()
        assert first == second != os.getpid()
        end_shared_launcher()
        assert not psutil.pid_exists(first)
        assert parent_of_call() not in (first, os.getpid())
    assert parent_of_call() == os.getpid()


def test_the_children_end_with_it(handler: Any, tmp_path: Path) -> None:
    with Launcher(log=tmp_path / "launcher.txt") as launcher:
        each = child(handler, launcher, tmp_path / "log.txt")
        each.ready(TIMEOUT_S)
        found = psutil.Process(each.process.pid)
    assert_ended([found])
    each.close()


def test_nothing_is_left_where_the_parent_is_killed(handler: Any, tmp_path: Path) -> None:
    parent = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import forked_jobs
        from workbench.system.child import Child
        from workbench.system.launcher import Launcher
        launcher = Launcher(log=Path("launcher.txt"))
        child = Child(forked_jobs.handler, log=Path("log.txt"), label="the job", launcher=launcher)
        child.ready(60)
        print(launcher.pid, child.process.pid, flush=True)
        sys.stdin.read()
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(processes) == 2
        process.kill()
    assert_ended(processes)


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
