"""Choose the trial to promote, and refuse one that misses the budget."""

from collections.abc import Callable, Sequence

from workbench.backends import SETTINGS, Target, targets_of
from workbench.backends.artifact import ArtifactCache
from workbench.errors import Refused, WorkbenchError
from workbench.registry.bundle_writer import Promotion, PromotionRequest, promote
from workbench.registry.semver import Bump
from workbench.registry.shadow_record import Demand
from workbench.registry.store import Registry
from workbench.results.certification import certification_shortfalls
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import find_trial
from workbench.results.reasons import Shortfall
from workbench.results.records import RunInfo, TrialResult
from workbench.results.remarks import Remark
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
    target: Target | None = None,
) -> Promotion:
    """Promote the winner of a run for the target, or the named variant.

    target: by default the workspace's first. For a device the budget's limits on time do not hold: they are
    this machine's.

    force: the reason to publish against the tool's advice; the manifest keeps it, with what was missed.
    describe: puts shortfalls and remarks in words. require_shadow: the least agreement in a shadow run, a
    fraction of 1. Raises Refused where that was not reached, where the variant was skipped or failed, and,
    unless forced, where it misses the workspace's budget or the sanity look found something grave.
    WorkbenchError for an unknown run or variant.
    """
    run = find_run(workspace.results, run_id)
    info = _read_info(run, workspace)
    trial = _choose(run, info, variant, target := target or info.targets[0])
    missed = describe(_shortfalls(trial, info, target) + certification_shortfalls(trial, info))
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
    )
    return promote(request, Registry(workspace.registry), ArtifactCache(cache_folder()))


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
