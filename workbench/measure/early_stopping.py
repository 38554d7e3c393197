"""Rules for dropping a candidate early and for how many rounds to make, from the log-ratios of rounds to the
baseline.

No session stops because of its own ratios: stopping where a difference became significant finds differences
where there are none, and stopping where an interval looks narrow makes intervals that are too narrow.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal

from workbench.measure.stats import TWO_SIDED
from workbench.measure.student_t import student_t_quantile
from workbench.system.records import Record

LogRatios = Mapping[str, Mapping[int, float]]  # variant -> round -> log(its time / the baseline's)

LEAST_ROUNDS = 3  # before a variant is dropped
LAUNCH_SD = 0.01  # launches of one file differ by 1 to 1.6 %: a smaller spread in few rounds is luck


@dataclass(frozen=True, slots=True)
class Rules:
    """smallest: differences below it do not matter, so no variant is dropped for less.
    error: the chance, over a whole session, that the truly fastest candidate is dropped; it is shared out
    over candidates and `looks`, the comparisons that a session makes (Bonferroni).
    """

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


def rounds_needed(log_ratios: Iterable[Sequence[float]], half_width: float, *, least: int, most: int) -> int:
    """Rounds after which the widest 95 % interval is expected to reach no further than this to either side.

    log_ratios: one a round, of each variant, from a first stage that takes no part in the interval.
    C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the variance", Ann.
    Math. Stat. 16, 1945.
    """
    needed = least
    for values in log_ratios:
        if len(values) < 2:
            return most
        slack = student_t_quantile(TWO_SIDED, len(values) - 1) * stdev(values)
        needed = max(needed, math.ceil((slack / half_width) ** 2))
    return min(needed, most)
