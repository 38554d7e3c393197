"""Which trial is promoted, and whether it may be: what stands between `compare` and the registry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.backends.artifact import ArtifactCache
from workbench.errors import Refused, WorkbenchError
from workbench.registry.bundle_writer import Promotion, promote
from workbench.registry.semver import Bump
from workbench.registry.shadow_record import Demand
from workbench.registry.store import Registry
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import find_trial
from workbench.results.reasons import Shortfall
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import certification_shortfalls, compare, shortfalls
from workbench.system.folders import cache_folder
from workbench.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Published:
    """A promotion: which variant was published, and the alias that points at it."""

    promotion: Promotion
    variant: str
    alias: str


def publish(
    workspace: Workspace,
    *,
    run_id: str | None,
    variant: str | None,
    bump: Bump | None,
    version: str | None,
    alias: str,
    force: str | None,
    describe: Callable[[Sequence[Shortfall]], str],
    require_shadow: float | None = None,
) -> Published:
    """Promote the winner of a run, or the variant named.

    force: the reason to publish what the tool advises against; the manifest keeps it, with what was missed.
    describe: puts in words what a variant misses, for the refusal and the manifest.
    require_shadow: the agreement, as a fraction of 1, that a shadow run must have shown at least.
    Raises Refused where it did not, where the variant was skipped or failed, and where it misses the
    workspace's budget, unless forced. WorkbenchError for an unknown run or variant.
    """
    run = find_run(workspace.results, run_id)
    # The run says what was measured; the workspace, as it is now, what is good enough.
    info = run.info().model_copy(update={"budget": workspace.budget})
    if info.name != workspace.name:
        raise WorkbenchError(
            f"run {run.run_id} is of the model `{info.name}`, the workspace is of `{workspace.name}`",
            hint="run again under the new name, or set `name` in krishi.yaml back",
        )
    trial = _chosen(run, info, variant)
    missed = _missed(run, info, trial, force=force, describe=describe)
    promotion = promote(
        run,
        trial,
        name=workspace.name,
        cache=ArtifactCache(cache_folder()),
        registry=Registry(workspace.registry),
        alias=alias,
        bump=bump,
        version=version,
        forced="; ".join(filter(None, [force, missed])) if force else None,
        shadow=Demand(workspace.results, require_shadow) if require_shadow is not None else None,
    )
    return Published(promotion, trial.variant, alias)


def _missed(
    run: RunFolder,
    info: RunInfo,
    trial: TrialResult,
    *,
    force: str | None,
    describe: Callable[[Sequence[Shortfall]], str],
) -> str:
    """What the trial misses of the budget, in words. Raises Refused where it may not be published."""
    if trial.status in ("skipped", "failed"):
        ended = "was skipped" if trial.status == "skipped" else "failed"
        why = f": {trial.reason}" if trial.reason else ""
        raise Refused(
            f"`{trial.variant}` of run {run.run_id} {ended}, so there is nothing to publish{why}",
            hint="choose another with --variant",
        )
    missed = describe(shortfalls(trial, info) + certification_shortfalls(trial, info))
    if missed and not force:
        raise Refused(
            f"`{trial.variant}` of run {run.run_id} misses the budget: {missed}",
            hint="choose another with --variant, or give a reason: --force REASON; the manifest will say so",
        )
    return missed


def _chosen(run: RunFolder, info: RunInfo, variant: str | None) -> TrialResult:
    if variant is None:
        variant = compare(info, run.trials()).winner
        if variant is None:
            raise Refused(f"run {run.run_id} has no winner", hint="`krishi-bench compare` says why")
    return find_trial(run, variant)
