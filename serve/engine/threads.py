"""A thread pool for work on photos, cheaper than `concurrent.futures`."""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """A pool whose results go to an event loop. Its threads start with it, so no request waits for one."""

    # The two futures that concurrent.futures makes for each call took a tenth of the time of a small network.
    # Here one wake-up also delivers several results, where they are ready faster than the loop takes them.

    def __init__(self, count: int, name: str) -> None:
        self._todo: SimpleQueue[_Work | None] = SimpleQueue()
        self._done: deque[_Work] = deque()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return or raise what `work` does, in the next free thread. Called on the event loop."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._todo.put(_Work(work, future))
        try:
            return await future
        finally:
            # Else an error, its traceback, this frame and the future are a cycle that keeps a photo of 10 MB
            # until the garbage collector runs.
            del future

    def close(self) -> None:
        """Finish all queued work. Not to be called on the event loop."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            self._do(work)
            del work  # free the photo while this thread waits for the next one

    def _do(self, work: "_Work") -> None:
        try:
            work.result = work.work()
        except StopIteration as error:  # which a future refuses
            work.error = RuntimeError(repr(error))
        except BaseException as error:
            work.error = error
        self._done.append(work)
        # Only the head of the queue schedules a delivery, which takes later results too. An empty queue means
        # that a running delivery took this one.
        with suppress(IndexError):
            if self._done[0] is work:
                work.future.get_loop().call_soon_threadsafe(self._deliver)
        del work  # this frame is in the traceback of the error that the work holds: a cycle, see `run`

    def _deliver(self) -> None:
        """Set the futures of all finished work. Runs on the event loop."""
        while self._done:
            work = self._done[0]
            try:
                if not work.future.cancelled():
                    if work.error is None:
                        work.future.set_result(work.result)
                    else:
                        work.future.set_exception(work.error)
            finally:
                # Last, so that this delivery takes results that arrive meanwhile.
                self._done.popleft()


@dataclass(slots=True, eq=False)
class _Work:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def lower_priority() -> None:
    """Give this thread a low priority. Linux only: elsewhere it would be the process's."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
