"""Several server processes behind one port: one that dies takes only its own requests with it."""

import logging
import pickle
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from serve import process
from serve.accepting import WorkerStates
from serve.settings import Settings
from serve.shared_metrics import forget_gauges
from workbench.system.child import child_command, child_environment

log = logging.getLogger("serve.workers")

STEADY_S = 10.0  # a worker that lived this long did not die of its start
MAX_PAUSE_S = 30.0
POLL_S = 0.1


@dataclass
class _Worker:
    """One slot among the workers, and the process that fills it."""

    slot: int
    command: list[str]
    settings: Settings
    listener: socket.socket
    states: WorkerStates = field(default_factory=WorkerStates)
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause_s: float = 0.0
    restart_at: float = 0.0

    def start(self) -> None:
        descriptor = self.listener.fileno()
        # These end a process that has no handler yet; blocked, they stay pending until there is one.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
        try:
            # In a session of its own: Ctrl+C reaches this process only, which passes it on.
            child = subprocess.Popen(
                [*self.command, str(descriptor), str(self.slot)],
                env=child_environment(),
                stdin=subprocess.PIPE,
                pass_fds=[descriptor, self.states.descriptor],
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.process, self.started = child, time.monotonic()
        assert child.stdin is not None
        # The pipe stays open: when it closes, this process has ended, and the worker ends too.
        with suppress(BrokenPipeError):  # it died already, and is replaced
            child.stdin.write(pickle.dumps(self.settings))
            child.stdin.flush()

    def replace_if_dead(self, folder: Path) -> None:
        """Start the process where there is none; after a pause where it keeps dying."""
        now = time.monotonic()
        if self.process is not None and (code := self.process.poll()) is not None:
            self._schedule_restart(f"ended with {code}", lived_s=now - self.started)
            self._clean_up(folder)
        if self.process is None and now >= self.restart_at:
            try:
                self.start()
            except OSError as error:
                self._schedule_restart(f"cannot be started: {error.strerror}", lived_s=0.0)

    def _schedule_restart(self, reason: str, *, lived_s: float) -> None:
        self.pause_s = 0.0 if lived_s > STEADY_S else min(MAX_PAUSE_S, max(0.5, 2 * self.pause_s))
        self.restart_at = time.monotonic() + self.pause_s
        log.error("worker %d %s; a new one starts in %g s", self.slot, reason, self.pause_s)

    def _clean_up(self, folder: Path) -> None:
        if self.process is not None and self.process.stdin is not None:
            # Bytes may be left that could not be written to a process that died at once.
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process = None
        self.states.forget(self.slot)
        forget_gauges(folder, self.slot)

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end, and kill it after `timeout_s`."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            log.error("worker %d does not end: killed", self.slot)
            self.process.kill()
            self.process.wait()


def supervise(settings: Settings, listener: socket.socket) -> None:
    """Keep `settings.workers` processes serving `listener` until SIGTERM or Ctrl+C; SIGHUP is passed on.

    Each loads the model for itself after it was started: a session does not survive a fork.
    """
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with (
        # No event to wake the loop below: setting one in a signal handler can deadlock its thread.
        process.signal_handlers(dict.fromkeys(numbers, lambda number, _: received.append(number))),
        tempfile.TemporaryDirectory(prefix="krishi-metrics-", ignore_cleanup_errors=True) as name,
    ):
        _run_workers(settings, listener, Path(name), received)


def _run_workers(settings: Settings, listener: socket.socket, folder: Path, received: list[int]) -> None:
    states = WorkerStates()
    command = child_command("serve.server", str(states.descriptor), str(folder))
    workers = [_Worker(slot, command, settings, listener, states) for slot in range(settings.workers)]
    while (number := _forward(received, workers, states)) is None:
        for worker in workers:
            worker.replace_if_dead(folder)
        time.sleep(POLL_S)
    # A second Ctrl+C: the workers are to wait for no client any more.
    signal.signal(signal.SIGINT, lambda *_: _send(signal.SIGINT, workers))
    deadline = time.monotonic() + settings.drain_delay_s + settings.drain_timeout_s + 5
    # The workers stop accepting after this delay too; Ctrl+C skips it.
    time.sleep(settings.drain_delay_s if number == signal.SIGTERM else 0.0)
    process.drop_new_connections(listener)
    # The port closes with the last process that has it open, and this one accepts no connections.
    listener.close()
    for worker in workers:
        worker.wait(deadline - time.monotonic())


def _forward(received: list[int], workers: list[_Worker], states: WorkerStates) -> int | None:
    """Pass the signals on to the workers; returns the first that asks to end."""
    while received:
        number = received.pop(0)
        if number != signal.SIGHUP:
            states.end()  # else each would leave the port to the others
        _send(number, workers)
        if number != signal.SIGHUP:
            return number
    return None


def _send(number: int, workers: list[_Worker]) -> None:
    for worker in workers:
        if worker.process is not None:
            worker.process.send_signal(number)
