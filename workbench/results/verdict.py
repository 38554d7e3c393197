"""From results to a decision: rows against the baseline, the Pareto front, the winner and why. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from workbench.measure.records import BASELINE, Accuracy, GpuUse
from workbench.measure.stats import Interval, PairedDrop, Ratio
from workbench.results.reasons import (
    BaselineWins,
    BatchShortfall,
    Cause,
    Certified,
    ClassShortfall,
    CloseBehind,
    CutShort,
    DropShortfall,
    Failed,
    LatencyShortfall,
    LeakShortfall,
    MemoryShortfall,
    NoneCertifies,
    NotCertified,
    NothingElse,
    NothingFits,
    OverBudget,
    PhotosShortfall,
    Pruned,
    Reason,
    Shortfall,
    SizeShortfall,
    Skipped,
    Status,
    Undecided,
    UnmeasuredShortfall,
    Verdict,
    Winner,
)
from workbench.results.records import Budget, RunInfo, TrialResult

UNKNOWN_FLOOR = 0.1  # with too few rounds for a noise floor: what a busy machine may show
SMALLEST_DIFFERENCE = 0.01  # speeds closer than this, or than the noise floor, are the same
CLOSE = 0.1  # of the winner's cost: what is no further behind is named
BETTER_ONES = 3  # that missed the budget, named at most where there is a winner
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
    casts, unfused_qdq: nodes that only convert. validated: the processors on which its INT8 sums are exact.
    reason: the message of a trial that failed or was skipped.
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
    """Rows in the order they were tried, and the verdict on them."""

    rows: tuple[Row, ...]
    verdict: Verdict
    info: RunInfo

    @property
    def winner(self) -> str | None:
        return self.verdict.winner

    @property
    def certified(self) -> bool:
        return self.verdict.certified

    @property
    def nothing_else(self) -> bool:
        """Was nothing measured besides the baseline? Then its winning says nothing about the others."""
        return not any(row.variant != BASELINE and row.status in SEEN for row in self.rows)


def compare(info: RunInfo, trials: Sequence[TrialResult]) -> Comparison:
    """Judge the trials of one run under its budget."""
    front = pareto_front(trials, _tolerance(info))
    winner = choose(info, trials)
    rows = tuple(_row(trial, pareto=trial.variant in front, winner=trial is winner) for trial in trials)
    return Comparison(rows, _verdict(info, trials, winner), info)


def _verdict(info: RunInfo, trials: Sequence[TrialResult], winner: TrialResult | None) -> Verdict:
    close = _close_behind(info, trials, winner) if winner else ()
    reasons: list[Reason] = []
    if winner is None:
        timed = any(trial.latency for trial in trials)
        reasons += [NothingFits() if timed else CutShort()]
        # What was pruned before it was timed has its own shortfalls as its cause.
        seen = [t for t in trials if timed and t.accuracy and (t.latency or t.status == "ok")]
        reasons += [over for trial in seen if (over := over_budget(trial, info)) is not None]
    else:
        reasons += [_merits(info, winner)]
        reasons += [BaselineWins()] if winner.variant == BASELINE and measured_others(trials) else []
        reasons += [certification_of(info, winner), *close, *_better_ones_lost(info, trials, winner)]
    if (winner or any(trial.latency for trial in trials)) and not measured_others(trials):
        counts = Counter(trial.status for trial in trials if trial.variant != BASELINE)
        reasons.append(NothingElse(counts=dict(counts)))
    if (open_question := undecided(info, trials)) is not None:
        reasons.append(open_question)
    named = {reason.variant for reason in reasons if isinstance(reason, OverBudget)}
    reasons += [cause for t in trials if t.variant not in named and (cause := cause_of(t)) is not None]
    holds = winner is not None and not certification_shortfalls(winner, info)
    return Verdict(
        winner=winner.variant if winner else None,
        certified=holds,
        close_behind=tuple(behind.variant for behind in close),
        reasons=tuple(reasons),
    )


def cause_of(trial: TrialResult) -> Cause | None:
    """Why a trial did not end `ok`; runs of before recorded a text alone."""
    if trial.status == "ok" or trial.cause is not None:
        return trial.cause
    message = trial.reason or ""
    match trial.status:
        case "skipped":
            return Skipped(variant=trial.variant, message=message)
        case "failed":
            return Failed(variant=trial.variant, message=message)
        case "pruned":
            return Pruned(variant=trial.variant, message=message)


def measured_others(trials: Sequence[TrialResult]) -> bool:
    """Was anything besides the baseline measured?"""
    return any(trial.variant != BASELINE and trial.status in SEEN for trial in trials)


def paired_drop(trial: TrialResult) -> PairedDrop | None:
    if (counts := trial.accuracy) is None:
        return None
    return PairedDrop(counts.losses, counts.gains, counts.images)


def speed(trial: TrialResult) -> Ratio | None:
    if trial.latency is None or not trial.latency.round_log_ratios:
        return None
    return Ratio(trial.latency.round_log_ratios)


def shortfalls(trial: TrialResult, info: RunInfo) -> tuple[Shortfall, ...]:
    """Every way the trial misses the budget; empty where it fits."""
    if trial.status not in SEEN or trial.latency is None or trial.size_bytes is None:
        return (UnmeasuredShortfall(what="latency"),)
    found = list(untimed_shortfalls(trial, info))
    if trial.latency.batch_size > 1:
        found.append(BatchShortfall(batch_size=trial.latency.batch_size))
    limit_ns = _limit(info.budget.max_latency_ms)
    if trial.latency.p50_ns > limit_ns:
        found.append(LatencyShortfall(p50_ns=trial.latency.p50_ns, limit_ns=limit_ns))
    return tuple(found)


def untimed_shortfalls(trial: TrialResult, info: RunInfo) -> tuple[Shortfall, ...]:
    """Those of the `shortfalls` that are known before the trial is timed."""
    found = _accuracy_shortfalls(trial, trial.accuracy, info)
    size_bytes, memory_bytes = trial.size_bytes or 0, trial.peak_memory_bytes or 0
    if size_bytes > (limit := _limit(info.budget.max_size_mb)):
        found.append(SizeShortfall(size_bytes=size_bytes, limit_bytes=limit))
    if memory_bytes > (limit := _limit(info.budget.max_memory_mb)):
        found.append(MemoryShortfall(peak_memory_bytes=memory_bytes, limit_bytes=limit))
    return tuple(found)


def _limit(most: float | None) -> float:
    """MB as bytes, ms as nanoseconds; without a limit infinity."""
    return math.inf if most is None else 1e6 * most


def over_budget(trial: TrialResult, info: RunInfo) -> OverBudget | None:
    if not (missed := shortfalls(trial, info)):
        return None
    ratio = speed(trial)
    return OverBudget(variant=trial.variant, shortfalls=missed, speedup=ratio and ratio.speedup)


def certification_shortfalls(trial: TrialResult, info: RunInfo) -> tuple[Shortfall, ...]:
    """Why the trial's drop is not certified on held-out photos; empty where it is.

    Too few photos to hold any out is no shortfall: the run says so, and those that chose must do.
    """
    if trial.certification is not None:
        return tuple(_accuracy_shortfalls(trial, trial.certification, info))
    return (LeakShortfall(cause=info.uncertified),) if info.leak else ()


def _accuracy_shortfalls(trial: TrialResult, counts: Accuracy | None, info: RunInfo) -> list[Shortfall]:
    if counts is None:
        return [UnmeasuredShortfall(what="accuracy")]
    drop = PairedDrop(counts.losses, counts.gains, counts.images)
    missed = [_drop_shortfall(drop, trial, info.budget), _class_shortfall(counts, info)]
    return [shortfall for shortfall in missed if shortfall is not None]


def _drop_shortfall(drop: PairedDrop, trial: TrialResult, budget: Budget) -> Shortfall | None:
    """Decided by the one-sided 95 % upper bound of the drop (non-inferiority), not by the drop seen: no
    difference on few photos proves nothing."""
    limit = budget.max_accuracy_drop
    if drop.drop > limit:
        return DropShortfall(drop=drop.drop, limit=limit)
    # The baseline is what the drop is measured against: its own is zero by definition.
    if trial.variant == BASELINE or (bound := drop.upper_bound()) <= limit:
        return None
    return PhotosShortfall(
        images=drop.total,
        drop=drop.drop,
        drop_upper=bound,
        limit=limit,
        images_needed=drop.images_needed(limit) if drop.drop < limit else None,
    )


def _class_shortfall(counts: Accuracy, info: RunInfo) -> Shortfall | None:
    if (limit := info.budget.max_class_drop) is None:
        return None
    drops = [
        (label, (losses - gains) / images)
        for label, (images, losses, gains) in enumerate(
            zip(counts.class_images, counts.class_losses, counts.class_gains, strict=True)
        )
        if images
    ]
    label, worst = max(drops, key=lambda pair: pair[1], default=(0, 0.0))
    if worst <= limit:
        return None
    name = info.class_names[label] if label < len(info.class_names) else f"class {label}"
    return ClassShortfall(class_name=name, drop=worst, limit=limit)


def fitting(info: RunInfo, trials: Sequence[TrialResult]) -> list[TrialResult]:
    return [trial for trial in trials if trial.status == "ok" and not shortfalls(trial, info)]


def ranked(info: RunInfo, trials: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials that fit the budget, best first.

    Once some were measured again after the race, only those are: the others' times were never confirmed,
    and the best of many unconfirmed times is partly luck.
    """
    fit = fitting(info, trials)
    confirmed = [trial for trial in fit if trial.latency and trial.latency.confirmed]
    return sorted(confirmed or fit, key=lambda trial: _cost(trial, info.budget))


def choose(info: RunInfo, trials: Sequence[TrialResult]) -> TrialResult | None:
    """The best trial under the budget by its objective.

    What differs by less than the noise floor (or 1 %) counts as equal: the file smaller by 1 % or more wins
    then, after that the one with fewer steps, after that the baseline.
    """
    pool, budget = ranked(info, trials), info.budget
    if not pool:
        return None
    tied = [t for t in pool if _cost(t, budget) <= _cost(pool[0], budget) * (1 + _cost_tolerance(info))]
    smallest = min(trial.size_bytes or 0 for trial in tied)
    small = [t for t in tied if (t.size_bytes or 0) <= smallest * (1 + SMALLEST_DIFFERENCE)]
    return min(small, key=lambda trial: (trial.steps, trial.variant != BASELINE, _cost(trial, budget)))


def _close_behind(
    info: RunInfo, trials: Sequence[TrialResult], winner: TrialResult
) -> tuple[CloseBehind, ...]:
    """Those that fit the budget and cannot be told from the winner, or are little worse; best first."""
    tolerance, best = _cost_tolerance(info), _cost(winner, info.budget)
    found = []
    for trial in fitting(info, trials):
        ratio = _cost(trial, info.budget) / best if best else 1.0
        tied = 1 / (1 + tolerance) <= ratio <= 1 + tolerance
        close = tied or (trial.variant != BASELINE and 1 <= ratio <= 1 + CLOSE)
        if trial is not winner and close:
            speedup = speed(trial)
            found.append(
                CloseBehind(
                    variant=trial.variant,
                    ratio=ratio,
                    tied=tied,
                    speedup=speedup and speedup.speedup,
                    speedup_ci=speedup and speedup.interval,
                )
            )
    return tuple(sorted(found, key=lambda close: close.ratio))


def _better_ones_lost(info: RunInfo, trials: Sequence[TrialResult], winner: TrialResult) -> list[OverBudget]:
    """The best of those that the objective would have preferred, had they kept the budget."""
    measured = [t for t in trials if t.status == "ok" and speed(t) is not None]
    better = sorted(
        (t for t in measured if _cost(t, info.budget) < _cost(winner, info.budget)),
        key=lambda t: _cost(t, info.budget),
    )
    return [over for trial in better[:BETTER_ONES] if (over := over_budget(trial, info)) is not None]


def _merits(info: RunInfo, trial: TrialResult) -> Winner:
    ratio, drop = speed(trial), paired_drop(trial)
    other = trial.variant != BASELINE
    return Winner(
        variant=trial.variant,
        objective=info.budget.objective,
        speedup=ratio.speedup if ratio and other else None,
        speedup_ci=ratio.interval if ratio and other else None,
        drop=drop.drop if drop and other else None,
        drop_upper=drop.upper_bound() if drop and other else None,
        images=drop and drop.total,
        size_bytes=trial.size_bytes,
        tolerance=_cost_tolerance(info),
        whole_path=trial.whole_path,
    )


def certification_of(info: RunInfo, winner: TrialResult) -> Certified | NotCertified | NoneCertifies:
    """Does the winner keep the budget on held-out photos?"""
    if (counts := winner.certification) is None:
        return NoneCertifies(variant=winner.variant, cause=info.uncertified, leak=info.leak)
    if missed := certification_shortfalls(winner, info):
        return NotCertified(variant=winner.variant, images=counts.images, shortfalls=missed)
    drop = PairedDrop(counts.losses, counts.gains, counts.images)
    other = winner.variant != BASELINE
    return Certified(
        variant=winner.variant,
        images=counts.images,
        top1=counts.top1,
        drop=drop.drop if other else None,
        drop_upper=drop.upper_bound() if other else None,
        limit=info.budget.max_accuracy_drop,
        mcnemar_p=drop.mcnemar_p() if other else None,
    )


def undecided(info: RunInfo, trials: Sequence[TrialResult], target: float = 0.02) -> Undecided | None:
    """The variants whose speed is still too uncertain to say."""
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
    return Undecided(variants=tuple(wide), target=target, ended=info.timing_end) if wide else None


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


def _cost_tolerance(info: RunInfo) -> float:
    """The noise floor is of times; sizes and memory have none."""
    return _tolerance(info) if info.budget.objective == "latency" else SMALLEST_DIFFERENCE


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
        validated="; ".join(trial.saturation.validated) if trial.saturation else None,
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
