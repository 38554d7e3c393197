"""The driver's end of a connection to one device."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, Self

from pydantic import TypeAdapter

from workbench.errors import Unsuited, WorkbenchError
from workbench.fleet.frames import FrameError, Header, read_frame, read_greeting, write_frame
from workbench.system.progress import Progress, Report, silent

PING_S = 10.0
SILENCE_S = 45.0  # of a worker that says every 5 s that it is alive
START_S = 60.0  # for a connection and an interpreter, on a board
CLOSE_S = 5.0
TAIL_BYTES = 4096

AnswerFrame = tuple[Header, bytes]


class DeviceGone(WorkbenchError):
    """The connection ended, the device fell silent, or it did not do in time what it was asked for."""


class DeviceError(WorkbenchError):
    """The device answered that something cannot be done."""


class DeviceLink(Protocol):
    """A connection to a device, over whatever carries it. `close` may come from any thread, at any time."""

    def ask(
        self, op: str, blob: bytes = b"", *, timeout_s: float, report: Report = silent, **fields: Any
    ) -> AnswerFrame:
        """Ask and wait for the answer. Raises DeviceGone, or DeviceError with what the device says."""

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class StreamLink:
    """A link over two streams of bytes. cause: says in words why they ended."""

    def __init__(self, source: IO[bytes], target: IO[bytes], cause: Callable[[], str]) -> None:
        self._source, self._target, self._cause = source, target, cause
        self._frames: queue.Queue[AnswerFrame | None] = queue.Queue()
        self._writing, self._closed = threading.Lock(), threading.Event()
        self._greeted = False
        for loop in (self._listen, self._ping):
            threading.Thread(target=loop, daemon=True).start()

    def _listen(self) -> None:
        """Queue what comes; None at the end."""
        try:
            read_greeting(self._source)
            self._frames.put(({"greeting": True}, b""))
            while True:
                self._frames.put(read_frame(self._source))
        except (EOFError, OSError, ValueError, FrameError):  # ValueError: closed while it was read
            self._frames.put(None)

    def _ping(self) -> None:
        while not self._closed.wait(PING_S):
            try:
                self._send({"op": "ping"})
            except (OSError, ValueError):
                return

    def _send(self, header: Mapping[str, Any], blob: bytes = b"") -> None:
        with self._writing:
            write_frame(self._target, header, blob)

    def ask(
        self, op: str, blob: bytes = b"", *, timeout_s: float, report: Report = silent, **fields: Any
    ) -> AnswerFrame:
        try:
            self._send({"op": op, **fields}, blob)
        except (OSError, ValueError):
            raise DeviceGone(self._cause()) from None
        deadline = time.monotonic() + timeout_s
        while True:
            header, data = self._next(op, deadline, timeout_s)
            if "progress" in header:
                report(PROGRESS.validate_python(header["progress"]))
            elif "answer" in header:
                return _checked_answer(header["answer"]), data

    def _next(self, op: str, deadline: float, timeout_s: float) -> AnswerFrame:
        silence_s = SILENCE_S if self._greeted else START_S
        left_s = deadline - time.monotonic()
        try:
            found = self._frames.get(timeout=max(0.0, min(silence_s, left_s)))
        except queue.Empty:
            if left_s <= silence_s:
                raise DeviceGone(f"`{op}` took longer than {timeout_s:.0f} s") from None
            raise DeviceGone(f"nothing was heard of it for {silence_s:.0f} s") from None
        if found is None:
            self._frames.put(None)
            raise DeviceGone(self._cause())
        self._greeted = True
        return found

    def close(self) -> None:
        self._closed.set()
        for stream in (self._target, self._source):
            try:
                stream.close()
            except (OSError, ValueError):  # the other end is gone, and what was buffered with it
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


PROGRESS = TypeAdapter(Progress)


def _checked_answer(answer: Header) -> Header:
    if (error := answer.get("error")) is None:
        return answer
    if error["unsuited"]:
        raise Unsuited(error["message"], hint=error["hint"])
    raise DeviceError(error["message"], hint=error["hint"])


class ProcessLink(StreamLink):
    """A link to a worker, or to what carries one, that is a process of this machine.

    log: file that its stderr goes to. explain: puts the last of it, and the exit code, in words. Raises
    DeviceGone where the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        explain: Callable[[str, int | None], str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._explain = log, explain
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=None if environment is None else dict(environment),
                    start_new_session=True,  # Ctrl-C is the driver's to handle
                )
            except OSError as error:
                raise DeviceGone(
                    f"`{command[0]}` cannot be started on this machine: {error.strerror}"
                ) from error
        assert self.process.stdin is not None and self.process.stdout is not None
        super().__init__(self.process.stdout, self.process.stdin, self._why)

    def _why(self) -> str:
        try:
            code: int | None = self.process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            code = None
        return self._explain(self._tail(), code)

    def _tail(self) -> str:
        if not self._log.exists():  # its folder begins anew
            return ""
        with self._log.open("rb") as file:
            file.seek(max(self._from, self._log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")

    def close(self) -> None:
        self._closed.set()
        assert self.process.stdin is not None
        if self._writing.acquire(timeout=1.0):
            try:
                self.process.stdin.close()  # the worker ends by itself, and with it its lease
            except (OSError, ValueError):
                self.process.kill()
            finally:
                self._writing.release()
        else:
            self.process.kill()  # a frame is stuck on its way
        try:
            self.process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        super().close()
