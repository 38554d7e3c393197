"""What another version of a runtime costs: numbers for `--format json`, and words."""

from collections.abc import Sequence
from itertools import groupby

from workbench.measure.pairs import differences
from workbench.measure.records import BASELINE
from workbench.measure.stats import Interval
from workbench.report.words import in_percent
from workbench.results.records import RunInfo
from workbench.system.records import Record


class UpgradeCost(Record):
    """Two versions of a runtime. ratio, interval: the time in the newer over that in the older.

    p: of the two being equal; it and the interval are adjusted for all of them. seen: the difference is there
    and larger than the noise floor.
    """

    recipe: str
    backend: str
    older: str
    newer: str
    ratio: float
    interval: Interval | None
    p: float | None
    seen: bool


def costs(info: RunInfo) -> list[UpgradeCost]:
    """Of the versions that were timed to the end with the one that is installed."""
    found = {(each.faster, each.slower): each for each in differences([up.pair for up in info.upgrades])}
    known = []
    for up in info.upgrades:
        one, other = up.pair.one, up.pair.other
        if (difference := found.get((one, other)) or found.get((other, one))) is None:
            continue
        ratio, interval = difference.ratio, difference.interval
        if difference.faster == one:
            ratio, interval = 1 / ratio, interval and (1 / interval[1], 1 / interval[0])
        sure = difference.p is not None and difference.p < 0.05
        known.append(
            UpgradeCost(
                recipe=(other if one == BASELINE else one).partition("[")[0],
                backend=up.backend,
                older=up.older,
                newer=up.newer,
                ratio=ratio,
                interval=interval,
                p=difference.p,
                seen=sure and difference.ratio - 1 > (info.noise_floor or 0.0),
            )
        )
    return known


def upgrades(info: RunInfo) -> list[str]:
    """A sentence a version: `upgrading onnxruntime from 1.26.0 to 1.32.0 costs 8.0 % [6.1, 9.9]`.

    One for all of a recipe that do not differ; with its name, where there are several.
    """
    found = costs(info)
    several = len({cost.recipe for cost in found}) > 1
    lines = []
    for recipe, own in groupby(found, key=lambda cost: cost.recipe):
        group = list(own)
        alike = [cost for cost in group if not cost.seen]
        said = [sentence(cost) for cost in group if cost.seen or len(alike) == 1]
        said += [_alike(alike)] if len(alike) > 1 else []
        lines += [f"{recipe}: {text}" if several else text for text in said]
    return lines


def _alike(costs: Sequence[UpgradeCost]) -> str:
    (reference,) = set.intersection(*({cost.older, cost.newer} for cost in costs))
    others = ", ".join(cost.older if cost.newer == reference else cost.newer for cost in costs)
    return f"{costs[0].backend} {others} and {reference}: no difference beyond the noise"


def sentence(cost: UpgradeCost) -> str:
    name, older, newer = cost.backend, cost.older, cost.newer
    if not cost.seen:
        amount = in_percent(cost.ratio, cost.interval)
        return f"{name} {older} and {newer}: no difference beyond the noise ({amount})"
    if cost.ratio > 1:
        return f"upgrading {name} from {older} to {newer} costs {in_percent(cost.ratio, cost.interval)}"
    bounds = cost.interval and (1 / cost.interval[1], 1 / cost.interval[0])
    return f"{name} {older} takes {in_percent(1 / cost.ratio, bounds)} longer than {newer}: upgrading pays"
