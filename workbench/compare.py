"""From results to a decision: rows against the baseline, the Pareto front, the winner and why.

Pure, but for `compare_runs`, which reads the results.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import WorkbenchError
from workbench.measure.stats import Interval, PairedDrop, Ratio
from workbench.recipe import BASELINE
from workbench.results import Budget, RunInfo, Status, TrialResult, find_run

Verdict = Literal["within", "beyond", "too few images"]
SMALLEST_DIFFERENCE = 0.01  # speeds closer than this, or than the noise floor, are the same


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison, in raw units; its fields are the keys of `--format json`.

    top1, drop, drop_ci: fractions of 1; drop is against the FP32 baseline on the same photos, and
    drop_ci its two-sided 95 % interval (None for the baseline itself).
    *_ms: one photo, one session; a percentile is None where there are too few samples for it.
    speedup: baseline time over variant time; speedup_ci its 95 % interval over launches.
    throughput_ips: photos a second of one session, one at a time.
    peak_memory_bytes: above a worker with no runtime in it. What was not measured is None.
    """

    variant: str
    recipe: str
    status: Status
    reason: str | None
    backend: str
    device: str
    opset: int | None
    digest: str
    size_bytes: int | None
    top1: float | None
    drop: float | None
    drop_ci: Interval | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    speedup: float | None
    speedup_ci: Interval | None
    throughput_ips: float | None
    load_ms: float | None
    peak_memory_bytes: int | None
    pareto: bool
    winner: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order they were tried, and the reasons behind the choice, one sentence each.

    winner: the variant chosen under the budget, or None where nothing fits it.
    """

    rows: tuple[Row, ...]
    winner: str | None
    reasons: tuple[str, ...]
    info: RunInfo


def compare(info: RunInfo, trials: Sequence[TrialResult]) -> Comparison:
    """Judge the trials of one run under its budget."""
    front = pareto_front(trials, _tolerance(info))
    winner, reasons = choose(info, trials)
    rows = tuple(_row(trial, pareto=trial.variant in front, winner=trial is winner) for trial in trials)
    return Comparison(rows, winner.variant if winner else None, tuple(reasons), info)


def compare_runs(results: Path, run_ids: Sequence[str], *, mix_machines: bool) -> list[Comparison]:
    """The comparisons of the named runs, or of the latest.

    Raises WorkbenchError for an unknown run, and for runs of different machines unless asked to mix them:
    their times say nothing about each other.
    """
    folders = [find_run(results, run_id) for run_id in run_ids] or [find_run(results, None)]
    found = [compare(folder.info(), folder.trials()) for folder in folders]
    machines = {comparison.info.machine.fingerprint for comparison in found}
    if len(machines) > 1 and not mix_machines:
        raise WorkbenchError(
            f"these runs were measured on {len(machines)} different machines",
            hint="name runs of one machine, or add --mix-machines to see them side by side all the same",
        )
    return found


def paired_drop(trial: TrialResult) -> PairedDrop | None:
    if (counts := trial.accuracy) is None:
        return None
    return PairedDrop(counts.losses, counts.gains, counts.images)


def speed(trial: TrialResult) -> Ratio | None:
    if trial.latency is None or not trial.latency.round_log_ratios:
        return None
    return Ratio(trial.latency.round_log_ratios)


def accuracy_verdict(trial: TrialResult, budget: Budget) -> Verdict:
    """Is the drop within the budget? Decided by its one-sided 95 % upper bound, not by the drop seen:
    no difference on few photos proves nothing."""
    drop = paired_drop(trial)
    if drop is None or drop.drop > budget.max_accuracy_drop:
        return "beyond"
    # The baseline is what the drop is measured against: its own is zero by definition.
    if trial.variant == BASELINE or drop.upper_bound() <= budget.max_accuracy_drop:
        return "within"
    return "too few images"


def shortfalls(trial: TrialResult, budget: Budget) -> list[str]:
    """Every way the trial misses the budget, as phrases; empty where it fits."""
    if trial.status != "ok" or trial.latency is None or trial.size_bytes is None:
        return [trial.reason or "it was not measured to the end"]
    found = []
    drop = paired_drop(trial)
    verdict = accuracy_verdict(trial, budget)
    limit = 100 * budget.max_accuracy_drop
    if drop is not None and verdict == "beyond":
        found.append(f"it loses {100 * drop.drop:.2f} points of top-1 (budget {limit:g})")
    elif drop is not None and verdict == "too few images":
        enough = (
            f"about {drop.images_needed(budget.max_accuracy_drop):,} could"
            if drop.drop < budget.max_accuracy_drop
            else "no number could, with what it loses on these"
        )
        found.append(
            f"{drop.total} photos cannot show that it loses at most {limit:g} points (it may lose "
            f"{100 * drop.upper_bound():.2f}); {enough}"
        )
    memory = trial.peak_memory_bytes
    for what, value, most, unit in (
        ("size", trial.size_bytes / 1e6, budget.max_size_mb, "MB"),
        ("p50 latency", trial.latency.p50_ns / 1e6, budget.max_latency_ms, "ms"),
        ("memory", None if memory is None else memory / 1e6, budget.max_memory_mb, "MB"),
    ):
        if most is not None and value is not None and value > most:
            found.append(f"its {what} is {value:.2f} {unit} (budget {most:g})")
    return found


def choose(info: RunInfo, trials: Sequence[TrialResult]) -> tuple[TrialResult | None, list[str]]:
    """The best trial under the budget by its objective, and why.

    What differs by less than the noise floor (or 1 %) counts as equal: the file smaller by 1 % or more wins
    then, after that the one with fewer steps, after that the baseline.
    """
    budget = info.budget
    fitting = [trial for trial in trials if not shortfalls(trial, budget)]
    if not fitting:
        misses = [f"{t.variant}: {'; '.join(shortfalls(t, budget))}" for t in trials if t.status == "ok"]
        return None, ["no winner: nothing fits the budget", *misses]
    best = min(fitting, key=lambda trial: _cost(trial, budget))
    # The noise floor is of times; sizes and memory have none.
    tolerance = _tolerance(info) if budget.objective == "latency" else SMALLEST_DIFFERENCE
    tied = [t for t in fitting if _cost(t, budget) <= _cost(best, budget) * (1 + tolerance)]
    smallest = min(trial.size_bytes or 0 for trial in tied)
    small = [t for t in tied if (t.size_bytes or 0) <= smallest * (1 + SMALLEST_DIFFERENCE)]
    winner = min(small, key=lambda trial: (trial.steps, trial.variant != BASELINE, _cost(trial, budget)))
    reasons = [f"winner: {winner.variant}, {_merits(winner)}"]
    others = [trial.variant for trial in tied if trial is not winner]
    if others:
        reasons.append(
            f"{_listed(others)} cannot be told apart from it in {budget.objective} "
            f"(differences under {100 * tolerance:.1f} %); the smaller and simpler one wins"
        )
    if winner.variant == BASELINE:
        reasons.append("nothing that fits the budget beats the plain FP32 export: ship that")
    return winner, reasons + _why_better_ones_lost(trials, winner, budget)


def _tolerance(info: RunInfo) -> float:
    """What speeds must differ by, as a fraction, to be told apart."""
    return max(info.noise_floor or 0.0, SMALLEST_DIFFERENCE)


def _cost(trial: TrialResult, budget: Budget) -> float:
    """What the objective minimises."""
    match budget.objective:
        case "latency":
            ratio = speed(trial)
            return 1 / ratio.speedup if ratio else float("inf")
        case "size":
            return float(trial.size_bytes or 0)
        case "memory":
            return float(trial.peak_memory_bytes or 0)


def _merits(trial: TrialResult) -> str:
    parts = []
    if (ratio := speed(trial)) is not None and trial.variant != BASELINE:
        bounds = f" ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})" if ratio.interval else ""
        parts.append(f"{ratio.speedup:.2f} times the speed of the baseline{bounds}")
    if (drop := paired_drop(trial)) is not None and trial.variant != BASELINE:
        parts.append(
            f"loses {100 * drop.drop:.2f} points of top-1, at most {100 * drop.upper_bound():.2f} at 95 %"
        )
    if trial.size_bytes is not None:
        parts.append(f"{trial.size_bytes / 1e6:.2f} MB")
    return "; ".join(parts)


def _why_better_ones_lost(trials: Sequence[TrialResult], winner: TrialResult, budget: Budget) -> list[str]:
    measured = [t for t in trials if t.status == "ok" and speed(t) is not None]
    better = sorted(
        (t for t in measured if _cost(t, budget) < _cost(winner, budget)), key=lambda t: _cost(t, budget)
    )
    lines = []
    for trial in better[:3]:
        if missed := shortfalls(trial, budget):
            ratio = speed(trial)
            lines.append(
                f"{trial.variant} ({ratio.speedup if ratio else 0:.2f} times) lost: {'; '.join(missed)}"
            )
    return lines


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def pareto_front(trials: Sequence[TrialResult], tolerance: float = SMALLEST_DIFFERENCE) -> set[str]:
    """Variants that no other beats: better in accuracy, speed or size, and worse in none of them.

    Speeds closer than `tolerance` are the same, and sizes closer than 1 %, so that noise puts nobody on the
    front.
    """
    points = {
        t.variant: (t.accuracy.top1, ratio.log_speedup, -math.log(t.size_bytes))
        for t in trials
        if t.status == "ok" and t.accuracy and t.size_bytes and (ratio := speed(t)) is not None
    }
    margins = (0.0, tolerance, SMALLEST_DIFFERENCE)

    def beats(other: tuple[float, ...], mine: tuple[float, ...]) -> bool:
        gains = [(o - m, margin) for o, m, margin in zip(other, mine, margins, strict=True)]
        return any(gain > margin for gain, margin in gains) and all(gain >= -margin for gain, margin in gains)

    return {name for name, mine in points.items() if not any(beats(other, mine) for other in points.values())}


def _row(trial: TrialResult, *, pareto: bool, winner: bool) -> Row:
    drop, ratio, timed = paired_drop(trial), speed(trial), trial.latency

    def ms(value_ns: float | None) -> float | None:
        return None if value_ns is None else value_ns / 1e6

    return Row(
        variant=trial.variant,
        recipe=trial.recipe,
        status=trial.status,
        reason=trial.reason,
        backend=trial.backend,
        device=trial.device,
        opset=trial.opset,
        digest=trial.digest,
        size_bytes=trial.size_bytes,
        top1=trial.accuracy.top1 if trial.accuracy else None,
        drop=drop.drop if drop else None,
        drop_ci=drop.interval() if drop and trial.variant != BASELINE else None,
        p50_ms=ms(timed.p50_ns) if timed else None,
        p90_ms=ms(timed.p90_ns) if timed else None,
        p95_ms=ms(timed.p95_ns) if timed else None,
        p99_ms=ms(timed.p99_ns) if timed else None,
        speedup=ratio.speedup if ratio else None,
        speedup_ci=ratio.interval if ratio and trial.variant != BASELINE else None,
        throughput_ips=1e9 * timed.batch_size / timed.mean_ns if timed else None,
        load_ms=None if trial.load_s is None else 1e3 * trial.load_s,
        peak_memory_bytes=trial.peak_memory_bytes,
        pareto=pareto,
        winner=winner,
    )
