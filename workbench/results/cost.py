"""What the objective of a budget minimises, and the differences in it that count."""

import math
from dataclasses import dataclass

from workbench.measure.launches import centre, interval
from workbench.measure.stats import Interval, Ratio
from workbench.results.records import RunInfo, TrialResult

UNKNOWN_FLOOR = 0.1  # with too few rounds for a noise floor: what a busy machine may show
SMALLEST_DIFFERENCE = 0.01  # speeds closer than this, or than the noise floor, are the same


@dataclass(frozen=True, slots=True)
class ThroughputRatio:
    """Photos a second over the baseline's, at saturation; above 1 is more. interval: 95 %, over launches."""

    ratio: float
    interval: Interval | None


def throughput(trial: TrialResult) -> ThroughputRatio | None:
    """None where it was not measured in turns with the baseline, as in older runs."""
    if not (logs := trial.saturated_log_ratios):
        return None
    bounds = interval(logs)
    return ThroughputRatio(math.exp(centre(logs)), bounds and (math.exp(bounds[0]), math.exp(bounds[1])))


def tolerance(info: RunInfo) -> float:
    """What speeds must differ by, as a fraction, to be told apart."""
    floor = UNKNOWN_FLOOR if info.noise_floor is None else info.noise_floor
    return max(floor, SMALLEST_DIFFERENCE)


def cost(trial: TrialResult, info: RunInfo) -> float:
    match info.budget.objective:
        case "latency":
            logs = trial.latency.round_log_ratios if trial.latency else ()
            return 1 / Ratio(logs).speedup if logs else math.inf
        case "throughput":
            return 1 / more.ratio if (more := throughput(trial)) else math.inf
        case "size":
            return float(trial.size_bytes or 0)
        case "memory":
            return float(trial.peak_memory_bytes or 0)


def cost_tolerance(info: RunInfo) -> float:
    """The noise floor is of times; sizes and memory have none."""
    return tolerance(info) if info.budget.objective in ("latency", "throughput") else SMALLEST_DIFFERENCE
