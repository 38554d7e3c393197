"""Several processes behind one port: one that dies takes its own requests with it, and is replaced."""

import logging
import pickle
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from serve import children
from serve.metrics import forget_gauges
from serve.server import take_no_more
from serve.settings import Settings

log = logging.getLogger("serve.workers")

STEADY_S = 10.0  # a worker that lived this long did not die of its start
MAX_PAUSE_S = 30.0
POLL_S = 0.1


class _Worker:
    """One place among the workers, and the process that has it."""

    def __init__(self, slot: int, command: list[str], settings: Settings, listener: socket.socket) -> None:
        self.slot = slot
        self._command = command
        self._settings = settings
        self._listener = listener
        self._pause_s = 0.0
        self._due = 0.0
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        descriptor = self._listener.fileno()
        # A new process dies of a SIGHUP that it is not prepared for; held back, it waits until it is.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            # In a session of its own: Ctrl+C is for this process, which tells the workers what to do.
            process = subprocess.Popen(
                [*self._command, str(descriptor), str(self.slot)],
                env=children.environment(),
                stdin=subprocess.PIPE,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self._process, self._started = process, time.monotonic()
        assert process.stdin is not None
        # The pipe stays open: where it ends, this process is gone, and the worker ends too.
        with suppress(BrokenPipeError):  # it died already, and is replaced
            process.stdin.write(pickle.dumps(self._settings))
            process.stdin.flush()

    def tend(self, folder: Path) -> None:
        """Replace the process where it died; at once, or after a pause where it keeps dying."""
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._rest(f"ended with {code}", lived_s=now - self._started)
            self._forget(folder)
        if self._process is None and now >= self._due:
            try:
                self.start()
            except OSError as error:
                self._rest(f"cannot be started: {error.strerror}", lived_s=0.0)

    def _rest(self, why: str, *, lived_s: float) -> None:
        self._pause_s = 0.0 if lived_s > STEADY_S else min(MAX_PAUSE_S, max(0.5, 2 * self._pause_s))
        self._due = time.monotonic() + self._pause_s
        log.error("worker %d %s; a new one starts in %g s", self.slot, why, self._pause_s)

    def _forget(self, folder: Path) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            # It may hold what could not be written to one that died at once.
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None
        forget_gauges(folder, self.slot)

    def tell(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, timeout_s: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            log.error("worker %d does not end: killed", self.slot)
            self._process.kill()
            self._process.wait()


def supervise(settings: Settings, listener: socket.socket) -> None:
    """Keep `settings.workers` processes serving `listener` until SIGTERM or Ctrl+C; SIGHUP goes on to them.

    Each loads the model for itself, after it was started: a session does not survive a fork.
    """
    told: list[int] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, tell) for number in numbers}
    try:
        with tempfile.TemporaryDirectory(prefix="krishi-metrics-") as name:
            folder = Path(name)
            command = children.command("serve.worker", str(folder))
            workers = [_Worker(slot, command, settings, listener) for slot in range(settings.workers)]
            while (number := _ending(told, workers)) is None:
                for worker in workers:
                    worker.tend(folder)
                # No event to wake it: setting one in a signal handler can lock a thread out by itself.
                time.sleep(POLL_S)
            deadline = time.monotonic() + settings.drain_delay_s + settings.drain_timeout_s + 5
            # Told a moment ago, they close the port when this has passed for them too; Ctrl+C skips it.
            time.sleep(settings.drain_delay_s if number == signal.SIGTERM else 0.0)
            take_no_more(listener)
            # The port closes with the last that has it open, and nobody takes connections here.
            listener.close()
            for worker in workers:
                worker.end(deadline - time.monotonic())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(told: list[int], workers: list[_Worker]) -> int | None:
    """Pass on what this process was told; the signal, once it was to end."""
    while told:
        number = told.pop(0)
        for worker in workers:
            worker.tell(number)
        if number != signal.SIGHUP:
            return number
    return None
