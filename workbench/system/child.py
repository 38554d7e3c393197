"""A child process that does one job apart: a crash, a hang or a leak costs that job and no other.

The parent sends requests over a pipe and waits, asleep, for the answers. What the child prints goes to a
log file. A child never outlives its parent.
"""

import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self, TypeVar, TypeVarTuple

from workbench.errors import Unsuited, WorkbenchError, summary
from workbench.system.files import make_folder
from workbench.system.packages import missing_extra

if TYPE_CHECKING:
    from workbench.system.environments import VirtualEnvironment


PR_SET_PDEATHSIG = 1
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class ChildError(WorkbenchError):
    """The child could not do the job: it raised, died or took too long. Its log has the details."""


class ChildDied(ChildError):
    """The child's process ended before it answered."""


class ChildUnsuited(ChildError, Unsuited):
    """The child found that the job is not for this model or machine."""


class _Defect(Exception):
    """What the child did not expect, as text: foreign exceptions do not pickle reliably."""


Handler = Callable[[Any], object]


class Process(Protocol):
    """What is needed of a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class ForkServer(Protocol):
    """A `launcher.Launcher`."""

    @property
    def pid(self) -> int: ...
    def fork(self, pipe: int, log: int, imports: Sequence[str]) -> Process: ...


# Gives the one by which `call` forks in this environment; see `launcher.sharing_imports`.
SHARED: ContextVar[Callable[[], ForkServer] | None] = ContextVar("SHARED", default=None)


def child_command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """That of a process that looks for modules where this one does, and nowhere else."""
    # `-m` alone would put the current folder first, and with it a user's own `workbench` or `torch.py`.
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(command: list[str], pipe: int, output: BinaryIO) -> subprocess.Popen[bytes]:
    """A process that has this descriptor of ours, no stdin, and prints into a file."""
    return subprocess.Popen(
        command,
        pass_fds=[pipe],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=child_environment(),
    )


class Child:
    """A process running `handler`, a function `(request) -> answer` made by `factory(*arguments)`.

    factory: at the top of a module; called once in the child, it returns the handler or a context manager.
    log: file that its stdout and stderr are appended to. environment: to run in; this one by default. Raises
    Unsuited where that is not made. launcher: to fork it, in that environment; by default it is started anew.
    imports: modules that it needs and that start no threads; a launcher imports them before.
    exit_at_once: once the handler is closed, leave out what Python does at the end of a process. It takes a
    runtime longer than to open a small network; a factory whose libraries clean up there needs it.
    """

    def __init__(
        self,
        factory: Callable[[*Arguments], Handler | AbstractContextManager[Handler]],
        *arguments: *Arguments,
        log: Path,
        label: str,
        environment: "VirtualEnvironment | None" = None,
        launcher: ForkServer | None = None,
        imports: Sequence[str] = (),
        exit_at_once: bool = False,
    ) -> None:
        self.label = f"{label} in {environment}" if environment else label
        self.log = log
        self._environment = environment
        # First of all: it raises where the environment is not made.
        command = (environment.command if environment else child_command)("workbench.system.child")
        make_folder(log.parent)
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            pipe = theirs.fileno()
            self.process: Process = (
                launcher.fork(pipe, output.fileno(), imports)
                if launcher
                else start([*command, str(pipe)], pipe, output)
            )
        self._pipe = Connection(ours.detach())
        parent = launcher.pid if launcher else os.getpid()
        # Twice: what names a module that the child cannot import fails there as a job does, with a reason.
        job = pickle.dumps((factory, arguments))
        # One that has ended already is reported where its first answer is waited for.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send_bytes(pickle.dumps((parent, exit_at_once, job)))

    def ready(self, timeout_s: float) -> None:
        """Wait until the factory has returned. Raises ChildError."""
        self._receive(timeout_s)

    def poll(self, timeout_s: float) -> bool:
        """Whether an answer comes, or the child ends, within this time."""
        return self._pipe.poll(timeout_s)

    def ask(self, request: object, timeout_s: float) -> Any:
        """Send a request and wait for its answer. Raises ChildError; only one that answered lives on."""
        with contextlib.suppress(BrokenPipeError):
            # A dead child is reported by the read below, with its exit status.
            self._pipe.send_bytes(pickle.dumps(request))
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self.kill()
                raise ChildError(f"{self.label} took longer than {timeout_s:g} s and was stopped")
            answer = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):  # OSError: it died in the middle of an answer, or of our request
            raise ChildDied(f"{self.label} {self._cause_of_death()}", hint=f"see {self.log}") from None
        if isinstance(answer, ChildError):
            raise self._placed(answer)
        if isinstance(answer, _Defect):
            raise ChildError(f"{self.label} failed: {answer}", hint=f"see {self.log}")
        return answer

    def _placed(self, error: ChildError) -> ChildError:
        """The error with the environment that it comes from, where that is not this one."""
        if self._environment is None:
            return error
        # What installs a package installs it here, not there.
        hint = None if (error.hint or "").startswith("pip install") else error.hint
        return type(error)(f"in {self._environment}: {error.message}", hint=hint)

    def _cause_of_death(self) -> str:
        code = self.process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        memory = ", which is what running out of memory looks like" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{memory}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(failed=kind is not None)

    def close(self, *, failed: bool = False) -> None:
        """Let the child end by itself, or make it where it `failed` or takes more than 10 s."""
        if failed:
            self.process.kill()  # before the pipe closes, which would let it end by itself
        self._pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def call(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    log: Path,
    timeout_s: float,
    label: str,
    environment: "VirtualEnvironment | None" = None,
    imports: Sequence[str] = (),
) -> Result:
    """Run a function, which is at the top of a module, in a process of its own and return what it returns.

    environment: to run it in; this one by default. imports: see `Child`. Raises ChildError where it raises,
    dies or takes longer than timeout_s, and Unsuited where the environment is not made.
    """
    shared = None if environment else SHARED.get()
    with Child(
        one_call,
        function,
        arguments,
        log=log,
        label=label,
        environment=environment,
        launcher=shared() if shared else None,
        imports=(function.__module__, *imports),
    ) as child:
        child.ready(timeout_s)
        result: Result = child.ask(None, timeout_s)
        return result


def one_call(function: Callable[..., object], arguments: tuple[object, ...]) -> Handler:
    return lambda _: function(*arguments)


def calls(first: Callable[..., object], *arguments: object) -> Handler:
    """Call this, which gets a library ready; then answer requests: a function and its arguments."""
    first(*arguments)
    return lambda request: request[0](*request[1:])


def _answer(pipe: Connection, job: Callable[[], object]) -> bool:
    """Do the job and send what came of it; False where it raised."""
    try:
        answer = pickle.dumps(job())
    except Exception as error:
        # The one place where anything may be caught: it becomes the trial's reason, its trace is logged.
        pipe.send_bytes(pickle.dumps(_raised(error)))
        return False
    pipe.send_bytes(answer)
    return True


def _raised(error: Exception) -> ChildError | _Defect:
    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error) or error
    if isinstance(error, WorkbenchError):
        if error.__cause__ is not None:
            # The message has one line of it; the log, to which messages point, has all of it.
            traceback.print_exception(error.__cause__)
        kind = ChildUnsuited if isinstance(error, Unsuited) else ChildError
        return kind(error.message, hint=error.hint)
    traceback.print_exception(error)
    return _Defect(summary(error))


def main() -> None:
    serve(Connection(int(sys.argv[1])))


def serve(pipe: Connection) -> None:
    """Do the job that comes first and answer requests until the parent closes the pipe."""
    parent, exit_at_once, job = pickle.loads(pipe.recv_bytes())
    _serve(pipe, parent, job)
    if exit_at_once:
        flush()
        os._exit(0)


def flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


def end_with(parent: int) -> bool:
    """Have this process killed when its parent ends; False where that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return os.getppid() == parent
    return True


def _serve(pipe: Connection, parent: int, job: bytes) -> None:
    """Make the handler, and answer requests until the parent closes the pipe."""
    # Its stderr is the log file. Libraries decide for themselves what they log; ours tells what it does.
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("workbench").setLevel(logging.INFO)
    # Ctrl-C is the parent's to handle; it ends us by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not end_with(parent):
        return
    with contextlib.ExitStack() as stack:
        handlers: list[Handler] = []

        def start() -> None:
            factory, arguments = pickle.loads(job)
            made = factory(*arguments)
            handlers.append(stack.enter_context(made) if isinstance(made, AbstractContextManager) else made)

        if not _answer(pipe, start):
            return
        while True:
            try:
                request = pickle.loads(pipe.recv_bytes())
            except (EOFError, ConnectionResetError):
                return
            _answer(pipe, partial(handlers[0], request))


if __name__ == "__main__":
    # The module by its own name: what is pickled here as `__main__` could not be read by the parent.
    from workbench.system.child import main as run

    run()
