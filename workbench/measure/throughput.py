"""Photos a second of a session."""

import threading
import time

from workbench.backends import Infer
from workbench.photos.contract import Batch


def photos_per_s(infer: Infer, batch: Batch, *, threads: int, seconds: float) -> float:
    """Call one session with this batch from `threads` threads at once, as the server does.

    The first call of each thread does not count: on a GPU it makes that thread's buffers and graphs.
    """
    counts = [0] * threads
    started = 0.0

    def begin() -> None:
        nonlocal started
        started = time.perf_counter()

    start = threading.Barrier(threads + 1, action=begin)

    def work(index: int) -> None:
        try:
            infer(batch)
        finally:
            start.wait()
        # At least one call: where other programs hold the processors, the time may be over by now.
        while not counts[index] or time.perf_counter() < started + seconds:
            infer(batch)
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    for worker in workers:
        worker.join()
    return sum(counts) * len(batch) / (time.perf_counter() - started)
