"""A run, from prepared inputs and variants to results: the one place that knows the order of things."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import build, machine
from workbench.artifact import Artifact, ArtifactInfo
from workbench.backends import BACKENDS, Runtime
from workbench.backends.packages import versions
from workbench.compare import Comparison, compare
from workbench.errors import WorkbenchError
from workbench.export import Export
from workbench.files import digest_of, translated_os_errors, write_arrays, write_atomic
from workbench.isolate import ChildError, call
from workbench.measure import latency
from workbench.measure.accuracy import accuracy, parity
from workbench.measure.stats import Ratio
from workbench.measure.worker import Opened, Worker
from workbench.prepare import Prepared, prepare
from workbench.progress import Progress, Report
from workbench.recipe import BASELINE, Variant
from workbench.report import html
from workbench.results import RunFolder, RunInfo, TrialResult
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TWIN = f"{BASELINE} (again)"
GOLDEN_IMAGES = 8
MEMORY_CALLS = 20  # enough for a runtime's arenas to reach their size
REFERENCE_TIMEOUT_S = 3600.0
LIBRARIES = (
    "krishi-bench", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "onnxslim", "onnxsim", "numpy", "pillow",
)  # fmt: skip

# What every run measures against: the plain FP32 export on onnxruntime, one thread, by the first exporter
# that can take the network.
BASELINE_EXPORTS = (Export(exporter="dynamo", opset=18), Export(exporter="torchscript", opset=17))


@dataclass(frozen=True, slots=True)
class Options:
    """build_timeout_s: for one variant's export and steps together."""

    plan: latency.Plan = field(default_factory=latency.Plan)
    build_timeout_s: float = 900.0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """build_s: None where everything came from the cache."""

    key: str
    artifact: Artifact
    build_s: float | None


@dataclass(slots=True)
class _Context:
    """What a run knows so far."""

    prepared: Prepared
    folder: RunFolder
    options: Options
    report: Report
    stage: Progress
    reference: "NDArray[np.float32] | None" = None
    baseline: "NDArray[np.float32] | None" = None
    empty_worker_bytes: int = 0
    built: dict[str, Built] = field(default_factory=dict)

    @property
    def job(self) -> build.Job:
        return self.prepared.job


def run_workspace(
    workspace: Workspace, variants: Sequence[Variant], options: Options, report: Report
) -> Comparison:
    """A whole run in a new folder of the workspace's results, ending with `report.html`.

    Raises WorkbenchError where the workspace cannot be used; nothing is left behind then.
    """
    folder = RunFolder.create(workspace.results)
    try:
        calibrate = any(step.use == "static_int8" for variant in variants for step in variant.steps)
        prepared = prepare(workspace, report, calibrate=calibrate)
        for result in run(prepared, variants, folder, options, report):
            if result.status != "ok":
                report(Progress(result.status, 0, 0, f"{result.variant}: {result.reason}"))
    finally:
        folder.remove_if_never_begun()
    comparison = compare(folder.info(), folder.trials())
    write_atomic(folder.path / "report.html", html.render([comparison]).encode())
    return comparison


def run(
    prepared: Prepared, variants: Sequence[Variant], folder: RunFolder, options: Options, report: Report
) -> Iterator[TrialResult]:
    """Build, check and time the variants; every result is on disk before it is handed over.

    A variant that fails or cannot run here ends with its reason, and the run goes on. Only a baseline
    that cannot be built or measured ends the run, with WorkbenchError.
    """
    context = _Context(prepared, folder, options, report, Progress("preparing", 0, 1))
    baseline, built = _baseline(context)
    context.built[BASELINE] = built
    everything = [baseline, *variants]
    info = _info(context, everything)
    folder.save_info(info)
    _save_golden(context)
    context.reference = _reference(context)
    context.empty_worker_bytes = _empty_worker_bytes(context)
    checked: list[tuple[Variant, TrialResult]] = []
    for number, variant in enumerate(everything):
        context.stage = Progress("building and checking", number, len(everything), variant.name)
        report(context.stage)
        result = _trial(context, variant)
        folder.append(result)
        if result.status == "ok":
            checked.append((variant, result))
        elif variant.name == BASELINE:
            raise WorkbenchError(f"the baseline cannot be measured: {result.reason}")
        else:
            yield result
    measured = _time(context, [variant for variant, _ in checked])
    floor = Ratio(latency.round_log_ratios(measured, TWIN, BASELINE)).interval
    folder.save_info(
        info.model_copy(update={"noise_floor": floor and max(abs(math.log(bound)) for bound in floor)})
    )
    for _, result in checked:
        final = _with_latency(result, measured)
        folder.append(final)
        yield final


def _info(context: _Context, variants: Sequence[Variant]) -> RunInfo:
    prepared = context.prepared
    workspace = prepared.workspace
    return RunInfo(
        run_id=context.folder.run_id,
        created_at=datetime.now(UTC),
        arguments=context.options.arguments,
        name=workspace.name,
        workspace=str(workspace.file or "bundled sample"),
        machine=machine.collect(),
        libraries=versions(*LIBRARIES),
        checkpoint_digest=context.job.source_digest,
        validation_digest=prepared.validation.digest,
        validation_images=len(prepared.validation),
        calibration_digest=prepared.calibration and prepared.calibration.digest,
        class_names=prepared.class_names,
        preprocess=context.job.contract,
        budget=workspace.budget,
        baseline=BASELINE,
        runtimes={variant.name: variant.runtime for variant in variants},
        synthetic=workspace.synthetic,
    )


def _baseline(context: _Context) -> tuple[Variant, Built]:
    what = "plain FP32 export, onnxruntime, 1 thread"
    choices = [Variant(BASELINE, BASELINE, what, export, (), Runtime()) for export in BASELINE_EXPORTS]
    for variant in choices:
        # An exporter that could not take the network last time is not tried again.
        if (found := build.find(context.job, variant)) is not None:
            return variant, Built(*found, build_s=None)
    # Logged in the cache: the run folder goes where there is no baseline to begin with.
    log = context.job.cache / "logs" / "baseline.txt"
    problems: dict[str, ChildError] = {}
    for variant in choices:
        how = f"{variant.export.exporter}, opset {variant.export.opset}"
        context.report(Progress("building the baseline", 0, 1, how))
        try:
            return variant, _build(context, variant, log)
        except ChildError as error:
            problems[how] = error
    (first, *others) = problems.values()
    message = "the FP32 baseline cannot be exported, so there is nothing to compare with"
    if all(error.message == first.message for error in others):
        raise WorkbenchError(f"{message}: {first.message}", hint=first.hint or f"see {log}")
    listed = "\n".join(f"  {how}: {error.message}" for how, error in problems.items())
    raise WorkbenchError(f"{message}\n{listed}", hint=f"see {log}")


def _build(context: _Context, variant: Variant, log: Path) -> Built:
    """From the cache, or in a process of its own. Raises ChildError."""
    if (found := build.find(context.job, variant)) is not None:
        return Built(*found, build_s=None)
    started = time.monotonic()
    key, artifact = call(
        "workbench.build:build",
        context.job,
        variant,
        log=log,
        timeout_s=context.options.build_timeout_s,
        label="the build",
    )
    return Built(key, artifact, time.monotonic() - started)


def _reference(context: _Context) -> "NDArray[np.float32]":
    """(n, classes) FP32 logits of the source model itself on the validation photos; remembered."""
    import numpy as np

    job = context.job
    key = digest_of(
        [job.source_digest, job.photos.digest, build.code_digest(), versions("torch", "onnxruntime")]
    )
    path = job.cache / "reference" / f"{key}.npy"
    if not path.exists():
        context.report(Progress("running the source model", 0, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        call(
            "workbench.build:save_reference",
            job,
            context.built[BASELINE].artifact,
            path,
            log=context.folder.path / "logs" / "reference.txt",
            timeout_s=REFERENCE_TIMEOUT_S,
            label="running the source model",
        )
    logits: NDArray[np.float32] = np.load(path)
    return logits


def _save_golden(context: _Context) -> None:
    """A few photos, evenly spread over the classes, that a bundle of this run will be checked with."""
    import numpy as np

    pixels = context.job.photos.pixels()
    indices = np.unique(np.linspace(0, len(pixels) - 1, GOLDEN_IMAGES).astype(np.int64))
    write_arrays(context.folder.path / "golden.npz", pixels=pixels[indices], indices=indices)


def _empty_worker_bytes(context: _Context) -> int:
    """The peak memory of a worker with no runtime in it, doing all the rest."""
    info = ArtifactInfo(
        format="null",
        file="",
        sha256="",
        size_bytes=0,
        input_shape=context.job.input_shape,
        classes=context.job.classes,
    )
    log = context.folder.path / "logs" / "empty-worker.txt"
    artifact = Artifact(context.folder.path, info)
    with Worker(artifact, Runtime(backend="null"), context.job.photos, log=log) as worker:
        worker.ready()
        worker.burst(MEMORY_CALLS)
        return worker.peak_memory_bytes()


def _trial(context: _Context, variant: Variant) -> TrialResult:
    """Build the variant and hold its answers against the source model's and the baseline's."""
    result = TrialResult(
        variant=variant.name,
        recipe=variant.recipe,
        digest=variant.digest,
        status="ok",
        backend=variant.runtime.backend,
        device=variant.runtime.device,
        steps=len(variant.steps),
    )
    if (reason := _not_here(context, variant)) is not None:
        return result.model_copy(update={"status": "skipped", "reason": reason})
    try:
        built = context.built.get(variant.name) or _build(context, variant, context.folder.log(variant.name))
        context.built[variant.name] = built
        return _checked(context, variant, built, result)
    except WorkbenchError as error:
        reason = f"{error.message} ({error.hint})" if error.hint else error.message
        return result.model_copy(update={"status": "failed", "reason": reason})


def _not_here(context: _Context, variant: Variant) -> str | None:
    """Why this variant cannot be tried on this machine or with this model, or None."""
    if context.prepared.source_kind == "onnx":
        if variant.runtime.backend == "torch":
            return "the model comes as an ONNX file, which torch does not run"
        have = context.built[BASELINE].artifact.info.opset
        if "opset" in variant.export.model_fields_set and variant.export.opset != have:
            return f"the model comes as an ONNX file of opset {have}; it is not exported again"
    return BACKENDS[variant.runtime.backend].unavailable(variant.runtime)


def _checked(context: _Context, variant: Variant, built: Built, result: TrialResult) -> TrialResult:
    """Open the artifact and run every validation photo through it. Raises WorkbenchError."""
    log = context.folder.log(variant.name)
    with Worker(built.artifact, variant.runtime, context.job.photos, log=log) as worker:
        worker.ready()
        opened = worker.describe()
        worker.burst(MEMORY_CALLS)
        # Before the photos: they are mapped from a file, and its pages would count.
        memory = worker.peak_memory_bytes() - context.empty_worker_bytes
        logits = worker.evaluate(
            lambda done, total: context.report(
                replace(context.stage, what=f"{variant.name}, photo {done} of {total}")
            )
        )
    assert context.reference is not None
    _as_asked(variant, built.artifact, opened)
    agreement = parity(logits, context.reference)
    if variant.name == BASELINE:
        context.baseline = logits
    assert context.baseline is not None
    write_arrays(context.folder.predictions(variant.name), logits=logits)
    info = built.artifact.info
    return result.model_copy(
        update={
            "device": opened.device,
            "provider": opened.provider,
            "threads": opened.threads,
            "opset": info.opset,
            "precision": info.precision,
            "artifact_digest": info.sha256,
            "artifact_key": built.key,
            "size_bytes": info.size_bytes,
            "build_s": built.build_s,
            "load_s": opened.load_s,
            "peak_memory_bytes": max(0, memory),
            "parity": agreement,
            "accuracy": accuracy(logits, context.baseline, context.job.photos.labels),
        }
    )


def _as_asked(variant: Variant, artifact: Artifact, opened: Opened) -> None:
    """What was asked for is what was built and opened, or WorkbenchError: never a silent fallback."""
    asked_opset = variant.export.opset if "opset" in variant.export.model_fields_set else artifact.info.opset
    for what, asked, got in (
        ("opset", asked_opset if artifact.info.format == "onnx" else None, artifact.info.opset),
        ("device", variant.runtime.device, opened.device),
        ("threads", variant.runtime.threads, opened.threads),
    ):
        if asked != got:
            raise WorkbenchError(f"asked for {what} {asked}, got {got}")


def _time(context: _Context, variants: Sequence[Variant]) -> latency.Measured:
    """Time all that passed, and a second copy of the baseline to see what the machine can tell apart."""
    artifacts = {v.name: (context.built[v.name].artifact, v.runtime) for v in variants}
    artifacts[TWIN] = artifacts[BASELINE]
    # One set of processors for all, so that none is compared on a quieter one.
    threads = max(runtime.threads for _, runtime in artifacts.values())
    cpus = machine.available_cpus()[-threads:]
    measured = latency.measure(
        list(artifacts),
        lambda name: Worker(*artifacts[name], context.job.photos, log=_latency_log(context, name), cpus=cpus),
        context.options.plan,
        progress=lambda done, total: context.report(
            Progress("timing", done, total, f"{len(artifacts)} sessions")
        ),
    )
    samples = context.folder.path / "latency.parquet"
    with translated_os_errors(samples):
        latency.save_samples(measured, samples)
    if (reason := measured.failed.get(BASELINE) or measured.failed.get(TWIN)) is not None:
        raise WorkbenchError(f"the baseline failed while it was timed: {reason}")
    return measured


def _latency_log(context: _Context, name: str) -> Path:
    return context.folder.log(BASELINE if name == TWIN else name)


def _with_latency(result: TrialResult, measured: latency.Measured) -> TrialResult:
    if (reason := measured.failed.get(result.variant)) is not None:
        return result.model_copy(update={"status": "failed", "reason": f"while timing: {reason}"})
    return result.model_copy(update={"latency": latency.summarize(measured, result.variant, BASELINE)})
