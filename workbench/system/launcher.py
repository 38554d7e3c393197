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
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workbench.system import child

if TYPE_CHECKING:
    from workbench.system.environments import VirtualEnvironment

AVAILABLE = sys.platform == "linux" and hasattr(os, "pidfd_open")
FORK, STATUS = b"fork", b"status "
KILLED = -signal.SIGKILL
# Its threads would be lost in a fork; no child of ours multiplies matrices with it.
SINGLE_THREADED = "OPENBLAS_NUM_THREADS"


class Launcher:
    """A process that has imported `modules`, none of which may start a thread. Its children end with it.

    log: file that what it prints is appended to. environment: to run in; this one by default. Raises Unsuited
    where that is not made.
    """

    def __init__(
        self, modules: Sequence[str], *, log: Path, environment: "VirtualEnvironment | None" = None
    ) -> None:
        command = (environment.command if environment else child.child_command)("workbench.system.launcher")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as output:
            arguments = [str(theirs.fileno()), str(os.getpid()), *modules]
            self.process = child.start([*command, *arguments], theirs.fileno(), output)
        self._asked = 0
        self._children: list[tuple[int, int] | None] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def fork(self, pipe: int, log: int) -> "Forked":
        """Ask for a child that serves these two descriptors; it comes once the imports are done."""
        with suppress(OSError):  # It has ended: the child's own pipe says so.
            socket.send_fds(self._socket, [FORK], [pipe, log])
        self._asked += 1
        return Forked(self, self._asked - 1)

    def child(self, number: int) -> tuple[int, int] | None:
        """The process number and a descriptor of a child; None where the launcher has ended before it."""
        while len(self._children) <= number:
            self._children.append(self._opened(self._answer()))
        return self._children[number]

    def status(self, pid: int) -> int:
        """The exit status, as `subprocess` has it, of a child that has ended."""
        self.child(self._asked - 1)  # Answers come in order.
        with suppress(OSError):
            self._socket.send(STATUS + str(pid).encode())
        return KILLED if (answer := self._answer()) is None else answer

    def _answer(self) -> int | None:
        with suppress(OSError):
            if answer := self._socket.recv(64):
                return int(answer)
        return None

    @staticmethod
    def _opened(pid: int | None) -> tuple[int, int] | None:
        # The launcher keeps what has ended until it is asked for its status: the number is nobody else's.
        with suppress(ProcessLookupError):
            return None if pid is None else (pid, os.pidfd_open(pid))
        return None

    def close(self) -> None:
        """End it, and every child that is left."""
        self._socket.close()
        self.process.kill()
        self.process.wait()
        for opened in self._children:
            if opened:
                os.close(opened[1])

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
        opened = self._launcher.child(self._number)
        return opened[0] if opened else self._launcher.pid

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises TimeoutExpired where it takes longer than `timeout` seconds."""
        if self._status is None:
            opened = self._launcher.child(self._number)
            if opened is None:
                self._status = self._launcher.process.wait()
            elif not wait([opened[1]], timeout):
                raise subprocess.TimeoutExpired(f"process {opened[0]}", timeout or 0.0)
            else:
                self._status = self._launcher.status(opened[0])
        return self._status

    def kill(self) -> None:
        if self._status is None and (opened := self._launcher.child(self._number)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(opened[1], signal.SIGKILL)


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    if not child.end_with(int(sys.argv[2])):
        return
    os.environ[SINGLE_THREADED] = "1"
    for module in sys.argv[3:]:
        importlib.import_module(module)
    del os.environ[SINGLE_THREADED]
    # The children share what is there now; a collection would write to it, and so copy it.
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 64, 2)
        if not message:
            return
        if message == FORK:
            answer = _fork(requests, *descriptors)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(message.removeprefix(STATUS)), 0)[1])
        requests.send(str(answer).encode())


def _fork(requests: socket.socket, pipe: int, log: int) -> int:
    """The process number of a child that serves this pipe and prints into this file."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            requests.close()
            for stream in (1, 2):
                os.dup2(log, stream)
            os.close(log)
            child.serve(Connection(pipe))
            status = 0
        finally:
            # Never back into the loop above, whatever was raised.
            child.flush()
            os._exit(status)
    os.close(pipe)
    os.close(log)
    return pid


if __name__ == "__main__":
    main()
