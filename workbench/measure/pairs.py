"""Differences between any two variants, from the turns that timed both: pure functions.

As with the baseline: paired within a turn, summarised by the Hodges-Lehmann estimate of a round, and rounds
are the unit of the interval. Through the baseline, a difference would carry its noise twice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.measure import launches
from workbench.measure.records import BASELINE, TWIN
from workbench.measure.stats import CONFIDENCE, Interval, hodges_lehmann
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TURN = ("session", "round", "heat", "turn")  # calls that share all of these are milliseconds apart


@dataclass(frozen=True, slots=True)
class TimedTurns:
    """The logarithm of each variant's time for one photo, in every turn of one round.

    logs: (turns, variants) float64, the median of a burst's hot calls; NaN where it was not timed in a turn.
    """

    variants: tuple[str, ...]
    logs: "NDArray[np.float64]"

    def log_ratio(self, one: str, other: str) -> float | None:
        """The Hodges-Lehmann estimate of log(time of one / time of other); None where no turn timed both.

        The baseline's time is that of `latency.log_ratios`.
        """
        import numpy as np

        if not {one, other} <= set(self.variants):
            return None
        columns = {name: self.logs[:, number] for number, name in enumerate(self.variants)}
        if TWIN in columns and BASELINE in columns and TWIN not in (one, other):
            first, second = columns[BASELINE], columns[TWIN]
            columns[BASELINE] = np.where(np.isnan(second), first, (first + second) / 2)
        first, second = columns[one], columns[other]
        known = (first - second)[~np.isnan(first - second)]
        return hodges_lehmann(known.tolist()) if len(known) else None


class VariantPair(Record):
    """log_ratios: of each round of the session that timed both, log(time of one / time of the other)."""

    one: str
    other: str
    session: str
    log_ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far apart two variants are. ratio: the time of `slower` over that of `faster`, 1 or more.

    p: of the two being equal, adjusted for all pairs. interval: of the ratio; it excludes 1 exactly where p
    is below 5 %. Both are None with fewer than 6 rounds.
    """

    faster: str
    slower: str
    session: str
    rounds: int
    ratio: float
    interval: Interval | None
    p: float | None


def turns_of(
    samples: Mapping[str, "NDArray[np.generic]"], batch_sizes: Mapping[str, int]
) -> dict[str, list[TimedTurns]]:
    """The rounds of each session. samples: the columns of `latency.parquet`, of hot calls that count.
    batch_sizes: where not 1; the baseline's is its second copy's."""
    import numpy as np

    batch_sizes = {**batch_sizes, TWIN: batch_sizes.get(BASELINE, 1)}

    names, variants = np.unique(samples["variant"], return_inverse=True)
    keys = [np.unique(samples[name], return_inverse=True) for name in TURN if name in samples]
    codes = [code for _, code in keys]
    order = np.lexsort((samples["time_ns"], variants, *reversed(codes)))
    place = np.stack([*codes, variants])[:, order]
    starts = np.flatnonzero(np.r_[True, (place[:, 1:] != place[:, :-1]).any(axis=0)])
    ends = np.r_[starts[1:], len(order)]
    times = samples["time_ns"][order].astype(np.float64)
    medians = (times[(starts + ends - 1) // 2] + times[(starts + ends) // 2]) / 2
    bursts = place[:, starts]
    logs = np.log(medians) - np.log([batch_sizes.get(str(name), 1) for name in names])[bursts[-1]]
    found: dict[str, list[TimedTurns]] = {str(name): [] for name in keys[0][0]}
    rounds, which = np.unique(bursts[:2], axis=1, return_inverse=True)
    for number, (session, _) in enumerate(rounds.T):
        own = np.flatnonzero(which.ravel() == number)
        _, turn = np.unique(bursts[2:-1, own], axis=1, return_inverse=True)
        table = np.full((turn.max() + 1, len(names)), np.nan)
        table[turn.ravel(), bursts[-1, own]] = logs[own]
        found[str(keys[0][0][session])].append(TimedTurns(tuple(map(str, names)), table))
    return found


def pair_of(rounds: Sequence[TimedTurns], one: str, other: str, session: str) -> VariantPair:
    ratios = (turns.log_ratio(one, other) for turns in rounds)
    known = tuple(ratio for ratio in ratios if ratio is not None)
    return VariantPair(one=one, other=other, session=session, log_ratios=known)


def differences(pairs: Sequence[VariantPair]) -> list[Difference]:
    """Of the pairs that were timed together, in the order given, adjusted for all of them (see `holm`)."""
    known = [pair for pair in pairs if len(pair.log_ratios) >= launches.LEAST]
    decided = dict(zip(known, holm([launches.p_value(pair.log_ratios) for pair in known]), strict=True))
    return [_difference(pair, *decided.get(pair, (None, None))) for pair in pairs if pair.log_ratios]


def _difference(pair: VariantPair, p: float | None, confidence: float | None) -> Difference:
    one, other, ratios = pair.one, pair.other, pair.log_ratios
    if launches.centre(ratios) > 0:
        one, other, ratios = other, one, tuple(-ratio for ratio in ratios)
    bounds = None if confidence is None else launches.interval(ratios, confidence)
    return Difference(
        faster=one,
        slower=other,
        session=pair.session,
        rounds=len(ratios),
        ratio=math.exp(-launches.centre(ratios)),
        interval=bounds and (math.exp(-bounds[1]), math.exp(-bounds[0])),
        p=p,
    )


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[tuple[float, float]]:
    """Each p-value adjusted for all, and the confidence of the interval that agrees with the decision.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979: of m tests the i-th smallest p-value is held to level / (m - i + 1), up to the first to exceed it.
    """
    found = [(1.0, 1.0)] * len(p_values)
    largest, share, left = 0.0, level, len(p_values)
    for index in sorted(range(len(p_values)), key=lambda index: p_values[index]):
        if largest < level:  # nothing has ended the sequence so far
            share = level / left
        largest = max(largest, min(1.0, left * p_values[index]))
        found[index] = (largest, 1 - share)
        left -= 1
    return found
