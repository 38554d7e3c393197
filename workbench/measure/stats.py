"""The statistics behind every number, as pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist, median

Interval = tuple[float, float]

CONFIDENCE = 0.95
TWO_SIDED = 0.5 + CONFIDENCE / 2  # of each end of a two-sided interval


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of all pairwise means: as robust as a median, nearly as sharp as a mean.

    J. L. Hodges and E. L. Lehmann, "Estimates of location based on rank tests", Ann. Math. Stat. 34, 1963.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    rows, columns = np.triu_indices(len(array))
    return float(np.median((array[rows] + array[columns]) / 2))


def median_interval(values: Sequence[float]) -> Interval | None:
    """A distribution-free 95 % interval of the median from order statistics, or None with too few values.

    The k-th smallest and k-th largest of n values enclose the median with probability
    1 - 2 P(Binomial(n, 1/2) < k): it takes 6 values to reach 95 %, and [min, max] of 6 reaches 96.9 %.
    As k is a whole number, the interval is interpolated between k and k + 1: T. P. Hettmansperger and
    S. J. Sheather, "Confidence intervals based on interpolated order statistics", Statistics & Probability
    Letters 4, 1986.
    """
    ordered = sorted(values)
    n = len(ordered)

    def coverage(k: int) -> float:
        return 1.0 - 2 * sum(math.comb(n, i) for i in range(k)) / float(2**n)

    k = max((k for k in range(1, n // 2 + 1) if coverage(k) >= CONFIDENCE), default=0)
    if k == 0:
        return None
    low, high = ordered[k - 1], ordered[n - k]
    if 2 * (k + 1) > n:
        return low, high
    share = (coverage(k) - CONFIDENCE) / (coverage(k) - coverage(k + 1))
    inward = (n - k) * share / (k + (n - 2 * k) * share)
    return (1 - inward) * low + inward * ordered[k], (1 - inward) * high + inward * ordered[n - k - 1]


def student_t_quantile(probability: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


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


@dataclass(frozen=True, slots=True)
class PairedDrop:
    """The accuracy a variant loses against a reference on the same `total` photos.

    losses: photos the reference gets right and the variant wrong; gains: the reverse.
    """

    losses: int
    gains: int
    total: int

    @property
    def drop(self) -> float:
        """Fraction of 1; negative where the variant is better."""
        return (self.losses - self.gains) / self.total

    def interval(self) -> Interval:
        """Two-sided 95 % score interval of the drop (see `upper_bound`)."""
        lower = -PairedDrop(self.gains, self.losses, self.total).upper_bound(TWO_SIDED)
        return lower, self.upper_bound(TWO_SIDED)

    def upper_bound(self, confidence: float = CONFIDENCE) -> float:
        """One-sided upper bound of the drop: the largest that the data do not reject.

        The score test of T. Tango, "Equivalence test and confidence interval for the difference in
        proportions for the paired-sample design", Statistics in Medicine 17, 1998. Holds its level with
        few discordant photos, and with none.
        """
        z = NormalDist().inv_cdf(confidence)
        low, high = self.drop, 1.0
        if self._score(high) > -z:
            return 1.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if self._score(middle) > -z else (low, middle)
        return high

    def _score(self, delta: float) -> float:
        """Tango's statistic for a true drop of `delta`; falls as delta grows, 0 at the observed drop."""
        b, c, n = self.losses, self.gains, self.total
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
            scaled = PairedDrop(round(self.losses * scale), round(self.gains * scale), total)
            return scaled.upper_bound() <= margin

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
    """Speed relative to the baseline, from the paired log-ratios of rounds of fresh launches.

    The launch is the statistical unit: iterations of one process agree far better than two processes do.
    """

    log_ratios: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Baseline time over variant time: above 1 is faster."""
        return math.exp(self.log_speedup)

    @property
    def log_speedup(self) -> float:
        return -median(self.log_ratios)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the speed-up over rounds; None with fewer than 6 rounds."""
        bounds = self.log_interval
        return bounds and (math.exp(-bounds[1]), math.exp(-bounds[0]))

    @property
    def log_interval(self) -> Interval | None:
        """The same for the logarithm of variant time over baseline time."""
        return median_interval(self.log_ratios)
