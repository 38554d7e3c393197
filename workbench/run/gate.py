"""A gate: candidates measured against a reference, all of them in one session here and now, and judged.

The reference takes the place of a run's baseline: its second copy gives the A/A, and the folder that is
written is a run's, which `compare` and `report` read like any other.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product

from workbench.errors import WorkbenchError
from workbench.measure import launches, samples
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.gate import (
    FILE,
    STARTED,
    TIMED,
    Absence,
    FailCondition,
    GateReport,
    Kind,
    Ratios,
    TwinReading,
    judge,
)
from workbench.results.records import RunInfo, TrialResult
from workbench.run import pipeline
from workbench.run.check_variant import Context
from workbench.run.extras import saturated
from workbench.run.gate_observations import Seen, observe, starts_of, twins_of
from workbench.run.given import Given
from workbench.run.prepare import Prepared, prepare
from workbench.run.time_variants import time_together, timing_lock
from workbench.system.launcher import sharing_imports
from workbench.system.progress import Progress, Report
from workbench.system.records import write_record
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace

# Below the workspace's results, so that `promote` and `compare` never take one for the latest run.
FOLDER = "gates"
HOUR_S = 3600.0  # all the launches that an interval takes, however long


@dataclass(frozen=True, slots=True)
class GateRequest:
    """strict: what may be a regression fails too."""

    reference: Given
    candidates: Sequence[Variant | Given]
    conditions: Sequence[FailCondition]
    strict: bool = False

    @property
    def variants(self) -> dict[str, Variant]:
        """Of the candidates, by name."""
        found = [each.variant if isinstance(each, Given) else each for each in self.candidates]
        return {variant.name: variant for variant in found}

    @property
    def kinds(self) -> set[Kind]:
        return {condition.kind for condition in self.conditions}

    def given(self, prepared: Prepared) -> list[Given]:
        """Everything that is measured as it is, the reference first and named as the baseline.

        Raises WorkbenchError for what the workspace's photos cannot be given to.
        """
        found = [self.reference.as_baseline(), *(c for c in self.candidates if isinstance(c, Given))]
        for each in found:
            each.check(prepared.class_names, prepared.job.contract)
        return found


@sharing_imports()
def run_gate(
    workspace: Workspace, request: GateRequest, options: pipeline.Options, report: Report
) -> GateReport:
    """Build, check and time what a gate compares, and judge it; `gate.json` is in the run's folder.

    Nothing is timed that no condition asks for. Raises WorkbenchError where the workspace, a candidate's name
    or the reference cannot be used; a candidate that cannot be built or run is listed as absent.
    """
    _check_names(request)
    folder = RunFolder.create(workspace.results / FOLDER)
    variants = request.variants
    try:
        calibrate = any("calibration" in step.READS for v in variants.values() for step in v.steps)
        with options.spans.span("reading"):
            prepared = prepare(workspace, report, calibrate=calibrate)
        given = request.given(prepared)
        context, reference = pipeline.begin(
            prepared, folder, options, report, candidates=len(variants), given=given
        )
    finally:
        folder.remove_if_never_begun()
    context.runtimes.update({name: variant.runtime for name, variant in variants.items()})
    info = _info(context, request.reference.label)
    folder.save_info(info)
    trials = [reference]
    for number, variant in enumerate(variants.values()):
        stage = Progress("building and checking", number + 1, len(variants) + 1, variant.name)
        trials.append(pipeline.checked(context, variant, stage))
    trials, info, seen = _measured(context, info, trials, request, options)
    made = _judged(seen, info, trials, request)
    write_record(folder.path / FILE, made)
    return made


def _check_names(request: GateRequest) -> None:
    """Raise WorkbenchError where candidates could not be told apart."""
    named = [each.variant.name if isinstance(each, Given) else each.name for each in request.candidates]
    if not named:
        raise WorkbenchError("there is no candidate to measure", hint="name a recipe or an .onnx file")
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice or BASELINE in named:
        name = twice[0] if twice else BASELINE
        raise WorkbenchError(f"two things to compare are named `{name}`", hint="rename one of the files")


def _info(context: Context, label: str) -> RunInfo:
    note = f"the baseline of this run is what a gate measured against: {label}"
    runtimes = dict(context.runtimes)
    update = {"runtimes": runtimes, "reference": label, "notes": (*context.info.notes, note)}
    return context.info.model_copy(update=update)


def _measured(
    context: Context,
    info: RunInfo,
    trials: Sequence[TrialResult],
    request: GateRequest,
    options: pipeline.Options,
) -> tuple[list[TrialResult], RunInfo, Seen]:
    """Everything that the conditions ask for, of what passed its checks; it is on disk."""
    absent = [trial for trial in trials if trial.status != "ok"]
    timed, kinds = [trial for trial in trials if trial.status == "ok"], request.kinds
    seen = Seen(context, request.variants, trials[0])
    with timing_lock(context):
        if kinds & TIMED and len(timed) > 1:
            timed, info = time_together(context, info, timed, options.plan)
            seen = replace(seen, calls=samples.hot_calls(context.folder.path / "latency.parquet"))
        names = [trial.variant for trial in timed if trial.status == "ok"]
        if "throughput" in kinds and len(names) > 1:
            timed = saturated(context, timed, names, budget_s=HOUR_S, together=1)
        if kinds & STARTED and len(names) > 1:
            seen = replace(seen, starts=starts_of(context, names))
    context.folder.save_info(info)
    for trial in timed:
        context.folder.append(trial)
    return [*timed, *absent], info, replace(seen, reference=timed[0])


def _judged(seen: Seen, info: RunInfo, trials: Sequence[TrialResult], request: GateRequest) -> GateReport:
    twins = twins_of(seen)
    passed = [trial for trial in trials if trial.status == "ok" and trial.variant != BASELINE]
    found = [observe(seen, trial, condition) for trial, condition in product(passed, request.conditions)]
    return GateReport(
        name=info.name,
        run=str(seen.context.folder.path),
        created_at=datetime.now(UTC),
        machine=info.machine.cpu,
        reference=request.reference.label,
        candidates=tuple(request.variants),
        findings=judge(found, twins),
        absent=tuple(_absence(trial) for trial in trials if trial.status != "ok"),
        images=info.validation_images,
        rounds=len(info.environments) - info.repeated_rounds,
        twin=_twin(twins),
        remarks=tuple(remark for remark in info.remarks if remark.gravity == "grave"),
        strict=request.strict,
    )


def _absence(trial: TrialResult) -> Absence:
    status = "skipped" if trial.status == "skipped" else "failed"
    reason = trial.reason or "it does not fit into memory beside the reference"
    return Absence(candidate=trial.variant, status=status, reason=reason)


def _twin(twins: Mapping[Kind, Ratios]) -> TwinReading | None:
    if (ratios := twins.get("latency")) is None:
        return None
    bounds = ratios.interval(launches.CONFIDENCE)
    interval = bounds and (math.expm1(bounds[0]), math.expm1(bounds[1]))
    return TwinReading(change=math.expm1(ratios.estimate), interval=interval)
