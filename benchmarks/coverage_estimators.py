"""Estimators of the centre of launches, each with its interval; an array holds a session in each row."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri, stdtrit

from workbench.measure import launches

Array = NDArray[np.float64]
Estimates = tuple[Array, Array, Array]  # centres, lower ends, upper ends
Estimator = Callable[[Array, float], Estimates]  # values, confidence

RESAMPLES = 500


def inwards(confidence: float, most: int, cover: Callable[[int], float]) -> tuple[int, float]:
    """The largest k up to `most` whose k-th values from both ends hold the centre with this confidence, and
    how far in probability it is from there to the next; the outermost values where none suffices."""
    k = max((k for k in range(1, most + 1) if cover(k) >= confidence), default=0)
    if k == 0 or k == most:
        return max(k, 1), 0.0
    return k, (cover(k) - confidence) / (cover(k) - cover(k + 1))


def enclosed(ordered: Array, k: int, inward: float) -> tuple[Array, Array]:
    """Both ends, this share of the way from the k-th values from both ends to the next ones."""
    count = ordered.shape[1]
    lower = (1 - inward) * ordered[:, k - 1] + inward * ordered[:, k]
    upper = (1 - inward) * ordered[:, count - k] + inward * ordered[:, count - k - 1]
    return lower, upper


def order_statistics(values: Array, confidence: float) -> Estimates:
    """The median between order statistics, interpolated (Hettmansperger and Sheather 1986)."""
    count = values.shape[1]
    k, share = inwards(confidence, count // 2, lambda k: 1 - 2 * float(bdtr(k - 1, count, 0.5)))
    inward = (count - k) * share / (k + (count - 2 * k) * share)
    return np.median(values, axis=1), *enclosed(np.sort(values), k, inward)


def signed_ranks(values: Array, confidence: float) -> Estimates:
    """Hodges-Lehmann between Walsh averages: the values that Wilcoxon's signed-rank test does not reject."""
    count = values.shape[1]
    rows, columns = np.triu_indices(count)
    walsh = np.sort((values[:, rows] + values[:, columns]) / 2)
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.bincount([0, rank]) / 2)
    below = np.cumsum(ways)
    k, share = inwards(confidence, walsh.shape[1] // 2, lambda k: float(1 - 2 * below[k - 1]))
    return np.median(walsh, axis=1), *enclosed(walsh, k, share)


def trimmed(values: Array, confidence: float, *, share: float) -> Estimates:
    """The trimmed mean with Student's interval from the winsorised variance (Yuen 1974)."""
    count = values.shape[1]
    cut = int(share * count + 1e-9)
    kept = count - 2 * cut
    ordered = np.sort(values)
    centre = ordered[:, cut : count - cut].mean(axis=1)
    clipped = np.clip(ordered, ordered[:, [cut]], ordered[:, [count - cut - 1]])
    error = clipped.std(axis=1, ddof=1) * math.sqrt((count - 1) / (kept * (kept - 1)))
    slack = stdtrit(kept - 1, 0.5 + confidence / 2) * error
    return centre, centre - slack, centre + slack


def winsorised(values: Array, confidence: float, *, share: float) -> Estimates:
    """The winsorised mean with Student's interval (Dixon and Tukey 1968)."""
    count = values.shape[1]
    cut = int(share * count + 1e-9)
    kept = count - 2 * cut
    ordered = np.sort(values)
    clipped = np.clip(ordered, ordered[:, [cut]], ordered[:, [count - cut - 1]])
    error = clipped.std(axis=1, ddof=1) / math.sqrt(count) * (count - 1) / (kept - 1)
    slack = stdtrit(kept - 1, 0.5 + confidence / 2) * error
    return clipped.mean(axis=1), clipped.mean(axis=1) - slack, clipped.mean(axis=1) + slack


def resampled(values: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Means and standard errors of resampled launches, a column each; the same draws for every session."""
    count = values.shape[1]
    shares = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).T / count
    centred = values - values.mean(axis=1, keepdims=True)
    means = centred @ shares
    variances = np.maximum(centred**2 @ shares - means**2, 1e-30)
    return means + values.mean(axis=1, keepdims=True), np.sqrt(variances / (count - 1))


def percentile_bootstrap(values: Array, confidence: float) -> Estimates:
    """The mean, between quantiles of the means of resampled launches."""
    means, _ = resampled(values, np.random.default_rng(0))
    low, high = np.quantile(means, (0.5 - confidence / 2, 0.5 + confidence / 2), axis=1)
    return values.mean(axis=1), low, high


def bca_bootstrap(values: Array, confidence: float) -> Estimates:
    """The same, corrected for bias and acceleration (Efron 1987)."""
    means, _ = resampled(values, np.random.default_rng(0))
    centre = values.mean(axis=1)
    off = values - centre[:, None]
    acceleration = (off**3).sum(axis=1) / (6 * np.maximum((off**2).sum(axis=1), 1e-30) ** 1.5)
    half = 0.5 / RESAMPLES
    bias = ndtri(np.clip((means < centre[:, None]).mean(axis=1), half, 1 - half))
    ordered = np.sort(means)
    ends = []
    for quantile in (0.5 - confidence / 2, 0.5 + confidence / 2):
        shifted = bias + ndtri(quantile)
        share = ndtr(bias + shifted / (1 - acceleration * shifted))
        place = np.clip((share * RESAMPLES).astype(int), 0, RESAMPLES - 1)
        ends.append(np.take_along_axis(ordered, place[:, None], axis=1)[:, 0])
    return centre, ends[0], ends[1]


def t_bootstrap(values: Array, confidence: float) -> Estimates:
    """The mean, with Student's quantiles replaced by those of resampled launches."""
    means, errors = resampled(values, np.random.default_rng(0))
    centre, error = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(values.shape[1])
    statistics = (means - centre[:, None]) / errors
    low, high = np.quantile(statistics, (0.5 - confidence / 2, 0.5 + confidence / 2), axis=1)
    return centre, centre - high * error, centre - low * error


def shipped(values: Array, confidence: float) -> Estimates:
    """What `workbench.measure.launches` says, session by session."""
    rows = values.tolist()
    ends = np.asarray([launches.interval(row, confidence) for row in rows])
    return np.asarray([launches.centre(row) for row in rows]), ends[:, 0], ends[:, 1]


ESTIMATORS: dict[str, Estimator] = {
    "median, order statistics": order_statistics,
    "mean, Student": partial(trimmed, share=0.0),
    "mean trimmed by 10 %, Student (Yuen)": partial(trimmed, share=0.1),
    "mean trimmed by 12.5 %, Student (Yuen)": partial(trimmed, share=0.125),
    "mean trimmed by 20 %, Student (Yuen)": partial(trimmed, share=0.2),
    "mean trimmed by 25 %, Student (Yuen)": partial(trimmed, share=0.25),
    "mean winsorised by 10 %, Student": partial(winsorised, share=0.1),
    "mean winsorised by 20 %, Student": partial(winsorised, share=0.2),
    "Hodges-Lehmann, signed ranks": signed_ranks,
    "mean, percentile bootstrap": percentile_bootstrap,
    "mean, BCa bootstrap": bca_bootstrap,
    "mean, bootstrap of t": t_bootstrap,
}
