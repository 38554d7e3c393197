"""A search through recipe space: candidates get a quick look each, where it pays most first."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from workbench.backends import OrtRuntime, Target
from workbench.errors import WorkbenchError
from workbench.measure.stats import PairedDrop
from workbench.model.graph.roles import Role
from workbench.results.reasons import Failed, OutOfTime, Skipped
from workbench.results.records import Budget, TrialResult
from workbench.results.targets import Facts, best_by_facts
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context, cause_of
from workbench.run.tune import moves
from workbench.run.tune.bench import SearchBench
from workbench.run.tune.layers import LAYER_SECONDS
from workbench.run.tune.moves import Move
from workbench.run.tune.quick_look import QuickLook
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.steps.int8.settings import StaticInt8
from workbench.system.child import ChildError
from workbench.system.files import file_name
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant

SEEDS_SHARE = 0.45  # of the search, at most, for what the advisor suggests
FINALISTS = 6
ON_DEVICE = 3  # finalists for a device
CLEARLY = 0.98  # of the time of the surer ones: what a finalist must be below
NEARLY = 1.1  # times the fastest's: what a look cannot tell apart


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate and what came of it: a look, or why there is none."""

    variant: Variant
    why: str
    look: QuickLook | None = None
    cause: Skipped | Failed | OutOfTime | None = None


@dataclass(slots=True)
class Search:
    """What a search knows so far.

    until: time.monotonic() when no new candidate is begun. absent: roles that no layer of the network plays.
    targets: what a variant is searched for. names: of candidates as files, with their digests; searches for
    several machines share them.
    """

    context: Context
    bench: SearchBench
    until: float
    baseline: TrialResult
    absent: frozenset[Role] = frozenset()
    targets: tuple[Target, ...] = ("server",)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        return self.context.prepared.workspace.budget

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    @property
    def photos(self) -> int:
        """Photos of the smaller part that a winner must hold on."""
        parts = self.context.parts
        return min(len(parts.selection), len(parts.certification) or len(parts.selection))

    def cost(self, candidate: Candidate) -> float:
        """What the objective minimises, as a multiple of the baseline's."""
        look = candidate.look
        assert look is not None
        match self.budget.objective:
            case "latency" | "throughput":  # of a photo: throughput takes longer than a look
                return 1 / look.speedup
            case "size":
                return look.size_bytes / (self.baseline.size_bytes or 1)
            case "memory":
                empty = self.context.empty_worker.peak_bytes
                return look.memory_bytes / (empty + (self.baseline.peak_memory_bytes or 0))

    def within(self, candidate: Candidate) -> bool:
        return candidate.look is not None and candidate.look.within(self.budget, self.photos)

    def fits(self, candidate: Candidate) -> bool:
        """Does it seem to keep the budget on all the photos that choose?"""
        chosen = len(self.context.parts.selection)
        if candidate.look is None or candidate.look.same:
            return candidate.look is not None
        times = chosen / candidate.look.images
        drop = PairedDrop(round(candidate.look.losses * times), round(candidate.look.gains * times), chosen)
        return max(drop.drop, drop.upper_bound()) <= self.budget.max_accuracy_drop

    def promise(self, candidate: Candidate) -> float:
        assert candidate.look is not None
        return candidate.look.promise(self.budget, self.photos)

    def hopeless(self, candidate: Candidate) -> bool:
        return candidate.look is None or candidate.look.hopeless(self.budget)

    def opened_on(self, target: Target) -> list[Candidate]:
        """Those that were looked at and whose files are opened there."""
        looked = [candidate for candidate in self.candidates.values() if candidate.look]
        return [candidate for candidate in looked if target in candidate.variant.runtime.TARGETS]

    def best(self, among: Iterable[Candidate] | None = None) -> list[Candidate]:
        """Those that seem to meet the accuracy budget, cheapest first."""
        pool = self.candidates.values() if among is None else among
        return sorted((candidate for candidate in pool if self.within(candidate)), key=self.cost)

    def take(self, move: Move, until: float | None = None) -> Candidate | None:
        """Build the move's variant and look at it; None where time is up. A variant is looked at once."""
        move = replace(move, variant=self._renamed(move.variant))
        if (before := self.candidates.get(move.variant.digest)) is not None:
            return before
        left = min(self.left_s, (until or self.until) - time.monotonic())
        if left <= 0:
            return None
        self._report(move, left)
        self.candidates[move.variant.digest] = candidate = self._looked(move)
        return candidate

    def _renamed(self, variant: Variant) -> Variant:
        """The variant, renamed where another one has its name: what is built and measured is kept by name.
        `float-1` of a variant, for one, names other layers once its own layers were looked at."""
        name, number = variant.name, 2
        while self.names.setdefault(file_name(name), variant.digest) != variant.digest:
            name, number = f"{variant.name}~{number}", number + 1
        return replace(variant, name=name)

    def _report(self, move: Move, left: float) -> None:
        what = f"{move.variant.name} ({move.why})"
        for best in self.best()[:1]:
            assert best.look is not None
            what += f"; best so far {best.variant.name}, {best.look.speedup:.2f} times"
        self.context.report(Progress("searching", len(self.candidates), 0, what, left))

    def _looked(self, move: Move) -> Candidate:
        variant = move.variant
        if (reason := self.bench.not_here(variant)) is not None:
            return Candidate(variant, move.why, cause=Skipped(variant=variant.name, message=reason))
        self.context.runtimes[variant.name] = variant.runtime
        try:
            return Candidate(variant, move.why, self.bench.look(variant, self.build(variant)))
        except WorkbenchError as error:
            late = OutOfTime(variant=variant.name, while_building=True) if self.left_s <= 0 else None
            return Candidate(variant, move.why, cause=late or cause_of(variant, error))

    def record_untried(self, moves: Iterable[Move]) -> None:
        """Record those that time did not suffice for: what was given by name must not vanish."""
        for move in moves:
            variant = move.variant
            if variant.digest not in self.candidates:
                missing = self.bench.not_here(variant)
                skipped = Skipped(variant=variant.name, message=missing) if missing else None
                cause = skipped or OutOfTime(variant=variant.name)
                self.candidates[variant.digest] = Candidate(variant, move.why, cause=cause)

    def build(self, variant: Variant) -> Built:
        """Raises WorkbenchError, also where it takes longer than the search has time."""
        return self.bench.build(variant, min(self.context.build_timeout_s, max(20.0, self.left_s)))


def explore(search: Search, seeds: Sequence[Move], doubted: Sequence[Move]) -> None:
    """Look at candidates until time is up or nothing is left to try.

    doubted: tried last, because the advisor may be wrong.
    """
    # Smaller inputs are tried with the baseline, under another name.
    viable = scan_sizes(search, replace(search.context.baseline, name="plain", recipe="plain"))
    seeds_until = time.monotonic() + SEEDS_SHARE * search.left_s
    for move in seeds:
        search.take(move, seeds_until)
    families = _families(search)
    for crop in viable:
        for move in families:
            search.take(replace(move, variant=moves.at_size(move.variant, crop)))
    mixed: set[str] = set()
    for batch in ((), doubted):
        for move in batch:
            search.take(move)
        for best in _best_quantized(search):
            if best.digest not in mixed:
                mixed.add(best.digest)
                mix(search, best)


def scan_sizes(search: Search, plain: Variant) -> list[moves.Size]:
    """The crops at which `plain` seems to keep its accuracy, smallest first, two at most.

    A coarse scan downwards, then the sizes next to its edge.
    """
    crops = moves.sizes(search.context.job.contract.size)
    seen: dict[moves.Size, Candidate] = {}

    def at(crop: moves.Size) -> Candidate | None:
        candidate = search.take(Move(moves.at_size(plain, crop), "smaller input"))
        if candidate is not None:
            seen[crop] = candidate
        return candidate

    for crop in moves.coarse(crops):
        candidate = at(crop)
        if candidate is None or candidate.cause is not None or search.hopeless(candidate):
            break
    good = [crop for crop, candidate in seen.items() if search.within(candidate)]
    edge = min(good, default=search.context.job.contract.size)
    beside = [crop for crop in crops if crop not in seen and crop < edge][:1]
    beside += [crop for crop in crops if crop not in seen and crop > edge][-1:]
    for crop in beside if any(candidate.look for candidate in seen.values()) else []:
        at(crop)
    return sorted(crop for crop, candidate in seen.items() if search.within(candidate))[:2]


def _families(search: Search) -> list[Move]:
    """What to try at smaller sizes: for each target the best variants of different recipes that seem to keep
    their accuracy or nearly do."""
    found = []
    for target in search.targets:
        pool = [c for c in search.opened_on(target) if not (search.hopeless(c) or resized(c.variant))]
        if target == "server":
            best, why = _fastest(search, pool), "smaller input and other arithmetic together"
        else:
            best, why = _best_on_device(pool), f"smaller input with what {target}'s delegate runs best"
        found += [Move(variant, why) for variant in best]
    return found


def _fastest(search: Search, pool: Iterable[Candidate]) -> list[Variant]:
    """The fastest of each recipe that is faster than the baseline, fastest first."""
    best: dict[str, Variant] = {}
    for candidate in sorted(pool, key=search.cost):
        if search.cost(candidate) < 1:
            best.setdefault(candidate.variant.recipe, candidate.variant)
    return list(best.values())[:3]


def _best_on_device(pool: Iterable[Candidate]) -> list[Variant]:
    """The best of each recipe for a device, however fast it is here."""
    recipes: dict[str, list[Candidate]] = {}
    for candidate in pool:
        recipes.setdefault(candidate.variant.recipe, []).append(candidate)
    return [best.variant for each in recipes.values() if (best := best_by_facts(each, device_facts))]


def device_facts(candidate: Candidate) -> Facts:
    assert candidate.look is not None
    return candidate.look.delegation, candidate.look.size_bytes


def _best_quantized(search: Search) -> list[Variant]:
    """Static INT8 variants worth refining: the fastest, and the fastest that seems accurate."""
    pool = [c for c in search.candidates.values() if c.look and moves.static_step(c.variant)]
    pool.sort(key=search.cost)
    best = [*pool[:1], *[c for c in pool if search.within(c)][:1]]
    return list({c.variant.digest: c.variant for c in best}.values())


def mix(search: Search, variant: Variant) -> None:
    """Refine one static INT8 variant: known repairs, then what its layers cost and buy."""
    sensitivities = layers(search, variant)
    for move in moves.mixed(variant, sensitivities):
        search.take(move)
    for move in moves.refinements(variant, search.absent):
        search.take(move)
    refined = [c.variant for c in search.best() if c.variant.name.startswith(f"{variant.name}+")]
    for move in moves.mixed(refined[0], sensitivities) if refined else ():
        search.take(move)


def layers(search: Search, variant: Variant) -> list[LayerSensitivity]:
    """What each layer costs and buys; nothing where time is up or the graphs do not tell."""
    context = search.context
    position = next(i for i, step in enumerate(variant.steps) if isinstance(step, StaticInt8))
    # The profile is onnxruntime's: of a file that openvino opens it could say nothing.
    tells = position == len(variant.steps) - 1 and isinstance(variant.runtime, OrtRuntime)
    if not tells or search.left_s <= 0:
        return []
    before = replace(variant, name=f"{variant.name} before INT8", steps=variant.steps[:position])
    what = f"what each layer of {variant.name} costs and buys"
    context.report(Progress("searching", len(search.candidates), 0, what, search.left_s))
    try:
        files = (search.build(before).artifact, search.build(variant).artifact)
        seconds, timeout_s = min(LAYER_SECONDS, search.left_s / 4), max(60.0, search.left_s)
        return search.bench.layers(variant, files, seconds, timeout_s)
    except ChildError as error:
        context.report(Progress("failed", 0, 0, f"what each layer costs: {error.message}"))
        return []


def chosen(search: Search) -> list[Candidate]:
    """The candidates to check in full, for each target; they keep the budget on the photos that choose, as
    far as a look can tell."""
    found = [
        candidate
        for target in search.targets
        for candidate in (_for_server(search) if target == "server" else _for_device(search, target))
    ]
    return list({candidate.variant.digest: candidate for candidate in found}.values())


def _for_device(search: Search, target: Target) -> list[Candidate]:
    """The best there, and of those that are surer than it the best, and so on."""
    pool, found = [c for c in search.opened_on(target) if search.fits(c)], list[Candidate]()
    while (best := best_by_facts(pool, device_facts)) is not None and len(found) < ON_DEVICE:
        found.append(best)
        pool = [candidate for candidate in pool if search.promise(candidate) > search.promise(best)]
    return found


def _for_server(search: Search) -> list[Candidate]:
    """From the surest on, each that is faster than all that are surer.

    Of many, the surest and those with the most to win (the probability of being certified times the log of
    the speed) are kept, and two that a look cannot tell from the fastest of them.
    """
    there = search.opened_on("server")
    pool = [c for c in there if search.fits(c) and search.cost(c) < 1]
    pool.sort(key=lambda c: (-search.promise(c), search.cost(c)))
    front: list[Candidate] = []
    for candidate in pool:
        if not front or search.cost(candidate) < CLEARLY * search.cost(front[-1]):
            front.append(candidate)
    most = sorted(front[1:], key=lambda c: search.promise(c) * math.log(search.cost(c)))
    kept = [*front[:1], *most[: FINALISTS - 1]]
    fastest = min(map(search.cost, kept), default=0.0)
    rest = sorted((c for c in pool if c not in kept), key=search.cost)
    kept += [c for c in rest if search.cost(c) <= NEARLY * fastest][:2]
    doubtful = [
        c
        for c in there
        if c.look is not None
        and c.look.images < len(search.context.parts.selection)
        and not (search.fits(c) or search.hopeless(c))
        and search.cost(c) < (fastest or 1.0)
    ]
    doubtful.sort(key=lambda c: c.look.drop.drop if c.look else 0.0)
    return [*kept, *doubtful[:2]]


def resized(variant: Variant) -> bool:
    return variant.preprocess.crop is not None or variant.preprocess.scale is not None
