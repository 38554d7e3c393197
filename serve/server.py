"""uvicorn with an orderly end: not ready first, then no new connections, then out with exit code 0."""

import asyncio
import copy
import ctypes
import logging
import logging.config
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from serve import memory
from serve.app import create_app
from serve.engine import Engine
from serve.loader import Loader
from serve.settings import Settings
from serve.wire import BoundedProtocol
from workbench.errors import WorkbenchError

log = logging.getLogger("serve.server")

GRACE_S = 0.2
HANGING_S = 5.0  # beyond the time that requests in flight are given


class DrainingServer(uvicorn.Server):
    """On SIGTERM it says so on /readyz at once and keeps its port open for `delay_s`, so that whoever
    sends traffic here has time to notice; Ctrl+C skips that wait."""

    def __init__(
        self, config: uvicorn.Config, engine: Engine, *, delay_s: float, timeout_s: float, alone: bool
    ) -> None:
        """timeout_s: after the delay, until the process ends whatever still runs. alone: no other process
        takes connections from the same port."""
        super().__init__(config)
        self._alone = alone
        self._engine = engine
        self._delay_s = delay_s
        self._last_resort = threading.Timer(timeout_s, _give_up)
        self._last_resort.daemon = True

    def ended(self) -> None:
        self._last_resort.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.draining = True
        if sig == signal.SIGINT:
            self._delay_s = 0.0
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < self._delay_s:
            await asyncio.sleep(0.05)
        self._last_resort.start()
        if self._alone:
            for listener in sockets or []:
                take_no_more(listener)
        # Who connected just before is taken in meanwhile, and has sent what he wanted at its end.
        await asyncio.sleep(GRACE_S)
        self._engine.closing = True
        await super().shutdown(sockets)


def _give_up() -> None:
    """An engine that hangs would keep the process, and whoever waits for its end, for ever."""
    log.critical("the model does not come back: ending without it")
    os._exit(1)


def take_no_more(listener: socket.socket) -> None:
    """Have Linux drop whoever knocks from now on, until the port is closed.

    Closing resets the connections that the system accepted and nobody took yet, and under load there always
    is one. Who is dropped knocks again a second later, and is refused then as by any closed port. Elsewhere
    this does nothing.
    """
    if sys.platform != "linux":
        return
    so_attach_filter = 26  # socket(7); the operations are those of classic BPF
    flags_at, syn, syn_or_ack = 13, 0x02, 0x12
    operations = b"".join(
        struct.pack("HBBI", *operation)
        for operation in (
            (0x30, 0, 0, flags_at),  # load the byte of the TCP header
            (0x54, 0, 0, syn_or_ack),  # and it
            (0x15, 0, 1, syn),  # where it is the first of a connection,
            (0x06, 0, 0, 0),  # drop the packet,
            (0x06, 0, 0, 0xFFFF),  # else keep it
        )
    )
    buffer = ctypes.create_string_buffer(operations)
    with suppress(OSError):
        program = struct.pack("HP", len(operations) // 8, ctypes.addressof(buffer))
        listener.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


def run(settings: Settings, host: str, port: int) -> None:
    """See `serve.app.serve`."""
    with listening(host, port) as listener:
        address, actual_port = listener.getsockname()[:2]
        configure_logging()
        log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, actual_port)
        if settings.workers > 1:
            from serve.workers import supervise

            supervise(settings, listener)
        else:
            run_on(settings, listener)


def run_on(settings: Settings, listener: socket.socket) -> None:
    """Serve what comes in on `listener`, in this process, until SIGTERM or Ctrl+C."""
    app = create_app(settings)
    engine: Engine = app.state.engine
    loader: Loader = app.state.loader
    # No line in a log per request: it would cost more than everything else around a small network, and
    # /metrics counts them.
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=log_config(),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    server = DrainingServer(
        config,
        engine,
        delay_s=settings.drain_delay_s,
        timeout_s=settings.drain_timeout_s + HANGING_S,
        alone=settings.workers == 1,
    )
    memory.tune()
    with _ending_well(server), _told_to_look(loader):
        server.run(sockets=[listener])
    server.ended()


@contextmanager
def _told_to_look(loader: Loader) -> Iterator[None]:
    """SIGHUP: the alias may have moved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: loader.look())
    # A worker is started with it held back, lest it dies of one that comes before this.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, TypeError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(error)
        raise WorkbenchError(
            f"cannot listen on {host}:{port}: {reason}", hint="choose another host or port"
        ) from error
    with listener:
        yield listener


@contextmanager
def _ending_well(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn raises the signal it got once more when it is done, which would end us with 143 and not 0.
    And a signal that comes before it listens to signals must not be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, server.handle_exit) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configure_logging() -> None:
    """For what is said before uvicorn does the same."""
    logging.config.dictConfig(log_config())


class _NotHttp(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.getMessage() != "Invalid HTTP request received."


def log_config() -> dict[str, Any]:
    """uvicorn's, with our loggers beside its own, and all of it on stderr."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["disable_existing_loggers"] = False
    # Any client can send what is no HTTP as often as it likes; a line for each would fill the log.
    config["filters"] = {"requests": {"()": _NotHttp}}
    config["handlers"]["default"]["filters"] = ["requests"]
    config["loggers"]["serve"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    # It warns of every malformed form, which any client can send as fast as it likes.
    config["loggers"]["python_multipart"] = {"level": "ERROR"}
    return config
