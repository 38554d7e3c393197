"""The line in front of the threads: who may join it, how long it is, and who waited too long in it."""

import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge

from serve.responses import ApiError

Result = TypeVar("Result")

SMOOTHING = 0.1  # of the time a photo takes; some ten photos decide
STUCK_S = 60.0


class Job(Generic[Result]):
    """Work for a thread, dropped if its turn comes after `deadline` (time.perf_counter(), seconds)."""

    def __init__(self, work: Callable[[], Result], deadline: float) -> None:
        self._work = work
        self._deadline = deadline
        self.joined = time.perf_counter()
        self.started: float | None = None
        self.ended: float | None = None

    def __call__(self) -> Result:
        now = time.perf_counter()
        if now > self._deadline:
            raise ApiError(504, "deadline-passed", "the request waited too long for its turn and was dropped")
        self.started = now
        try:
            return self._work()
        finally:
            self.ended = time.perf_counter()


class Line:
    """Bounded by time, not by number: what matters to who waits is when his turn comes.

    Only the event loop calls it. budget_s: who would wait longer is refused.
    """

    def __init__(self, budget_s: float, depth: Gauge) -> None:
        self._budget_s = budget_s
        self._depth = depth
        self._jobs: dict[Job[Any], None] = {}  # a set that remembers who came first
        self._places = 1
        self._seconds = 0.0

    def open(self, places: int, seconds: float) -> None:
        """places: threads behind it. seconds: what a photo takes, to begin with."""
        self._places = places
        self._seconds = seconds

    @property
    def waiting(self) -> int:
        return max(0, len(self._jobs) - self._places)

    def check(self) -> None:
        """Raise ApiError (429) where one more would wait for longer than the budget."""
        if not self.waiting:
            return
        wait_s = self.waiting * self._seconds / self._places
        if wait_s > self._budget_s:
            raise ApiError(
                429,
                "overloaded",
                "the server has more requests than it can answer in time",
                headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
            )

    def join(self, job: Job[Any]) -> None:
        self._jobs[job] = None
        self._depth.set(self.waiting)

    def leave(self, job: Job[Any]) -> None:
        del self._jobs[job]
        self._depth.set(self.waiting)
        if job.started is not None and job.ended is not None:
            self._seconds += SMOOTHING * ((job.ended - job.started) - self._seconds)

    def stuck(self) -> bool:
        """Every thread has been at one and the same photo for a minute."""
        if len(self._jobs) < self._places:
            return False
        long_ago = time.perf_counter() - STUCK_S
        running = [job for job in self._jobs if job.started is not None and job.ended is None]
        return len(running) >= self._places and all((job.started or 0) < long_ago for job in running)
