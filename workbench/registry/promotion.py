"""Choose the trial to promote, and refuse one that misses the budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.backends import SETTINGS, Target, targets_of
from workbench.backends.artifact import ArtifactCache
from workbench.errors import Refused, WorkbenchError
from workbench.registry.bundle_writer import Promotion, PromotionRequest, promote
from workbench.registry.class_promotion import class_choice
from workbench.registry.manifest import MeasuredOn, check_name
from workbench.registry.model_card import field_table
from workbench.registry.semver import Bump
from workbench.registry.shadow_record import Demand
from workbench.registry.store import Registry
from workbench.results.certification import certification_shortfalls
from workbench.results.folder import RunFolder, find_run, fleet_run
from workbench.results.history import find_trial
from workbench.results.reasons import Shortfall
from workbench.results.records import RunInfo, TrialResult
from workbench.results.remarks import Remark
from workbench.results.stress import StressRecord, field_shortfalls, read_stress
from workbench.results.verdict import shortfalls, untimed_shortfalls, winner_for
from workbench.system.files import cache_folder
from workbench.workspace.workspace import Workspace


def publish(
    workspace: Workspace,
    *,
    run_id: str | None,
    variant: str | None,
    bump: Bump | None,
    version: str | None,
    alias: str,
    force: str | None,
    describe: Callable[[Sequence[Shortfall | Remark]], str],
    require_shadow: float | None = None,
    explain: bool = False,
    device_class: str | None = None,
    abstain: bool = True,
    target: Target | None = None,
) -> Promotion:
    """Promote the winner of a run for the target, or the named variant.

    target: by default the workspace's first. For a device the budget's limits on time do not hold: they are
    this machine's.

    force: the reason to publish against the tool's advice; the manifest keeps it, with what was missed.
    device_class: of a fleet's run, whose winner gets an alias of its own, `alias@class`; it must keep the
    budget on every device of the class.
    describe: puts shortfalls and remarks in words. require_shadow: the least agreement in a shadow run, a
    fraction of 1. explain: publish class activation maps too. abstain: fit when an answer is uncertain, by
    the workspace's limits. Raises Refused where that agreement was not reached, where the variant was skipped
    or failed, and, unless forced, where it misses the budget of the workspace or the sanity look found
    something grave. WorkbenchError for an unknown run or variant.
    """
    if device_class is not None:
        alias = f"{check_name(alias, 'an alias')}@{device_class}"
    found = _candidate(workspace, run_id, variant, device_class, target, describe)
    run, info, trial, missed = found.run, found.info, found.trial, found.missed
    stress = found.stress
    doubts = describe([remark for remark in info.remarks if remark.gravity == "grave"])
    if (missed or doubts) and not force:
        raise _refusal(f"run {run.run_id}", trial.variant, missed, doubts)
    request = PromotionRequest(
        run,
        trial,
        name=workspace.name,
        alias=alias,
        bump=bump,
        version=version,
        forced="; ".join(filter(None, [force, missed, doubts])) if force else None,
        caveats=tuple(describe([remark]) for remark in info.remarks),
        shadow=Demand(workspace.results, require_shadow) if require_shadow is not None else None,
        in_field=field_table(stress.of(trial.variant) if stress else None, info.budget),
        explain=explain,
        measured_on=found.measured_on,
        limits=workspace.abstain if abstain else None,
    )
    return promote(request, Registry(workspace.registry), ArtifactCache(cache_folder()))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """missed: what it misses of the budget, in words. stress: what the run measured under stress."""

    run: RunFolder
    info: RunInfo
    trial: TrialResult
    missed: str
    stress: StressRecord | None
    measured_on: tuple[MeasuredOn, ...] = ()


def _candidate(
    workspace: Workspace,
    run_id: str | None,
    variant: str | None,
    device_class: str | None,
    target: Target | None,
    describe: Callable[[Sequence[Shortfall | Remark]], str],
) -> _Candidate:
    if device_class is not None:
        choice = class_choice(workspace, run_id, device_class, variant)
        run, variant, measured_on = choice.run, choice.variant, choice.measured_on
    elif run_id is not None and fleet_run(workspace.results, run_id) is not None:
        raise WorkbenchError(f"run {run_id} is of a fleet", hint="name a class of its devices: --class NAME")
    else:
        choice, run, measured_on = None, find_run(workspace.results, run_id), ()
    info = _read_info(run, workspace)
    trial = _choose(run, info, variant, target := target or info.targets[0])
    stress = read_stress(run, info, run.trials())
    in_field = field_shortfalls(trial, info, run.trials(), stress)
    if choice is not None:
        missed = "; ".join(filter(None, [choice.missed_text(describe), describe(in_field)]))
    else:
        every = (*_shortfalls(trial, info, target), *certification_shortfalls(trial, info), *in_field)
        missed = describe(tuple(dict.fromkeys(every)))
    return _Candidate(run, info, trial, missed, stress, measured_on)


def _shortfalls(trial: TrialResult, info: RunInfo, target: Target) -> tuple[Shortfall, ...]:
    return shortfalls(trial, info) if target == "server" else untimed_shortfalls(trial, info)


def _refusal(run: str, variant: str, missed: str, doubts: str) -> Refused:
    """What is wrong with the model comes first: another variant would not do either."""
    remedy = "or give a reason: --force REASON; the manifest will say so"
    if doubts:
        message = f"something is wrong with the model or the photos of {run}: {doubts}"
        more = f"; and `{variant}` misses the budget: {missed}" if missed else ""
        return Refused(message + more, hint=f"mend it and run again, {remedy}")
    return Refused(
        f"`{variant}` of {run} misses the budget: {missed}", hint=f"choose another with --variant, {remedy}"
    )


def _read_info(run: RunFolder, workspace: Workspace) -> RunInfo:
    """The run's record with the workspace's present budget. Raises WorkbenchError for another model's run."""
    info = run.info()
    if info.name != workspace.name:
        raise WorkbenchError(
            f"run {run.run_id} is of the model `{info.name}`, the workspace is of `{workspace.name}`",
            hint="run again under the new name, or set `name` in krishi.yaml back",
        )
    if info.reference is not None:
        # A drop against what is published, version after version, would add up unseen.
        raise WorkbenchError(
            f"run {run.run_id} is of a gate: its drops are against {info.reference}, not the plain export",
            hint="measure the candidate with `krishi-bench run` and promote that",
        )
    return info.model_copy(update={"budget": workspace.budget})


def _choose(run: RunFolder, info: RunInfo, variant: str | None, target: Target) -> TrialResult:
    """The named trial, else the target's winner.

    Raises Refused where it was not measured, nothing won, or its files are not opened on the target.
    """
    if variant is None:
        won = winner_for(info, run.trials(), target)
        if won is None:
            what = "" if target == "server" else f" for {target}"
            raise Refused(f"run {run.run_id} has no winner{what}", hint="`krishi-bench compare` says why")
        variant = won.variant
    trial = find_trial(run, variant)
    if target != "server" and target not in (opened := targets_of(trial.backend)):
        raise Refused(
            f"`{trial.variant}` runs on {trial.backend}, which is for a {' or '.join(sorted(opened))}",
            hint=f"choose one of {' or '.join(n for n in SETTINGS if target in targets_of(n))}",
        )
    if trial.status in ("skipped", "failed"):
        ended = "was skipped" if trial.status == "skipped" else "failed"
        why = f": {trial.reason}" if trial.reason else ""
        raise Refused(
            f"`{trial.variant}` of run {run.run_id} {ended}, so there is nothing to publish{why}",
            hint="choose another with --variant",
        )
    return trial
