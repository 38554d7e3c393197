"""A process that imports what several children need, once, and forks them.

To import a runtime takes longer than to open a small network with it. The children of one launcher find the
libraries at the same addresses, those of two launchers do not: what has to differ from launch to launch is
forked by launchers of its own.
"""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workbench.system import child
from workbench.system.files import cache_folder, make_folder

if TYPE_CHECKING:
    from workbench.system.environments import VirtualEnvironment

IMPORT, FORK, STATUS = "import", "fork", "status"
MESSAGE_BYTES = 4096
ANSWER_TIMEOUT_S = 300.0  # for imports, on a slow machine
END_TIMEOUT_S = 10.0  # of a process that has closed its socket
KILLED = -signal.SIGKILL
# Its threads would be lost in a fork; no child of ours multiplies matrices with it.
SINGLE_THREADED = "OPENBLAS_NUM_THREADS"


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether this system can: Linux from 5.3 on, where no sandbox forbids it."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


class Launcher:
    """A process whose children have what it imported for them. They end with it.

    log: file that what it prints is appended to. environment: to run in; this one by default. Raises Unsuited
    where that is not made.
    """

    def __init__(self, *, log: Path, environment: "VirtualEnvironment | None" = None) -> None:
        command = (environment.command if environment else child.child_command)("workbench.system.launcher")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        make_folder(log.parent)
        with theirs, log.open("ab") as output:
            arguments = [str(theirs.fileno()), str(os.getpid())]
            self.process = child.start([*command, *arguments], theirs.fileno(), output)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._asked = 0
        self._pids: list[int | None] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def prepare(self, imports: Sequence[str]) -> None:
        """Ask for these modules to be imported, none of which may start a thread."""
        with suppress(OSError):  # It has ended: its children say so.
            self._socket.send(" ".join([IMPORT, *imports]).encode())
        self._asked += 1

    def prepared(self) -> None:
        """Wait until all that was asked for is done."""
        self.child(self._asked - 1)

    def fork(self, pipe: int, log: int, imports: Sequence[str]) -> "Forked":
        """Ask for a child that serves this pipe and prints into this file; it comes once these modules are
        imported, none of which may start a thread. What cannot be imported is left to the child."""
        with suppress(OSError):  # It has ended: the child's own pipe says so.
            socket.send_fds(self._socket, [" ".join([FORK, *imports]).encode()], [pipe, log])
        self._asked += 1
        return Forked(self, self._asked - 1)

    def child(self, number: int) -> int | None:
        """The process number of a child; None where the launcher has ended before it."""
        while len(self._pids) <= number:
            self._pids.append(self._answer())
        return self._pids[number]

    def status(self, pid: int) -> int:
        """The exit status, as `subprocess` has it, of a child that has ended."""
        self.prepared()  # Answers come in order.
        with suppress(OSError):
            self._socket.send(f"{STATUS} {pid}".encode())
        return KILLED if (answer := self._answer()) is None else answer

    def _answer(self) -> int | None:
        try:
            if answer := self._socket.recv(MESSAGE_BYTES):
                return int(answer)
            self.process.wait(END_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()  # it hangs
        return None

    def close(self) -> None:
        """End it, and every child that is left."""
        self._socket.close()
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Forked:
    """A launcher's child, with what `child.Child` needs of `subprocess.Popen`."""

    def __init__(self, launcher: Launcher, number: int) -> None:
        self._launcher, self._number = launcher, number
        self._status: int | None = None

    @property
    def pid(self) -> int:
        return self._launcher.child(self._number) or self._launcher.pid

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises TimeoutExpired where it takes longer than `timeout` seconds."""
        if self._status is None:
            pid = self._launcher.child(self._number)
            with self._opened(pid) as process:
                if process is not None and not wait([process], timeout):
                    raise subprocess.TimeoutExpired(f"process {pid}", timeout or 0.0)
            self._status = self._launcher.process.wait() if pid is None else self._launcher.status(pid)
        return self._status

    def kill(self) -> None:
        if self._status is None:
            with self._opened(self._launcher.child(self._number)) as process:
                if process is not None:
                    signal.pidfd_send_signal(process, signal.SIGKILL)

    @contextmanager
    def _opened(self, pid: int | None) -> Iterator[int | None]:
        """A descriptor of the process; None where the launcher has ended, and so all its children have."""
        process = None
        # A launcher keeps the number of what has ended until it was asked for its status.
        if pid is not None and self._launcher.process.poll() is None:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
        try:
            yield process
        finally:
            if process is not None:
                os.close(process)


class _Shared:
    """The launcher of a `sharing_imports`, made when it is asked for."""

    def __init__(self) -> None:
        self._launcher: Launcher | None = None

    def __call__(self) -> Launcher:
        if self._launcher is None or self._launcher.process.poll() is not None:
            self.close()
            self._launcher = Launcher(log=cache_folder() / "logs" / "launcher.txt")
        return self._launcher

    def close(self) -> None:
        if self._launcher is not None:
            self._launcher.close()
        self._launcher = None


@contextmanager
def sharing_imports() -> Iterator[None]:
    """Within it, `child.call` forks what it runs in this environment, by one launcher made at its first call.

    Not where an NVIDIA driver is: CUDA does not survive a fork, and a library may start it as it is imported.
    """
    from workbench.system.nvidia import driver_here  # a launcher does without it

    if not available() or driver_here() or child.SHARED.get():
        yield
        return
    shared = _Shared()
    token = child.SHARED.set(shared)
    try:
        yield
    finally:
        child.SHARED.reset(token)
        shared.close()


def end_shared_launcher() -> None:
    """Give back its memory; the next call makes another."""
    if isinstance(shared := child.SHARED.get(), _Shared):
        shared.close()


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    if not child.end_with(int(sys.argv[2])):
        return
    gc.disable()  # while modules load there is nothing to collect
    chosen = os.environ.get(SINGLE_THREADED)
    os.environ[SINGLE_THREADED] = "1"
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 2)
        if not message:
            return
        what, *rest = message.decode().split()
        if what in (IMPORT, FORK):
            _import(rest)
        if what == IMPORT:
            answer = 0
        elif what == FORK:
            pipe, log = descriptors
            answer = _fork(requests, pipe, log, chosen)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(rest[0]), 0)[1])
        requests.send(str(answer).encode())


def _import(modules: Sequence[str]) -> None:
    missing = [module for module in modules if module not in sys.modules]
    for module in missing:
        # The child meets it again, and reports it with its reason.
        with suppress(ImportError):
            importlib.import_module(module)
    if missing:
        # What is printed and not written yet, each child would write once more.
        sys.stdout.flush()
        sys.stderr.flush()
        # The children share what is there now; a collection would write to it, and so copy it.
        gc.freeze()


def _fork(requests: socket.socket, pipe: int, log: int, blas_threads: str | None) -> int:
    """The process number of a child that serves this pipe and prints into this file."""
    if (pid := os.fork()) == 0:
        requests.close()
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        del os.environ[SINGLE_THREADED]
        if blas_threads is not None:
            os.environ[SINGLE_THREADED] = blas_threads
        gc.enable()
        child.serve(Connection(pipe))
        sys.exit()  # as any process ends, and never back into the loop of `main`
    os.close(pipe)
    os.close(log)
    return pid


if __name__ == "__main__":
    main()
