"""What glibc does with memory that was freed. Other C libraries lack both functions: nothing happens."""

import ctypes

MEBIBYTE = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def tune() -> None:
    """Have the memory of a large photo given back to the system when it is freed.

    glibc raises its own threshold for that after the first large block: four photos of 50 megapixels at
    once left 382 MB behind, and leave 110 MB so. Said once, it no longer moves the other threshold either,
    so that is said too: giving back 128 KB at a time, and having them zeroed again, took half as long as a
    small network.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, MEBIBYTE)
        mallopt(_TRIM_THRESHOLD, 16 * MEBIBYTE)


def give_back() -> None:
    """Give back what is free between what is in use, as after a model was freed: each swap would leave holes
    that the next model does not fit into."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
