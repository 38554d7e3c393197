"""The advice on recipes, and what a recipe does, in words and as JSON: the keys of `--format json`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from workbench.errors import plural
from workbench.model.graph.facts import NetworkFacts
from workbench.report.remarks import sentence
from workbench.report.words import listed, millions, wrapped
from workbench.run.advice.advise import Advice, Item
from workbench.run.advice.explain import Explanation

SHOWN = 8  # variants of a recipe listed by name; more are counted


def answer(advice: Advice) -> dict[str, Any]:
    remarks = [remark.model_dump(mode="json") for remark in advice.remarks]
    network = advice.network.model_dump(mode="json")
    return {**asdict(replace(advice, remarks=())), "network": network, "remarks": remarks}


def headlines(advice: Advice) -> list[str]:
    """Two or three lines for the start of a run."""
    worth = [item.variant for item in _promising_first(advice.items) if item.worth]
    tried = ", ".join(worth) or "nothing that is here"
    lines = [f"network: {network(advice.network)}", f"worth trying: {tried}"]
    poor = [f"{title}: {len(found)} of {len(advice.items)}" for title, found in _poor(advice) if found]
    if poor:
        lines.append(f"{'; '.join(poor)} (`krishi-bench advise` says why)")
    return lines


def _poor(advice: Advice) -> list[tuple[str, list[Item]]]:
    """What is not worth trying and what cannot be tried, under their headings."""
    poor = [item for item in advice.items if not item.worth]
    return [
        ("not worth trying", [item for item in poor if item.absent is None]),
        ("cannot run here", [item for item in poor if item.absent is not None]),
    ]


def text(advice: Advice) -> str:
    here = ", ".join(advice.features) or "its features are unknown"
    lines = [
        *wrapped(f"{advice.cpu}, {plural(advice.cores, 'core')}: {here}", ""),
        *wrapped(network(advice.network), ""),
    ]
    if advice.remarks:
        lines += ["", "first of all:"]
        lines += [line for remark in advice.remarks for line in wrapped(sentence(remark), "      ", "  - ")]
    sources: dict[str, int] = {}  # numbered as they are met: each is given in full once, at the end
    unfit, away = _poor(advice)
    promising = _promising_first([item for item in advice.items if item.worth])
    for title, chosen in (("worth trying", promising), unfit, *([away] if away[1] else [])):
        lines += ["", f"{title}:" if chosen else f"{title}: nothing"]
        for group in _groups(chosen):
            lines += _entry(group, sources)
    lines += ["", "sources:"]
    for source, number in sources.items():
        lines += wrapped(source, "       ", f"  [{number}]".ljust(7))
    lines += ["", "A prediction from the operators and the processor; `run` measures."]
    return "\n".join(lines) + "\n"


def network(facts: NetworkFacts) -> str:
    """`52 convolutions (11 depthwise, 9 % of 56 million MACs), 9 squeeze-and-excitation blocks`."""
    depthwise = f" ({facts.depthwise} depthwise, {100 * facts.depthwise_share:.0f} % of the MACs)"
    counted = [
        (facts.convolutions, "convolution", depthwise if facts.depthwise else ""),
        (facts.attention, "attention layer", ""),
        (facts.squeeze_excite, "squeeze-and-excitation block", ""),
        (facts.hard_swish, "hard-swish", ""),
        (facts.swish, "swish", ""),
        (facts.dead_channels, "dead channel", ""),
    ]
    parts = [
        f"{count} {word}{'s' if count > 1 and not word.endswith('swish') else ''}{more}"
        for count, word, more in counted
        if count
    ]
    if facts.macs is not None:
        parts.append(millions(facts.macs, "MAC", 0 if facts.macs >= 10e6 else 2))
    parts.append(millions(facts.parameters, "parameter", 2))
    size = "x".join(str(side) if side else "free" for side in facts.input_shape[1:])
    fixed = "other sizes work too" if facts.any_size else "no other size fits"
    return f"{', '.join(parts)}; photos of {size} pixels, {fixed}"


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


def explanation(found: Explanation) -> str:
    lines = wrapped(f"{found.recipe}: {found.description}" if found.description else found.recipe, "")
    lines += wrapped(f"{plural(len(found.variants), 'variant')}: {listed(found.variants, most=SHOWN)}", "")
    for axis in found.axes:
        lines += wrapped(f"varies {axis}", "  ")
    if found.needs:
        lines += wrapped(f"needs {', '.join(found.needs)}", "")
    if found.unmet is not None:
        lines += wrapped(f"skipped here: {found.unmet}", "")
    described_before = ""  # a setting with several values is described once
    for part in found.parts:
        values = f": {', '.join(part.values)}" if part.values else ""
        lines += ["", *wrapped(part.title + values, "")]
        for label, statement in asdict(part.note).items():
            if statement and (label != "does" or part.title != described_before):
                lines += wrapped(statement, " " * 10, f"  {label:<8}")
        described_before = part.title
    return "\n".join(lines) + "\n"
