"""A run, from a workspace and variants to results: the one place that knows the order of things."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from workbench import machine
from workbench.backends.packages import versions
from workbench.checking import Context, build_baseline, check, empty_worker, reference_logits
from workbench.compare import Comparison, compare
from workbench.dataset import copies
from workbench.errors import WorkbenchError
from workbench.files import write_arrays, write_atomic
from workbench.measure.latency import Plan
from workbench.measure.parts import split
from workbench.prepare import Prepared, prepare
from workbench.progress import Progress, Report
from workbench.recipe import BASELINE, Variant
from workbench.report import html
from workbench.results import RunFolder, RunInfo, TrialResult
from workbench.timing import time_all
from workbench.workspace import Workspace

GOLDEN_IMAGES = 8
LIBRARIES = (
    "krishi-bench", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "onnxslim", "onnxsim", "numpy", "pillow",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """build_timeout_s: for one variant's export and steps together."""

    plan: Plan = field(default_factory=Plan)
    build_timeout_s: float = 900.0
    arguments: tuple[str, ...] = ()


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
    photos = prepared.job.photos
    parts = split(
        prepared.validation,
        photos.pixels(),
        prepared.calibration,
        max_drop=prepared.workspace.budget.max_accuracy_drop,
    )
    context = Context(prepared, folder, parts, options.build_timeout_s, report, Progress("preparing", 0, 1))
    baseline, context.built[BASELINE] = build_baseline(context)
    everything = [baseline, *variants]
    context.runtimes = {variant.name: variant.runtime for variant in everything}
    info = _info(context, options)
    folder.save_info(info)
    _save_photos(context)
    context.reference = reference_logits(context)
    context.empty_worker = empty_worker(context)
    passed: list[TrialResult] = []
    for number, variant in enumerate(everything):
        context.stage = Progress("building and checking", number, len(everything), variant.name)
        report(context.stage)
        result = check(context, variant)
        folder.append(result)
        if result.status == "ok":
            passed.append(result)
        elif variant.name == BASELINE:
            raise WorkbenchError(f"the baseline cannot be measured: {result.reason}")
        else:
            yield result
    timed = time_all(context, info, passed, options.plan)
    folder.save_info(timed.info)
    for result in timed.trials:
        folder.append(result)
        yield result


def _info(context: Context, options: Options) -> RunInfo:
    prepared = context.prepared
    workspace = prepared.workspace
    return RunInfo(
        run_id=context.folder.run_id,
        created_at=datetime.now(UTC),
        arguments=options.arguments,
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
        runtimes=context.runtimes,
        synthetic=workspace.synthetic,
        certification_images=len(context.parts.certification),
        uncertified=context.parts.uncertified,
        leak=context.parts.leak,
        notes=tuple(note for note in [copies(prepared.validation)] if note),
    )


def _save_photos(context: Context) -> None:
    """What later analysis needs of the photos: labels and parts; and a few of them, evenly spread over the
    classes, that a bundle of this run will be checked with."""
    import numpy as np

    pixels = context.job.photos.pixels()
    indices = np.unique(np.linspace(0, len(pixels) - 1, GOLDEN_IMAGES).astype(np.int64))
    write_arrays(context.folder.path / "golden.npz", pixels=pixels[indices], indices=indices)
    certifies = np.zeros(len(pixels), dtype=bool)
    certifies[list(context.parts.certification)] = True
    labels = np.asarray(context.job.photos.labels)
    write_arrays(context.folder.path / "validation.npz", labels=labels, certifies=certifies)
