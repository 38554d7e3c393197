"""Figures of a row that stand with a range: tails, readings of several launches, throughput."""

from typing import Any

from workbench.measure.readings import spread
from workbench.measure.records import BASELINE
from workbench.measure.stats import Interval
from workbench.results.cost import throughput
from workbench.results.records import TrialResult

MS_PER_S, NS_PER_MS = 1e3, 1e6


def ranges_of(trial: TrialResult) -> dict[str, Any]:
    """These fields of a row by name."""
    found: dict[str, Any] = {}
    for name in ("p50", "p90", "p95", "p99"):
        time_ns = getattr(trial.latency, f"{name}_ns", None)
        found[f"{name}_ms"] = None if time_ns is None else time_ns / NS_PER_MS
    for name in ("p95", "p99"):
        found[f"{name}_ms_ci"] = _scaled(getattr(trial.latency, f"{name}_ns_ci", None), 1 / NS_PER_MS)
    for name in ("load", "cold_start"):
        seconds = getattr(trial, f"{name}_s")
        found[f"{name}_ms"] = None if seconds is None else MS_PER_S * seconds
    if (read := trial.readings) is not None:
        found["load_ms_range"] = _scaled(spread(read.load_s), MS_PER_S)
        found["cold_start_ms_range"] = _scaled(spread(read.cold_start_s), MS_PER_S)
        found["peak_memory_bytes_range"] = spread(read.peak_memory_bytes)
    if (faster := throughput(trial)) is not None:
        found["saturated_ratio"] = faster.ratio
        found["saturated_ratio_ci"] = None if trial.variant == BASELINE else faster.interval
    return found


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return interval and (factor * interval[0], factor * interval[1])
