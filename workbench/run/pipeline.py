"""A run, from a workspace and variants to results: the one place that knows the order of things."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError, some
from workbench.measure.latency import Plan
from workbench.measure.power import Power, power
from workbench.measure.records import BASELINE
from workbench.measure.split import Parts, shared_photos, split
from workbench.model.graph.facts import NetworkFacts
from workbench.photos.dataset import Images, copies
from workbench.results.folder import RunFolder
from workbench.results.pairs import finalist_pairs, upgrades_of
from workbench.results.records import PhotoFiles, RunInfo, TrialResult
from workbench.results.remarks import Remark, graver_first
from workbench.results.verdict import Comparison, compare
from workbench.run.advice.advise import Advice, advise, advised, hindsight
from workbench.run.availability import not_here
from workbench.run.build import code_digest, network
from workbench.run.build_variant import Built, build_baseline
from workbench.run.check_variant import Context, calibration_images, check, empty_worker, reference_logits
from workbench.run.environments import NOTHING
from workbench.run.given import Given
from workbench.run.prepare import FEW, Prepared, notes_on, prepare
from workbench.run.sanity.answers import output_kind
from workbench.run.sanity.inputs import of_mode
from workbench.run.sanity.look import look, look_quickly, of_parity
from workbench.run.time_variants import time_all
from workbench.system import machine
from workbench.system.child import call
from workbench.system.environments import VirtualEnvironment
from workbench.system.files import digest_of, write_arrays, write_atomic
from workbench.system.launcher import sharing_imports
from workbench.system.machine import Machine
from workbench.system.packages import EXTRAS, versions
from workbench.system.progress import Progress, Report
from workbench.system.records import write_record
from workbench.system.spans import Spans
from workbench.workspace.recipe import Variant, to_yaml
from workbench.workspace.workspace import Workspace

GOLDEN_IMAGES = 8
# Recorded with a run: what may decide its numbers.
LIBRARIES = (
    "krishi-bench",
    "numpy",
    "pillow",
    *(n for n in EXTRAS if EXTRAS[n] not in ("serve", "report", "fleet")),
)


@dataclass(frozen=True, slots=True)
class Options:
    """build_timeout_s: for one variant's export and steps together.

    advised: try only the variants that the advisor finds worth trying. show_remarks: is given what the sanity
    look found, before anything but the baseline is built. show_power: is given what
    the photos can certify, before anything is built. spans: where the time goes. unmade: environments that
    could not be made, and why; the variants that need one are skipped. later: entered once
    the photos are read and left before anything is timed: what is needed after that may be made ready in it.
    """

    plan: Plan = field(default_factory=Plan)
    build_timeout_s: float = 900.0
    arguments: tuple[str, ...] = ()
    advised: bool = False
    show_remarks: Callable[[Sequence[Remark]], None] = lambda _: None
    show_power: Callable[[Power], None] = lambda _: None
    spans: Spans = field(default_factory=Spans)
    unmade: Mapping[VirtualEnvironment, str] = field(default_factory=dict)
    later: Callable[[], AbstractContextManager[None]] = nullcontext


@sharing_imports()
def run_workspace(
    workspace: Workspace,
    variants: Sequence[Variant],
    options: Options,
    report: Report,
    show_advice: Callable[[Advice], None] = lambda _: None,
) -> Comparison:
    """Build, check and time the variants in a new folder of the workspace's results.

    show_advice: is given the advice on the variants before any of them is built.
    Raises WorkbenchError where the workspace cannot be used, and leaves nothing behind then, and where the
    baseline cannot be measured. Any other variant that fails ends with its reason, and the run goes on.
    """
    folder = RunFolder.create(workspace.results)
    with ExitStack() as before_timing:
        try:
            calibrate = any("calibration" in step.READS for variant in variants for step in variant.steps)
            with options.spans.span("reading"):
                prepared = prepare(workspace, report, calibrate=calibrate)
            before_timing.enter_context(options.later())
            context, baseline = begin(prepared, folder, options, report, candidates=len(variants))
        finally:
            folder.remove_if_never_begun()
        with options.spans.span("advice"):
            advice = advice_for(context.prepared, context.built[BASELINE].artifact, variants, options.unmade)
        show_advice(advice)
        if options.advised:
            variants = advised(advice, variants, workspace.targets)
        context.runtimes.update({variant.name: variant.runtime for variant in variants})
        notes = (*context.info.notes, *_rough_ranges(context, variants))
        info = context.info.model_copy(update={"runtimes": context.runtimes, "notes": notes})
        folder.save_info(info)
        passed = [baseline, *_passed(context, variants)]
    for result in timed(context, info, passed, options.plan):
        _report_end(result, report)
    info, trials = folder.info(), folder.trials()
    info = info.model_copy(update={"advice": hindsight(advice, compare(info, trials))})
    folder.save_info(info)
    return compare(info, trials)


def _passed(context: Context, variants: Sequence[Variant]) -> list[TrialResult]:
    """Build and check the variants; return the trials that may be timed."""
    passed = []
    for number, variant in enumerate(variants):
        stage = Progress("building and checking", number + 1, len(variants) + 1, variant.name)
        result = checked(context, variant, stage)
        _report_end(result, context.report)
        if result.status == "ok":
            passed.append(result)
    return passed


def _rough_ranges(context: Context, variants: Sequence[Variant]) -> list[str]:
    """A note on recipes that calibrate on few photos although there are more."""
    job = context.job
    if job.calibration is None or len(job.calibration) < FEW:
        return []
    rough = [v.name for v in variants if 0 < (calibration_images(v, job) or FEW) < FEW]
    return (
        [f"calibrated on fewer than {FEW} photos, so that ranges are rough: {some(rough)}"] if rough else []
    )


def _report_end(result: TrialResult, report: Report) -> None:
    if result.status != "ok":
        what = f"{result.variant}: {result.reason}" if result.reason else result.variant
        report(Progress(result.status, 0, 0, what))


@sharing_imports()
def advise_workspace(workspace: Workspace, variants: Sequence[Variant], report: Report) -> Advice:
    """The advice, and the sanity look: nothing is measured but the source model's accuracy.

    Raises WorkbenchError.
    """
    prepared = prepare(workspace, report, calibrate=False)
    _, built = build_baseline(prepared, Options().build_timeout_s, report)
    remarks = look_quickly(prepared, built.artifact, prepared.job.cache / "logs" / "sanity.txt")
    remarks = graver_first((*_of_mode(prepared, built.artifact), *remarks))
    return replace(advice_for(prepared, built.artifact, variants), remarks=remarks)


def begin(
    prepared: Prepared,
    folder: RunFolder,
    options: Options,
    report: Report,
    *,
    candidates: int = 1,
    given: Sequence[Given] = (),
) -> tuple[Context, TrialResult]:
    """A run with its baseline built and checked. Raises WorkbenchError where it cannot be.

    candidates: variants that the photos choose among. given: artifacts to measure as they are; one that is
    named as the baseline takes its place.
    """
    context = _with(_context(prepared, folder, options, report, candidates), given)
    result = checked(context, context.baseline, Progress("building and checking", 0, 1, BASELINE))
    if result.status != "ok":
        what = "reference" if BASELINE in context.given else "baseline"
        hint = "check the weights for NaN, and `preprocess.mean` and `preprocess.std`"
        if modes := _of_mode(prepared, context.exported):
            layers = some(modes[0].names)
            hint = f"it was exported in training mode ({layers}): export it again after `model.eval()`"
        raise WorkbenchError(f"the {what} cannot be measured: {result.reason}", hint=hint)
    info = context.info.model_copy(update={"remarks": _remarks(context, result)})
    folder.save_info(info)
    options.show_remarks(info.remarks)
    return replace(context, info=info), result


def _context(
    prepared: Prepared, folder: RunFolder, options: Options, report: Report, candidates: int
) -> Context:
    """What a run measures with, its baseline built. Raises WorkbenchError where it cannot be."""
    spans = options.spans
    with spans.span("reading"):
        parts = _split(prepared, options, candidates)
    prepared = replace(prepared, job=replace(prepared.job, choosing=parts.selection))
    with empty_worker(prepared.job, folder) as memory:
        with spans.span("building"):
            baseline, built = build_baseline(prepared, options.build_timeout_s, report)
        info = _info(prepared, folder, parts, baseline, options.arguments)
        folder.save_info(info)
        _save_photos(folder, prepared, parts)
        log = folder.path / "logs" / "reference.txt"
        with spans.span("source_model"):
            reference = reference_logits(prepared.job, built.artifact, log, report)
        with spans.span("checking"):
            empty = memory()
    return Context(
        prepared,
        folder,
        parts,
        info.model_copy(update={"outputs": output_kind(reference)}),
        baseline,
        built.artifact,
        reference=reference,
        empty_worker=empty,
        build_timeout_s=options.build_timeout_s,
        report=report,
        built={BASELINE: built},
        runtimes={BASELINE: baseline.runtime},
        spans=spans,
        unmade=options.unmade,
    )


def _with(context: Context, given: Sequence[Given]) -> Context:
    """With artifacts that are taken as they are, in the place of some that are built."""
    for other in given:
        name = other.variant.name
        context.built[name] = Built(other.artifact.digest, other.artifact, build_s=None)
        context.runtimes[name] = other.variant.runtime
        if other.contract is not None and other.contract != context.job.contract:
            context.contracts[name] = other.contract
    names = {other.variant.name: other.variant for other in given}
    baseline = names.get(BASELINE, context.baseline)
    return replace(context, baseline=baseline, given=frozenset(names))


def _split(prepared: Prepared, options: Options, candidates: int) -> Parts:
    """The photos for selection and those held out; shows what they can certify."""
    limit, shared = prepared.workspace.budget.max_accuracy_drop, shared_photos(prepared.separation)
    parts = split(prepared.validation, prepared.groups, shared, max_drop=limit)
    if not parts.leak:
        everything = range(len(prepared.validation))
        count = round(parts.independent(everything) or len(everything))
        options.show_power(power(count, limit, max(1, candidates)))
    return parts


def _remarks(context: Context, baseline: TrialResult) -> tuple[Remark, ...]:
    """Of the sanity look, on the baseline that was checked."""
    artifact, log = context.exported, context.folder.path / "logs" / "sanity.txt"
    with context.spans.span("sanity_look"):
        found = look(context.prepared, artifact, context.reference, log)
        found = graver_first((*_of_mode(context.prepared, artifact), *found))
        if BASELINE in context.given:  # whose parity is not that of the plain export
            return found
        return graver_first(found + of_parity(context.job.photos, artifact, baseline.parity, log))


def _of_mode(prepared: Prepared, baseline: Artifact) -> list[Remark]:
    """Of layers in training mode; our own exports have none."""
    return of_mode(_facts(prepared.job.cache, baseline).training) if prepared.source_kind == "onnx" else []


def advice_for(
    prepared: Prepared,
    baseline: Artifact,
    variants: Sequence[Variant],
    unmade: Mapping[VirtualEnvironment, str] = NOTHING,
) -> Advice:
    """Which of the variants are worth trying on this network and this machine. Raises WorkbenchError."""
    kind = prepared.source_kind
    reasons = {variant.name: not_here(variant, kind, baseline, unmade) for variant in variants}
    absent = {name: reason for name, reason in reasons.items() if reason}
    return advice_on(machine.collect(), absent, prepared, baseline, variants)


def advice_on(
    where: Machine,
    absent: Mapping[str, str],
    prepared: Prepared,
    baseline: Artifact,
    variants: Sequence[Variant],
) -> Advice:
    """As `advice_for`, on a machine. absent: variants that cannot be tried there, and why."""
    facts = _facts(prepared.job.cache, baseline)
    return advise(facts, where, absent, variants, objective=prepared.workspace.budget.objective)


def _facts(cache: Path, baseline: Artifact) -> NetworkFacts:
    """Of the network; remembered, because a process that loads onnx reads them. Raises ChildError."""
    known = [baseline.digest, baseline.info.model_dump(mode="json"), code_digest(), versions("onnx")]
    path = cache / "networks" / f"{digest_of(known)}.json"
    if not path.exists():
        log = cache / "logs" / "network.txt"
        doing = "reading the network"
        facts = call(network, baseline, log=log, timeout_s=120.0, label=doing, imports=("numpy", "onnx"))
        write_record(path, facts)
    return NetworkFacts.model_validate_json(path.read_bytes())


def checked(context: Context, variant: Variant, stage: Progress) -> TrialResult:
    """Build and check one variant; its result is on disk, and its golden photos are."""
    context.report(stage)
    if variant.name != BASELINE and variant.name not in context.given:
        write_atomic(context.folder.recipe(variant.name), to_yaml(variant, variant.recipe).encode())
    with context.spans.span("checking"):
        result = check(context, variant, stage)
    context.folder.append(result)
    if result.status == "ok":
        save_golden(context.folder, context.job_of(variant.name).photos)
    return result


def timed(context: Context, info: RunInfo, passed: Sequence[TrialResult], plan: Plan) -> list[TrialResult]:
    """Time what passed; the results are on disk."""
    with context.spans.span("extras"):
        trials, info = time_all(context, info, passed, plan)
        pairs = finalist_pairs(context.folder, trials)
        upgrades = upgrades_of(context.folder, info, trials)
        info = info.model_copy(update={"pairs": pairs, "upgrades": upgrades})
    context.folder.save_info(info)
    for result in trials:
        context.folder.append(result)
    return trials


def _info(
    prepared: Prepared, folder: RunFolder, parts: Parts, baseline: Variant, arguments: tuple[str, ...]
) -> RunInfo:
    workspace, job = prepared.workspace, prepared.job
    copied = copies(prepared.validation)
    return RunInfo(
        run_id=folder.run_id,
        created_at=datetime.now(UTC),
        arguments=arguments,
        name=workspace.name,
        workspace=str(workspace.file or "bundled sample"),
        machine=machine.collect(),
        libraries=versions(*LIBRARIES),
        checkpoint_digest=job.source_digest,
        validation_digest=prepared.validation.digest,
        validation_images=len(prepared.validation),
        calibration_digest=prepared.calibration and prepared.calibration.digest,
        class_names=prepared.class_names,
        preprocess=job.contract,
        budget=workspace.budget,
        targets=workspace.targets,
        baseline=BASELINE,
        runtimes={BASELINE: baseline.runtime},
        synthetic=workspace.synthetic,
        certification_images=len(parts.certification),
        uncertified=parts.uncertified,
        leak=parts.leak,
        separation=prepared.separation,
        notes=(
            *workspace.budget.notes,
            *notes_on(prepared.validation, prepared.calibration),
            *((copied,) if copied else ()),
        ),
    )


def _save_photos(folder: RunFolder, prepared: Prepared, parts: Parts) -> None:
    """What later analysis needs of the photos: files, labels, parts and which of them are alike."""
    import numpy as np

    photos, validation = prepared.job.photos, prepared.validation
    save_golden(folder, photos)
    paths = tuple(str(path.absolute()) for path in validation.paths)
    folder.save_photos(PhotoFiles(paths=paths, sha256=validation.contents))
    certifies = np.zeros(len(photos), dtype=bool)
    certifies[list(parts.certification)] = True
    arrays = {"labels": np.asarray(photos.labels), "certifies": certifies, "groups": np.asarray(parts.groups)}
    write_arrays(folder.path / "validation.npz", **arrays)


def save_golden(folder: RunFolder, photos: Images) -> None:
    """Save a few photos as this preprocessing cuts them, to check a bundle with."""
    import numpy as np

    path = folder.golden(photos.contract)
    if not path.exists():
        pixels = photos.pixels()
        indices = np.unique(np.linspace(0, len(pixels) - 1, GOLDEN_IMAGES).astype(np.int64))
        write_arrays(path, pixels=pixels[indices], indices=indices)
