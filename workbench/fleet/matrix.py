"""A fleet's run as one table: variants by classes, the winner of each class, and one file for all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from workbench.fleet.records import FleetFolder, FleetRun, FleetStatus
from workbench.measure.records import BASELINE
from workbench.measure.stats import Interval
from workbench.results.cost import SMALLEST_DIFFERENCE, cost, cost_tolerance
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import ranked, shortfalls, speed


@dataclass(frozen=True, slots=True)
class DeviceResults:
    """What one device has measured to the end."""

    device: str
    info: RunInfo
    trials: dict[str, TrialResult]


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """A variant on a class of devices.

    speedup: over the baseline, the geometric mean of the devices; interval: 95 %, of these devices, not of
    all of their make. status: `ok`, or how it ended on most of the devices; reason: on the first of them.
    What was never tried there, as what a search of another class has found, is `not tried`.
    low, high: the speed-ups of the slowest and the fastest device, where there are several.
    fits: it keeps the budget on every device. cost: what the objective minimises, over the baseline's on the
    same device where that is a time.
    """

    status: str
    reason: str | None
    speedup: float | None = None
    interval: Interval | None = None
    low: float | None = None
    high: float | None = None
    fits: bool = False
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class OneForAll:
    """The variant that is least bad for all.

    regrets: by class, what it costs more than that class's winner, as a fraction.
    """

    variant: str
    regrets: dict[str, float]

    @property
    def worst(self) -> float:
        return max(self.regrets.values())


@dataclass(frozen=True, slots=True)
class Matrix:
    """cells: by variant, then class. devices: by class, those measured to the end. winners: by class.

    one: None where nothing fits everywhere. opposed: variants that are surely faster than the baseline on
    some classes (first) and surely slower on others.
    """

    run: FleetRun
    devices: dict[str, tuple[str, ...]]
    cells: dict[str, dict[str, MatrixCell]]
    winners: dict[str, str | None]
    one: OneForAll | None
    opposed: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


def matrix_of(folder: FleetFolder) -> Matrix:
    """The table of a fleet's run, of the devices that were measured to the end."""
    status = folder.status()
    return build_matrix(status.run, results_of(folder, status))


def results_of(folder: FleetFolder, status: FleetStatus) -> dict[str, list[DeviceResults]]:
    """By class, what the devices have measured to the end."""
    return {name: [_results(folder, each) for each in status.complete(name)] for name in status.run.classes}


def _results(folder: FleetFolder, device: str) -> DeviceResults:
    run = folder.device(device)
    return DeviceResults(device, run.info(), {trial.variant: trial for trial in run.trials()})


def build_matrix(run: FleetRun, found: dict[str, list[DeviceResults]]) -> Matrix:
    """found: by class; a class without a device has no column of figures."""
    measured = {name: devices for name, devices in found.items() if devices}
    names = [BASELINE, *run.recipes]
    cells = {
        variant: {name: _cell(variant, devices) for name, devices in measured.items()} for variant in names
    }
    winners = {name: _winner(cells, name, devices) for name, devices in measured.items()}
    return Matrix(
        run,
        {name: tuple(each.device for each in devices) for name, devices in found.items()},
        cells,
        winners,
        _one_for_all(cells, winners),
        _opposed(cells),
    )


def _cell(variant: str, devices: Sequence[DeviceResults]) -> MatrixCell:
    trials = [each.trials.get(variant) for each in devices]
    ended = [trial for trial in trials if trial is None or trial.status != "ok"]
    if ended:
        first = next((trial for trial in ended if trial is not None), None)
        return MatrixCell(first.status, first.reason) if first else MatrixCell("not tried", None)
    known = [trial for trial in trials if trial is not None]
    ratios = [ratio for trial in known if (ratio := speed(trial)) is not None]
    if len(ratios) < len(known):
        return MatrixCell("failed", "it was not timed")
    logs = [ratio.log_speedup for ratio in ratios]
    fits = not any(shortfalls(trial, each.info) for trial, each in zip(known, devices, strict=True))
    costs = [cost(trial, each.info) for trial, each in zip(known, devices, strict=True)]
    several = len(logs) > 1
    return MatrixCell(
        "ok",
        None,
        speedup=math.exp(fmean(logs)),
        interval=_interval(logs, [ratio.interval for ratio in ratios]) if variant != BASELINE else None,
        low=math.exp(min(logs)) if several else None,
        high=math.exp(max(logs)) if several else None,
        fits=fits,
        cost=math.exp(fmean(map(math.log, costs))) if min(costs) > 0 and max(costs) < math.inf else None,
    )


def _interval(logs: Sequence[float], intervals: Sequence[Interval | None]) -> Interval | None:
    """Of the mean of independent devices: the half-widths of the logarithms add in squares."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    centre, below, above = fmean(logs), 0.0, 0.0
    for log, (low, high) in zip(logs, known, strict=True):
        below += (log - math.log(low)) ** 2
        above += (math.log(high) - log) ** 2
    return (
        math.exp(centre - math.sqrt(below) / len(logs)),
        math.exp(centre + math.sqrt(above) / len(logs)),
    )


def _winner(
    cells: dict[str, dict[str, MatrixCell]], name: str, devices: Sequence[DeviceResults]
) -> str | None:
    """The variant of least cost that keeps the budget on every device of a class.

    What differs by less than the noise of the noisiest device counts as equal: the smaller file wins then,
    after that the one with fewer steps, after that the baseline.
    """
    costs = {variant: row[name].cost for variant, row in cells.items() if row[name].fits}
    fit = {variant: value for variant, value in costs.items() if value is not None}
    # The best of many unconfirmed times is partly luck: finalists of every device go first.
    finalists = [{t.variant for t in ranked(each.info, list(each.trials.values()))} for each in devices]
    pool = {v: value for v, value in fit.items() if v in set.intersection(*finalists)} or fit
    if not pool:
        return None
    noise = max(cost_tolerance(each.info) for each in devices)
    tied = [variant for variant, value in pool.items() if value <= min(pool.values()) * (1 + noise)]
    trials = {variant: devices[0].trials[variant] for variant in tied}
    smallest = min(trial.size_bytes or 0 for trial in trials.values())
    small = [v for v in tied if (trials[v].size_bytes or 0) <= smallest * (1 + SMALLEST_DIFFERENCE)]
    return min(small, key=lambda v: (trials[v].steps, v != BASELINE, pool[v]))


def _one_for_all(cells: dict[str, dict[str, MatrixCell]], winners: dict[str, str | None]) -> OneForAll | None:
    """The variant whose worst regret over the classes is least.

    What is ahead of a class's winner by no more than chance costs nothing there.
    """
    best = {
        name: (cells[winner][name].cost if winner else None) or math.inf for name, winner in winners.items()
    }
    candidates = []
    for variant, row in cells.items():
        if winners and all(row[name].fits and row[name].cost is not None for name in winners):
            regrets = {name: max(0.0, (row[name].cost or 0.0) / best[name] - 1) for name in winners}
            candidates.append(OneForAll(variant, regrets))
    return min(candidates, key=lambda one: one.worst, default=None)


def _opposed(
    cells: dict[str, dict[str, MatrixCell]],
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = {}
    for variant, row in cells.items():
        known = {name: cell.interval for name, cell in row.items() if cell.interval is not None}
        faster = tuple(name for name, (low, _) in known.items() if low > 1)
        slower = tuple(name for name, (_, high) in known.items() if high < 1)
        if faster and slower:
            found[variant] = (faster, slower)
    return found
