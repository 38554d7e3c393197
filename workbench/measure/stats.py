"""The statistics behind every number, as pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from workbench.measure import launches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Interval = launches.Interval

CONFIDENCE = launches.CONFIDENCE
TWO_SIDED = 0.5 + CONFIDENCE / 2  # of each end of a two-sided interval


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of all pairwise means: as robust as a median, nearly as sharp as a mean.

    J. L. Hodges and E. L. Lehmann, "Estimates of location based on rank tests", Ann. Math. Stat. 34, 1963.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    first, second = _pairs(len(array))
    sums = np.sort(array[first] + array[second])  # np.median takes longer than all of this
    return float(sums[(len(sums) - 1) // 2] + sums[len(sums) // 2]) / 4


@lru_cache(maxsize=16)
def _pairs(count: int) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
    """The places of every two of `count` values, and of each with itself."""
    import numpy as np

    first, second = np.triu_indices(count)
    return first, second


def samples_for_percentile(fraction: float) -> int:
    """How many samples it takes for the largest to bound a percentile: 59 for p95, 299 for p99.

    P(all n samples lie below it) = fraction**n must not exceed 5 %; as in MLPerf's early stopping rule with
    no sample allowed above.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(fraction))


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """The nearest-rank percentile, or None with fewer than `samples_for_percentile`."""
    if len(values) < samples_for_percentile(fraction):
        return None
    return float(sorted(values)[math.ceil(fraction * len(values)) - 1])


def wilson(correct: int, total: int) -> Interval:
    """Two-sided 95 % score interval of a proportion, as fractions of 1.

    E. B. Wilson, JASA 22, 1927: unlike p +- z*se it stays inside [0, 1] and is not empty at 100 %, which
    small test sets do reach.
    """
    z = NormalDist().inv_cdf(TWO_SIDED)
    p = correct / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # The ends are exact where nothing or everything is right, which the formula misses by a rounding error.
    low = (centre - spread) / scale if correct else 0.0
    high = (centre + spread) / scale if correct < total else 1.0
    return low, high


def proportion_upper_bound(count: float, total: float, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper bound of a proportion; of counts that are not whole, interpolated.

    C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26, 1934.
    """

    def bound(whole: int) -> float:
        low, high = 0.0, 1.0
        while whole < total and high - low > 1e-9:
            middle = (low + high) / 2
            rejected = _binomial_cdf(whole, total, middle) <= 1 - confidence
            low, high = (low, middle) if rejected else (middle, high)
        return high

    below = math.floor(count)
    first = bound(below)
    return first + (count - below) * (bound(below + 1) - first) if count > below else first


def _binomial_cdf(count: int, total: float, p: float) -> float:
    """P(Binomial(total, p) <= count); a total that is not whole is an incomplete beta function."""
    binomial = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    term = math.exp(binomial + count * math.log(p) + (total - count) * math.log1p(-p))
    found = 0.0
    for left in range(count, -1, -1):
        found += term
        # Where the terms fall, what is left adds up to less than this one for each.
        if term * left < 1e-12 * found:
            break
        term *= left / (total - left + 1) * (1 - p) / p
    return found


@dataclass(frozen=True, slots=True)
class PairedDrop:
    """The accuracy a variant loses against a reference on the same `total` photos.

    losses: photos the reference gets right and the variant wrong; gains: the reverse. independent: the photos
    they count as where some are near-duplicates, whose answers change together; None where none are.
    """

    losses: int
    gains: int
    total: int
    independent: float | None = None

    @property
    def drop(self) -> float:
        """Fraction of 1; negative where the variant is better."""
        return (self.losses - self.gains) / self.total

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Two-sided interval of the drop (see `upper_bound`)."""
        each_end = 0.5 + confidence / 2
        return -self.mirrored.upper_bound(each_end), self.upper_bound(each_end)

    @property
    def mirrored(self) -> "PairedDrop":
        """What the reference loses against the variant."""
        return PairedDrop(self.gains, self.losses, self.total, self.independent)

    def p_within(self, margin: float) -> float:
        """Two-sided p-value of the drop being within the margin to either side; agrees with `interval`."""
        if abs(self.drop) <= margin:
            return 1.0
        # The score of the other side's drop falls below -z where the lower end of the interval passes the
        # margin.
        beyond = self.mirrored if self.drop > margin else self
        return min(1.0, 2 * NormalDist().cdf(beyond._score(-margin)))

    def upper_bound(self, confidence: float = CONFIDENCE) -> float:
        """One-sided upper bound of the drop: the largest that the data do not reject.

        The score test of T. Tango, "Equivalence test and confidence interval for the difference in
        proportions for the paired-sample design", Statistics in Medicine 17, 1998; where nothing was gained,
        no less than the exact bound of the losses.
        """
        z = NormalDist().inv_cdf(confidence)
        low, high = self.drop, 1.0
        while high - low > 1e-9 and self._score(1.0) <= -z:
            middle = (low + high) / 2
            low, high = (middle, high) if self._score(middle) > -z else (low, middle)
        if self.gains:
            return high
        # Alone, the score test passes a drop at the margin in up to 6.8 % of cases instead of 5: without
        # gains the losses are a proportion, and few of them are far from normal.
        return max(high, proportion_upper_bound(self.losses * self._share, self._photos, confidence))

    def within(self, margin: float, confidence: float = CONFIDENCE) -> bool:
        """Is the upper bound within the margin? Answers without looking for the bound."""
        if self.drop >= margin or self._score(margin) > -NormalDist().inv_cdf(confidence):
            return False
        return bool(self.gains) or (
            proportion_upper_bound(self.losses * self._share, self._photos, confidence) <= margin
        )

    def p_beyond(self, margin: float) -> float:
        """The p-value of a drop of `margin` or more: 1 less the highest confidence that `within` holds at."""
        low, high = 1e-12, 1 - 1e-12
        while high - low > 1e-3 * low:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.within(margin, 1 - middle) else (middle, high)
        return high

    @property
    def _photos(self) -> float:
        return self.total if self.independent is None else self.independent

    @property
    def _share(self) -> float:
        return self._photos / self.total

    def _score(self, delta: float) -> float:
        """Tango's statistic for a true drop of `delta`; falls as delta grows, 0 at the observed drop."""
        n = self._photos
        b, c = self.losses * self._share, self.gains * self._share
        # The likelihood's estimate of the probability of a gain, under that drop.
        linear = -b - c + (2 * n - b + c) * delta
        gain = (math.sqrt(max(0.0, linear**2 + 8 * n * c * delta * (1 - delta))) - linear) / (4 * n)
        variance = n * (2 * gain + delta * (1 - delta))
        difference = b - c - n * delta
        if variance <= 0:
            return 0.0 if difference == 0 else math.copysign(math.inf, difference)
        return difference / math.sqrt(variance)

    def mcnemar_p(self) -> float:
        """Exact two-sided p-value that the variant differs at all. Shown, never used to accept a drop:
        a large p is not evidence of a small drop."""
        n, k = self.losses + self.gains, min(self.losses, self.gains)
        as_few = sum(math.comb(n, i) for i in range(k + 1))
        return min(1.0, float(Fraction(2 * as_few, 2**n)))

    def images_needed(self, margin: float) -> int:
        """Photos it would take for the upper bound to come under `margin`, were the counts to scale.

        Raises ValueError for a drop that is not below the margin.
        """
        if self.drop >= margin:
            raise ValueError("no number of photos brings the bound under a margin that the drop exceeds")

        def fits(total: int) -> bool:
            scale = total / self.total
            counts = round(self.losses * scale), round(self.gains * scale)
            return PairedDrop(*counts, total, self._share * total).within(margin)

        high = self.total
        while not fits(high):
            high *= 2
        low = high // 2
        while high - low > max(1, high // 100):
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


@dataclass(frozen=True, slots=True)
class Ratio:
    """Speed relative to the baseline, from the paired log-ratios of rounds of fresh launches (`launches`)."""

    log_ratios: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Baseline time over variant time: above 1 is faster."""
        return math.exp(self.log_speedup)

    @property
    def log_speedup(self) -> float:
        return -launches.centre(self.log_ratios)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the speed-up over rounds; None with fewer than 6 rounds."""
        bounds = self.log_interval
        return bounds and (math.exp(-bounds[1]), math.exp(-bounds[0]))

    @property
    def log_interval(self) -> Interval | None:
        """The same for the logarithm of variant time over baseline time."""
        return launches.interval(self.log_ratios)
