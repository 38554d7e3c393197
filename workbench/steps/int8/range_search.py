"""Where a histogram of activations is cut: pure functions of counts."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]  # lowest, highest

LEVELS = 128  # of |x| in 8 bits with a sign: what `entropy` quantises to
MOST_CLIPPED = 0.01  # of the values, by `entropy`


def percentile_limit(counts: NDArray[np.int64], largest: float, percentile: float) -> float:
    """The bin edge that `percentile` of |x| do not exceed. counts: histogram of |x| over (0, largest)."""
    cumulative = np.cumsum(counts)
    spare = int(cumulative[-1] * (1 - percentile / 100))
    return float(largest * (np.searchsorted(cumulative, cumulative[-1] - spare) + 1) / len(counts))


def percentile_tails(counts: NDArray[np.int64], span: Range, percentile: float) -> Range:
    """The bin edges between which `percentile` of x lie, half of the rest at each end.

    counts: histogram of x over `span`.
    """
    cumulative = np.cumsum(counts)
    tail = int(cumulative[-1] * (1 - percentile / 100) / 2)
    width = (span[1] - span[0]) / len(counts)
    first = np.searchsorted(cumulative, tail, side="right")
    last = np.searchsorted(cumulative, cumulative[-1] - tail)
    return float(span[0] + width * first), float(span[0] + width * (last + 1))


def entropy_threshold(counts: NDArray[np.int64], largest: float) -> float:
    """The |x| to clip at so that 128 levels lose least information (Kullback-Leibler divergence).

    counts: histogram of |x| over (0, largest). For every threshold T on a bin edge, P is the distribution
    with all above T moved to the last bin, and Q the bins below T merged into 128 levels and spread over the
    non-empty bins again; the result is the T with the least KL(P || Q). From S. Migacz, "8-bit inference with
    TensorRT", GTC 2017. As in NVIDIA's pytorch-quantization, the bin at zero takes its neighbour's count:
    zero is represented exactly, and ReLU's spike there would drown the rest. Thresholds that would clip more
    than MOST_CLIPPED are not considered: of a tensor that stays away from zero, such as the gate of a
    squeeze-and-excitation block, next to nothing lies below a low T, and nothing is easily represented. All
    thresholds at once, from prefix sums: sum over P log Q needs the mass and the number of non-empty bins of
    each level only.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    if bins.sum() == 0 or len(bins) <= LEVELS:
        return largest
    ends, bounds = _levels(len(bins))
    mass = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0.0], np.cumsum(bins > 0)])
    total, kept = mass[-1], mass[ends]
    outliers = total - kept
    last = bins[ends - 1]

    level_mass = np.diff(mass[bounds], axis=1)
    level_filled = np.diff(filled[bounds], axis=1)
    level_filled[:, -1] += (last == 0) & (outliers > 0)  # the last bin holds the outliers, so it is not empty
    log_q = np.log(np.divide(level_mass, level_filled, out=np.ones_like(level_mass), where=level_mass > 0))
    cross = (level_mass * log_q).sum(axis=1) + outliers * log_q[:, -1]

    own = np.concatenate([[0.0], np.cumsum(_x_log_x(bins))])
    entropy = own[ends] - _x_log_x(last) + _x_log_x(last + outliers)
    # With P = p / total and Q = q / kept: KL = sum(p log p - p log q) / total - log(total) + log(kept).
    divergence = (entropy - cross) / total - np.log(total) + np.log(np.maximum(kept, 1e-300))
    divergence[(kept < (1 - MOST_CLIPPED) * total) | ((level_mass[:, -1] == 0) & (outliers > 0))] = np.inf
    return float(largest * ends[int(np.argmin(divergence))] / len(bins))


@lru_cache(maxsize=1)
def _levels(bins: int) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Candidate thresholds as bin counts (k,), and the (k, LEVELS + 1) bin edges of their levels."""
    ends = np.arange(LEVELS, bins + 1)
    return ends, ends[:, None] * np.arange(LEVELS + 1) // LEVELS


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.where(x > 0, x, 1.0))
