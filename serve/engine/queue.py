"""The queue in front of the threads: admission by expected wait, deadlines, and threads that hang."""

import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge

from serve.errors import ApiError

Result = TypeVar("Result")

SMOOTHING = 0.1  # of the time a photo takes; some ten photos decide
STUCK_S = 60.0


class QueuedJob(Generic[Result]):
    """Work for a thread, dropped if its turn comes after `deadline` (time.perf_counter(), seconds)."""

    def __init__(self, work: Callable[[], Result], deadline: float) -> None:
        self._work = work
        self._deadline = deadline
        self.queued_at = time.perf_counter()
        self.started_at: float | None = None
        self.ended_at: float | None = None

    def __call__(self) -> Result:
        now = time.perf_counter()
        if now > self._deadline:
            raise ApiError(
                504,
                "deadline-passed",
                "the request waited too long for its turn and was dropped; send it again",
            )
        self.started_at = now
        try:
            return self._work()
        finally:
            self.ended_at = time.perf_counter()


class RequestQueue:
    """Bounded by the expected wait, `budget_s`, not by length. Called on the event loop only."""

    def __init__(self, budget_s: float, depth: Gauge) -> None:
        self._budget_s = budget_s
        self._depth = depth
        self._jobs: dict[QueuedJob[Any], None] = {}  # an ordered set
        self._threads = 1
        self._photo_s = 0.0

    def configure(self, threads: int, photo_s: float) -> None:
        """threads: how many take jobs. photo_s: time of one photo, updated with every job."""
        self._threads = threads
        self._photo_s = photo_s

    @property
    def waiting(self) -> int:
        return max(0, len(self._jobs) - self._threads)

    def check_wait(self) -> None:
        """Raise ApiError (429) where one more job would wait for longer than the budget."""
        if not self.waiting:
            return
        wait_s = self.waiting * self._photo_s / self._threads
        if wait_s > self._budget_s:
            raise ApiError(
                429,
                "overloaded",
                "the server has more requests than it can answer in time; send this one again after the "
                "seconds in Retry-After",
                headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
            )

    def add(self, job: QueuedJob[Any]) -> None:
        self._jobs[job] = None
        self._depth.set(self.waiting)

    def remove(self, job: QueuedJob[Any]) -> None:
        del self._jobs[job]
        self._depth.set(self.waiting)
        if job.started_at is not None and job.ended_at is not None:
            self._photo_s += SMOOTHING * ((job.ended_at - job.started_at) - self._photo_s)

    def stuck(self) -> bool:
        """Whether every thread has been running the same job for STUCK_S."""
        if len(self._jobs) < self._threads:
            return False
        limit = time.perf_counter() - STUCK_S
        starts = [job.started_at for job in self._jobs if job.started_at is not None and job.ended_at is None]
        return len(starts) >= self._threads and all(start < limit for start in starts)
