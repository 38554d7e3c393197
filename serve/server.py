"""uvicorn with an orderly end: not ready first, then no new connections, then exit code 0."""

import asyncio
import copy
import logging
import logging.config
import os
import pickle
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from serve import process, workers
from serve.accepting import PortTurns, WorkerStates
from serve.app import create_app
from serve.engine.engine import ServingEngine
from serve.http.http_limits import BoundedProtocol
from serve.settings import Settings
from serve.shared_metrics import SharedFiles

log = logging.getLogger("serve.server")

GRACE_S = 0.2
FORCE_EXIT_S = 5.0  # beyond the time that requests in flight are given


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl+C, then finish the requests in flight and return. Blocks.

    Raises WorkbenchError where the address cannot be listened on.
    """
    process.handle_end_signals(process.exit_now)
    with process.open_listener(settings.host, settings.port) as listener:
        address, port = listener.getsockname()[:2]
        logging.config.dictConfig(log_config())
        log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, port)
        if settings.workers > 1:
            workers.supervise(settings, listener)
        else:
            run_on(settings, listener)
    process.handle_end_signals(signal.SIG_IGN)  # it ends: one more would only make a traceback of that


def run_on(
    settings: Settings,
    listener: socket.socket,
    turns: PortTurns | None = None,
    shared: SharedFiles | None = None,
) -> None:
    """Serve the connections of `listener` in this process until SIGTERM or Ctrl+C.

    turns, shared: of one of several workers.
    """
    app = create_app(settings, turns, shared)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=log_config(),
        # A line per request would cost more than everything else around a small network; /metrics counts.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # it takes fractions too
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    server = DrainingServer(config, app.state.engine)
    process.tune_malloc()
    handlers: dict[int, process.SignalHandler] = {
        # Ours, not uvicorn's: it raises the signal once more when it is done, which would make the exit code
        # 143 instead of 0, and a signal that arrives before it is set up must not be lost.
        signal.SIGTERM: server.handle_exit,
        signal.SIGINT: server.handle_exit,
        signal.SIGHUP: lambda *_: app.state.loader.check_now(),
    }
    with process.signal_handlers(handlers):
        # Workers are started with these blocked: one that came before its handler would have ended them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})
        server.run(sockets=[listener])
    server.forced_exit.cancel()


def run_worker(states: str, folder: str, descriptor: str, slot: str) -> None:
    """Serve as one of the processes of `workers.supervise`, with the settings on stdin.

    states, descriptor: the descriptors of `WorkerStates` and of the listening socket. folder, slot: of
    `SharedFiles`.
    """
    settings: Settings = pickle.load(sys.stdin.buffer)
    turns = PortTurns(WorkerStates(int(states)), int(slot))
    shared = SharedFiles(Path(folder), int(slot))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with socket.socket(fileno=int(descriptor)) as listener:
        run_on(settings, listener, turns, shared)


def _end_with_parent() -> None:
    """Send this process SIGTERM when the pipe from its parent closes, however the parent ended."""
    # Not through sys.stdin: Python aborts where a thread still holds that at its end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class DrainingServer(uvicorn.Server):
    """After SIGTERM `/readyz` answers 503 and the port stays open for the drain delay, for load balancers.

    Of several workers each takes connections only when it is its turn.
    """

    def __init__(self, config: uvicorn.Config, engine: ServingEngine) -> None:
        super().__init__(config)
        settings = engine.settings
        self._turns = engine.turns  # None where no other process accepts from the same port
        self._shared_socket: socket.socket | None = None
        self._engine = engine
        self._delay_s = settings.drain_delay_s
        self.forced_exit = _forced_exit(settings.drain_timeout_s + FORCE_EXIT_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.draining = True
        if sig == signal.SIGINT:  # Ctrl+C
            self._delay_s = 0.0
            if self.should_exit and self._engine.loop is not None:
                # Not as uvicorn does it: it skips the lifespan's end, which asyncio cancels with a traceback.
                self._engine.loop.call_soon_threadsafe(self._cut_off)
                return
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._turns is None:
            await super().startup(sockets)
            return
        (self._shared_socket,) = sockets or []
        await super().startup([])

    async def on_tick(self, counter: int) -> bool:
        await self._take_turn()
        if counter % 5 == 0:
            with suppress(OSError):  # as of a full disk: the next tick tries again
                self._engine.metrics.restore_files()
        return await super().on_tick(counter)

    async def _take_turn(self) -> None:
        """Begin or stop to take connections from the port that all workers share."""
        if self._turns is None or self._shared_socket is None:
            return
        has_model, accepting = self._engine.model is not None, bool(self.servers)
        takes = self._turns.update(has_model=has_model, draining=self._engine.draining, accepting=accepting)
        if takes and not accepting:
            protocol = partial(
                BoundedProtocol,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            loop, backlog = asyncio.get_running_loop(), self.config.backlog
            self.servers = [
                await loop.create_server(protocol, sock=self._shared_socket.dup(), backlog=backlog)
            ]
        elif accepting and not takes:
            # Connections that were made stay: to close one would reset a request that is on its way.
            self.servers.pop().close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        started = time.monotonic()
        await self._take_turn()
        while time.monotonic() - started < self._delay_s:
            await asyncio.sleep(0.05)
        if not self.forced_exit.is_alive():  # as after a second Ctrl+C that came before this
            self.forced_exit.start()
        if self._turns is None:
            for listener in sockets or []:
                process.drop_new_connections(listener)
        # Give connections accepted during the delay time to send their request.
        await asyncio.sleep(GRACE_S)
        self._engine.closing = True
        await super().shutdown(sockets)

    def _cut_off(self) -> None:
        """Wait for no client any more, and for the model no longer than FORCE_EXIT_S."""
        for connection in self.server_state.connections:
            connection.transport.abort()
        self.forced_exit.cancel()
        self.forced_exit = _forced_exit(FORCE_EXIT_S)
        self.forced_exit.start()


def _forced_exit(after_s: float) -> threading.Timer:
    timer = threading.Timer(after_s, _force_exit)
    timer.daemon = True
    return timer


def _force_exit() -> None:
    """End the process although a call of the model hangs."""
    log.critical("the model does not return: the process ends without it")
    os._exit(1)


def log_config() -> dict[str, Any]:
    """uvicorn's configuration with the loggers of this package added, all of it on stderr."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["disable_existing_loggers"] = False
    # Any client can send bytes that are not HTTP as often as it likes; a line for each would fill the log.
    not_http = "Invalid HTTP request received."
    config["handlers"]["default"]["filters"] = [lambda record: record.getMessage() != not_http]
    for package in ("serve", "workbench"):
        config["loggers"][package] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    # It warns of every malformed form, which any client can send as fast as it likes.
    config["loggers"]["python_multipart"] = {"level": "ERROR"}
    return config


if __name__ == "__main__":
    run_worker(*sys.argv[1:])
