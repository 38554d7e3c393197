"""What another version of a runtime costs: numbers for `--format json`, and words."""

from workbench.measure.pairs import differences
from workbench.measure.stats import Interval
from workbench.report.words import in_percent
from workbench.results.records import RunInfo
from workbench.system.records import Record


class UpgradeCost(Record):
    """Two versions of a runtime. ratio, interval: the time in the newer over that in the older.

    p: of the two being equal; it and the interval are adjusted for all of them. seen: the difference is there
    and larger than the noise floor.
    """

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
    """A sentence a version: `upgrading onnxruntime from 1.26.0 to 1.32.0 costs 8.0 % [6.1, 9.9]`."""
    return [sentence(cost) for cost in costs(info)]


def sentence(cost: UpgradeCost) -> str:
    name, older, newer = cost.backend, cost.older, cost.newer
    if not cost.seen:
        amount = in_percent(cost.ratio, cost.interval)
        return f"{name} {older} and {newer}: no difference beyond the noise ({amount})"
    if cost.ratio > 1:
        return f"upgrading {name} from {older} to {newer} costs {in_percent(cost.ratio, cost.interval)}"
    bounds = cost.interval and (1 / cost.interval[1], 1 / cost.interval[0])
    return f"{name} {older} takes {in_percent(1 / cost.ratio, bounds)} longer than {newer}: upgrading pays"
