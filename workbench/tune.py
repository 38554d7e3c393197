"""`krishi-bench tune`: search recipe space within a time budget, then decide as any run decides.

First what the advisor suggests, then smaller inputs, then both together, then mixed precision for the best INT8
variant. Candidates get a quick look each (`look.py`); the few that are left are checked and timed in an ordinary run,
and the winner is written down as a recipe.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench import pipeline, search
from workbench.advise import Advice, advised
from workbench.backends import Runtime
from workbench.build import LAYER_SECONDS
from workbench.checking import Built, Context, build_variant, not_here
from workbench.compare import Comparison, compare, paired_drop
from workbench.errors import Unsuited, WorkbenchError
from workbench.files import write_atomic
from workbench.isolate import ChildError, call
from workbench.look import LIKELY, Look, Looker, described, problem, promise
from workbench.measure.latency import Plan
from workbench.prepare import overridden, prepare
from workbench.progress import Progress, Report
from workbench.recipe import BASELINE, NAME_PATTERN, Variant
from workbench.report import html
from workbench.results import RunFolder, TrialResult
from workbench.search import Move
from workbench.steps.layers import Layer
from workbench.workspace import Workspace

RACE_SHARE = 0.3  # of the budget, for checking and timing the finalists
SEEDS_SHARE = 0.45  # of the search, at most, for what the advisor suggests
FINALISTS = 5
LEAST_RACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and what came of it: a look, or why there is none."""

    variant: Variant
    why: str
    look: Look | None = None
    problem: str | None = None
    skipped: bool = False


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


@dataclass(slots=True)
class Search:
    """What a search knows so far. until: time.monotonic() when no new candidate is begun."""

    context: Context
    looker: Looker
    until: float
    tried: dict[str, Tried] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    @property
    def photos(self) -> int:
        """How many photos the smaller part has that a winner must hold on."""
        parts = self.context.parts
        return min(len(parts.selection), len(parts.certification) or len(parts.selection))

    def cost(self, tried: Tried) -> float:
        """What the objective minimises, as a multiple of the baseline's."""
        assert tried.look is not None
        return tried.look.cost(self.context.prepared.workspace.budget) / self._unit()

    def _unit(self) -> float:
        context = self.context
        match context.prepared.workspace.budget.objective:
            case "latency":
                return 1.0  # looks compare times with the baseline's anyway
            case "size":
                return float(context.built[BASELINE].artifact.info.total_bytes)
            case "memory":
                assert context.empty_worker is not None
                return float((context.baseline_memory_bytes or 0) + context.empty_worker.peak_bytes)

    def within(self, tried: Tried) -> bool:
        return tried.look is not None and tried.look.within(
            self.context.prepared.workspace.budget, self.photos
        )

    def hopeless(self, tried: Tried) -> bool:
        return tried.look is None or tried.look.hopeless(self.context.prepared.workspace.budget)

    def best(self, among: Iterable[Tried] | None = None) -> list[Tried]:
        """Those that seem to meet the accuracy budget, cheapest first."""
        pool = self.tried.values() if among is None else among
        return sorted((tried for tried in pool if self.within(tried)), key=self.cost)

    def take(self, move: Move, until: float | None = None) -> Tried | None:
        """Build the move's variant and look at it; None where time is up. A variant is looked at once."""
        variant = move.variant
        if (before := self.tried.get(variant.digest)) is not None:
            return before
        left = min(self.left_s, (until or self.until) - time.monotonic())
        if left <= 0:
            return None
        self._tell(move, left)
        tried = self._looked(move)
        self.tried[variant.digest] = tried
        return tried

    def _tell(self, move: Move, left: float) -> None:
        best = self.best()
        so_far = (
            f"; best so far {best[0].variant.name}, {described(best[0].look)}"
            if best and best[0].look
            else ""
        )
        what = f"{move.variant.name} ({move.why}), {left:.0f} s left{so_far}"
        self.context.stage = Progress("searching", len(self.tried), 0, what)
        self.context.report(self.context.stage)

    def _looked(self, move: Move) -> Tried:
        variant = move.variant
        if (reason := not_here(self.context, variant)) is not None:
            return Tried(variant, move.why, problem=reason, skipped=True)
        self.context.runtimes[variant.name] = variant.runtime
        try:
            built = self.build(variant)
            return Tried(variant, move.why, self.looker.look(variant, built))
        except WorkbenchError as error:
            late = self.left_s <= 0
            reason = "the time to search ended while it was built" if late else problem(error)
            return Tried(variant, move.why, problem=reason, skipped=late or isinstance(error, Unsuited))

    def tell_untried(self, moves: Iterable[Move]) -> None:
        """Record those that time did not suffice for: what was given by name must not vanish."""
        for move in moves:
            if move.variant.digest not in self.tried:
                reason = not_here(self.context, move.variant) or "the time to search ended before its turn"
                self.tried[move.variant.digest] = Tried(move.variant, move.why, problem=reason, skipped=True)

    def build(self, variant: Variant) -> Built:
        """Raises WorkbenchError, also where it takes longer than the search has time."""
        context = self.context
        own = context.job.contract
        if (contract := overridden(own, variant.preprocess)) != own:
            context.contracts[variant.name] = contract
        if variant.name not in context.built:
            timeout_s = min(context.build_timeout_s, max(20.0, self.left_s))
            built = build_variant(context, variant, context.folder.log(variant.name), timeout_s)
            context.built[variant.name] = built
        return context.built[variant.name]


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
            f"the budget of {budget_s:.0f} s ended before anything could be tried: preparing and measuring the "
            f"baseline took {time.monotonic() - started:.0f} s",
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
        (variant for variant in _comparable(variants) if not _resized(variant)),
        key=lambda variant: (-expected[variant.name], len(variant.steps)),  # what is quick to build first
    )
    worth = {variant.name for variant in advised(advice, variants)}
    return (
        [Move(variant, "suggested by the advisor") for variant in fair if variant.name in worth],
        [Move(variant, "tried against the advice") for variant in fair if variant.name not in worth],
    )


def _resized(variant: Variant) -> bool:
    return variant.preprocess.crop is not None or variant.preprocess.scale is not None


def _comparable(variants: Iterable[Variant]) -> list[Variant]:
    """Those that can be published and that use as much of the machine as the baseline: one thread, one photo, the
    CPU. More threads make one photo faster and the server slower; how many is the operator's choice.
    """

    def fair(runtime: Runtime) -> bool:
        alone = runtime.batch == 1 and runtime.intra_threads == 1
        return alone and runtime.device == "cpu" and runtime.backend != "torch"

    return [variant for variant in variants if fair(variant.runtime)]


def explore(found: Search, seeds: Sequence[Move], doubted: Sequence[Move]) -> None:
    """Look at candidates until time is up or nothing is left to try.

    doubted: tried last, because the advisor may be wrong.
    """
    viable = scan_sizes(found, _plain(found))
    seeds_until = time.monotonic() + SEEDS_SHARE * found.left_s
    for move in seeds:
        found.take(move, seeds_until)
    families = _families(found)
    for crop in viable:
        for family in families:
            found.take(Move(search.at_size(family, crop), "smaller input and other arithmetic together"))
    mixed: set[str] = set()
    for moves in ((), doubted):
        for move in moves:
            found.take(move)
        for best in _best_quantized(found):
            if best.digest not in mixed:
                mixed.add(best.digest)
                mix(found, best)


def _plain(found: Search) -> Variant:
    """The baseline under another name: what smaller inputs are tried with first."""
    plain = found.context.baseline_variant
    assert plain is not None
    return replace(plain, name="plain", recipe="plain")


def scan_sizes(found: Search, plain: Variant) -> list[int]:
    """The crops at which `plain` seems to keep its accuracy, smallest first: a coarse scan downwards, then the
    sizes next to its edge."""
    crops = search.sizes(found.context.job.contract.crop)
    seen: dict[int, Tried] = {}

    def at(crop: int) -> Tried | None:
        tried = found.take(Move(search.at_size(plain, crop), "smaller input"))
        if tried is not None:
            seen[crop] = tried
        return tried

    for crop in search.coarse(crops):
        tried = at(crop)
        if tried is None or tried.problem is not None or found.hopeless(tried):
            break
    good = [crop for crop, tried in seen.items() if found.within(tried)]
    edge = min(good, default=found.context.job.contract.crop)
    beside = [crop for crop in crops if crop not in seen and crop < edge][:1]
    beside += [crop for crop in crops if crop not in seen and crop > edge][-1:]
    for crop in beside if any(tried.look for tried in seen.values()) else []:
        at(crop)
    return sorted(crop for crop, tried in seen.items() if found.within(tried))[:2]


def _families(found: Search) -> list[Variant]:
    """The fastest variant of each recipe that seems to keep its accuracy or nearly does, fastest first."""
    best: dict[str, Tried] = {}
    for tried in found.tried.values():
        if tried.look is None or found.hopeless(tried) or _resized(tried.variant):
            continue
        known = best.get(tried.variant.recipe)
        if known is None or found.cost(tried) < found.cost(known):
            best[tried.variant.recipe] = tried
    ranked = sorted(best.values(), key=found.cost)
    return [tried.variant for tried in ranked if found.cost(tried) < 1][:3]


def _best_quantized(found: Search) -> list[Variant]:
    """Static INT8 variants worth refining: the fastest that seems accurate, and the fastest that may become so."""
    pool = [
        t for t in found.tried.values() if t.look is not None and search.static_step(t.variant) is not None
    ]
    pool.sort(key=found.cost)
    accurate = [tried.variant for tried in pool if found.within(tried)][:1]
    return list({variant.digest: variant for variant in [*[t.variant for t in pool[:1]], *accurate]}.values())


def mix(found: Search, variant: Variant) -> None:
    """Refine one static INT8 variant: known repairs, then what its layers cost and buy."""
    sensitivities = layers(found, variant)
    for move in search.mixed(variant, sensitivities):
        found.take(move)
    better = variant
    for move in search.refinements(variant):
        found.take(move)
    refined = [t for t in found.best() if t.variant.name.startswith(f"{variant.name}+")]
    if refined and refined[0].variant is not better:
        for move in search.mixed(refined[0].variant, sensitivities):
            found.take(move)


def layers(found: Search, variant: Variant) -> list[Layer]:
    """What each layer costs and buys; nothing where time is up or the graphs do not tell."""
    context = found.context
    position = next(i for i, step in enumerate(variant.steps) if step.use == "static_int8")
    if position != len(variant.steps) - 1 or found.left_s <= 0:
        return []
    before = replace(variant, name=f"{variant.name} before INT8", steps=variant.steps[:position])
    context.report(
        Progress("searching", len(found.tried), 0, f"what each layer of {variant.name} costs and buys")
    )
    try:
        source, quantized = found.build(before), found.build(variant)
        measured: list[Layer] = call(
            "workbench.build:layers_of",
            context.job_of(variant.name),
            source.artifact,
            quantized.artifact,
            min(LAYER_SECONDS, found.left_s / 4),
            log=context.folder.log(variant.name),
            timeout_s=max(60.0, found.left_s),
            label="profiling the layers",
        )
    except ChildError as error:
        context.report(Progress("failed", 0, 0, f"what each layer costs: {error.message}"))
        return []
    return measured


def chosen(found: Search) -> list[Tried]:
    """Who is checked in full: the best that seem to fit, and the fastest that may fit after all."""
    fitting = [tried for tried in found.best() if found.cost(tried) < 1][:FINALISTS]
    limit = found.cost(fitting[0]) if fitting else 1.0
    doubtful = sorted(
        (
            tried
            for tried in found.tried.values()
            if tried.look is not None
            and not found.within(tried)
            and not found.hopeless(tried)
            and found.cost(tried) < limit
        ),
        key=lambda tried: tried.look.drop.drop if tried.look else 0.0,
    )
    return [*fitting, *doubtful[:2]]


def certifiable(found: Search, checked: Sequence[TrialResult]) -> list[TrialResult]:
    """Of the finalists, those that are likely to be certified, now that all photos that choose were seen; all of
    them where none is.

    Whoever is chosen for speed alone is often refused by the photos that chose nothing, and a search that ends so
    has found nothing.
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


def recipe_path(workspace: Workspace, name: str | None) -> Path:
    """`recipes/tuned-<model>.yaml` of the workspace, or another name there. Raises WorkbenchError."""
    stem = name or f"tuned-{workspace.name}"
    if re.fullmatch(NAME_PATTERN, stem) is None:
        raise WorkbenchError(
            f"`{stem}` is not a name for a recipe", hint="use letters, digits, `.`, `_` and `-`, at most 60"
        )
    return workspace.root / "recipes" / f"{stem}.yaml"


HEADER = "# Written by `krishi-bench tune`"


def check_ours(path: Path) -> None:
    """Raise WorkbenchError where a file is there that tune did not write."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise WorkbenchError(
            f"{path} is there, and tune did not write it", hint="choose another --name, or move it away"
        )


def write_recipe(winner: Variant, path: Path, comparison: Comparison) -> None:
    """The winner as a recipe that `run` reproduces it with."""
    import yaml

    row = next(row for row in comparison.rows if row.variant == winner.name)
    assert row.speedup is not None
    said = f"{row.speedup:.2f} times the baseline's speed on {comparison.info.machine.cpu}"
    content: dict[str, object] = {
        "name": path.stem,
        "description": f"{winner.name}: {winner.description or 'found by tune'}",
        "needs": list(winner.needs),
        "export": winner.export.model_dump(mode="json", exclude_unset=True),
        "steps": [step.model_dump(mode="json", exclude_unset=True) for step in winner.steps],
        "runtime": winner.runtime.model_dump(mode="json", exclude_unset=True),
        "preprocess": winner.preprocess.model_dump(mode="json", exclude_none=True),
    }
    kept = {key: value for key, value in content.items() if value}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{HEADER} from run {comparison.info.run_id}: {said}.\n{text}".encode())
