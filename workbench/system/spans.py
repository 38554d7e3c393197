"""Where the time of a run goes: seconds by stage."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Stage = Literal[
    "starting", "reading", "building", "source_model", "checking", "sanity_look", "advice", "searching",
    "waiting", "race", "final", "extras", "report",
]  # fmt: skip


class Spans:
    """Seconds spent in each stage, in the order the stages first began.

    A stage within another counts for itself alone, so that the seconds add up to the time that passed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[Stage, float] = {}
        self._clock, self._open, self._since = clock, list[Stage](), clock()

    @contextmanager
    def span(self, stage: Stage) -> Iterator[None]:
        """The time of this block is the stage's, but for blocks within it."""
        self._count()
        self.seconds.setdefault(stage, 0.0)
        self._open.append(stage)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def add(self, stage: Stage, seconds: float) -> None:
        """Time that passed before there was anything to measure it with."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def _count(self) -> None:
        """Add the time since the last change to the stage that is open."""
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def seconds_since_start() -> float:
    """Since this process began: the interpreter and its imports, mostly."""
    import psutil

    created_s = float(psutil.Process().create_time())
    if sys.platform == "linux":
        # There the time is known since the system was started, and when that was to the second only.
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, since_boot_s - (created_s - float(psutil.boot_time())))
    return max(0.0, time.time() - created_s)
