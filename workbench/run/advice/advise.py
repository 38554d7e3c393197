"""The advisor: which variants are worth trying on this machine, which are not, and why.

It predicts, and nothing more: `hindsight` says afterwards where it was wrong.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench.model.graph.facts import NetworkFacts
from workbench.results.verdict import Comparison, Row
from workbench.run.advice.explain import wrapped
from workbench.run.advice.speed_rules import Situation, opinions
from workbench.system.machine import Machine
from workbench.workspace.recipe import Variant

Expected = Literal["faster", "slower", "same", "unknown"]
Objective = Literal["latency", "size", "memory"]

NEARLY = 1.1  # speeds within this factor of one another are the same to an advisor
NARROW = 1.3  # high over low: a range up to that names one outcome
PROMISING = 1.25  # what an uncertain variant must be able to reach to be worth its time
MISSED = 0.85  # of the lower end of the range: less than that is less than was said
UNLIKELY = 0.85  # the middle of a range below which reaching its upper end would be luck


@dataclass(frozen=True, slots=True)
class Reason:
    text: str
    source: str


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
    reasons: tuple[Reason, ...]
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """Items in the order of the variants. cpu, features: of the machine it is for."""

    network: NetworkFacts
    cpu: str
    cores: int
    features: tuple[str, ...]
    objective: Objective
    items: tuple[Item, ...]

    def facts(self) -> dict[str, Any]:
        """The keys of `--format json`."""
        return {**asdict(self), "network": self.network.model_dump(mode="json")}

    def headlines(self) -> list[str]:
        """Two or three lines for the start of a run."""
        worth = [item.variant for item in _promising_first(self.items) if item.worth]
        lines = [f"network: {self.network.sentence()}"]
        lines.append(f"worth trying: {', '.join(worth) or 'nothing that is here'}")
        poor = [f"{title}: {len(found)} of {len(self.items)}" for title, found in self._poor() if found]
        if poor:
            lines.append(f"{'; '.join(poor)} (`krishi-bench advise` says why)")
        return lines

    def _poor(self) -> list[tuple[str, list[Item]]]:
        """What is not worth trying and what cannot be tried, under their headings."""
        poor = [item for item in self.items if not item.worth]
        return [
            ("not worth trying", [item for item in poor if item.absent is None]),
            ("cannot run here", [item for item in poor if item.absent is not None]),
        ]

    def text(self) -> str:
        """The advice for a terminal of 100 columns."""
        here = ", ".join(self.features) or "its features are unknown"
        lines = [
            *wrapped(f"{self.cpu}, {self.cores} cores: {here}", ""),
            *wrapped(self.network.sentence(), ""),
        ]
        sources: dict[str, int] = {}  # numbered as they are met: each is given in full once, at the end
        unfit, away = self._poor()
        promising = _promising_first([item for item in self.items if item.worth])
        for title, chosen in (("worth trying", promising), unfit, *([away] if away[1] else [])):
            lines += ["", f"{title}:" if chosen else f"{title}: nothing"]
            for group in _groups(chosen):
                lines += _entry(group, sources)
        lines += ["", "sources:"]
        for source, number in sources.items():
            lines += wrapped(source, "       ", f"  [{number}]".ljust(7))
        lines += ["", "A prediction from the operators and the processor; `run` measures."]
        return "\n".join(lines) + "\n"


def advise(
    facts: NetworkFacts,
    machine: Machine,
    absent: Mapping[str, str],
    variants: Sequence[Variant],
    *,
    objective: Objective = "latency",
) -> Advice:
    """Predict, by rules on operators and processor features (`speed_rules`); nothing is run.

    facts: of the network in FP32. absent: why a variant cannot be tried here, by its name.
    objective: what the winner is chosen by.
    """
    situation = Situation(facts, machine.architecture, machine.cores, frozenset(machine.features))
    items = tuple(
        _absent(variant, absent[variant.name])
        if variant.name in absent
        else _judged(variant, situation, objective)
        for variant in variants
    )
    return Advice(facts, machine.cpu, machine.cores, machine.features, objective, items)


def advised(advice: Advice, variants: Sequence[Variant]) -> list[Variant]:
    """Those worth trying."""
    worth = {item.variant for item in advice.items if item.worth}
    return [variant for variant in variants if variant.name in worth]


def hindsight(advice: Advice, comparison: Comparison) -> list[str]:
    """Where the advice was wrong, a sentence each, how often it was right, and what `--advised` left out.

    The first two are empty if nothing was timed.
    """
    rows = {row.variant: row for row in comparison.rows if row.speedup is not None}
    judged = [(item, rows[item.variant]) for item in advice.items if item.variant in rows and item.low]
    wrong = [sentence for item, row in judged if (sentence := _wrong(item, row)) is not None]
    if judged:
        right = len(judged) - len(wrong)
        wrong.append(f"the advice was right about {right} of {len(judged)} variants that were timed")
    return wrong + _left_out(advice, comparison)


def _left_out(advice: Advice, comparison: Comparison) -> list[str]:
    """A run tries all of its variants, but for those that `--advised` leaves out."""
    tried = {row.variant for row in comparison.rows}
    out = [item for item in advice.items if item.variant not in tried]
    away = sum(item.absent is not None for item in out)
    counts = {"not worth trying": len(out) - away, "that cannot run here": away}
    told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [f"--advised left out {told} (`krishi-bench advise` says why)"] if told else []


def _absent(variant: Variant, reason: str) -> Item:
    reasons = (Reason(f"it cannot run here: {reason}", "this machine"),)
    return Item(variant.name, variant.recipe, False, "unknown", None, None, reasons, absent=reason)


def _judged(variant: Variant, situation: Situation, objective: Objective) -> Item:
    found = sorted(opinions(variant, situation), key=lambda o: (not o.stop, -abs(math.log(o.low * o.high))))
    if found and all(opinion.stop for opinion in found):
        reasons = tuple(Reason(opinion.text, opinion.source) for opinion in found)
        return Item(variant.name, variant.recipe, False, "unknown", None, None, reasons)
    if not found:
        reason = Reason("no rule knows this combination", "trying it is the only way to know")
        return Item(variant.name, variant.recipe, True, "unknown", None, None, (reason,))
    low, high = math.prod(o.low for o in found), math.prod(o.high for o in found)
    expected = _expected(low, high)
    stopped = any(opinion.stop for opinion in found)
    uncertain = expected == "unknown" and high >= PROMISING and math.sqrt(low * high) >= UNLIKELY
    promising = expected == "faster" or uncertain
    worth = not stopped and (promising if objective == "latency" else _smaller(variant))
    reasons = tuple(Reason(opinion.text, opinion.source) for opinion in found)
    return Item(variant.name, variant.recipe, worth, expected, round(low, 2), round(high, 2), reasons)


def _expected(low: float, high: float) -> Expected:
    middle = math.sqrt(low * high)
    if low >= 1 / NARROW**0.25 and middle >= NEARLY:
        return "faster"
    if high <= NEARLY and middle <= 1 / NEARLY:
        return "slower"
    return "same" if high / low <= NARROW and low < high else "unknown"


def _smaller(variant: Variant) -> bool:
    return any(step.FAMILY != "tidying" for step in variant.steps)


def _wrong(item: Item, row: Row) -> str | None:
    assert item.low is not None and item.high is not None and row.speedup is not None
    low, high = row.speedup_ci or (row.speedup, row.speedup)
    was = f"{row.speedup:.2f} times the baseline's speed" + (
        f" [{low:.2f}, {high:.2f}]" if row.speedup_ci else ""
    )
    said = f"expected {item.low:.2f} to {item.high:.2f} times, because {item.reasons[0].text}"
    match item.expected:
        case "slower" if low > 1:
            return f"{item.variant} was said to be slower and is faster: {was} ({said})"
        case "faster" if high < 1:
            return f"{item.variant} was said to be faster and is slower: {was} ({said})"
        case "faster" if high < MISSED * item.low:
            return f"{item.variant} gained less than was said: {was} ({said})"
        case "same" if low > NEARLY or high < 1 / NEARLY:
            return f"{item.variant} was said to make no difference: {was} ({said})"
    if row.winner and not item.worth:
        return f"{item.variant} won and was not advised: {was} ({said})"
    return None


def _promising_first(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: -(item.low or 0) * (item.high or 0))


def _groups(items: Sequence[Item]) -> list[list[Item]]:
    """Variants of one recipe with the same reasons, together; what cannot run here by the reason alone."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        key = item.absent or (item.recipe, item.low, item.high, item.reasons)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _entry(group: Sequence[Item], sources: dict[str, int]) -> list[str]:
    first = group[0]
    labels: dict[str, list[str]] = {}
    for item in group:
        labels.setdefault(item.recipe, []).append(item.variant.removeprefix(item.recipe))
    names = [recipe + (" " if len(found) > 1 else "") + " ".join(found) for recipe, found in labels.items()]
    lines = wrapped(", ".join(names) + _range(first), "  ")
    for reason in first.reasons:
        number = sources.setdefault(reason.source, len(sources) + 1)
        lines += wrapped(f"{first.absent or reason.text} [{number}]", "      ", "    - ")
    return lines


def _range(item: Item) -> str:
    if item.low is None or item.high is None:
        return ""
    return f": expected {item.low:.2f} to {item.high:.2f} times the speed ({item.expected})"
