"""`krishi-bench tune`: search recipe space within a time budget, then decide as any run decides.

First smaller inputs, then what the advisor suggests, then both together, then mixed precision for the best
INT8 variant. Candidates get a quick look each (`search`); the few that are left are checked and timed in an
ordinary run, and the winner is written down as a recipe.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from workbench.backends import OrtRuntime, Runtime, Target, publishable
from workbench.errors import WorkbenchError
from workbench.measure.latency import Plan
from workbench.model.graph.facts import NetworkFacts
from workbench.model.graph.roles import Role
from workbench.results.certification import certification_shortfalls
from workbench.results.folder import RunFolder
from workbench.results.reasons import Cause, NotCertifiedInTurn, NotFinalist, OverBudget
from workbench.results.records import Attempts, CertificationSequence, RunInfo, SearchSummary, TrialResult
from workbench.results.verdict import Comparison, compare, paired_drop, untimed_shortfalls
from workbench.run import pipeline
from workbench.run.advice.advise import Advice, advised
from workbench.run.check_variant import Context, ended, new_trial
from workbench.run.prepare import prepare
from workbench.run.tune.bench import BenchLost, LocalBench, SearchBench
from workbench.run.tune.moves import Move
from workbench.run.tune.quick_look import Looker, promise
from workbench.run.tune.search import Candidate, Search, chosen, explore, resized
from workbench.system.files import write_atomic
from workbench.system.launcher import sharing_imports
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import NAME_PATTERN, Variant, to_yaml
from workbench.workspace.workspace import Workspace

RACE_SHARE = 0.3  # of the budget, for checking and timing the finalists
LEAST_RACE_S = 15.0
HEADER = "# Written by `krishi-bench tune`"  # of the recipe that is written


@dataclass(frozen=True, slots=True)
class Tuned:
    """comparison: of the finalists. recipe: reproduces the winner; None where nothing beat the baseline.

    others: recipes of what was chosen for the other targets.
    """

    comparison: Comparison
    recipe: Path | None
    others: Mapping[Target, Path] = field(default_factory=dict)


@sharing_imports()
def tune(
    workspace: Workspace, variants: Sequence[Variant], recipe: Path, options: pipeline.Options, report: Report
) -> Tuned:
    """Search for the best variant within `options.plan.budget_s`, beginning with those of `variants` that the
    advisor suggests; write the winner to `recipe`, and those for other targets beside it.

    Raises WorkbenchError where the workspace cannot be used, where one of these files is another's, and where
    the budget ends before a single candidate was looked at.
    """
    for path in recipes_of(recipe, workspace.targets).values():
        check_ours(path)
    started = time.monotonic()
    folder = RunFolder.create(workspace.results)
    try:
        with options.spans.span("reading"):
            prepared = prepare(workspace, report, calibrate=True)
        context, baseline = pipeline.begin(prepared, folder, options, report)
    finally:
        folder.remove_if_never_begun()
    with Looker(context) as looker:
        return tune_on(
            LocalBench(context, looker), context, baseline, variants, recipe, started, options.plan
        )


def tune_on(
    bench: SearchBench,
    context: Context,
    baseline: TrialResult,
    variants: Sequence[Variant],
    recipe: Path,
    started: float,
    plan: Plan,
    names: dict[str, str] | None = None,
) -> Tuned:
    """Search on a bench whose baseline was checked, decide there, and write the winner to `recipe`.

    started: time.monotonic() when `plan.budget_s` began. names: as in `Search`, where it shares them. Raises
    WorkbenchError where the budget ends before anything was looked at. Where the bench is lost, what was
    found until then is on disk.
    """
    with context.spans.span("searching"):
        advice = bench.advice(variants)
        until = started + (1 - RACE_SHARE) * plan.budget_s
        absent, targets = absent_roles(advice.network), context.info.targets
        search = Search(context, bench, until, baseline, absent, targets)
        search.names = {} if names is None else names
        seeds, doubted = _seeds(advice, variants, context.info.targets)
    try:
        with context.spans.span("searching"):
            explore(search, seeds, doubted)
            _check_looks(search, started, plan.budget_s)
            search.record_untried([*seeds, *doubted])
        return _decided(search, recipe, started, plan)
    except BenchLost:
        _keep(search, [], None, time.monotonic() - started)
        raise


def _decided(search: Search, recipe: Path, started: float, plan: Plan) -> Tuned:
    """Check and time the finalists, and write the winner down."""
    context, folder = search.context, search.context.folder
    finalists = chosen(search)
    checked = []
    for number, candidate in enumerate(finalists):
        stage = Progress("checking the finalists", number, len(finalists), candidate.variant.name)
        result = search.bench.check(candidate.variant, stage)
        checked += [result] if result.status == "ok" else []
    info = context.info.model_copy(update={"runtimes": context.runtimes})
    passed, sequence = certified_in_turn(search, checked, info)
    left = started + plan.budget_s - time.monotonic()
    info = _keep(search, finalists, sequence, time.monotonic() - started)
    search.bench.time(info, [search.baseline, *passed], replace(plan, budget_s=max(LEAST_RACE_S, left)))
    paths = recipes_of(recipe, context.info.targets)
    return _written(compare(folder.info(), folder.trials()), finalists, paths)


def _written(comparison: Comparison, finalists: Sequence[Candidate], paths: Mapping[Target, Path]) -> Tuned:
    """Write the recipe of each target's winner, none of the baseline. paths: the first target's first."""
    tuned = {candidate.variant.name: candidate.variant for candidate in finalists}
    written = {}
    for target, path in paths.items():
        if (variant := tuned.get(comparison.choices.get(target, ""))) is not None:
            write_recipe(variant, path, comparison)
            written[target] = path
    return Tuned(comparison, written.pop(next(iter(paths)), None), written)


def _keep(
    search: Search, finalists: Sequence[Candidate], sequence: CertificationSequence | None, seconds: float
) -> RunInfo:
    """Leave what was tried in the run's folder: a trial for each candidate without one, and the summary."""
    context = search.context
    recorded = {trial.variant for trial in context.folder.trials()}
    for candidate in search.candidates.values():
        if candidate.variant.name not in recorded:
            context.folder.append(_not_taken(candidate, context))
    summary = summarize(search, finalists, sequence, seconds)
    info = context.info.model_copy(update={"runtimes": context.runtimes, "search": summary})
    context.folder.save_info(info)
    return info


def _check_looks(search: Search, started: float, budget_s: float) -> None:
    """Raise WorkbenchError where time ended without any look."""
    if search.left_s <= 0 and not any(candidate.look for candidate in search.candidates.values()):
        spent = time.monotonic() - started
        raise WorkbenchError(
            f"the budget of {budget_s:g} s ended before anything could be tried: preparing and measuring "
            f"the baseline took {spent:.0f} s",
            hint=f"give more time: --budget {max(60, round(4 * spent))}s",
        )


def absent_roles(network: NetworkFacts) -> frozenset[Role]:
    """The roles that no layer plays: leaving them in float would change nothing."""
    there: dict[Role, int] = {
        "squeeze_excite": network.squeeze_excite,
        "hardswish": network.hard_swish + network.swish,
        "depthwise": network.depthwise,
    }
    return frozenset(role for role, count in there.items() if not count)


def _seeds(
    advice: Advice, variants: Sequence[Variant], targets: Sequence[Target]
) -> tuple[list[Move], list[Move]]:
    """What the advisor suggests, and what it advises against; most promising first, for each target in turn.
    Smaller inputs alone are left out: a scan finds them."""
    expected = {item.variant: item.high or 0.0 for item in advice.items}
    fair = [variant for variant in _comparable(variants, targets) if not _smaller_alone(variant)]
    fair.sort(key=lambda variant: (-expected[variant.name], len(variant.steps)))  # quick builds first
    fair = _in_turn(fair, targets)
    worth = {variant.name for variant in advised(advice, variants, targets)}
    return (
        [Move(variant, "suggested by the advisor") for variant in fair if variant.name in worth],
        [Move(variant, "tried against the advice") for variant in fair if variant.name not in worth],
    )


def _in_turn(variants: Sequence[Variant], targets: Sequence[Target]) -> list[Variant]:
    """Those for a device and the others by turns, lest those with larger promises take all the time."""
    devices = set(targets) - {"server"}
    queues: tuple[list[Variant], list[Variant]] = ([], [])
    for variant in variants:
        queues[bool(devices & variant.runtime.TARGETS)].append(variant)
    if targets[0] != "server":
        queues = (queues[1], queues[0])
    return [variant for pair in zip_longest(*queues) for variant in pair if variant is not None]


def _smaller_alone(variant: Variant) -> bool:
    return resized(variant) and not variant.steps and isinstance(variant.runtime, OrtRuntime)


def _comparable(variants: Iterable[Variant], targets: Sequence[Target]) -> list[Variant]:
    """Those that can be published for one of the targets and use as much of the machine as the baseline: one
    thread, one photo. More threads make one photo faster and the server slower; how many is the operator's
    choice."""

    def opens(target: Target, runtime: Runtime) -> bool:
        return publishable(runtime) if target == "server" else target in runtime.TARGETS

    return [
        variant
        for variant in variants
        if variant.runtime.batch == variant.runtime.intra_threads == 1
        and variant.runtime.device == "cpu"
        and any(opens(target, variant.runtime) for target in targets)
    ]


def certified_in_turn(
    search: Search, checked: Sequence[TrialResult], info: RunInfo
) -> tuple[list[TrialResult], CertificationSequence | None]:
    """Certify the finalists one after the other, surest first, until one fails; faster ones come later.

    A fixed sequence of tests: the order is known before the photos that certify are looked at, and nothing is
    tested after the first failure, so that each statement holds at 95 % and all of them together do too
    (Maurer, Hothorn and Lehmacher, "Multiple comparisons in drug clinical trials", 1995). What failed, and
    what came after it, is recorded as `pruned`. Where the surest fails it stays, to be refused by name.
    Returns what is left to be timed, and how the sequence went, where there was one.
    """
    fitting = []
    for result in checked:
        if missed := untimed_shortfalls(result, info):
            search.context.folder.append(ended(result, OverBudget(variant=result.variant, shortfalls=missed)))
        else:
            fitting.append(result)
    fitting.sort(key=lambda result: -_promise(result, search))
    passed, failed = fitting, None
    for number, result in enumerate(fitting):
        if missed := certification_shortfalls(result, info):
            passed, failed = fitting[:number], result.variant
            for other in fitting[max(number, 1) :]:
                cause = NotCertifiedInTurn(variant=other.variant, after=failed)
                if other is result:
                    cause = NotCertifiedInTurn(variant=other.variant, shortfalls=missed)
                search.context.folder.append(ended(other, cause))
            break
    sequence = None
    if fitting and fitting[0].certification is not None:
        order = tuple(result.variant for result in fitting)
        sequence = CertificationSequence(order=order, passed=len(passed), failed=failed)
    return passed or fitting[:1], sequence


def _promise(result: TrialResult, search: Search) -> float:
    if result.same_answers is not None:
        return 1.0
    drop = paired_drop(result)
    return promise(drop, search.budget, search.photos) if drop else 0.0


def _not_taken(candidate: Candidate, context: Context) -> TrialResult:
    """The record of a candidate that a look was enough for."""
    variant, look = candidate.variant, candidate.look
    cause: Cause | None = candidate.cause
    if look is not None:
        cause = NotFinalist(
            variant=variant.name,
            why=candidate.why,
            speedup=look.speedup,
            drop=look.drop.drop,
            images=look.images,
        )
    assert cause is not None
    result = new_trial(variant).model_copy(update={"preprocess": context.contracts.get(variant.name)})
    return ended(result, cause)


def summarize(
    search: Search, finalists: Sequence[Candidate], sequence: CertificationSequence | None, seconds: float
) -> SearchSummary:
    """What was tried, and what each kind of attempt came to."""
    looked = [candidate for candidate in search.candidates.values() if candidate.look is not None]
    return SearchSummary(
        seconds=seconds,
        looked=len(looked),
        untried=len(search.candidates) - len(looked),
        finalists=len(finalists),
        attempts=tuple(
            _attempts(search, why, [c for c in looked if c.why == why])
            for why in dict.fromkeys(c.why for c in looked)
        ),
        sequence=sequence,
    )


def _attempts(search: Search, why: str, group: Sequence[Candidate]) -> Attempts:
    within = search.best(group)
    best = within[0] if within else min(group, key=search.cost)
    assert best.look is not None
    return Attempts(
        why=why,
        tried=len(group),
        best=best.variant.name,
        speedup=best.look.speedup,
        drop=best.look.drop.drop,
        images=best.look.images,
        outlook="within" if within else "beyond" if search.hopeless(best) else "uncertain",
    )


def recipe_path(workspace: Workspace, name: str | None) -> Path:
    """`recipes/tuned-<model>.yaml` of the workspace, or another name there. Raises WorkbenchError."""
    stem = name or f"tuned-{workspace.name}"
    if re.fullmatch(NAME_PATTERN, stem) is None:
        hint = "use letters, digits, `.`, `_` and `-`, at most 60"
        raise WorkbenchError(f"`{stem}` is not a name for a recipe", hint=hint)
    return workspace.root / "recipes" / f"{stem}.yaml"


def recipes_of(recipe: Path, targets: Sequence[Target]) -> dict[Target, Path]:
    """Where the winner for each target is written: for the first to `recipe`, for android beside it."""
    first, *others = targets
    return {first: recipe, **{other: recipe.with_stem(f"{recipe.stem}-{other}") for other in others}}


def check_ours(path: Path) -> None:
    """Raise WorkbenchError where a file is there that tune did not write."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        hint = "choose another --name, or move it away"
        raise WorkbenchError(f"{path} is there, and tune did not write it", hint=hint)


def write_recipe(winner: Variant, path: Path, comparison: Comparison) -> None:
    """The winner as a recipe that `run` reproduces it with."""
    row = next(row for row in comparison.rows if row.variant == winner.name)
    said = "not timed" if row.speedup is None else f"{row.speedup:.2f} times the baseline's speed"
    said += f" on {comparison.info.machine.cpu}"
    description = f"{winner.name}: {winner.description or 'found by tune'}"
    text = to_yaml(replace(winner, description=description), path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{HEADER} from run {comparison.info.run_id}: {said}.\n{text}".encode())
