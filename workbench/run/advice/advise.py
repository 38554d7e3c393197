"""The advisor: which variants are worth trying here, and why; `hindsight` says where it was wrong."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.backends import Target
from workbench.model.graph.facts import NetworkFacts
from workbench.results.reasons import Objective
from workbench.results.records import AdviceScore, Misjudgement, MisjudgementKind
from workbench.results.remarks import Remark
from workbench.results.verdict import Comparison, Row
from workbench.run.advice.cost_model import CostModel, measured
from workbench.run.advice.explain import phrases
from workbench.run.advice.speed_rules import Opinion, Situation, opinions
from workbench.system.machine import Machine
from workbench.workspace.recipe import Variant

Expected = Literal["faster", "slower", "same", "unknown"]

NEARLY = 1.1  # speeds within this factor of one another are the same to an advisor
NARROW = 1.3  # high over low: a range up to that names one outcome
PROMISING = 1.25  # what an uncertain variant must be able to reach to be worth its time
MISSED = 0.85  # of the lower end of the range: less than that is less than was said
UNLIKELY = 0.85  # the middle of a range below which reaching its upper end would be luck


@dataclass(frozen=True, slots=True)
class Item:
    """What is expected of one variant.

    low, high: speed over that of the plain FP32 export on onnxruntime, one thread; None where it cannot run,
    or where no rule says anything. absent: why it cannot run here; None where it can.
    """

    variant: str
    recipe: str
    worth: bool
    expected: Expected
    low: float | None
    high: float | None
    reasons: tuple[Opinion, ...]
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """Items in the order of the variants. cpu, features: of the machine. remarks: of the sanity look."""

    network: NetworkFacts
    cpu: str
    cores: int
    features: tuple[str, ...]
    objective: Objective
    items: tuple[Item, ...]
    remarks: tuple[Remark, ...] = ()


def advise(
    facts: NetworkFacts,
    machine: Machine,
    absent: Mapping[str, str],
    variants: Sequence[Variant],
    *,
    objective: Objective = "latency",
    known: CostModel | None = None,
) -> Advice:
    """Predict, by rules on operators and processor features (`speed_rules`); nothing is run.

    facts: of the network in FP32. absent: why a variant cannot be tried here, by its name.
    objective: what the winner is chosen by. known: the costs to predict by; those shipped by default.
    """
    features = frozenset(machine.features)
    by_throughput = objective == "throughput"
    situation = Situation(
        facts, machine.architecture, machine.cores, features, known or measured(), by_throughput
    )
    items = tuple(_judged(variant, situation, objective, absent.get(variant.name)) for variant in variants)
    return Advice(facts, machine.cpu, machine.cores, machine.features, objective, items)


def advised(advice: Advice, variants: Sequence[Variant], targets: Collection[Target] = ()) -> list[Variant]:
    """Those worth trying, and what can be tried for a device among the targets: its speed is not known."""
    worth = {item.variant for item in advice.items if item.worth}
    here = {item.variant for item in advice.items if item.absent is None}
    devices = set(targets) - {"server"}
    return [
        variant
        for variant in variants
        if variant.name in worth or (variant.name in here and devices & variant.runtime.TARGETS)
    ]


def hindsight(advice: Advice, comparison: Comparison) -> AdviceScore:
    """Where the advice was wrong, how often it was right, and how much `--advised` left out."""
    rows = {row.variant: row for row in comparison.rows}
    paired = [(item, rows[item.variant]) for item in advice.items if item.variant in rows]
    judged = [(item, row) for item, row in paired if row.speedup is not None and item.low]
    wrong = tuple(found for item, row in judged if (found := _misjudgement(item, row)) is not None)
    left_out = [item for item in advice.items if item.variant not in rows]
    not_here = sum(item.absent is not None for item in left_out)
    return AdviceScore(
        right=len(judged) - len(wrong),
        timed=len(judged),
        wrong=wrong,
        not_worth=len(left_out) - not_here,
        not_here=not_here,
    )


def _judged(variant: Variant, situation: Situation, objective: Objective, absent: str | None) -> Item:
    if absent is not None:
        reasons = (Opinion(f"it cannot run here: {absent}", "this machine"),)
        return Item(variant.name, variant.recipe, False, "unknown", None, None, reasons, absent)
    given = opinions(variant, situation)
    found = tuple(sorted(given, key=lambda o: (not o.stop, -abs(math.log(o.low * o.high)))))
    if not found:
        unknown = Opinion("no rule knows this combination", "trying it is the only way to know")
        return Item(variant.name, variant.recipe, True, "unknown", None, None, (unknown,))
    if not found[0].stop and (unlike := _other_version(variant, situation)) is not None:
        return Item(variant.name, variant.recipe, True, "unknown", None, None, (unlike,))
    if all(opinion.stop for opinion in found):
        return Item(variant.name, variant.recipe, False, "unknown", None, None, found)
    low, high = math.prod(o.low for o in found), math.prod(o.high for o in found)
    expected = _expected(low, high)
    uncertain = expected == "unknown" and high >= PROMISING and math.sqrt(low * high) >= UNLIKELY
    promising = expected == "faster" or uncertain
    smaller = any(step.FAMILY != "tidying" for step in variant.steps)
    worth = not found[0].stop and (promising if objective in ("latency", "throughput") else smaller)
    return Item(variant.name, variant.recipe, worth, expected, round(low, 2), round(high, 2), found)


def _other_version(variant: Variant, situation: Situation) -> Opinion | None:
    """That the costs were measured in another version of the runtime than the recipe names, or None."""
    version, distribution = variant.runtime.version, variant.runtime.DISTRIBUTION
    if version is None or distribution is None or version == situation.known.versions.get(distribution):
        return None
    text = f"how fast {distribution} {version} is was not measured: versions differ, and a trial tells"
    return Opinion(text, phrases()["VERSIONS"])


def _expected(low: float, high: float) -> Expected:
    middle = math.sqrt(low * high)
    if low >= 1 / NARROW**0.25 and middle >= NEARLY:
        return "faster"
    if high <= NEARLY and middle <= 1 / NEARLY:
        return "slower"
    return "same" if high / low <= NARROW and low < high else "unknown"


def _misjudgement(item: Item, row: Row) -> Misjudgement | None:
    assert item.low is not None and item.high is not None and row.speedup is not None
    low, high = row.speedup_ci or (row.speedup, row.speedup)
    match item.expected:
        case "slower" if low > 1:
            kind: MisjudgementKind = "faster_than_advised"
        case "faster" if high < 1:
            kind = "slower_than_advised"
        case "faster" if high < MISSED * item.low:
            kind = "less_than_advised"
        case "same" if low > NEARLY or high < 1 / NEARLY:
            kind = "not_the_same"
        case _ if row.winner and not item.worth:
            kind = "won_unadvised"
        case _:
            return None
    return Misjudgement(
        kind=kind,
        variant=item.variant,
        expected=item.expected,
        low=item.low,
        high=item.high,
        because=item.reasons[0].text,
        speedup=row.speedup,
        speedup_ci=row.speedup_ci,
    )
