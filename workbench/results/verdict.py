"""From results to a decision: rows against the baseline, the Pareto front, the winner and why. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from workbench.measure.records import BASELINE, Accuracy, GpuUse, told
from workbench.measure.stats import Interval, PairedDrop, Ratio
from workbench.results.records import Budget, RunInfo, Status, TrialResult

Verdict = Literal["within", "beyond", "too few images"]
UNKNOWN_FLOOR = 0.1  # with too few rounds for a noise floor: what a busy machine may show
SMALLEST_DIFFERENCE = 0.01  # speeds closer than this, or than the noise floor, are the same
SEEN: frozenset[Status] = frozenset({"ok", "pruned"})  # measured, if only until it could not win any more


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison, in raw units; its fields are the keys of `--format json`.

    top1, drop, drop_ci: fractions of 1; drop is against the FP32 baseline on the same photos, and
    drop_ci its two-sided 95 % interval (None for the baseline itself).
    *_ms: one photo, one session; a percentile is None where there are too few samples for it.
    speedup: baseline time over variant time; speedup_ci its 95 % interval over launches.
    throughput_ips: photos a second of one session, one at a time.
    peak_memory_bytes: above a worker with no runtime in it. What was not measured is None.
    crop: pixels of its input, where it is not the run's. precision: the weights are stored in; computes: what
    most multiplications really run in, and *_share what part of them; audit: that as a sentence.
    casts, unfused_qdq: nodes that only convert. validated: on which processors its INT8 sums are exact.
    gpu: what it does on the GPU, as it was recorded.
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
    crop: int | None = None
    precision: str | None = None
    computes: str | None = None
    int8_share: float | None = None
    half_share: float | None = None
    fp32_share: float | None = None
    casts: int | None = None
    unfused_qdq: int | None = None
    audit: str | None = None
    validated: str | None = None
    gpu: GpuUse | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order they were tried, and the reasons behind the choice, one sentence each.

    winner: the variant chosen under the budget, or None where nothing fits it. certified: it holds on the
    photos that chose nothing too, or there were too few photos to keep any apart.
    """

    rows: tuple[Row, ...]
    winner: str | None
    certified: bool
    reasons: tuple[str, ...]
    info: RunInfo

    @property
    def nothing_else(self) -> bool:
        """Was nothing measured besides the baseline? Then its winning says nothing about the others."""
        return not any(row.variant != BASELINE and row.status in SEEN for row in self.rows)


def compare(info: RunInfo, trials: Sequence[TrialResult]) -> Comparison:
    """Judge the trials of one run under its budget."""
    front = pareto_front(trials, _tolerance(info))
    winner, reasons = choose(info, trials)
    holds = False
    if winner is not None:
        holds, sentence = certified(info, winner)
        reasons += [sentence, *_whole_paths(winner)]
    reasons += info.notes
    if (open_question := undecided(info, trials)) is not None:
        reasons.append(open_question)
    rows = tuple(_row(trial, pareto=trial.variant in front, winner=trial is winner) for trial in trials)
    return Comparison(rows, winner.variant if winner else None, holds, tuple(reasons), info)


def paired_drop(trial: TrialResult) -> PairedDrop | None:
    if (counts := trial.accuracy) is None:
        return None
    return PairedDrop(counts.losses, counts.gains, counts.images)


def speed(trial: TrialResult) -> Ratio | None:
    if trial.latency is None or not trial.latency.round_log_ratios:
        return None
    return Ratio(trial.latency.round_log_ratios)


def _verdict(drop: PairedDrop, trial: TrialResult, budget: Budget) -> Verdict:
    if drop.drop > budget.max_accuracy_drop:
        return "beyond"
    # The baseline is what the drop is measured against: its own is zero by definition.
    if trial.variant == BASELINE or drop.upper_bound() <= budget.max_accuracy_drop:
        return "within"
    return "too few images"


def shortfalls(trial: TrialResult, budget: Budget, class_names: Sequence[str] = ()) -> list[str]:
    """Every way the trial misses the budget, as phrases; empty where it fits."""
    if trial.status not in SEEN or trial.latency is None or trial.size_bytes is None:
        return [trial.reason or "it was not measured to the end"]
    found = untimed_shortfalls(trial, budget, class_names)
    if trial.latency.batch_size > 1:
        found.append(
            f"it was timed in batches of {trial.latency.batch_size}; the server answers photo by photo"
        )
    return found + _over("p50 latency", trial.latency.p50_ns, budget.max_latency_ms, "ms")


def untimed_shortfalls(trial: TrialResult, budget: Budget, class_names: Sequence[str] = ()) -> list[str]:
    """Those of the `shortfalls` that are known before the trial is timed."""
    return [
        *_accuracy_shortfalls(trial, trial.accuracy, budget, class_names),
        *_over("size", trial.size_bytes, budget.max_size_mb, "MB"),
        *_over("memory", trial.peak_memory_bytes, budget.max_memory_mb, "MB"),
    ]


def _over(what: str, value: float | None, most: float | None, unit: str) -> list[str]:
    """value: in millionths of the unit, as bytes and nanoseconds are of MB and ms."""
    if value is None or most is None or value / 1e6 <= most:
        return []
    return [f"its {what} is {value / 1e6:.2f} {unit} (budget {most:g})"]


def certification_shortfalls(trial: TrialResult, info: RunInfo) -> list[str]:
    """Why the trial's drop is not certified on photos that chose nothing; empty where it is.

    Too few photos for a part of their own is no shortfall: the run says so, and those that chose must do.
    """
    if trial.certification is not None:
        return _accuracy_shortfalls(trial, trial.certification, info.budget, info.class_names)
    return [info.uncertified] if info.leak and info.uncertified else []


def _accuracy_shortfalls(
    trial: TrialResult, counts: Accuracy | None, budget: Budget, class_names: Sequence[str]
) -> list[str]:
    if counts is None:
        return ["its accuracy was not measured"]
    drop = PairedDrop(counts.losses, counts.gains, counts.images)
    limit = 100 * budget.max_accuracy_drop
    found = []
    match _verdict(drop, trial, budget):
        case "beyond":
            found.append(f"it loses {100 * drop.drop:.2f} points of top-1 (budget {limit:g})")
        case "too few images":
            enough = (
                f"about {drop.images_needed(budget.max_accuracy_drop):,} in this part could"
                if drop.drop < budget.max_accuracy_drop
                else "no number could, with what it loses on these"
            )
            found.append(
                f"{drop.total} photos cannot show that it loses at most {limit:g} points (it may lose "
                f"{100 * drop.upper_bound():.2f}); {enough}"
            )
        case "within":
            pass
    if budget.max_class_drop is not None:
        found += _class_shortfalls(counts, budget.max_class_drop, class_names)
    return found


def _class_shortfalls(counts: Accuracy, limit: float, class_names: Sequence[str]) -> list[str]:
    drops = [
        (label, (losses - gains) / images)
        for label, (images, losses, gains) in enumerate(
            zip(counts.class_images, counts.class_losses, counts.class_gains, strict=True)
        )
        if images
    ]
    worst = max(drops, key=lambda pair: pair[1], default=(0, 0.0))
    if worst[1] <= limit:
        return []
    name = class_names[worst[0]] if class_names else f"class {worst[0]}"
    return [f"{name} loses {100 * worst[1]:.1f} % of its photos (budget {100 * limit:g})"]


def ranked(info: RunInfo, trials: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials that fit the budget, best first.

    Once some were measured again after the race, only those are: the others' times were never confirmed,
    and the best of many unconfirmed times is partly luck.
    """
    fitting = [trial for trial in trials if trial.status == "ok" and not shortfalls(trial, info.budget)]
    confirmed = [trial for trial in fitting if trial.latency and trial.latency.confirmed]
    return sorted(confirmed or fitting, key=lambda trial: _cost(trial, info.budget))


def choose(info: RunInfo, trials: Sequence[TrialResult]) -> tuple[TrialResult | None, list[str]]:
    """The best trial under the budget by its objective, and why.

    What differs by less than the noise floor (or 1 %) counts as equal: the file smaller by 1 % or more wins
    then, after that the one with fewer steps, after that the baseline.
    """
    budget = info.budget
    pool = ranked(info, trials)
    if not any(trial.latency for trial in trials):
        return None, ["no winner: the run was cut short before anything was timed; run it again"]
    if not pool:
        misses = [
            f"{t.variant}: {'; '.join(shortfalls(t, budget, info.class_names))}" for t in trials if t.accuracy
        ]
        return None, ["no winner: nothing fits the budget", *misses, *_unmeasured(trials)]
    best = pool[0]
    # The noise floor is of times; sizes and memory have none.
    tolerance = _tolerance(info) if budget.objective == "latency" else SMALLEST_DIFFERENCE
    tied = [t for t in pool if _cost(t, budget) <= _cost(best, budget) * (1 + tolerance)]
    smallest = min(trial.size_bytes or 0 for trial in tied)
    small = [t for t in tied if (t.size_bytes or 0) <= smallest * (1 + SMALLEST_DIFFERENCE)]
    winner = min(small, key=lambda trial: (trial.steps, trial.variant != BASELINE, _cost(trial, budget)))
    if unmeasured := _unmeasured(trials):
        return winner, unmeasured  # it beats nobody
    reasons = [f"winner: {winner.variant}, {_merits(winner)}"]
    fitting = [t for t in trials if t.status == "ok" and not shortfalls(t, budget)]
    others = [t.variant for t in fitting if t is not winner and _near(t, winner, budget, tolerance)]
    if others:
        reasons.append(
            f"{_listed(others)} cannot be told apart from it in {budget.objective} "
            f"(differences under {100 * tolerance:.1f} %); the smaller and simpler one wins"
        )
    if winner.variant == BASELINE:
        reasons.append("nothing that fits the budget beats the plain FP32 export: ship that")
    return winner, reasons + _why_better_ones_lost(trials, winner, budget)


def _unmeasured(trials: Sequence[TrialResult]) -> list[str]:
    """That nothing besides the baseline was measured, as a sentence; empty where something was."""
    others = Counter(trial.status for trial in trials if trial.variant != BASELINE)
    if others.keys() & SEEN:
        return []
    if not others:
        return ["nothing else was measured"]
    counts = ", ".join(f"{count} {status}" for status, count in others.items())
    return [f"nothing else was measured ({counts}): this says nothing about them"]


def _near(trial: TrialResult, winner: TrialResult, budget: Budget, tolerance: float) -> bool:
    mine, its = _cost(trial, budget), _cost(winner, budget)
    return max(mine, its) <= min(mine, its) * (1 + tolerance)


def certified(info: RunInfo, winner: TrialResult) -> tuple[bool, str]:
    """Does the winner hold on photos that chose nothing? And the sentence that says so."""
    if winner.certification is None:
        why = info.uncertified or "this run kept no photos apart"
        return not certification_shortfalls(winner, info), f"not certified: {why}"
    counts = winner.certification
    drop = PairedDrop(counts.losses, counts.gains, counts.images)
    missed = certification_shortfalls(winner, info)
    if missed:
        return False, f"NOT certified on the {counts.images} photos that chose nothing: {'; '.join(missed)}"
    if winner.variant == BASELINE:
        return (
            True,
            f"certified: it is the reference; top-1 {100 * counts.top1:.2f} % on {counts.images} photos",
        )
    return True, (
        f"certified on the {counts.images} photos that chose nothing: it loses {100 * drop.drop:.2f} points "
        f"of top-1, at most {100 * drop.upper_bound():.2f} at 95 % (budget "
        f"{100 * info.budget.max_accuracy_drop:g}; McNemar p {drop.mcnemar_p():.2f})"
    )


def _whole_paths(trial: TrialResult) -> list[str]:
    lines = []
    for path in trial.whole_path:
        stages = {
            "decode": path.decode_ns,
            "preprocess": path.preprocess_ns,
            "inference": path.infer_ns,
            "rest": path.rest_ns,
        }
        total = sum(stages.values())
        shares = ", ".join(f"{name} {100 * time_ns / total:.0f} %" for name, time_ns in stages.items())
        lines.append(f"a photo ({path.photo}) from its bytes to its class: {total / 1e6:.1f} ms ({shares})")
    return lines


def undecided(info: RunInfo, trials: Sequence[TrialResult], target: float = 0.02) -> str | None:
    """Whose speed is still too uncertain to say, where the time budget ended before it was known."""
    wide = [
        trial.variant
        for trial in trials
        if trial.status == "ok"
        and trial.variant != BASELINE
        and (ratio := speed(trial)) is not None
        and (
            ratio.log_interval is None
            or math.expm1((ratio.log_interval[1] - ratio.log_interval[0]) / 2) > target
        )
    ]
    if not wide:
        return None
    why = info.timing_ended or "the run was cut short"
    more = "--time-budget" if "budget" in why else "--rounds"
    return (
        f"undecided within {100 * target:g} %: {_listed(wide)} ({why}); a larger {more} narrows the intervals"
    )


def _tolerance(info: RunInfo) -> float:
    """What speeds must differ by, as a fraction, to be told apart."""
    floor = UNKNOWN_FLOOR if info.noise_floor is None else info.noise_floor
    return max(floor, SMALLEST_DIFFERENCE)


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
        crop=trial.preprocess.crop if trial.preprocess else None,
        precision=trial.precision,
        **_audited(trial),
        validated=told(trial.saturation) if trial.saturation else None,
        gpu=trial.gpu,
    )


class _Audited(TypedDict, total=False):
    computes: str
    int8_share: float | None
    half_share: float | None
    fp32_share: float | None
    casts: int | None
    unfused_qdq: int | None
    audit: str


def _audited(trial: TrialResult) -> _Audited:
    if (audit := trial.audit) is None:
        return {}
    return {
        "computes": audit.computes,
        "int8_share": audit.int8_share,
        "half_share": audit.half_share,
        "fp32_share": audit.fp32_share,
        "casts": audit.casts,
        "unfused_qdq": audit.unfused_qdq,
        "audit": audit.verdict,
    }
