"""A search through recipe space: candidates get a quick look each, where it pays most first."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from workbench.backends import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.measure.stats import PairedDrop
from workbench.model.graph.roles import Role
from workbench.results.reasons import Failed, OutOfTime, Skipped
from workbench.results.records import Budget, TrialResult
from workbench.run.build import LAYER_SECONDS, layers_of
from workbench.run.check_variant import Built, Context, cause_of
from workbench.run.tune import moves
from workbench.run.tune.moves import Move
from workbench.run.tune.quick_look import Looker, QuickLook, promise
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.steps.int8.settings import StaticInt8
from workbench.system.child import ChildError, call
from workbench.system.files import file_name
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant

SEEDS_SHARE = 0.45  # of the search, at most, for what the advisor suggests
FINALISTS = 6
CLEARLY = 0.98  # of the time of the surer ones: what a finalist must be below
NEARLY = 1.1  # times the fastest's: what a look cannot tell apart


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and what came of it: a look, or why there is none."""

    variant: Variant
    why: str
    look: QuickLook | None = None
    cause: Skipped | Failed | OutOfTime | None = None


@dataclass(slots=True)
class Search:
    """What a search knows so far.

    until: time.monotonic() when no new candidate is begun. absent: roles that no layer of the network plays.
    """

    context: Context
    looker: Looker
    until: float
    baseline: TrialResult
    absent: frozenset[Role] = frozenset()
    tried: dict[str, Tried] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        return self.context.prepared.workspace.budget

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
        return tried.look.cost(self.budget) / self._unit()

    def _unit(self) -> float:
        match self.budget.objective:
            case "latency":
                return 1.0  # looks compare times with the baseline's anyway
            case "size":
                return float(self.baseline.size_bytes or 0)
            case "memory":
                return float((self.baseline.peak_memory_bytes or 0) + self.context.empty_worker.peak_bytes)

    def within(self, tried: Tried) -> bool:
        return tried.look is not None and tried.look.within(self.budget, self.photos)

    def fits(self, tried: Tried) -> bool:
        """Does it seem to keep the budget on all the photos that choose?"""
        chosen = len(self.context.parts.selection)
        if tried.look is None:
            return False
        times = chosen / tried.look.images
        drop = PairedDrop(round(tried.look.losses * times), round(tried.look.gains * times), chosen)
        return max(drop.drop, drop.upper_bound()) <= self.budget.max_accuracy_drop

    def promise(self, tried: Tried) -> float:
        assert tried.look is not None
        return promise(tried.look.drop, self.budget, self.photos)

    def hopeless(self, tried: Tried) -> bool:
        return tried.look is None or tried.look.hopeless(self.budget)

    def best(self, among: Iterable[Tried] | None = None) -> list[Tried]:
        """Those that seem to meet the accuracy budget, cheapest first."""
        pool = self.tried.values() if among is None else among
        return sorted((tried for tried in pool if self.within(tried)), key=self.cost)

    def take(self, move: Move, until: float | None = None) -> Tried | None:
        """Build the move's variant and look at it; None where time is up. A variant is looked at once."""
        move = replace(move, variant=self._unmistakable(move.variant))
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

    def _unmistakable(self, variant: Variant) -> Variant:
        """The variant, renamed where another one has its name: what is built and measured is kept by name.

        `float-1` of a variant, for one, names other layers once its own layers were looked at.
        """
        others = [tried.variant.name for key, tried in self.tried.items() if key != variant.digest]
        filed = {file_name(name) for name in others}
        name, number = variant.name, 2
        while file_name(name) in filed:
            name, number = f"{variant.name}~{number}", number + 1
        return replace(variant, name=name)

    def _tell(self, move: Move, left: float) -> None:
        best = self.best()
        seen = best[0].look if best else None
        so_far = f"; best so far {best[0].variant.name}, {seen.speedup:.2f} times" if seen else ""
        what = f"{move.variant.name} ({move.why}){so_far}"
        self.context.report(Progress("searching", len(self.tried), 0, what, left))

    def _looked(self, move: Move) -> Tried:
        variant = move.variant
        if (reason := self.context.not_here(variant)) is not None:
            return Tried(variant, move.why, cause=Skipped(variant=variant.name, message=reason))
        self.context.runtimes[variant.name] = variant.runtime
        try:
            built = self.build(variant)
            return Tried(variant, move.why, self.looker.look(variant, built))
        except WorkbenchError as error:
            late = OutOfTime(variant=variant.name, while_building=True) if self.left_s <= 0 else None
            return Tried(variant, move.why, cause=late or cause_of(variant, error))

    def tell_untried(self, moves: Iterable[Move]) -> None:
        """Record those that time did not suffice for: what was given by name must not vanish."""
        for move in moves:
            variant = move.variant
            if variant.digest not in self.tried:
                missing = self.context.not_here(variant)
                skipped = Skipped(variant=variant.name, message=missing) if missing else None
                cause = skipped or OutOfTime(variant=variant.name)
                self.tried[variant.digest] = Tried(variant, move.why, cause=cause)

    def build(self, variant: Variant) -> Built:
        """Raises WorkbenchError, also where it takes longer than the search has time."""
        return self.context.build(variant, min(self.context.build_timeout_s, max(20.0, self.left_s)))


def explore(found: Search, seeds: Sequence[Move], doubted: Sequence[Move]) -> None:
    """Look at candidates until time is up or nothing is left to try.

    doubted: tried last, because the advisor may be wrong.
    """
    # Smaller inputs are tried with the baseline, under another name.
    viable = scan_sizes(found, replace(found.context.baseline, name="plain", recipe="plain"))
    seeds_until = time.monotonic() + SEEDS_SHARE * found.left_s
    for move in seeds:
        found.take(move, seeds_until)
    families = _families(found)
    for crop in viable:
        for family in families:
            found.take(Move(moves.at_size(family, crop), "smaller input and other arithmetic together"))
    mixed: set[str] = set()
    for batch in ((), doubted):
        for move in batch:
            found.take(move)
        for best in _best_quantized(found):
            if best.digest not in mixed:
                mixed.add(best.digest)
                mix(found, best)


def scan_sizes(found: Search, plain: Variant) -> list[int]:
    """The crops at which `plain` seems to keep its accuracy, smallest first, two at most.

    A coarse scan downwards, then the sizes next to its edge.
    """
    crops = moves.sizes(found.context.job.contract.crop)
    seen: dict[int, Tried] = {}

    def at(crop: int) -> Tried | None:
        tried = found.take(Move(moves.at_size(plain, crop), "smaller input"))
        if tried is not None:
            seen[crop] = tried
        return tried

    for crop in moves.coarse(crops):
        tried = at(crop)
        if tried is None or tried.cause is not None or found.hopeless(tried):
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
        if tried.look is None or found.hopeless(tried) or resized(tried.variant):
            continue
        known = best.get(tried.variant.recipe)
        if known is None or found.cost(tried) < found.cost(known):
            best[tried.variant.recipe] = tried
    ranked = sorted(best.values(), key=found.cost)
    return [tried.variant for tried in ranked if found.cost(tried) < 1][:3]


def _best_quantized(found: Search) -> list[Variant]:
    """Static INT8 variants worth refining: the fastest, and the fastest that seems accurate."""
    pool = [tried for tried in found.tried.values() if tried.look and moves.static_step(tried.variant)]
    pool.sort(key=found.cost)
    best = [*pool[:1], *[tried for tried in pool if found.within(tried)][:1]]
    return list({tried.variant.digest: tried.variant for tried in best}.values())


def mix(found: Search, variant: Variant) -> None:
    """Refine one static INT8 variant: known repairs, then what its layers cost and buy."""
    sensitivities = layers(found, variant)
    for move in moves.mixed(variant, sensitivities):
        found.take(move)
    for move in moves.refinements(variant, found.absent):
        found.take(move)
    refined = [t for t in found.best() if t.variant.name.startswith(f"{variant.name}+")]
    if refined:
        for move in moves.mixed(refined[0].variant, sensitivities):
            found.take(move)


def layers(found: Search, variant: Variant) -> list[LayerSensitivity]:
    """What each layer costs and buys; nothing where time is up or the graphs do not tell."""
    context = found.context
    position = next(i for i, step in enumerate(variant.steps) if isinstance(step, StaticInt8))
    # The profile is onnxruntime's: of a file that openvino opens it could say nothing.
    tells = position == len(variant.steps) - 1 and isinstance(variant.runtime, OrtRuntime)
    if not tells or found.left_s <= 0:
        return []
    before = replace(variant, name=f"{variant.name} before INT8", steps=variant.steps[:position])
    what = f"what each layer of {variant.name} costs and buys"
    context.report(Progress("searching", len(found.tried), 0, what, found.left_s))
    try:
        source, quantized = found.build(before), found.build(variant)
        return call(
            layers_of,
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


def chosen(found: Search) -> list[Tried]:
    """Who is checked in full: from the surest on, each that is faster than all that are surer.

    They keep the budget on the photos that choose, as far as a look can tell. Of many, the surest and those
    with the most to win (the probability of being certified times the log of the speed) are kept, and two
    that a look cannot tell from the fastest of them.
    """
    pool = [tried for tried in found.tried.values() if found.fits(tried) and found.cost(tried) < 1]
    pool.sort(key=lambda tried: (-found.promise(tried), found.cost(tried)))
    front: list[Tried] = []
    for tried in pool:
        if not front or found.cost(tried) < CLEARLY * found.cost(front[-1]):
            front.append(tried)
    most = sorted(front[1:], key=lambda tried: found.promise(tried) * math.log(found.cost(tried)))
    kept = [*front[:1], *most[: FINALISTS - 1]]
    fastest = min(map(found.cost, kept), default=0.0)
    rest = sorted((tried for tried in pool if tried not in kept), key=found.cost)
    kept += [tried for tried in rest if found.cost(tried) <= NEARLY * fastest][:2]
    doubtful = [
        tried
        for tried in found.tried.values()
        if tried.look is not None
        and tried.look.images < len(found.context.parts.selection)
        and not found.fits(tried)
        and not found.hopeless(tried)
        and found.cost(tried) < (fastest or 1.0)
    ]
    doubtful.sort(key=lambda tried: tried.look.drop.drop if tried.look else 0.0)
    return [*kept, *doubtful[:2]]


def resized(variant: Variant) -> bool:
    return variant.preprocess.crop is not None or variant.preprocess.scale is not None
