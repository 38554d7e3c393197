"""`krishi-bench tune`: search recipe space within a time budget, then decide as any run decides.

First smaller inputs, then what the advisor suggests, then both together, then mixed precision for the best
INT8 variant. Candidates get a quick look each (`explore`); the few that are left are checked and timed in an
ordinary run, and the winner is written down as a recipe.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench import pipeline, search
from workbench.advise import Advice, advised
from workbench.backends import Runtime
from workbench.checking import Context
from workbench.compare import Comparison, compare, paired_drop
from workbench.errors import WorkbenchError
from workbench.explore import Search, Tried, chosen, explore, resized
from workbench.files import write_atomic
from workbench.look import LIKELY, Looker, described, promise
from workbench.measure.latency import Plan
from workbench.prepare import prepare
from workbench.progress import Progress, Report
from workbench.recipe import Variant
from workbench.report import html
from workbench.results import RunFolder, TrialResult
from workbench.search import Move
from workbench.tuned_recipe import check_ours, write_recipe
from workbench.workspace import Workspace

RACE_SHARE = 0.3  # of the budget, for checking and timing the finalists
LEAST_RACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """comparison: of the finalists' run. recipe: reproduces the winner; None where nothing beat the baseline.

    story: what was tried and found, as sentences.
    """

    comparison: Comparison
    recipe: Path | None
    story: tuple[str, ...]

    def sentence(self) -> str:
        """What came of it, for a person."""
        told = "\n".join(self.story)
        if self.recipe is None:
            return f"{told}\nnothing that keeps the budget beat the plain FP32 export: no recipe was written"
        again = f"wrote {self.recipe}: `krishi-bench run {self.recipe}` measures it again"
        if not self.comparison.certified:
            return f"{told}\n{again}; the photos kept apart did not certify it, so `promote` will refuse it"
        return f"{told}\n{again}, `krishi-bench promote` publishes it"


def tune(
    workspace: Workspace,
    variants: Sequence[Variant],
    recipe: Path,
    options: pipeline.Options,
    report: Report,
) -> Tuned:
    """Search for the best variant within `options.plan.budget_s`, beginning with those of `variants` that the
    advisor suggests; write the winner to `recipe`.

    Raises WorkbenchError where the workspace cannot be used, where `recipe` is another's file, and where the
    budget ends before a single candidate was looked at.
    """
    check_ours(recipe)
    started = time.monotonic()
    budget_s = options.plan.budget_s
    folder = RunFolder.create(workspace.results)
    try:
        prepared = prepare(workspace, report, calibrate=True)
        context, baseline = pipeline.begin(prepared, folder, options, report)
    finally:
        folder.remove_if_never_begun()
    photos = len(prepared.calibration or ())
    variants = [search.capped(variant, photos) for variant in variants] if photos else variants
    advice = pipeline.advice_for(context, variants)
    with Looker(context) as looker:
        found = Search(context, looker, started + (1 - RACE_SHARE) * budget_s)
        seeds, doubted = _seeds(advice, variants)
        explore(found, seeds, doubted)
    if found.left_s <= 0 and not any(tried.look for tried in found.tried.values()):
        raise WorkbenchError(
            f"the budget of {budget_s:.0f} s ended before anything could be tried: preparing and measuring "
            f"the baseline took {time.monotonic() - started:.0f} s",
            hint=f"give more time: --budget {max(60, round(4 * (time.monotonic() - started)))}s",
        )
    found.tell_untried([*seeds, *doubted])
    finalists = chosen(found)
    passed = [baseline]
    for number, tried in enumerate(finalists):
        context.stage = Progress("checking the finalists", number, len(finalists), tried.variant.name)
        report(context.stage)
        result = pipeline.checked(context, tried.variant)
        passed += [result] if result.status == "ok" else []
    passed = [baseline, *certifiable(found, passed[1:])]
    names = {tried.variant.name for tried in finalists}
    for tried in found.tried.values():
        if tried.variant.name not in names:
            folder.append(_not_taken(tried, context))
    left = started + budget_s - time.monotonic()
    plan: Plan = replace(options.plan, budget_s=max(LEAST_RACE_S, left))
    notes = story(found, finalists, time.monotonic() - started)
    info = pipeline.info_of(context, options)
    info = info.model_copy(update={"notes": (*info.notes, *notes)})
    for _ in pipeline.timed(context, info, passed, plan):
        pass
    comparison = compare(folder.info(), folder.trials())
    write_atomic(folder.path / "report.html", html.render([comparison]).encode())
    winner = next((t.variant for t in finalists if t.variant.name == comparison.winner), None)
    if winner is None:
        return Tuned(comparison, None, notes)
    write_recipe(winner, recipe, comparison)
    return Tuned(comparison, recipe, notes)


def _seeds(advice: Advice, variants: Sequence[Variant]) -> tuple[list[Move], list[Move]]:
    """What the advisor suggests, and what it advises against; most promising first. Smaller inputs alone are
    left out: a scan finds them."""
    expected = {item.variant: item.high or 0.0 for item in advice.items}
    fair = sorted(
        (variant for variant in _comparable(variants) if not _smaller_alone(variant)),
        key=lambda variant: (-expected[variant.name], len(variant.steps)),  # what is quick to build first
    )
    worth = {variant.name for variant in advised(advice, variants)}
    return (
        [Move(variant, "suggested by the advisor") for variant in fair if variant.name in worth],
        [Move(variant, "tried against the advice") for variant in fair if variant.name not in worth],
    )


def _smaller_alone(variant: Variant) -> bool:
    return resized(variant) and not variant.steps and variant.runtime.backend == "onnxruntime"


def _comparable(variants: Iterable[Variant]) -> list[Variant]:
    """Those that can be published and use as much of the machine as the baseline: one thread, one photo.

    More threads make one photo faster and the server slower; how many is the operator's choice.
    """

    def fair(runtime: Runtime) -> bool:
        alone = runtime.batch == 1 and runtime.intra_threads == 1
        return alone and runtime.device == "cpu" and runtime.backend != "torch"

    return [variant for variant in variants if fair(variant.runtime)]


def certifiable(found: Search, checked: Sequence[TrialResult]) -> list[TrialResult]:
    """Of the finalists, those likely to be certified, now that all photos that choose were seen; all of them
    where none is.

    Whoever is chosen for speed alone is often refused by the photos that chose nothing, and a search that
    ends so has found nothing.
    """
    budget = found.context.prepared.workspace.budget

    def likely(result: TrialResult) -> bool:
        drop = paired_drop(result)
        return drop is not None and promise(drop, budget, found.photos) >= LIKELY

    sure = [result for result in checked if likely(result)]
    for result in checked if sure else ():
        if result not in sure:
            reason = "it keeps the budget on these photos, but is unlikely to be certified on others"
            found.context.folder.append(result.model_copy(update={"status": "pruned", "reason": reason}))
    return sure or list(checked)


def _not_taken(tried: Tried, context: Context) -> TrialResult:
    """The record of a candidate that a look was enough for."""
    variant = tried.variant
    status = "pruned" if tried.look is not None else "skipped" if tried.skipped else "failed"
    reason = tried.problem or ""
    if tried.look is not None:
        reason = f"a quick look ({tried.why}): {described(tried.look)}; others promised more"
    return TrialResult(
        variant=variant.name,
        recipe=variant.recipe,
        digest=variant.digest,
        status=status,
        reason=reason,
        backend=variant.runtime.backend,
        device=variant.runtime.device,
        steps=len(variant.steps),
        preprocess=context.contracts.get(variant.name),
    )


def story(found: Search, finalists: Sequence[Tried], seconds: float) -> tuple[str, ...]:
    """What was tried and what came of it, a sentence for each kind of attempt."""
    looked = [tried for tried in found.tried.values() if tried.look is not None]
    lines = [
        f"searched for {seconds / 60:.1f} minutes: {len(looked)} variants looked at, "
        f"{len(found.tried) - len(looked)} could not be tried, {len(finalists)} measured in full"
    ]
    for why in dict.fromkeys(tried.why for tried in looked):
        group = [tried for tried in looked if tried.why == why]
        fitting = found.best(group)
        best = fitting[0] if fitting else min(group, key=found.cost)
        assert best.look is not None
        verdict = ""
        if not fitting:
            lost = found.hopeless(best)
            verdict = ", more than the budget allows" if lost else ", too uncertain to be certified"
        lines.append(
            f"{why}: {len(group)} tried; {best.variant.name} came to {described(best.look)}{verdict}"
        )
    return tuple(lines)
