"""What validation photos can show of a drop, before anything is measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from workbench.measure.stats import CONFIDENCE, PairedDrop

SURE = 0.8  # of the runs certify a variant that loses nothing
CHANGED = (0.0, 0.01, 0.02)  # answers that differ from the baseline's, half of them for the better
LARGEST = 10**8  # photos; what takes more is out of reach
POINTS = 200  # of the distribution of changed answers, at most


@dataclass(frozen=True, slots=True)
class Certifiable:
    """For a variant that loses nothing but changes a share of the answers.

    drop: the smallest budget that it is certified for in SURE of the runs. needed: photos that the budget
    takes; None where no number does.
    """

    changed: float
    drop: float
    needed: int | None


@dataclass(frozen=True, slots=True)
class Power:
    """photos: near-duplicates count once. limit: the budget, a fraction of 1. halves: half are held out.

    candidates: variants that the photos choose among.
    """

    photos: int
    limit: float
    candidates: int
    halves: bool
    cases: tuple[Certifiable, ...]


def power(photos: int, limit: float, candidates: int = 1) -> Power:
    halves = _halved(photos, limit)
    cases = [
        Certifiable(changed, _smallest(photos, changed, candidates, halves=halves), _needed(limit, changed))
        for changed in CHANGED
    ]
    return Power(photos, limit, candidates, halves, tuple(cases))


def _halved(photos: int, limit: float) -> bool:
    """Whether a half would certify what loses nothing: see `split`."""
    return photos > 1 and PairedDrop(0, 0, photos // 2).within(limit)


def _smallest(photos: int, changed: float, candidates: int, *, halves: bool) -> float:
    """The smallest drop that is certified in SURE of the runs. halves: half of the photos are held out."""

    def least(enough: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        while high - low > 5e-5:
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    # All photos choose and certify while a half would be too small; from then on it takes both halves.
    confidence = 1 - (1 - CONFIDENCE) / candidates
    undivided = least(lambda drop: probability(photos, drop, changed, confidence) >= SURE)
    if not halves and not _halved(photos, undivided):
        return undivided
    return least(lambda drop: _halved(photos, drop) and _both(photos, drop, changed) >= SURE)


def _needed(limit: float, changed: float) -> int | None:
    """Photos for the budget, half of them held out; about 1 % too many at most."""
    high = 2
    while not (_halved(high, limit) and _both(high, limit, changed) >= SURE):
        high *= 2
        if high > LARGEST:
            return None
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        fits = _halved(middle, limit) and _both(middle, limit, changed) >= SURE
        low, high = (low, middle) if fits else (middle, high)
    return high


def _both(photos: int, limit: float, changed: float) -> float:
    """The probability that one half chooses it, and the other certifies it."""
    return probability(photos // 2, limit, changed) ** 2


def probability(photos: int, limit: float, changed: float, confidence: float = CONFIDENCE) -> float:
    """That the bound of a variant that loses nothing comes out within the limit."""
    mean = photos * changed
    spread = 6 * math.sqrt(mean) + 6 if changed else 0.0
    first, last = max(0, math.floor(mean - spread)), min(photos, math.ceil(mean + spread))
    step = max(1, (last - first) // POINTS)
    total = passed = 0.0
    for count in range(first, last + 1, step):
        weight = _binomial(count, photos, changed)
        total += weight
        passed += weight * _at_most(_most_losses(count, photos, limit, confidence), count)
    return passed / total


def _most_losses(count: int, photos: int, limit: float, confidence: float) -> int:
    """Of so many changed answers, the most that may be losses; -1 where none may."""
    low, high = -1, count
    while low < high:
        middle = (low + high + 1) // 2
        fits = PairedDrop(middle, count - middle, photos).within(limit, confidence)
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _at_most(losses: int, count: int) -> float:
    """P(Binomial(count, 1/2) <= losses) by the normal distribution, which is close at one half."""
    if losses < 0 or count == 0:
        return float(losses >= 0)
    return NormalDist().cdf((losses + 0.5 - count / 2) / (math.sqrt(count) / 2))


def _binomial(count: int, total: int, p: float) -> float:
    if p == 0:
        return float(count == 0)
    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return math.exp(ways + count * math.log(p) + (total - count) * math.log1p(-p))
