"""From results to a decision: rows against the baseline, the Pareto front, the winner and why."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter

from workbench.backends import Target
from workbench.measure.records import BASELINE, GpuUse
from workbench.measure.stats import Interval, PairedDrop, Ratio
from workbench.results import reasons
from workbench.results.ahead import ahead
from workbench.results.certification import accuracy_shortfalls, certification, certification_shortfalls
from workbench.results.cost import SMALLEST_DIFFERENCE, cost, cost_tolerance, throughput, tolerance
from workbench.results.ranges import ranges_of
from workbench.results.records import RunInfo, TrialResult
from workbench.results.stress import StressRecord, field_check
from workbench.results.targets import best_on_device, bound_for

CLOSE = 0.1  # of the winner's cost: what is no further behind is named
BETTER_ONES = 3  # that missed the budget, named at most where there is a winner
SEEN = ("ok", "pruned")  # measured, if only until it could not win any more
PRECISE = 0.02  # to either side: a speed known less precisely than that is undecided
CAUSE: TypeAdapter[reasons.Cause] = TypeAdapter(reasons.Cause, config=ConfigDict(defer_build=True))

Trials = Sequence[TrialResult]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison: its fields, with their meaning, are the keys of `--format json`.

    What was not measured is None; drop_ci and speedup_ci are None for the baseline itself, drop_ci also where
    the answers are the baseline's.
    """

    variant: Annotated[str, "name"]
    recipe: Annotated[str, "the recipe it comes from"]
    status: Annotated[reasons.Status, "`ok`, `failed`, `skipped` or `pruned`"]
    reason: Annotated[str | None, "why it did not end `ok`"]
    backend: Annotated[str, "the runtime"]
    device: Annotated[str, "`cpu` or `cuda`"]
    opset: Annotated[int | None, "of the ONNX file"]
    digest: Annotated[str, "sha256 of what is built and how it runs"]
    size_bytes: Annotated[int | None, "bytes of all its files"]
    top1: Annotated[float | None, "top-1 accuracy on the selection photos, a fraction of 1"]
    drop: Annotated[float | None, "top-1 lost against the baseline on the same photos, a fraction of 1"]
    drop_ci: Annotated[Interval | None, "the drop's two-sided 95 % interval"]
    p50_ms: Annotated[float | None, "median of one hot call, milliseconds"]
    p90_ms: Annotated[float | None, "90th percentile, milliseconds"]
    p95_ms: Annotated[float | None, "95th percentile, milliseconds"]
    p99_ms: Annotated[float | None, "99th percentile, milliseconds"]
    speedup: Annotated[float | None, "baseline time over variant time"]
    speedup_ci: Annotated[Interval | None, "the speed-up's 95 % interval over launches"]
    throughput_ips: Annotated[float | None, "photos a second of one session, one after the other"]
    load_ms: Annotated[float | None, "from the file to a session that can be called, milliseconds"]
    peak_memory_bytes: Annotated[int | None, "bytes above a process with no runtime in it"]
    pareto: Annotated[bool, "on the front of accuracy, speed and size"]
    winner: Annotated[bool, "chosen under the budget"]
    crop: Annotated[
        int | None, "pixels of the input's side (its height), where it is not the workspace's"
    ] = None
    precision: Annotated[str | None, "the narrowest type the weights are stored in"] = None
    computes: Annotated[
        str | None, "the precision of nine tenths of the multiply-accumulates (MACs), else `mixed`"
    ] = None
    int8_share: Annotated[float | None, "fraction of the MACs in INT8"] = None
    half_share: Annotated[float | None, "fraction of the MACs in FP16 and BF16"] = None
    fp32_share: Annotated[float | None, "fraction of the MACs in FP32"] = None
    casts: Annotated[int | None, "nodes that only change the number format"] = None
    unfused_qdq: Annotated[int | None, "quantise and dequantise nodes that run on their own"] = None
    audit: Annotated[str | None, "what ran, in one sentence"] = None
    validated: Annotated[str | None, "kinds of processor on which its INT8 arithmetic is exact"] = None
    same_answers: Annotated[bool, "it computes the baseline's function: no photo tells them apart"] = False
    p95_ms_ci: Annotated[Interval | None, "p95's 95 % interval over rounds"] = None
    p99_ms_ci: Annotated[Interval | None, "p99's 95 % interval over rounds"] = None
    load_ms_range: Annotated[Interval | None, "load_ms over launches"] = None
    cold_start_ms: Annotated[float | None, "from a process's start to its first answer, milliseconds"] = None
    cold_start_ms_range: Annotated[Interval | None, "cold_start_ms over launches"] = None
    peak_memory_bytes_range: Annotated[Interval | None, "peak_memory_bytes over launches"] = None
    saturated_ips: Annotated[float | None, "photos a second with every processor busy"] = None
    saturated_ratio: Annotated[float | None, "saturated_ips over the baseline's, paired"] = None
    saturated_ratio_ci: Annotated[Interval | None, "saturated_ratio's 95 % interval over launches"] = None
    gpu: GpuUse | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order they were tried, and the verdict on them. choices: the variant for each target."""

    rows: tuple[Row, ...]
    verdict: reasons.Verdict
    info: RunInfo
    choices: Mapping[Target, str] = field(default_factory=dict)

    @property
    def winner(self) -> str | None:
        return self.verdict.winner

    @property
    def certified(self) -> bool:
        return self.verdict.certified

    @property
    def nothing_else(self) -> bool:
        """Was nothing measured besides the baseline? Then its winning says nothing about the others."""
        return not measured_others(self.rows)


def compare(info: RunInfo, trials: Trials, stress: StressRecord | None = None) -> Comparison:
    """Judge the trials of one run under its budget. stress: what was measured of them, for `budget.field`."""
    front = pareto_front(trials, tolerance(info))
    won = {target: winner_for(info, trials, target) for target in info.targets}
    winner = won[info.targets[0]]
    rows = tuple(_row(trial, pareto=trial.variant in front, winner=trial is winner) for trial in trials)
    choices = {target: best.variant for target, best in won.items() if best is not None}
    return Comparison(rows, _verdict(info, trials, winner, stress), info, choices)


def winner_for(info: RunInfo, trials: Trials, target: Target) -> TrialResult | None:
    """The best under the budget of those that are opened there; its limits on time are this machine's."""
    pool = bound_for(target, trials)
    if target == "server":
        return choose(info, pool)
    fit = [t for t in pool if t.status in SEEN and t.size_bytes and not untimed_shortfalls(t, info)]
    return best_on_device(fit)


def _verdict(
    info: RunInfo, trials: Trials, winner: TrialResult | None, stress: StressRecord | None
) -> reasons.Verdict:
    timed, others = any(trial.latency for trial in trials), measured_others(trials)
    close: list[reasons.CloseBehind] = []
    found: list[reasons.Reason] = []
    if winner is None:
        found.append(reasons.Outcome(kind="nothing_fits" if timed else "cut_short"))
        # What was pruned before it was timed has its own shortfalls as its cause.
        judged = [t for t in trials if timed and t.accuracy and (t.latency or t.status == "ok")]
        found += _over_budget(info, judged)
    else:
        close = sorted(_close_behind(info, trials, winner), key=lambda behind: behind.ratio)
        found += [_merits(info, winner), *ahead(info, winner, ranked(info, trials))]
        if winner.variant == BASELINE and others:
            found.append(reasons.Outcome(kind="baseline_wins"))
        found += [certification(info, trials, winner), *field_check(winner, info, trials, stress)]
        found += [*close, *_better_ones_lost(info, trials, winner)]
    if (winner or timed) and not others:
        counts = Counter(trial.status for trial in trials if trial.variant != BASELINE)
        found.append(reasons.NothingElse(counts=dict(counts)))
    if (uncertain := undecided(info, trials)) is not None:
        found.append(uncertain)
    named = {reason.variant for reason in found if isinstance(reason, reasons.OverBudget)}
    found += [cause for t in trials if t.variant not in named and (cause := cause_of(t)) is not None]
    return reasons.Verdict(
        winner=winner.variant if winner else None,
        certified=winner is not None and not certification_shortfalls(winner, info),
        close_behind=tuple(behind.variant for behind in close),
        reasons=tuple(found),
    )


def cause_of(trial: TrialResult) -> reasons.Cause | None:
    """Why a trial did not end `ok`; older runs recorded a text alone."""
    if trial.status == "ok" or trial.cause is not None:
        return trial.cause
    recorded = {"kind": trial.status, "variant": trial.variant, "message": trial.reason or ""}
    return CAUSE.validate_python(recorded)


def measured_others(results: Trials | Sequence[Row]) -> bool:
    """Was anything besides the baseline measured?"""
    return any(result.variant != BASELINE and result.status in SEEN for result in results)


def paired_drop(trial: TrialResult) -> PairedDrop | None:
    return trial.accuracy.paired if trial.accuracy else None


def speed(trial: TrialResult) -> Ratio | None:
    if trial.latency is None or not trial.latency.round_log_ratios:
        return None
    return Ratio(trial.latency.round_log_ratios)


def shortfalls(trial: TrialResult, info: RunInfo) -> tuple[reasons.Shortfall, ...]:
    """Every way the trial misses the budget; empty where it fits."""
    if trial.status not in SEEN or trial.latency is None or trial.size_bytes is None:
        return (reasons.UnmeasuredShortfall(what="latency"),)
    found = list(untimed_shortfalls(trial, info))
    batched, objective = trial.latency.batch_size > 1, info.budget.objective
    if objective == "throughput" and throughput(trial) is None:
        found.append(reasons.UnmeasuredShortfall(what="throughput"))
    # A server gathers photos into batches: that takes longer for each, and does more of them a second.
    if batched and objective != "throughput":
        found.append(reasons.BatchShortfall(batch_size=trial.latency.batch_size))
    limit_ns = _limit(info.budget.max_latency_ms)
    if trial.latency.p50_ns > limit_ns:
        found.append(reasons.LatencyShortfall(p50_ns=trial.latency.p50_ns, limit_ns=limit_ns))
    return tuple(found)


def untimed_shortfalls(trial: TrialResult, info: RunInfo) -> tuple[reasons.Shortfall, ...]:
    """Those of the `shortfalls` that are known before the trial is timed."""
    found = list(accuracy_shortfalls(trial, trial.accuracy, info))
    size_bytes, memory_bytes = trial.size_bytes or 0, trial.peak_memory_bytes or 0
    if size_bytes > (limit := _limit(info.budget.max_size_mb)):
        found.append(reasons.SizeShortfall(size_bytes=size_bytes, limit_bytes=limit))
    if memory_bytes > (limit := _limit(info.budget.max_memory_mb)):
        found.append(reasons.MemoryShortfall(peak_memory_bytes=memory_bytes, limit_bytes=limit))
    return tuple(found)


def _limit(most: float | None) -> float:
    """MB as bytes, ms as nanoseconds; without a limit infinity."""
    return math.inf if most is None else 1e6 * most


def _over_budget(info: RunInfo, trials: Trials) -> list[reasons.OverBudget]:
    return [
        reasons.OverBudget(variant=t.variant, shortfalls=missed, speedup=(r := speed(t)) and r.speedup)
        for t in trials
        if (missed := shortfalls(t, info))
    ]


def fitting(info: RunInfo, trials: Trials) -> list[TrialResult]:
    return [trial for trial in trials if trial.status == "ok" and not shortfalls(trial, info)]


def ranked(info: RunInfo, trials: Trials) -> list[TrialResult]:
    """The trials that fit the budget, best first; of some measured again after the race, only those."""
    fit = fitting(info, trials)
    # The best of many unconfirmed times is partly luck.
    confirmed = [trial for trial in fit if trial.latency and trial.latency.confirmed]
    return sorted(confirmed or fit, key=lambda trial: cost(trial, info))


def choose(info: RunInfo, trials: Trials) -> TrialResult | None:
    """The best trial under the budget by its objective.

    What differs by less than the noise floor (or 1 %) counts as equal: the file smaller by 1 % or more wins
    then, after that the one with fewer steps, after that the baseline.
    """
    if not (pool := ranked(info, trials)):
        return None
    tied = [t for t in pool if cost(t, info) <= cost(pool[0], info) * (1 + cost_tolerance(info))]
    smallest = min(trial.size_bytes or 0 for trial in tied)
    small = [t for t in tied if (t.size_bytes or 0) <= smallest * (1 + SMALLEST_DIFFERENCE)]
    return min(small, key=lambda trial: (trial.steps, trial.variant != BASELINE, cost(trial, info)))


def _close_behind(info: RunInfo, trials: Trials, winner: TrialResult) -> Iterator[reasons.CloseBehind]:
    """Those that fit the budget and equal the winner within the noise, or are little worse."""
    tolerance, best = cost_tolerance(info), cost(winner, info)
    for trial in fitting(info, trials):
        ratio, speedup = cost(trial, info) / best if best else 1.0, speed(trial)
        tied = 1 / (1 + tolerance) <= ratio <= 1 + tolerance
        if trial is not winner and (tied or (trial.variant != BASELINE and 1 <= ratio <= 1 + CLOSE)):
            yield reasons.CloseBehind(
                variant=trial.variant,
                ratio=ratio,
                tied=tied,
                speedup=speedup and speedup.speedup,
                speedup_ci=speedup and speedup.interval,
            )


def _better_ones_lost(info: RunInfo, trials: Trials, winner: TrialResult) -> list[reasons.OverBudget]:
    """The best of those that the objective would have preferred, had they kept the budget."""
    costs = [(cost(t, info), t) for t in trials if t.status == "ok" and speed(t) is not None]
    better = sorted((pair for pair in costs if pair[0] < cost(winner, info)), key=lambda pair: pair[0])
    return _over_budget(info, [trial for _, trial in better[:BETTER_ONES]])


def _merits(info: RunInfo, trial: TrialResult) -> reasons.Winner:
    # The baseline's own speed-up and drop are 1 and 0 by definition.
    ratio, drop = (None, None) if trial.variant == BASELINE else (speed(trial), paired_drop(trial))
    more = None if trial.variant == BASELINE else throughput(trial)
    return reasons.Winner(
        variant=trial.variant,
        objective=info.budget.objective,
        speedup=ratio and ratio.speedup,
        speedup_ci=ratio and ratio.interval,
        drop=drop and drop.drop,
        drop_upper=drop and (None if trial.same_answers else drop.upper_bound()),
        images=trial.accuracy and trial.accuracy.images,
        size_bytes=trial.size_bytes,
        tolerance=cost_tolerance(info),
        whole_path=trial.whole_path,
        saturated_ratio=more and more.ratio,
        saturated_ratio_ci=more and more.interval,
    )


def undecided(info: RunInfo, trials: Trials) -> reasons.Undecided | None:
    """The variants whose speed is known less precisely than PRECISE, as a fraction to either side."""

    def wide(ratio: Ratio) -> bool:
        interval = ratio.log_interval
        return interval is None or math.expm1((interval[1] - interval[0]) / 2) > PRECISE

    others = [trial for trial in trials if trial.status == "ok" and trial.variant != BASELINE]
    names = tuple(trial.variant for trial in others if (ratio := speed(trial)) and wide(ratio))
    return reasons.Undecided(variants=names, target=PRECISE, ended=info.timing_end) if names else None


def pareto_front(trials: Trials, tolerance: float = SMALLEST_DIFFERENCE) -> set[str]:
    """Variants that no other beats: better in accuracy, speed or size, and worse in none of them.

    Lest noise put one on the front, speeds closer than `tolerance` are the same, and sizes closer than 1 %.
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
    drop, ratio, timed, other = paired_drop(trial), speed(trial), trial.latency, trial.variant != BASELINE
    names = {field.name for field in fields(Row)} - {"audit", "same_answers"}
    recorded: dict[str, Any] = {
        name: value for source in (trial, trial.audit) for name, value in source or () if name in names
    }
    return Row(
        **{**recorded, **ranges_of(trial)},
        top1=trial.accuracy.top1 if trial.accuracy else None,
        drop=drop.drop if drop else None,
        drop_ci=drop.interval() if drop and other and not trial.same_answers else None,
        speedup=ratio.speedup if ratio else None,
        speedup_ci=ratio.interval if ratio and other and trial.status == "ok" else None,  # pruned: a bound
        throughput_ips=1e9 * timed.batch_size / timed.mean_ns if timed else None,
        pareto=pareto,
        winner=winner,
        crop=trial.preprocess.size[0] if trial.preprocess else None,
        audit=trial.audit.verdict if trial.audit else None,
        validated="; ".join(trial.saturation.validated) if trial.saturation else None,
        same_answers=trial.same_answers is not None,
    )
