"""What long work says of itself. The core reports; the command line draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """A variant while it is timed. dropped: it is timed no further.

    speedup: over the baseline, above 1 is faster. interval: of it, at 95 %. None with too few rounds.
    """

    variant: str
    speedup: float | None
    interval: tuple[float, float] | None
    dropped: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """done of total within a stage; what: the variant or folder at hand.

    total 0: an event, or work of unknown extent where `left_s` is given. left_s: seconds left when this was
    reported, where the work itself knows. standings: fastest first.
    """

    stage: str
    done: int
    total: int
    what: str = ""
    left_s: float | None = None
    standings: tuple[Standing, ...] = ()


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report nothing."""


def time_left_s(done: int, total: int, elapsed_s: float, budget_s: float = math.inf) -> float | None:
    """Seconds left at the pace so far, and within the budget; None where neither is known."""
    pace = elapsed_s / done * (total - done) if done > 0 else math.inf
    left = min(pace, max(0.0, budget_s - elapsed_s))
    return left if left < math.inf else None
