"""The centre of values that independent launches gave, with its interval and a test: pure functions.

A launch is the unit: calls within one agree far better than two launches do.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from workbench.measure.stats import CONFIDENCE, Interval, student_t_quantile

LEAST = 6  # launches: fewer say too little of how launches differ


def centre(values: Sequence[float]) -> float:
    """The estimate that `interval` is an interval of."""
    return fmean(values)


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The two-sided interval of the centre; None with fewer than `LEAST` values."""
    if len(values) < LEAST:
        return None
    slack = student_t_quantile(0.5 + confidence / 2, len(values) - 1) * stdev(values)
    return centre(values) - slack / math.sqrt(len(values)), centre(values) + slack / math.sqrt(len(values))


def p_value(values: Sequence[float]) -> float:
    """Two-sided, of the centre being 0: below 1 - confidence exactly where `interval` excludes 0."""
    from scipy.special import stdtr

    if (spread := stdev(values)) == 0:
        return float(centre(values) == 0)
    statistic = abs(centre(values)) / spread * math.sqrt(len(values))
    return float(2 * stdtr(len(values) - 1, -statistic))
