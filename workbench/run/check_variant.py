"""One variant before it is timed: opened in a process of its own, held against the source model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from workbench.backends import NullRuntime, OrtRuntime, Runtime, backend_of
from workbench.backends.artifact import Artifact
from workbench.backends.null import null_artifact
from workbench.errors import Unsuited, WorkbenchError
from workbench.measure.accuracy import accuracy, parity
from workbench.measure.agreement import coarsest, same_answers
from workbench.measure.heat_launchers import HeatLaunchers
from workbench.measure.records import BASELINE, Accuracy, GpuUse, SameAnswers, Saturation
from workbench.measure.session_process import Memory, Opened
from workbench.measure.split import Parts
from workbench.measure.worker import Worker
from workbench.photos.contract import Preprocess
from workbench.results.folder import RunFolder
from workbench.results.reasons import Cause, Failed, OutOfTime, Skipped, TooLarge
from workbench.results.records import RunInfo, TrialResult
from workbench.run import build
from workbench.run.availability import not_here
from workbench.run.build_variant import Built, build_variant
from workbench.run.conversion_check import check_as_asked, hold_answers, hold_runtime
from workbench.run.prepare import Prepared, overridden
from workbench.system.child import call
from workbench.system.environments import VirtualEnvironment
from workbench.system.files import digest_of, write_arrays, write_atomic
from workbench.system.nvml import Reader, opened_gpu
from workbench.system.packages import versions
from workbench.system.progress import Progress, Report
from workbench.system.spans import Spans
from workbench.workspace.recipe import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MEMORY_CALLS = 20  # enough for a runtime's arenas to reach their size


@dataclass(frozen=True, slots=True)
class Context:
    """What a run measures with, and against.

    info: as the run began. exported: the plain FP32 export. reference: (n, classes) FP32 logits of the source
    model on the validation photos. empty_worker: the memory of a worker with no runtime in it.
    build_timeout_s: for one variant's export and steps together. given: names of the artifacts that are
    measured as they are. unmade: environments that could not be made, and why. share: the photos are some of
    those of a class of devices, and what is held to all of them is not held here.
    """

    prepared: Prepared
    folder: RunFolder
    parts: Parts
    info: RunInfo
    baseline: Variant
    exported: Artifact
    reference: "NDArray[np.float32]"
    empty_worker: Memory
    build_timeout_s: float
    report: Report
    # These grow with every variant; `logits` holds those of the baseline once it is checked.
    built: dict[str, Built]
    runtimes: dict[str, Runtime]
    contracts: dict[str, Preprocess] = field(default_factory=dict)
    logits: "dict[str, NDArray[np.float32]]" = field(default_factory=dict)
    spans: Spans = field(default_factory=Spans)
    given: frozenset[str] = frozenset()
    unmade: Mapping[VirtualEnvironment, str] = field(default_factory=dict)
    share: bool = False

    @property
    def job(self) -> build.Job:
        return self.prepared.job

    def job_of(self, variant: str) -> build.Job:
        """With the photos as this variant's preprocessing cuts them."""
        contract = self.contracts.get(variant, self.job.contract)
        return self.prepared.job_for(contract, self.report)

    def worker(
        self, variant: str, cpus: Sequence[int] | None = None, launchers: HeatLaunchers | None = None
    ) -> Worker:
        """A process with the built variant in it, not yet ready. cpus: it may use; all by default.
        launchers: to fork it."""
        artifact, images = self.built[variant].artifact, self.job_of(variant).photos
        runtime, log = self.runtimes[variant], self.folder.log(variant)
        launcher = launchers.of(runtime) if launchers else None
        return Worker(artifact, runtime, images, log=log, cpus=cpus, launcher=launcher)

    def not_here(self, variant: Variant) -> str | None:
        if variant.name in self.given:
            environment = variant.runtime.environment()
            return (
                environment.unmade()
                if environment
                else backend_of(variant.runtime).unavailable(variant.runtime)
            )
        return not_here(variant, self.prepared.source_kind, self.exported, self.unmade)

    def build(self, variant: Variant, timeout_s: float) -> Built:
        """Build the variant unless this run has built it, or was given it. Raises WorkbenchError."""
        if variant.name in self.given:
            return self.built[variant.name]
        own = self.job.contract
        if (contract := overridden(own, variant.preprocess)) != own:
            self.contracts[variant.name] = contract
        if variant.name not in self.built:
            log = self.folder.log(variant.name)
            with self.spans.span("building"):
                self.built[variant.name] = build_variant(self.job_of(variant.name), variant, log, timeout_s)
        return self.built[variant.name]


def reference_logits(job: build.Job, baseline: Artifact, log: Path, report: Report) -> "NDArray[np.float32]":
    """(n, classes) FP32 logits of the source model itself on the validation photos; remembered."""
    import numpy as np

    code = [build.code_digest(), versions("torch", "onnxruntime")]
    key = digest_of([job.source_digest, job.photos.digest, *code])
    path = job.cache / "reference" / f"{key}.npy"
    if not path.exists():
        doing = "running the source model"
        report(Progress(doing, 0, 1))
        imports = (*build.RUNS_ONNX, "torch")
        call(
            build.save_reference, job, baseline, path, log=log, timeout_s=3600.0, label=doing, imports=imports
        )
    logits: NDArray[np.float32] = np.load(path)
    return logits


@contextmanager
def empty_worker(job: build.Job, folder: RunFolder) -> Iterator[Callable[[], Memory]]:
    """A worker with no runtime in it, doing all the rest; gives what waits for it and reads its memory."""
    artifact = null_artifact(folder.path, job.input_shape, job.classes)
    log = folder.path / "logs" / "empty-worker.txt"
    with Worker(artifact, NullRuntime(), job.photos, log=log) as worker:

        def memory() -> Memory:
            worker.ready()
            worker.burst(MEMORY_CALLS)
            return worker.memory()

        yield memory


def check(context: Context, variant: Variant, stage: Progress) -> TrialResult:
    """Build the variant and hold its answers against the source model's and the baseline's."""
    result = new_trial(variant)
    if (reason := context.not_here(variant)) is not None:
        return ended(result, Skipped(variant=variant.name, message=reason))
    try:
        return _checked(context, variant, context.build(variant, context.build_timeout_s), stage)
    except WorkbenchError as error:
        result = result.model_copy(update={"preprocess": context.contracts.get(variant.name)})
        return ended(result, cause_of(variant, error))


def new_trial(variant: Variant) -> TrialResult:
    """The record of a variant before anything is known of it."""
    return TrialResult(
        variant=variant.name,
        recipe=variant.recipe,
        digest=variant.digest,
        build_digest=variant.build_digest,
        status="ok",
        backend=variant.runtime.backend,
        device=variant.runtime.device,
        steps=len(variant.steps),
    )


def cause_of(variant: Variant, error: WorkbenchError) -> Skipped | Failed:
    kind = Skipped if isinstance(error, Unsuited) else Failed
    return kind(variant=variant.name, message=error.message, hint=error.hint)


def ended(result: TrialResult, cause: Cause) -> TrialResult:
    """The trial with why it did not end `ok`."""
    match cause:
        case Skipped() | Failed():
            reason = f"{cause.message} ({cause.hint})" if cause.hint else cause.message
            return result.model_copy(update={"status": cause.kind, "reason": reason, "cause": cause})
        case OutOfTime() | TooLarge():
            return result.model_copy(update={"status": "skipped", "cause": cause})
        case _:
            return result.model_copy(update={"status": "pruned", "cause": cause})


def _checked(context: Context, variant: Variant, built: Built, stage: Progress) -> TrialResult:
    """Open the artifact, run every validation photo through it, and hold it to what it came from.

    Raises WorkbenchError.
    """
    opened, logits, measured = _measured(context, variant, built, stage)
    check_as_asked(variant, built.artifact, opened)
    if variant.name == BASELINE:
        context.logits[BASELINE] = logits
    # First: of logits that are not finite it says just that.
    found = judged(context, variant, built.artifact, logits)
    if variant.name not in context.given:
        paths, log = context.prepared.validation.paths, context.folder.log(variant.name)
        hold_runtime(context.job_of(variant.name), variant, paths, log)
        if not context.share:
            hold_to_source(context, variant, built.artifact, logits)
    write_arrays(context.folder.predictions(variant.name), logits=logits)
    info = built.artifact.info
    return new_trial(variant).model_copy(
        update={
            **measured,
            "preprocess": context.contracts.get(variant.name),
            "opset": info.opset,
            "precision": info.precision,
            "note": info.note,
            "export": info.export,
            "artifact_digest": built.artifact.digest,
            "artifact_key": built.key,
            "size_bytes": info.total_bytes,
            "build_s": built.build_s,
            "calibration_images": calibration_images(variant, context.job),
            "saturation": None if opened.device == "cuda" else saturation(context, variant, built),
            **found,
        }
    )


def judged(
    context: Context, variant: Variant, artifact: Artifact, logits: "NDArray[np.float32]"
) -> dict[str, object]:
    """The fields of a trial that its logits on all photos decide, beside the baseline's in the context."""
    return {
        "parity": parity(logits, context.reference, context.info.outputs),
        "accuracy": _accuracy_on(context, context.parts.selection, logits),
        "certification": _accuracy_on(context, context.parts.certification, logits),
        "same_answers": same_as_baseline(context, variant, artifact, logits),
    }


def hold_to_source(
    context: Context, variant: Variant, artifact: Artifact, logits: "NDArray[np.float32]"
) -> None:
    """Hold its logits on all photos to the source model's. Raises WorkbenchError."""
    job, paths = context.job_of(variant.name), context.prepared.validation.paths
    reference = None if context.contracts.get(variant.name) else context.reference
    hold_answers(job, variant, artifact, logits, reference, paths, context.folder.log(variant.name))


def calibration_images(variant: Variant, job: build.Job) -> int | None:
    """How many photos it is calibrated on: at most those that there are."""
    asked = [count for step in variant.steps if (count := step.calibration_photos()) is not None]
    return min(max(asked), len(job.calibration)) if asked and job.calibration else None


def _measured(
    context: Context, variant: Variant, built: Built, stage: Progress
) -> "tuple[Opened, NDArray[np.float32], dict[str, object]]":
    """What the worker opened, the logits of all photos, and fields of the trial. Raises ChildError."""
    log, photos = context.folder.log(variant.name), context.job_of(variant.name).photos

    def report(doing: str) -> None:
        context.report(replace(stage, what=f"{variant.name}, {doing}"))

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
            on_gpu = _on_gpu(opened, gpu, worker.pid, before_bytes)
            audit = worker.audit()
            logits = worker.evaluate(lambda done, total: report(f"photo {done} of {total}"))
    # A start that built its engine is no start as the next ones are.
    built_now = opened.engine is not None and opened.engine.build_s is not None
    measured = {
        "device": opened.device,
        "provider": opened.provider,
        "threads": opened.threads,
        "runtime_version": opened.version,
        "audit": audit,
        "gpu": on_gpu,
        "load_s": None if built_now else opened.load_s,
        "cold_start_s": None if built_now else opened.cold_start_s,
        "peak_memory_bytes": max(0, memory.peak_bytes - context.empty_worker.peak_bytes),
        "steady_memory_bytes": max(0, memory.steady_bytes - context.empty_worker.steady_bytes),
    }
    return opened, logits, measured


def _on_gpu(opened: Opened, gpu: Reader | None, pid: int, before_bytes: int | None) -> GpuUse | None:
    """What is known of a GPU variant before it is timed; None for the others.

    before_bytes: the GPU's memory in use before its process started.
    """
    if opened.device != "cuda":
        return None
    memory_bytes, whole_gpu = (None, False) if gpu is None else gpu.memory_of(pid, before_bytes)
    return GpuUse(memory_bytes=memory_bytes, whole_gpu=whole_gpu, engine=opened.engine)


def saturation(context: Context, variant: Variant, built: Built) -> Saturation | None:
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
    log, doing = context.folder.log(variant.name), "the emulation of 16-bit accumulation"
    given = (job, built.artifact)
    found = call(build.saturation, *given, log=log, timeout_s=600.0, label=doing, imports=build.RUNS_ONNX)
    write_atomic(path, TypeAdapter(Saturation | None).dump_json(found))
    return found


def _accuracy_on(context: Context, rows: Sequence[int], logits: "NDArray[np.float32]") -> Accuracy | None:
    if not rows:
        return None
    chosen, labels = list(rows), context.job.photos.labels
    baseline, truth = context.logits[BASELINE][chosen], [labels[row] for row in rows]
    alone = context.parts.independent(rows)
    return accuracy(logits[chosen], baseline, truth, context.info.outputs, alone)


def same_as_baseline(
    context: Context,
    variant: Variant,
    artifact: Artifact,
    logits: "NDArray[np.float32]",
    rows: Sequence[int] | None = None,
) -> SameAnswers | None:
    """Whether it computes the baseline's function; only FP32 may, on the photos as the baseline gets them.

    rows: the photos of the logits; all by default.
    """
    if variant.name == BASELINE or variant.name in context.contracts:
        return None
    exact = coarsest((artifact.info.precision, variant.runtime.computes)) == "fp32"
    expected = context.logits[BASELINE]
    return same_answers(expected if rows is None else expected[list(rows)], logits) if exact else None
