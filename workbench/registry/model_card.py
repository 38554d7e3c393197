"""MODEL_CARD.md: a published model in words."""

from collections.abc import Sequence

from workbench.backends.artifact import ArtifactInfo
from workbench.errors import plural, some
from workbench.measure.records import AT_RISK, BASELINE, EXACT_ANYWAY, Saturation
from workbench.measure.stats import Interval, Ratio, wilson
from workbench.photos.contract import Preprocess, sides
from workbench.registry.manifest import Draft
from workbench.results.cost import throughput
from workbench.system.files import sha256_bytes


def model_card(draft: Draft, *, noise_floor: float | None, caveats: Sequence[str] = ()) -> str:
    """noise_floor: the difference of a second copy of the baseline in that run, a fraction of 1, if known.

    caveats: what the sanity look of the run remarked on, in words.
    """
    sections = {
        "What it takes": _contract(draft),
        "Measured": _measured(draft, noise_floor),
        "Limits": [*_limits(draft), *(f"- {caveat}" for caveat in caveats)],
        "Where it came from": _provenance(draft),
        "Classes": [f"{i}. `{name}`" for i, name in enumerate(draft.class_names)],
    }
    parts = [f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()]
    return "\n".join([_title(draft), *parts])


def _title(draft: Draft) -> str:
    info = draft.artifact
    opset = f", opset {info.opset}" if info.opset else ""
    return (
        f"# {draft.name} {draft.version}\n\n"
        f"An image classifier of {len(draft.class_names)} classes: {info.format}{opset}, weights in "
        f"{info.precision}, {info.total_bytes / 1e6:.3g} MB. Published {draft.created_at:%Y-%m-%d}.\n"
    )


def _contract(draft: Draft) -> list[str]:
    contract = draft.preprocess
    return [
        f"- A JPEG, PNG or WebP photo, turned upright by its EXIF orientation, in {contract.channels}.",
        f"- {_resized(contract)}{_cut(contract)}.",
        f"- {_scaled(contract)} normalised: mean {_triple(contract.mean)}, std {_triple(contract.std)}"
        f"{' (by the network itself)' if draft.artifact.pixels else ''}.",
        f"- The network reads {_shape(draft.artifact)} and gives {len(draft.class_names)} {draft.outputs} an "
        "image.",
    ]


def _resized(contract: Preprocess) -> str:
    how: str = contract.interpolation
    if contract.library == "opencv":
        how += ", OpenCV"
    elif how != "nearest":
        how += ", antialiased" if contract.antialias else ", not antialiased"
    if isinstance(contract.resize, int) and contract.resize_mode != "squeeze":
        return f"The {contract.resize_mode} side resized to {contract.resize} pixels ({how})"
    verb = {"shorter": "Resized to cover", "longer": "Resized to fit into", "squeeze": "Squeezed into"}
    height, width = sides(contract.resize)
    return f"{verb[contract.resize_mode]} {height} x {width} pixels (height x width; {how})"


def _cut(contract: Preprocess) -> str:
    height, width = contract.size
    if contract.fill is not None:
        return f", in the middle of {height} x {width} pixels of the colour {contract.fill}"
    whole = contract.resize_mode == "squeeze" and contract.size == sides(contract.resize)
    return "" if whole else f", the {height} x {width} centre cut out"


def _scaled(contract: Preprocess) -> str:
    if contract.rescale == 1:
        return "Levels of 0 to 255,"
    return "Scaled to [0, 1], then" if contract.white == 255 else f"Multiplied by {contract.rescale:g}, then"


def _measured(draft: Draft, noise_floor: float | None) -> list[str]:
    trial = draft.measured
    rows: list[tuple[str, str, str]] = []
    for accuracy, part in (
        (trial.certification, "held out"),
        (trial.accuracy, "it was chosen on" if trial.certification else "of the validation data"),
    ):
        if accuracy is None:
            continue
        top1 = _interval(wilson(accuracy.correct, accuracy.images), ".1%")
        paired, lost = accuracy.paired, "top-1 lost against the baseline"
        drop = (lost, f"{paired.drop:+.2%}", _interval(paired.interval(), "+.2%"))
        if trial.same_answers is not None:
            drop = (lost, "none: same answers", "–")
        rows += [
            (f"top-1, {plural(accuracy.images, 'photo')} {part}", f"{accuracy.top1:.1%}", top1),
            drop,
            (f"macro F1{accuracy.macro_scope()}", f"{accuracy.macro_f1:.3f}", "–"),
        ]
    if (latency := trial.latency) is not None:
        rows.append((f"latency p50, batch {latency.batch_size}", f"{latency.p50_ns / 1e6:.3g} ms", "–"))
        if latency.round_log_ratios:
            ratio = Ratio(latency.round_log_ratios)
            speedup = f"{ratio.speedup:.2f} x"
            ends = ratio.interval if trial.status == "ok" else None
            rows.append(("speed-up against the baseline", speedup, _interval(ends, ".2f")))
    if trial.variant != BASELINE and (more := throughput(trial)) is not None:
        photos = f"{more.ratio:.2f} x"
        rows.append(("photos a second against the baseline", photos, _interval(more.interval, ".2f")))
    if trial.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{trial.peak_memory_bytes / 1e6:.0f} MB", "–"))
    table = ["| | value | 95 % interval |", "| --- | ---: | ---: |"]
    table += [f"| {name} | {value} | {interval} |" for name, value, interval in rows]
    return [*(table if rows else ["Nothing was measured."]), "", _conditions(draft, noise_floor)]


def _conditions(draft: Draft, noise_floor: float | None) -> str:
    trial, machine = draft.measured, draft.machine
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    threads = f", {plural(trial.threads, 'thread')}" if trial.threads is not None else ""
    noise = f" Two copies of the same model differed by {noise_floor:.1%} there." if noise_floor else ""
    return (
        f"On {machine.cpu} ({plural(machine.cores, 'core')}, {machine.memory_bytes / 2**30:.0f} GiB{gpus}), "
        f"{machine.system}, with {trial.backend} on {trial.device}{threads}.{noise}"
    )


def _limits(draft: Draft) -> list[str]:
    lines = []
    if draft.provenance.synthetic:
        lines.append(
            "- **Trained and measured on the bundled sample, whose leaves are drawn by a program: the "
            "accuracy says nothing about real photos. Not for use in a field.**"
        )
    parts = [part for part in (draft.measured.accuracy, draft.measured.certification) if part is not None]
    if absent := set.intersection(*(set(part.absent_classes) for part in parts)) if parts else set():
        names = some([draft.class_names[label] for label in sorted(absent)])
        lines.append(f"- **No validation photo showed {names}: whether it tells them is unknown.**")
    lines += [
        f"- It answers with one of its {len(draft.class_names)} classes whatever the photo shows.",
        "- The accuracy is that of the validation photos; other cameras, seasons and fields differ.",
        "- Times and memory are those of the machine above; measure again on yours.",
    ]
    if (saturation := draft.measured.saturation) is not None:
        remedy = ": build it with `reduce_range` for those" if saturation.layers_at_risk else ""
        lines.append(f"- Its {saturation_words(saturation)}{remedy}.")
    elif draft.artifact.precision == "int8" and draft.artifact.format != "onnx":
        lines.append(
            f"- Its INT8 sums were checked on {draft.machine.cpu} alone: what 16-bit sums, as on x86 without "
            f"VNNI, would change is not emulated for {draft.runtime.backend}. `overflow_fix: enable` makes "
            "them safe."
        )
    if (audit := draft.measured.audit) is not None:
        lines.append(f"- What ran when it was measured: {audit.verdict}.")
    if draft.artifact.bound_to is not None:
        lines.append(f"- The file runs on this machine only: {draft.artifact.bound_to}.")
    latency = draft.measured.latency
    if latency is not None and not latency.settled:
        lines.append("- Its times had not settled when they were taken: read them as rough.")
    if draft.provenance.forced is not None:
        lines.append(f"- Published against the tool's advice. The reason given: {draft.provenance.forced}")
    return lines


def saturation_words(saturation: Saturation) -> str:
    """Where the INT8 sums are exact, as a phrase; what was checked on photos only is marked."""
    exact = f"INT8 sums are exact on {' and '.join(EXACT_ANYWAY)}"
    if layers := len(saturation.layers_at_risk):
        moved = f"logits move by up to {100 * saturation.logit_error:.1f} %"
        changed = f"{saturation.top1_changed} of {plural(saturation.photos, 'photo')} change class"
        return f"{exact}; on {AT_RISK} they saturate in {plural(layers, 'layer')}: {moved}, {changed}"
    return f"{exact}; on {AT_RISK} none saturated on {plural(saturation.photos, 'photo')}"


def _provenance(draft: Draft) -> list[str]:
    origin = draft.provenance
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(origin.libraries.items()))
    runtime = f"{draft.runtime.backend} {draft.measured.runtime_version}"
    return [
        *([f"- Runtime: {runtime}"] if draft.measured.runtime_version else []),
        f"- Run `{origin.run_id}`, variant `{origin.variant}` (`{origin.variant_digest[:12]}`)",
        f"- Checkpoint `{origin.checkpoint_digest[:12]}`",
        f"- Validation photos `{origin.validation_digest[:12]}`, calibration photos "
        + (f"`{origin.calibration_digest[:12]}`" if origin.calibration_digest else "none"),
        f"- Model file `{draft.artifact.file}`, sha256 `{draft.artifact.sha256}`",
        f"- Class list `{sha256_bytes(chr(10).join(draft.class_names).encode())[:12]}`",
        f"- Libraries: {libraries or 'not recorded'}",
    ]


def _triple(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _shape(artifact: ArtifactInfo) -> str:
    n, c, h, w = artifact.input_shape
    sizes = (n, h, w, c) if artifact.pixels else (n, c, h, w)
    shown = " x ".join(str(size) if size else "any" for size in sizes)
    return f"{shown} {'uint8 (N, H, W, C)' if artifact.pixels else 'float32 (N, C, H, W)'}"


def _interval(bounds: Interval | None, form: str) -> str:
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}" if bounds else "–"
