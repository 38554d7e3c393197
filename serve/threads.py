"""The threads that work on photos."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """A pool whose results go to an event loop. Its threads start with it, so no request waits for one.

    concurrent.futures does the same and can be cancelled, waited for and asked, none of which is needed
    here: its two futures for each piece of work took a tenth of the time of a small network. And where
    results are ready faster than the loop takes them, it is woken once for several.
    """

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
        """What `work` returns or raises, from the next thread that is free. Called on the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._todo.put(_Work(work, future, loop))
        try:
            return await future
        finally:
            # Else an error, its traceback, this frame and the future hold each other, and a photo of 10 MB
            # with them, until the collector of cycles comes by.
            del future

    def close(self) -> None:
        """Returns when everything that was handed over is done. Not from the event loop."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            self._do(work)
            del work  # and the photo with it, while this thread waits for the next

    def _do(self, work: "_Work") -> None:
        try:
            work.result = work.work()
        except StopIteration as error:  # which no future takes
            work.error = RuntimeError(repr(error))
        except BaseException as error:
            work.error = error
        self._done.append(work)
        # Whoever is first in the queue wakes the loop; before the others somebody stands who has done so.
        # An empty queue means that the loop was awake, and took this too.
        with suppress(IndexError):
            if self._done[0] is work:
                work.loop.call_soon_threadsafe(self._deliver)
        del work  # this frame is in the traceback of the error that the work holds: a cycle, see `run`

    def _deliver(self) -> None:
        """On the event loop: hand out what is ready."""
        while self._done:
            work = self._done[0]
            try:
                if not work.future.cancelled():
                    if work.error is None:
                        work.future.set_result(work.result)
                    else:
                        work.future.set_exception(work.error)
            finally:
                # Last, so that whoever comes meanwhile need not wake the loop.
                self._done.popleft()


class _Work:
    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self, work: Callable[[], Any], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None
