"""uvicorn with an orderly end: not ready first, then no new connections, then out with exit code 0."""

import asyncio
import copy
import ctypes
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from serve.engine import Engine
from serve.settings import Settings
from workbench.errors import WorkbenchError

log = logging.getLogger("serve.server")


class DrainingServer(uvicorn.Server):
    """On SIGTERM it says so on /readyz at once and keeps its port open for `delay_s`, so that whoever
    sends traffic here has time to notice; Ctrl+C skips that wait."""

    def __init__(self, config: uvicorn.Config, *, drain: Callable[[], None], delay_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._delay_s = delay_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain()
        if sig == signal.SIGINT:
            self._delay_s = 0.0
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < self._delay_s:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve an app made by `create_app`. See `serve.app.serve`."""
    settings: Settings = app.state.settings
    engine: Engine = app.state.engine
    with listening(host, port) as listener:
        config = uvicorn.Config(
            app,
            ws="none",
            log_config=_log_config(),
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        )
        address, actual_port = listener.getsockname()[:2]
        log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, actual_port)
        server = DrainingServer(config, drain=engine.drain, delay_s=settings.drain_delay_s)
        _return_freed_memory()
        with _ending_well():
            server.run(sockets=[listener])


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
def _ending_well() -> Iterator[None]:
    """uvicorn raises the signal it got once more when it is done, which would end us with 143 and not 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _return_freed_memory() -> None:
    """Have the memory of a large photo given back to the system when it is freed.

    glibc raises its own threshold for that after the first large block: four photos of 50 megapixels at
    once left 382 MB behind, and leave 110 MB so, at no measurable cost. Other C libraries have no mallopt.
    """
    m_mmap_threshold, one_mebibyte = -3, 1 << 20
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(m_mmap_threshold, one_mebibyte)


def _log_config() -> dict[str, Any]:
    """uvicorn's, with our loggers beside its own, and all of it on stderr."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["serve"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    # It warns of every malformed form, which any client can send as fast as it likes.
    config["loggers"]["python_multipart"] = {"level": "ERROR"}
    return config
