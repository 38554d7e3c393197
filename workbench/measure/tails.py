"""Tail percentiles of calls that depend on each other, with their intervals: pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.measure.launches import LEAST
from workbench.measure.stats import TWO_SIDED, Interval
from workbench.measure.student_t import student_t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_ABOVE = 1  # call of a round above its percentile, at least: else the percentile is the largest call


def percentile_interval(rounds: Sequence[Sequence[float]], fraction: float) -> Interval | None:
    """The two-sided 95 % interval of a percentile of all calls. rounds: the calls of each.

    The calls of a launch are alike, so the rounds are the blocks: how the share of calls above the percentile
    differs between them says how many independent calls they are worth. For so many, Clopper and Pearson's
    interval of that share is read off the pooled calls. E. L. Korn and B. I. Graubard, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data", Survey
    Methodology 24, 1998; R. S. Woodruff, JASA 47, 1952. None with fewer than `LEAST` rounds, and where the
    largest call does not bound the percentile.
    """
    import numpy as np
    from scipy.special import betaincinv

    calls = sum(map(len, rounds))
    if len(rounds) < LEAST or not all(map(len, rounds)):
        return None
    pooled = np.sort(np.concatenate([np.asarray(each, dtype=np.float64) for each in rounds]))
    middle = pooled[math.ceil(fraction * calls) - 1]
    above = [
        len(each) / calls * (float(np.mean(np.asarray(each) > middle)) - 1 + fraction) for each in rounds
    ]
    error2 = len(rounds) / (len(rounds) - 1) * math.fsum(part * part for part in above)
    worth = fraction * (1 - fraction) / error2 if error2 else math.inf
    of_calls, of_rounds = (student_t_quantile(TWO_SIDED, count - 1) for count in (calls, len(rounds)))
    # Never worth more than the calls there are.
    worth = min(calls, worth * (of_calls / of_rounds) ** 2)
    below, rest = worth * fraction, worth * (1 - fraction)
    low = float(betaincinv(below, rest + 1, 1 - TWO_SIDED))
    high = float(betaincinv(below + 1, rest, TWO_SIDED))
    if (1 - high) * calls < 1:
        return None  # Not even the largest call bounds it.
    first, last = max(0, math.floor(low * calls) - 1), math.ceil(high * calls) - 1
    return float(pooled[first]), float(pooled[last])


def tail_log_ratios(
    calls: "Mapping[str, NDArray[Any]]",
    one: str,
    other: str,
    fraction: float,
    batch_sizes: Mapping[str, int],
    session: str,
) -> tuple[float, ...]:
    """Of each round of a session that timed both: log(percentile of one / of the other), of one photo.

    Paired by the round and not by the turn, as a turn has too few calls for a tail. A round with too few of
    them is left out. calls: the columns of `latency.parquet`, of hot calls that count.
    """
    import numpy as np

    where = {name: (calls["session"] == session) & (calls["variant"] == name) for name in (one, other)}
    heats = sorted(set(zip(calls["round"][where[one]], calls["heat"][where[one]], strict=True)))
    per_photo = math.log(batch_sizes.get(other, 1)) - math.log(batch_sizes.get(one, 1))
    found = []
    for number, heat in heats:
        together = (calls["round"] == number) & (calls["heat"] == heat)
        times = [np.sort(calls["time_ns"][where[name] & together]) for name in (one, other)]
        if min(map(len, times)) * (1 - fraction) < FEWEST_ABOVE:
            continue
        mine, its = (float(each[math.ceil(fraction * len(each)) - 1]) for each in times)
        found.append(math.log(mine / its) + per_photo)
    return tuple(found)
