"""The verdict in words: why a variant won, what is close behind it, what was not measured and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from workbench.errors import plural, some
from workbench.measure.early_stopping import LostRace
from workbench.measure.records import BASELINE, SharedPhotos, TimingEnd, TooFewToSplit, WholePath
from workbench.report import timings
from workbench.report.remarks import sentence
from workbench.report.search import search
from workbench.report.upgrades import upgrades
from workbench.report.words import in_percent, listed, points, times
from workbench.results import reasons
from workbench.results.records import AdviceScore, RunInfo
from workbench.results.remarks import Remark
from workbench.results.verdict import Comparison

OTHERS = 8  # variants that miss the budget, named where nothing fits it
ENDS: dict[TimingEnd, str] = {
    "rounds": "all rounds were made",
    "narrow": "every interval was narrow enough",
    "budget": "the time budget ended",
    "baseline_failed": "the baseline failed",
}
OUTCOMES = {
    "baseline_wins": "nothing that fits the budget beats the {plain}: use that",
    "nothing_fits": "nothing fits the budget",
    "cut_short": "the run was cut short before anything was timed: run it again",
}
MISJUDGEMENTS = {
    "faster_than_advised": "was expected to be slower and is faster",
    "slower_than_advised": "was expected to be faster and is slower",
    "less_than_advised": "gained less than expected",
    "not_the_same": "was expected to make no difference",
    "won_unadvised": "won and was not advised",
}
OBJECTIVES: dict[reasons.Objective, str] = {
    "latency": "speed",
    "size": "file size",
    "memory": "memory",
    "throughput": "throughput",
}
UNMEASURED = {
    "latency": "not measured to the end",
    "accuracy": "accuracy not measured",
    "throughput": "throughput not measured",
}


@dataclass(frozen=True, slots=True)
class Section:
    """lines: a statement each, not yet wrapped. brief: each is cut to one line of a terminal."""

    title: str
    lines: tuple[str, ...]
    brief: bool = False


def sections(comparison: Comparison, *, verbose: bool) -> list[Section]:
    """What a comparison says below its table. verbose: every reason, the advice and the search."""
    verdict, info = comparison.verdict, comparison.info
    grave, light = ([sentence(r) for r in info.remarks if r.gravity == g] for g in ("grave", "note"))
    found = [
        Section("Notes: mend these before anything else", tuple(grave)),
        Section("Winner" if verdict.winner else "No winner", tuple(_decision(comparison, verbose=verbose))),
        Section("Close behind", tuple(_close_behind(verdict.reasons))),
        Section("Versions of the runtime", tuple(upgrades(info))),
        Section("Over the budget", tuple(_over_budget(verdict, verbose=verbose))),
        Section("Not measured here", tuple(_unmeasured(verdict.reasons, verbose=verbose)), not verbose),
        Section("Dropped early", tuple(_dropped(verdict.reasons)) if verbose else ()),
        Section("Notes", (*light, *_notes(comparison, verbose=verbose))),
        Section("The search", tuple(search(info.search)) if verbose and info.search else ()),
        Section("The advice", tuple(_advice(info.advice)) if verbose and info.advice else ()),
        Section(timings.TITLE, tuple(timings.lines(info.timings)) if verbose and info.timings else ()),
    ]
    return [section for section in found if section.lines]


def _decision(comparison: Comparison, *, verbose: bool) -> list[str]:
    lines = []
    winner = next((r for r in comparison.verdict.reasons if isinstance(r, reasons.Winner)), None)
    for reason in comparison.verdict.reasons:
        match reason:
            case reasons.Winner():
                size = "" if reason.size_bytes is None else f"{reason.size_bytes / 1e6:.2f} MB"
                speed = "" if reason.speedup is None else times(reason.speedup, reason.speedup_ci)
                lines.append(
                    f"{reason.variant}: {', '.join(part for part in (*_rate(reason), speed, size) if part)}"
                )
            case reasons.Ahead():
                lines.append(_ahead(reason))
            case reasons.Outcome():
                lines.append(OUTCOMES[reason.kind].format(plain=plain_export(comparison)))
            case (
                reasons.Certified()
                | reasons.CertifiedTogether()
                | reasons.CertifiedAsSame()
                | reasons.NotCertified()
            ):
                lines.append(_certification(reason, verbose=verbose))
            case reasons.NoneCertifies():
                if winner is not None and winner.drop is not None and winner.drop_upper is not None:
                    photos = plural(winner.images or 0, "photo")
                    drop = _drop(winner.drop, winner.drop_upper, comparison.info.budget.max_accuracy_drop)
                    lines.append(f"on the {photos} it was chosen on: {drop}")
                lines.append(f"not certified: {none_held_out(reason.cause)}{_allowance(reason)}")
            case reasons.NothingElse(counts=counts):
                ends = ", ".join(f"{count} {status}" for status, count in counts.items())
                warning = f" ({ends}): this says nothing about the others" if ends else ""
                lines.append(f"nothing else was measured{warning}")
    return lines


def _rate(winner: reasons.Winner) -> list[str]:
    """Where it won by that: `1.80 times the baseline's photos a second [1.70, 1.90]`."""
    if winner.objective != "throughput" or winner.saturated_ratio is None:
        return []
    return [times(winner.saturated_ratio, winner.saturated_ratio_ci, what="photos a second")]


def _ahead(reason: reasons.Ahead) -> str:
    ratio, interval = reason.ratio, reason.ratio_ci
    if ratio >= 1:
        found = f"{in_percent(ratio, interval)} faster than {reason.behind}"
    else:
        ends = interval and (1 / interval[1], 1 / interval[0])
        found = f"{in_percent(1 / ratio, ends)} slower than {reason.behind}"
    chance = interval is not None and interval[0] <= 1 <= interval[1]
    return f"{found}, which may be chance" if chance else found


def plain_export(comparison: Comparison) -> str:
    """What the others are compared with: a network may come quantised, or in FP16."""
    precision = next((row.precision for row in comparison.rows if row.variant == BASELINE), None)
    if precision in (None, "fp32", "unknown"):
        return "plain FP32 export"
    return f"plain export, which is {precision.upper()} as the network comes"


def _drop(drop: float, upper: float, limit: float, percent: float = 95.0) -> str:
    return f"drop {points(drop)} points ({percent:.4g} % bound {points(upper)}, budget {100 * limit:g})"


def _allowance(reason: reasons.NoneCertifies) -> str:
    """The drop that may be, where the choice among several is allowed for."""
    if reason.drop_upper is None:
        return ""
    candidates = plural(reason.candidates, "variant")
    return f"; allowing for a choice among {candidates}, the drop may be {points(reason.drop_upper)} points"


def _certification(
    reason: reasons.Certified | reasons.CertifiedTogether | reasons.CertifiedAsSame | reasons.NotCertified,
    *,
    verbose: bool,
) -> str:
    photos, held_out = plural(reason.images, "photo"), plural(reason.images, "held-out photo")
    match reason:
        case reasons.CertifiedAsSame():
            off = f"logits differ by at most {reason.max_rel:.2g} of the largest"
            return f"same answers as the baseline on {photos}: {off}; rounding explains {reason.bound:g}"
        case reasons.CertifiedTogether():
            candidates = plural(reason.candidates, "variant")
            known = _drop(reason.drop, reason.drop_upper, reason.limit, 100 * reason.confidence)
            chosen = f"certified on the {photos} it was chosen on, too few to hold half of them out"
            return f"{chosen}: {known}, which allows for a choice among {candidates}"
        case reasons.Certified(drop=float(drop), drop_upper=float(upper), mcnemar_p=float(p)):
            test = f"; McNemar p {p:.2f}" if verbose else ""
            return f"certified on {held_out}: {_drop(drop, upper, reason.limit)}{test}"
        case reasons.Certified():
            return (
                f"certified: the others are compared with it; top-1 {100 * reason.top1:.2f} % on {held_out}"
            )
        case reasons.NotCertified():
            return f"NOT certified on {held_out}: {shortfalls(reason.shortfalls)}"


def none_held_out(cause: TooFewToSplit | SharedPhotos | str | None) -> str:
    """Why no photos were held out of the selection."""
    match cause:
        case None:
            return "this run held no photos out"
        case str():
            return cause
        case TooFewToSplit():
            return (
                f"{plural(cause.images, 'photo')} are too few to hold half of them out, so all were used for "
                f"selection (a half could at best show a drop under {points(cause.drop_upper)} points)"
            )
        case SharedPhotos():
            more = f" and {left} more" if (left := cause.images - len(cause.paths)) else ""
            names = f"{', '.join(cause.paths)}{more}"
            return (
                f"{plural(cause.images, 'photo')} in both data.calibration and data.validation ({names}): "
                "accuracy on photos used for calibration certifies nothing"
            )
        case _:
            assert_never(cause)


def _close_behind(found: Sequence[reasons.Reason]) -> list[str]:
    close = [reason for reason in found if isinstance(reason, reasons.CloseBehind)]
    winner = next((reason for reason in found if isinstance(reason, reasons.Winner)), None)
    if winner is None:
        return []
    lines, what = [], OBJECTIVES[winner.objective]
    tied = sorted((reason.variant for reason in close if reason.tied), key=lambda name: name != BASELINE)
    if tied:
        equal = f"less than {100 * winner.tolerance:.1f} % apart counts as equal"
        lines.append(f"{listed(tied)}: the same {what} ({equal}); the smaller and simpler one wins")
    if behind := [reason for reason in close if not reason.tied]:
        timed = winner.objective == "latency"
        names = [
            f"{reason.variant} {reason.speedup:.2f} times" if timed and reason.speedup else reason.variant
            for reason in behind
        ]
        worst = 100 * (max(reason.ratio for reason in behind) - 1)
        lines.append(f"{listed(names)}: up to {worst:.0f} % behind in {what}")
    return lines


def _over_budget(verdict: reasons.Verdict, *, verbose: bool) -> list[str]:
    lines = []
    for reason in verdict.reasons:
        if isinstance(reason, reasons.OverBudget):
            speed = "" if reason.speedup is None else f" ({reason.speedup:.2f} times)"
            lines.append(f"{reason.variant}{speed}: {shortfalls(reason.shortfalls)}")
    more = len(lines) - OTHERS
    return lines if verbose or more <= 0 else [*lines[:OTHERS], f"{more} more"]


def shortfalls(missed: Sequence[reasons.Shortfall | Remark]) -> str:
    """What a variant misses of the budget, and what is wrong besides."""
    return "; ".join(map(shortfall, missed))


def shortfall(missed: reasons.Shortfall | Remark) -> str:
    match missed:
        case Remark():
            return sentence(missed)
        case reasons.DropShortfall():
            return f"drop {points(missed.drop)} points (budget {100 * missed.limit:g})"
        case reasons.PhotosShortfall():
            known = _drop(missed.drop, missed.drop_upper, missed.limit)
            remedy = (
                "more photos will not help, as the drop itself reaches the budget"
                if missed.images_needed is None
                else f"about {missed.images_needed:,} would do"
            )
            return f"too few photos ({missed.images:,}): {known}; {remedy}"
        case reasons.ClassShortfall():
            lost = f"loses {100 * missed.drop:.1f} % of its photos"
            return f"class {missed.class_name.removeprefix('class ')} {lost} (budget {100 * missed.limit:g})"
        case reasons.AbsentClassShortfall(class_names=names):
            absent = f"no photo of {plural(len(names), 'class')} ({some(names)})"
            return (
                f"{absent}, so that max_class_drop cannot be judged: add some, or leave it out of the budget"
            )
        case reasons.SizeShortfall():
            return f"file {missed.size_bytes / 1e6:.2f} MB (budget {missed.limit_bytes / 1e6:g})"
        case reasons.MemoryShortfall():
            return f"memory {missed.peak_memory_bytes / 1e6:.2f} MB (budget {missed.limit_bytes / 1e6:g})"
        case reasons.LatencyShortfall():
            return f"p50 {missed.p50_ns / 1e6:.2f} ms (budget {missed.limit_ns / 1e6:g})"
        case reasons.BatchShortfall():
            return f"timed in batches of {missed.batch_size}, which win only with `objective: throughput`"
        case reasons.UnmeasuredShortfall():
            return UNMEASURED[missed.what]
        case reasons.LeakShortfall():
            return none_held_out(missed.cause)
        case _:
            assert_never(missed)


def _unmeasured(found: Sequence[reasons.Reason], *, verbose: bool) -> list[str]:
    """One line for each cause, with the variants that share it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for reason in found:
        if isinstance(reason, reasons.Unmeasured):
            groups.setdefault(cause(reason, verbose=verbose), []).append(reason.variant)
    return [
        f"{', '.join(names) if verbose else listed(names, most=1)} {label}{f': {why}' if why else ''}"
        for (label, why), names in groups.items()
    ]


def cause(reason: reasons.Cause, *, verbose: bool = True) -> tuple[str, str]:
    """How a variant ended in a word or two, and why. verbose: with figures of its own, and what to do."""
    match reason:
        case LostRace():
            bound = f"after {plural(reason.rounds, 'round')}, one-sided {100 * reason.confidence:.3f} % bound"
            return "slower", f"at least {reason.factor:.2f} times the time of {reason.behind} ({bound})"
        case reasons.NotFinalist():
            if not verbose:
                return "not taken further", "others promised more in a quick look"
            figures = f"{times(reason.speedup)}, drop {points(reason.drop)} points"
            look = f"a quick look on {plural(reason.images, 'photo')} ({reason.why})"
            return "not taken further", f"{figures} in {look}; others promised more"
        case reasons.NotCertifiedInTurn(after=str(before)):
            return "not certified", f"{before} came first in the sequence and failed"
        case reasons.NotCertifiedInTurn():
            return "not certified", shortfalls(reason.shortfalls)
        case reasons.OverBudget():
            return "over the budget", shortfalls(reason.shortfalls)
        case reasons.OutOfTime():
            when = "during the build" if reason.while_building else "before its turn"
            return "not tried", f"the search ended {when}"
        case reasons.TooLarge():
            needs, beside, limit = (
                round(count / 1e6) for count in (reason.needs_bytes, reason.beside_bytes, reason.limit_bytes)
            )
            two = f"the baseline and its second copy {beside}"
            return "skipped", f"it needs {needs} MB of memory and {two}; {limit} may be used at a time"
        case reasons.Failed() | reasons.Skipped():
            timing = "while timing: " if isinstance(reason, reasons.Failed) and reason.while_timing else ""
            hint = f" ({reason.hint})" if reason.hint and verbose else ""
            return reason.kind, f"{timing}{reason.message}{hint}"
        case reasons.Pruned():
            return "pruned", reason.message
        case _:
            assert_never(reason)


def _dropped(found: Sequence[reasons.Reason]) -> list[str]:
    return [f"{reason.variant}: {cause(reason)[1]}" for reason in found if isinstance(reason, LostRace)]


def _notes(comparison: Comparison, *, verbose: bool) -> list[str]:
    info = comparison.info
    lines = []
    for reason in comparison.verdict.reasons:
        if isinstance(reason, reasons.Winner) and (paths := reason.whole_path):
            lines += [whole_path(path) for path in paths] if verbose else [_whole_paths(paths)]
        elif isinstance(reason, reasons.Undecided):
            lines.append(_undecided(reason, info))
    lines += info.notes
    if (advice := info.advice) is not None and (advice.not_worth or advice.not_here):
        counts = {"not worth trying": advice.not_worth, "that cannot run here": advice.not_here}
        left_out = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        lines.append(f"--advised left out {left_out} (`krishi-bench advise` says why)")
    return lines


def _whole_paths(paths: Sequence[WholePath]) -> str:
    parts = []
    for path in paths:
        share = f"{100 * path.decode_ns / _total_ns(path):.0f} % of it decoding"
        parts.append(f"{_total_ns(path) / 1e6:.1f} ms for {path.photo}, {share}")
    return f"from a photo's file to its class: {'; '.join(parts)}"


def whole_path(path: WholePath) -> str:
    """Where the time of a photo goes, from its bytes to its class."""
    return (
        f"photo of {path.photo}: {_total_ns(path) / 1e6:.2f} ms = decode {path.decode_ns / 1e6:.2f} + "
        f"preprocess {path.preprocess_ns / 1e6:.2f} + inference {path.infer_ns / 1e6:.2f} + "
        f"rest {path.rest_ns / 1e6:.2f}"
    )


def _total_ns(path: WholePath) -> float:
    return path.decode_ns + path.preprocess_ns + path.infer_ns + path.rest_ns


def _undecided(reason: reasons.Undecided, info: RunInfo) -> str:
    ended = {stage: ENDS[end] for stage, end in (reason.ended or {}).items()}
    if len(causes := set(ended.values())) > 1:
        why = "; ".join(f"{stage}: {end}" for stage, end in ended.items())
    else:
        why = "".join(causes) or info.timing_ended or "the run was cut short"
    remedy = "--time-budget" if "time budget" in why else "--rounds"
    uncertain = f"the speed of {listed(reason.variants)} is uncertain by more than ±{100 * reason.target:g} %"
    return f"{uncertain} ({why}): a larger {remedy} makes it more precise"


def _advice(score: AdviceScore) -> list[str]:
    lines = []
    for wrong in score.wrong:
        expected = f"expected {wrong.low:.2f} to {wrong.high:.2f} times, because {wrong.because}"
        speed = times(wrong.speedup, wrong.speedup_ci)
        lines.append(f"{wrong.variant} {MISJUDGEMENTS[wrong.kind]}: {speed} ({expected})")
    if score.timed:
        lines.append(f"right about {score.right} of {plural(score.timed, 'variant')} that were timed")
    return lines
