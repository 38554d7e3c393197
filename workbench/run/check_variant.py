"""One variant before it is timed: built, opened in a process of its own, held against the source model."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from workbench.backends import NullRuntime, OrtRuntime, Runtime, backend_of, takes_onnx
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.errors import Unsuited, WorkbenchError
from workbench.measure.accuracy import accuracy, parity
from workbench.measure.records import BASELINE, Accuracy, GpuUse, Saturation
from workbench.measure.session_process import Memory, Opened
from workbench.measure.split import Parts
from workbench.measure.worker import Worker
from workbench.model.export.settings import Export
from workbench.photos.contract import Preprocess
from workbench.results.folder import RunFolder
from workbench.results.reasons import Cause, Failed, OutOfTime, Skipped
from workbench.results.records import TrialResult
from workbench.run import build
from workbench.run.prepare import Prepared, overridden
from workbench.system.child import ChildError, call
from workbench.system.files import digest_of, write_arrays, write_atomic
from workbench.system.machine import usable_cores
from workbench.system.nvml import Reader, opened_gpu
from workbench.system.packages import versions
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant
from workbench.workspace.requirements import unmet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MEMORY_CALLS = 20  # enough for a runtime's arenas to reach their size
REFERENCE_TIMEOUT_S = 3600.0
SATURATION_TIMEOUT_S = 600.0

# What every run measures against: the plain FP32 export on onnxruntime, one thread, by the first exporter
# that can take the network.
BASELINE_EXPORTS = (Export(exporter="dynamo", opset=18), Export(exporter="torchscript", opset=17))


@dataclass(frozen=True, slots=True)
class Built:
    """build_s: None where everything came from the cache."""

    key: str
    artifact: Artifact
    build_s: float | None


@dataclass(slots=True)
class Context:
    """What a run knows so far. build_timeout_s: for one variant's export and steps together."""

    prepared: Prepared
    folder: RunFolder
    parts: Parts
    build_timeout_s: float
    report: Report
    stage: Progress
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    reference: "NDArray[np.float32] | None" = None
    baseline: "NDArray[np.float32] | None" = None
    empty_worker: Memory | None = None
    built: dict[str, Built] = field(default_factory=dict)
    baseline_variant: Variant | None = None
    baseline_memory_bytes: int | None = None
    contracts: dict[str, Preprocess] = field(default_factory=dict)

    @property
    def job(self) -> build.Job:
        return self.prepared.job

    def job_of(self, variant: str) -> build.Job:
        """With the photos as this variant's preprocessing cuts them."""
        contract = self.contracts.get(variant, self.job.contract)
        return self.prepared.job_for(contract, self.report)


def build_baseline(context: Context) -> tuple[Variant, Built]:
    """The baseline, by the first exporter that can take the network. Raises WorkbenchError where none can."""
    what = "plain FP32 export, onnxruntime, 1 thread"
    # An ONNX file is taken as it is, whatever its opset.
    exports = (Export(),) if context.prepared.source_kind == "onnx" else BASELINE_EXPORTS
    choices = [Variant(BASELINE, BASELINE, what, export, (), OrtRuntime()) for export in exports]
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
            return variant, build_variant(context, variant, log, context.build_timeout_s)
        except ChildError as error:
            problems[how] = error
    (first, *others) = problems.values()
    message = "the FP32 baseline cannot be exported, so there is nothing to compare with"
    if all(error.message == first.message for error in others):
        raise WorkbenchError(f"{message}: {first.message}", hint=first.hint or f"see {log}")
    listed = "\n".join(f"  {how}: {error.message}" for how, error in problems.items())
    raise WorkbenchError(f"{message}\n{listed}", hint=f"see {log}")


def build_variant(context: Context, variant: Variant, log: Path, timeout_s: float) -> Built:
    """From the cache, or in a process of its own. Raises ChildError."""
    if (found := build.find(context.job_of(variant.name), variant)) is not None:
        return Built(*found, build_s=None)
    started = time.monotonic()
    key, artifact = call(
        build.build,
        context.job_of(variant.name),
        variant,
        log=log,
        timeout_s=timeout_s,
        label="the build",
    )
    return Built(key, artifact, time.monotonic() - started)


def reference_logits(context: Context) -> "NDArray[np.float32]":
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
            build.save_reference,
            job,
            context.built[BASELINE].artifact,
            path,
            log=context.folder.path / "logs" / "reference.txt",
            timeout_s=REFERENCE_TIMEOUT_S,
            label="running the source model",
        )
    logits: NDArray[np.float32] = np.load(path)
    return logits


def empty_worker(context: Context) -> Memory:
    """The memory of a worker with no runtime in it, doing all the rest."""
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
    with Worker(artifact, NullRuntime(), context.job.photos, log=log) as worker:
        worker.ready()
        worker.burst(MEMORY_CALLS)
        return worker.memory()


def check(context: Context, variant: Variant) -> TrialResult:
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
    if (reason := not_here(context, variant)) is not None:
        return ended(result, Skipped(variant=variant.name, message=reason))
    try:
        contract = overridden(context.job.contract, variant.preprocess)
        if contract != context.job.contract:
            context.contracts[variant.name] = contract
            result = result.model_copy(update={"preprocess": contract})
        log = context.folder.log(variant.name)
        built = context.built.get(variant.name) or build_variant(
            context, variant, log, context.build_timeout_s
        )
        context.built[variant.name] = built
        return _checked(context, variant, built, result)
    except WorkbenchError as error:
        return ended(result, cause_of(variant, error))


def cause_of(variant: Variant, error: WorkbenchError) -> Skipped | Failed:
    kind = Skipped if isinstance(error, Unsuited) else Failed
    return kind(variant=variant.name, message=error.message, hint=error.hint)


def ended(result: TrialResult, cause: Cause) -> TrialResult:
    """The trial with why it did not end `ok`."""
    match cause:
        case Skipped() | Failed():
            reason = f"{cause.message} ({cause.hint})" if cause.hint else cause.message
            return result.model_copy(update={"status": cause.kind, "reason": reason, "cause": cause})
        case OutOfTime():
            return result.model_copy(update={"status": "skipped", "cause": cause})
        case _:
            return result.model_copy(update={"status": "pruned", "cause": cause})


def not_here(context: Context, variant: Variant) -> str | None:
    """Why this variant cannot be tried on this machine or with this model, or None."""
    if (missing := unmet(variant.needs)) is not None:
        return missing
    cores = usable_cores()
    if variant.runtime.intra_threads > cores:
        return f"it asks for {variant.runtime.intra_threads} threads; this machine has {cores} processors"
    if context.prepared.source_kind == "onnx":
        if not takes_onnx(variant.runtime):
            return f"the model comes as an ONNX file, which {variant.runtime.backend} does not run"
        have = context.built[BASELINE].artifact.info.opset
        if "opset" in variant.export.model_fields_set and variant.export.opset != have:
            return f"the model comes as an ONNX file of opset {have}; it is not exported again"
    return backend_of(variant.runtime).unavailable(variant.runtime)


def _checked(context: Context, variant: Variant, built: Built, result: TrialResult) -> TrialResult:
    """Open the artifact and run every validation photo through it. Raises WorkbenchError."""
    log = context.folder.log(variant.name)
    photos = context.job_of(variant.name).photos

    def report(doing: str) -> None:
        context.report(replace(context.stage, what=f"{variant.name}, {doing}"))

    # NVML is opened for GPU variants only, and here: in the worker its memory would count as the runtime's.
    with opened_gpu() if variant.runtime.device == "cuda" else nullcontext() as gpu:
        before_bytes = gpu.used_bytes() if gpu is not None else None
        with Worker(built.artifact, variant.runtime, photos, log=log) as worker:
            if backend_of(variant.runtime).prepare is not None:
                report("building the engine, or opening the one that is kept")
            worker.ready()
            opened = worker.describe()
            worker.burst(MEMORY_CALLS)
            # Before the photos: they are mapped from a file, and its pages would count.
            memory = worker.memory()
            on_gpu = _on_gpu(variant.runtime, opened, gpu, worker.pid, before_bytes)
            audit = worker.audit()
            logits = worker.evaluate(lambda done, total: report(f"photo {done} of {total}"))
    assert context.reference is not None
    _as_asked(variant, built.artifact, opened)
    agreement = parity(logits, context.reference)
    if variant.name == BASELINE:
        context.baseline = logits
    assert context.baseline is not None and context.empty_worker is not None
    write_arrays(context.folder.predictions(variant.name), logits=logits)
    info = built.artifact.info
    built_now = opened.engine is not None and opened.engine.build_s is not None
    return result.model_copy(
        update={
            "device": opened.device,
            "provider": opened.provider,
            "threads": opened.threads,
            "opset": info.opset,
            "precision": info.precision,
            "note": info.note,
            "artifact_digest": built.artifact.digest,
            "artifact_key": built.key,
            "size_bytes": info.total_bytes,
            "audit": audit,
            "gpu": on_gpu,
            "saturation": None if opened.device == "cuda" else _saturation(context, variant, built),
            "build_s": built.build_s,
            # Not where the engine was built meanwhile: the next start finds it.
            "load_s": None if built_now else opened.load_s,
            "cold_start_s": None if built_now else opened.cold_start_s,
            "peak_memory_bytes": max(0, memory.peak_bytes - context.empty_worker.peak_bytes),
            "steady_memory_bytes": max(0, memory.steady_bytes - context.empty_worker.steady_bytes),
            "parity": agreement,
            "accuracy": _accuracy_on(context, context.parts.selection, logits),
            "certification": _accuracy_on(context, context.parts.certification, logits),
        }
    )


def _on_gpu(
    runtime: Runtime, opened: Opened, gpu: Reader | None, pid: int, before_bytes: int | None
) -> GpuUse | None:
    """What is known of a GPU variant before it is timed; None for the others.

    before_bytes: the GPU's memory in use before its process started.
    """
    if runtime.device != "cuda":
        return None
    memory_bytes, whole_gpu = (None, False) if gpu is None else gpu.memory_of(pid, before_bytes)
    return GpuUse(memory_bytes=memory_bytes, whole_gpu=whole_gpu, engine=opened.engine)


def _saturation(context: Context, variant: Variant, built: Built) -> Saturation | None:
    """What 16-bit accumulation would change; remembered by the artifact and the photos it was found on."""
    job = context.job_of(variant.name)
    info = built.artifact.info
    if info.format != "onnx" or info.precision != "int8" or job.calibration is None:
        return None
    code = [build.code_digest(), versions(*backend_of(OrtRuntime()).PACKAGES)]
    key = digest_of([built.artifact.digest, job.calibration.digest, code, "saturation"])
    path = job.cache / "saturation" / f"{key}.json"
    if path.exists():
        return TypeAdapter(Saturation | None).validate_json(path.read_bytes())
    found = call(
        build.saturation,
        job,
        built.artifact,
        log=context.folder.log(variant.name),
        timeout_s=SATURATION_TIMEOUT_S,
        label="the emulation of 16-bit accumulation",
    )
    write_atomic(path, TypeAdapter(Saturation | None).dump_json(found))
    return found


def _accuracy_on(context: Context, rows: Sequence[int], logits: "NDArray[np.float32]") -> Accuracy | None:
    if not rows:
        return None
    assert context.baseline is not None
    chosen = list(rows)
    labels = [context.job.photos.labels[row] for row in chosen]
    return accuracy(logits[chosen], context.baseline[chosen], labels)


def _as_asked(variant: Variant, artifact: Artifact, opened: Opened) -> None:
    """What was asked for is what was built and opened, or WorkbenchError: never a silent fallback."""
    asked_opset = variant.export.opset if "opset" in variant.export.model_fields_set else artifact.info.opset
    for what, asked, got in (
        ("opset", asked_opset if artifact.info.format == "onnx" else None, artifact.info.opset),
        ("device", variant.runtime.device, opened.device),
        ("threads", variant.runtime.intra_threads, opened.threads),
    ):
        if asked != got:
            raise WorkbenchError(f"asked for {what} {asked}, got {got}")
