"""This process's freed memory, and its signals."""

import ctypes
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
