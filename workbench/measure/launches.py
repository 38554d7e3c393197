"""The centre of values that independent launches gave, with its interval and a test: pure functions.

A launch is the unit: calls within one agree far better than two launches do. The centre is the mean without
the lowest and the highest tenth; its error comes from the winsorised values, its interval from Student's t:
K. K. Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61, 1974, for one sample.
Of a dozen estimators that `benchmarks/coverage.py` tries on simulated sessions it has the narrowest intervals
of those that hold the truth in at least 92 % of every kind; docs/measured-coverage.md has the table.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from workbench.measure.student_t import student_t_quantile, two_sided_p

Interval = tuple[float, float]

CONFIDENCE = 0.95
LEAST = 6  # launches: fewer say too little of how launches differ
TENTH = 10  # of the values are left out at each end: none of up to 9, one of 10 to 19


def centre(values: Sequence[float]) -> float:
    """The estimate that `interval` is an interval of."""
    cut = len(values) // TENTH
    return fmean(sorted(values)[cut : len(values) - cut])


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The two-sided interval of the centre; None with fewer than `LEAST` values."""
    if len(values) < LEAST:
        return None
    error, freedom = _standard_error(values)
    slack = student_t_quantile(0.5 + confidence / 2, freedom) * error
    return centre(values) - slack, centre(values) + slack


def p_value(values: Sequence[float]) -> float:
    """Two-sided, of the centre being 0: below 1 - confidence exactly where `interval` excludes 0."""
    if len(values) < LEAST:
        return 1.0
    error, freedom = _standard_error(values)
    if error == 0:
        return float(centre(values) == 0)
    return two_sided_p(centre(values) / error, freedom)


def _standard_error(values: Sequence[float]) -> tuple[float, int]:
    """That of the centre, with its degrees of freedom."""
    count = len(values)
    cut = count // TENTH
    kept = sorted(values)[cut : count - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    return stdev(winsorised) * math.sqrt((count - 1) / (len(kept) * (len(kept) - 1))), len(kept) - 1
