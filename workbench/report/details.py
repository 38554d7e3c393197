"""Everything a run knows of one variant, in words and as JSON: the keys of `--format json`."""

from collections.abc import Sequence
from dataclasses import asdict

from workbench.errors import plural
from workbench.measure.readings import Readings, spread
from workbench.measure.records import BASELINE
from workbench.measure.stats import Interval, PairedDrop
from workbench.registry.model_card import saturation_words
from workbench.report.verdict import cause, whole_path
from workbench.report.words import points, times
from workbench.results.cost import throughput
from workbench.results.history import Details
from workbench.results.verdict import cause_of, paired_drop, speed

SHOWN = 10  # classes and confusions listed


def answer(found: Details) -> dict[str, object]:
    return {
        "run": found.info.run_id,
        **found.trial.model_dump(mode="json"),
        "class_changes": [asdict(change) for change in found.changes],
        "new_confusions": [asdict(confusion) for confusion in found.confusions],
    }


def text(found: Details) -> str:
    return "\n".join(
        [_title(found), *_accuracy(found), *_latency(found), *_cost(found), *_gpu(found), *_audit(found)]
    )


def _gpu(found: Details) -> list[str]:
    if (use := found.trial.gpu) is None:
        return []
    lines = []
    if use.device_p50_ns is not None:
        lines.append(f"  p50 without copies {use.device_p50_ns / 1e6:.3f} ms, by {use.device_how}")
    if use.memory_bytes is not None:
        grown = ", as the whole GPU's use grew" if use.whole_gpu else ""
        lines.append(f"  memory {use.memory_bytes / 1e6:.1f} MB{grown}")
    for rate in use.throughput:
        alone = "" if rate.on_device is None else f", {rate.on_device:.1f} without copies"
        lines.append(f"  batch {rate.batch}: {rate.with_copies:.1f} photos/s{alone}")
    if use.joules is not None:
        lines.append(f"  energy {use.joules:.3g} J a photo, of the whole GPU, at the largest batch")
    if (engine := use.engine) is not None:
        built = "kept from before" if engine.build_s is None else f"built in {engine.build_s:.0f} s"
        lines.append(f"  engine {engine.size_bytes / 1e6:.1f} MB, {built}, for {engine.bound_to}")
    if (state := use.state) is not None and state.throttled:
        lines.append(f"  slowed down by {', '.join(state.throttled)}")
    return ["on the GPU", *lines] if lines else []


def _audit(found: Details) -> list[str]:
    audit, saturation, images = found.trial.audit, found.trial.saturation, found.trial.calibration_images
    return [
        *([f"calibrated on {plural(images, 'photo')}"] if images is not None else []),
        *([f"what ran: {audit.verdict}"] if audit else []),
        *([f"  {found.trial.note}"] if found.trial.note else []),
        *(f"  {sentence}" for sentence in (found.trial.export.sentences() if found.trial.export else ())),
        *([f"  {saturation_words(saturation)}"] if saturation else []),
    ]


def _title(found: Details) -> str:
    trial = found.trial
    reason = cause_of(trial)
    why = f": {': '.join(part for part in cause(reason) if part not in ('', trial.status))}" if reason else ""
    named = {"threads": trial.threads, "opset": trial.opset, "weights": trial.precision}
    facts = [f"{name} {value}" for name, value in named.items() if value is not None]
    runtime = [name for name in (trial.backend, trial.provider) if name is not None]
    known = ", ".join([*runtime, *facts])
    return f"{trial.variant} of run {found.info.run_id} ended {trial.status}{why}\n  {known}"


def _accuracy(found: Details) -> list[str]:
    counts, drop, parity = found.trial.accuracy, paired_drop(found.trial), found.trial.parity
    if counts is None or drop is None or parity is None:
        return []
    top5 = "" if counts.correct_top5 is None else f", top-5 {100 * counts.correct_top5 / counts.images:.2f} %"
    lines = [
        f"accuracy on {plural(counts.images, 'photo')} for selection",
        f"  top-1 {100 * counts.top1:.2f} %{top5}, macro-F1 {100 * counts.macro_f1:.2f} %"
        f"{counts.macro_scope()}",
        _drop(found, drop),
        f"  agrees with the source model on {100 * parity.top1_agreement:.2f} % of "
        f"{plural(parity.images, 'photo')}; largest logit difference {parity.max_abs:.3g}; "
        f"KL {parity.kl:.2g} nats",
    ]
    if counts.ece is not None:
        before = "" if found.baseline_ece is None else f" (baseline {100 * found.baseline_ece:.2f})"
        lines.append(f"  expected calibration error {100 * counts.ece:.2f} points{before}")
    lines += [
        f"  {change.name}: {change.losses} lost, {change.gains} gained of {change.images} "
        f"(p {change.p:.2f}, Holm)"
        for change in found.changes[:SHOWN]
    ]
    lines += [
        f"  new confusion: {confusion.truth} taken for {confusion.taken_for}, {confusion.images}"
        for confusion in found.confusions[:SHOWN]
    ]
    return lines


def _drop(found: Details, drop: PairedDrop) -> str:
    if (same := found.trial.same_answers) is not None:
        off = f"logits differ by at most {same.max_rel:.2g} of the largest"
        return f"  same answers as the baseline: {off}; rounding explains {same.bound:g}"
    low, high = drop.interval()
    counts = f"{plural(drop.losses, 'photo')} lost, {drop.gains} gained"
    if drop.independent is not None:
        counts += f", near-duplicates counted once: {drop.independent:.0f} photos"
    return (
        f"  drop {points(drop.drop)} points [{points(low)}, {points(high)}]: {counts}, "
        f"McNemar p {drop.mcnemar_p():.2f}"
    )


def _latency(found: Details) -> list[str]:
    latency, ratio = found.trial.latency, speed(found.trial)
    if latency is None or ratio is None:
        return []

    def ms(value_ns: float | None) -> str:
        return "of too few calls" if value_ns is None else f"{value_ns / 1e6:.2f}"

    def tail(value_ns: float | None, interval: Interval | None) -> str:
        if value_ns is None:
            return "of too few rounds"
        # Older runs recorded none.
        ends = (
            f"[{interval[0] / 1e6:.2f}, {interval[1] / 1e6:.2f}]"
            if interval
            else "(no interval: an older run)"
        )
        return f"{ms(value_ns)} {ends}"

    tails = f"p95 {tail(latency.p95_ns, latency.p95_ns_ci)}, p99 {tail(latency.p99_ns, latency.p99_ns_ci)}"
    sure = "from the final rounds" if latency.confirmed else "from the race"
    ends = None if found.trial.status == "pruned" else ratio.interval
    interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
    return [
        f"latency, {sure}: {plural(latency.samples, 'hot call')} in "
        f"{plural(len(latency.round_log_ratios), 'round')}",
        f"  speed-up {ratio.speedup:.3f}{interval}; batch {latency.batch_size}",
        f"  ms: p50 {ms(latency.p50_ns)}, p90 {ms(latency.p90_ns)}, {tails}, "
        f"cold p50 {ms(latency.cold_p50_ns)}",
        *([] if latency.settled else ["  at least one launch never settled in its warm-up"]),
    ]


def _cost(found: Details) -> list[str]:
    trial, read = found.trial, found.trial.readings or Readings()
    figures = (
        ("file", trial.size_bytes, (), 1e6, "MB"),
        ("load", trial.load_s, read.load_s, 1e-3, "ms"),
        ("cold start", trial.cold_start_s, read.cold_start_s, 1e-3, "ms"),
        ("peak memory", trial.peak_memory_bytes, read.peak_memory_bytes, 1e6, "MB"),
        ("steady memory", trial.steady_memory_bytes, read.steady_memory_bytes, 1e6, "MB"),
        ("all processors", trial.saturated_ips, (), 1, "photos/s"),
    )
    lines = [
        f"  {name} {value / per:.1f} {unit}{_spread(values, per)}"
        for name, value, values, per, unit in figures
        if value is not None
    ]
    if trial.variant != BASELINE and (more := throughput(trial)) is not None:
        lines.append(f"  {times(more.ratio, more.interval, what='photos a second')}")
    lines += [f"  {whole_path(path)}" for path in trial.whole_path]
    return ["cost", *lines] if lines else []


def _spread(values: Sequence[float], per: float) -> str:
    """` (45.1 to 52.0 in 7 launches)`."""
    if (ends := spread(values)) is None:
        return ""
    return f" ({ends[0] / per:.1f} to {ends[1] / per:.1f} in {len(values)} launches)"
