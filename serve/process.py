"""This process's freed memory, its signals, and its listening socket."""

import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from workbench.errors import WorkbenchError

SignalHandler = Callable[[int, FrameType | None], Any]
MEBIBYTE = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def tune_malloc() -> None:
    """Have glibc return the memory of a large photo to the system when it is freed. No-op elsewhere."""
    # glibc raises its own threshold after the first large block: four photos of 50 megapixels at once left
    # 382 MB behind, and leave 110 MB with a fixed one. Setting one threshold freezes the other too, and
    # returning 128 KB at a time took half as long as a small network, so both are set.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, MEBIBYTE)
        mallopt(_TRIM_THRESHOLD, 16 * MEBIBYTE)


def trim_malloc() -> None:
    """Return free memory between used blocks to the system (glibc; no-op elsewhere)."""
    # Each swap would else leave holes that the next model does not fit into.
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@contextmanager
def signal_handlers(handlers: Mapping[int, SignalHandler]) -> Iterator[None]:
    """Handle these signals until the end of the block. Called in the main thread."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def open_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Raises WorkbenchError where the address cannot be listened on."""
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


def drop_new_connections(listener: socket.socket) -> None:
    """Drop new SYN packets (BPF filter) while the listening socket drains. Linux only, else nothing.

    Closing a socket resets the connections in its backlog, and under load there always is one. A dropped
    client tries again a second later, and finds the port closed.
    """
    if sys.platform != "linux":
        return
    so_attach_filter = 26  # socket(7); the operations are those of classic BPF
    flags_at, syn, syn_or_ack = 13, 0x02, 0x12
    operations = (
        (0x30, 0, 0, flags_at),  # load the byte of the TCP header
        (0x54, 0, 0, syn_or_ack),  # and it
        (0x15, 0, 1, syn),  # where it is the first of a connection,
        (0x06, 0, 0, 0),  # drop the packet,
        (0x06, 0, 0, 0xFFFF),  # else keep it
    )
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in operations))
    with suppress(OSError):
        program = struct.pack("HP", len(operations), ctypes.addressof(buffer))
        listener.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)
