"""The calls before the first that counts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

MIN_CALLS = 20
MAX_S = 1.0
WINDOW = 10
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class WarmUp:
    """settled: the last ten calls took as long as the ten before. typical_ns: their median."""

    calls: int
    settled: bool
    typical_ns: float


def warm_up(timed: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> WarmUp:
    """Call until ten calls in a row took the same as the ten before, within 5 %."""
    times: list[int] = []
    deadline = clock() + MAX_S
    while True:
        times.append(timed())
        last = median(times[-WINDOW:])
        if len(times) >= MIN_CALLS:
            before = median(times[-2 * WINDOW : -WINDOW])
            if abs(last - before) <= TOLERANCE * before:
                return WarmUp(len(times), settled=True, typical_ns=last)
        if clock() >= deadline:
            return WarmUp(len(times), settled=False, typical_ns=last)
