"""Rules for dropping a candidate early and for stopping, from the log-ratios of rounds to the baseline.

None of them stops because a difference became significant: that would find differences where there are none.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal

from workbench.measure import launches
from workbench.measure.student_t import student_t_quantile
from workbench.system.records import Record

LogRatios = Mapping[str, Mapping[int, float]]  # variant -> round -> log(its time / the baseline's)

LEAST_ROUNDS = 3  # before a variant is dropped
LAUNCH_SD = 0.01  # launches of one file differ by 1 to 1.6 %: a smaller spread in few rounds is luck


@dataclass(frozen=True, slots=True)
class Rules:
    """target: half-width at which an interval is narrow enough, as a fraction.

    smallest: differences below it do not matter, so no variant is dropped for less.
    error: the chance, over a whole session, that the truly fastest candidate is dropped; it is shared out
    over candidates and `looks`, the comparisons that a session makes (Bonferroni).
    """

    target: float = 0.02
    smallest: float = 0.01
    error: float = 0.01
    looks: int = 20


class LostRace(Record):
    """The variant was dropped while it was timed: it cannot be the fastest.

    factor: lower bound, at this one-sided confidence, of its time over that of the leading contender.
    """

    kind: Literal["lost_race"] = "lost_race"
    variant: str
    behind: str
    factor: float
    rounds: int
    confidence: float


def dropped(log_ratios: LogRatios, contenders: Collection[str], rules: Rules) -> dict[str, LostRace]:
    """The variants that cannot be the fastest, each with the bound that shows it.

    Each is compared, round by round, with the fastest contender so far, and dropped where the one-sided
    Student bound of the difference stays above `rules.smallest`. contenders: those that may win.
    """
    ready = [name for name in contenders if len(log_ratios.get(name, ())) >= LEAST_ROUNDS]
    if not ready:
        return {}
    best = min(ready, key=lambda name: median(log_ratios[name].values()))
    level = 1 - rules.error / (rules.looks * max(1, len(log_ratios) - 1))
    found = {}
    for name, own in log_ratios.items():
        behind = [own[number] - log_ratios[best][number] for number in own.keys() & log_ratios[best].keys()]
        if name == best or len(behind) < LEAST_ROUNDS:
            continue
        spread = max(stdev(behind), LAUNCH_SD)
        slack = student_t_quantile(level, len(behind) - 1) * spread / math.sqrt(len(behind))
        bound = fmean(behind) - slack
        if bound > math.log1p(rules.smallest):
            found[name] = LostRace(
                variant=name, behind=best, factor=math.exp(bound), rounds=len(behind), confidence=level
            )
    return found


def narrow(log_ratios: LogRatios, names: Collection[str], target: float) -> bool:
    """Is half the width of each of these 95 % intervals, as a fraction, within the target?"""
    intervals = [launches.interval(list(log_ratios.get(name, {}).values())) for name in names]
    return all(ends is not None and math.expm1((ends[1] - ends[0]) / 2) <= target for ends in intervals)
