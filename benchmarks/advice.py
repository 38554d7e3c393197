"""What the advisor predicts by, and how often it is right: fits its costs and scores it network by network.

    python benchmarks/advice.py [--data FILE] [--measure NAME...] [--fit FILE] [--out FILE]

--measure adds networks to the data (see `advice_measure.py`); one that is there is not measured again. The
costs are fitted on all networks and written to --fit, workbench/run/advice/measured.yaml. The score, --out,
is of each network by costs that were fitted on the others.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import yaml

from workbench.model.graph.facts import NetworkFacts
from workbench.model.graph.work import Work
from workbench.run.advice.advise import NEARLY, Item, advise
from workbench.run.advice.cost_model import CostModel, Costs, Method
from workbench.system.files import write_atomic
from workbench.system.machine import Machine
from workbench.workspace import recipe
from workbench.workspace.recipe import Variant

Row = np.ndarray[Any, np.dtype[np.float64]]

HERE = Path(__file__).parent
TERMS = tuple(name for name in Costs.model_fields if name != "within")
PULL, FREE = 0.02, 1e-4  # towards what is usual, in squares of relative errors
HELD = 0.8  # share of the networks left out whose ratios `within` holds
CALIBRATION = "calibration: {method: minmax, images: 8}"
EVERY_TYPE = "op_types: [Conv, MatMul, Gemm]"
RECIPES: dict[str, tuple[Method, str]] = {
    "fp32": ("fp32", ""),
    "int8": ("int8", f"steps: [{{use: simplify}}, {{use: static_int8, {CALIBRATION}}}]"),
    "fp16": ("fp16", "steps: [{use: fp16}]"),
    "dynamic": ("dynamic_int8", f"steps: [{{use: dynamic_int8, weight: qint8, {EVERY_TYPE}}}]"),
    "dynamic-uint8": ("dynamic_uint8", f"steps: [{{use: dynamic_int8, weight: quint8, {EVERY_TYPE}}}]"),
    "ov-f32": ("openvino_f32", "runtime: {backend: openvino, threads: 1}"),
    "ov-bf16": ("openvino_bf16", "runtime: {backend: openvino, precision: bf16, threads: 1}"),
    "ov-int8": (
        "openvino_int8",
        "steps: [{use: nncf_int8, images: 8}]\nruntime: {backend: openvino, threads: 1}",
    ),
}


@dataclass(frozen=True)
class Timed:
    """One variant of a network: its speed over that of FP32 at the network's own size."""

    recipe: str
    side: int
    speed: float

    @property
    def method(self) -> Method:
        return RECIPES[self.recipe][0]


@dataclass(frozen=True)
class Network:
    """sides: the own size first. work: by side. baseline_us: of FP32 at the own size."""

    name: str
    facts: NetworkFacts
    sides: tuple[int, ...]
    work: dict[int, Work]
    baseline_us: float
    timed: tuple[Timed, ...]
    note: str | None = None

    def speed(self, recipe: str, side: int) -> float | None:
        return next((each.speed for each in self.timed if (each.recipe, each.side) == (recipe, side)), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE / "advice_measured.jsonl")
    parser.add_argument("--measure", nargs="+", default=[], metavar="NAME", help="such as timm:resnet18")
    parser.add_argument("--fit", type=Path, help="the costs, as YAML")
    parser.add_argument("--out", type=Path, help="the score, as Markdown")
    options = parser.parse_args()
    if options.measure:
        measuring = [sys.executable, str(HERE / "advice_measure.py"), str(options.data), *options.measure]
        subprocess.run(measuring, check=True)
    lines = [json.loads(line) for line in options.data.read_text().splitlines()]
    networks = [network_of(line) for line in lines]
    known = fitted(networks, lines[0])
    if options.fit:
        write_atomic(options.fit, as_yaml(known).encode())
    page = markdown(networks, known)
    if options.out:
        write_atomic(options.out, page.encode())
    print(page)


def network_of(line: dict[str, Any]) -> Network:
    sides = tuple(int(side) for side in line["sizes"])
    facts = {side: NetworkFacts(**line["sizes"][str(side)]["facts"]) for side in sides}
    speeds = {side: line["sizes"][str(side)]["speed"] for side in sides}
    found = [each for own in speeds.values() for each in own.values() if "speedup" in each]
    timed = [
        Timed(name, side, each["speedup"])
        for side, own in speeds.items()
        for name, each in own.items()
        if "speedup" in each
    ]
    own = facts[sides[0]].model_copy(update={"any_size": len(sides) > 1})
    work = {side: each.work for side, each in facts.items() if each.work is not None}
    baseline = min(each["baseline_us"] for each in found)
    plain = Timed("fp32", sides[0], 1.0)
    return Network(line["name"], own, sides, work, baseline, (plain, *timed), line.get("note"))


def fitted(networks: Sequence[Network], line: dict[str, Any]) -> CostModel:
    """The costs of all networks, with how far those of the others were off each."""
    costs = fit(networks)
    apart = {network.name: fit(_others(networks, network)) for network in networks}
    within = {method: _within(networks, apart, method) for method in costs}
    return CostModel(
        cpu=line["cpu"],
        features=tuple(line["features"]),
        date=line["date"],
        versions={name: line["versions"][name] for name in ("onnxruntime", "openvino")},
        networks=tuple(network.name for network in networks),
        costs={name: each.model_copy(update={"within": within[name]}) for name, each in costs.items()},
    )


def _others(networks: Sequence[Network], left_out: Network) -> list[Network]:
    return [network for network in networks if network is not left_out]


def fit(networks: Sequence[Network]) -> dict[Method, Costs]:
    """Costs of 0 or more with the least squares of the relative errors.

    Those of FP32 from its times; of the others from ratios to FP32 alone, as multiples of its costs. What few
    networks tell is drawn towards equal shares of the time, and towards equal multiples.
    """
    plain = [(_row(n.work[side]), side, n) for n in networks for side in n.sides]
    times = np.array([row * (n.speed("fp32", side) or 1.0) / n.baseline_us for row, side, n in plain])
    mean = times.mean(axis=0) + 1e-12
    slow = _least_squares(times / mean, np.full(len(TERMS), 1 / len(TERMS)), np.full(len(TERMS), PULL)) / mean
    found: dict[Method, Costs] = {"fp32": _costs(slow)}
    for method in _methods(networks):
        if method != "fp32":
            found[method] = _costs(slow * _multiples(networks, slow, method))
    return found


def _methods(networks: Sequence[Network]) -> list[Method]:
    there = {each.method for network in networks for each in network.timed}
    return [method for method in get_args(Method) if method in there]


def _multiples(networks: Sequence[Network], slow: Row, method: Method) -> Row:
    """How many times as long as in FP32 each kind of work takes."""
    rows = []
    for network in networks:
        for each in network.timed:
            if each.method == method and (plain := network.speed("fp32", each.side)) is not None:
                parts = slow * _row(network.work[each.side])
                rows.append(parts / parts.sum() * each.speed / plain)
    usual = 1 / float(np.median(np.sum(rows, axis=1)))
    pull = np.array([FREE if term in ("call", "nodes") else PULL for term in TERMS])
    return _least_squares(np.array(rows), np.full(len(TERMS), usual), pull)


def _least_squares(rows: Row, towards: Row, pull: Row) -> Row:
    """The values of 0 or more whose products with the rows are next to 1, drawn `towards` others."""
    from scipy.optimize import nnls

    weight = np.sqrt(pull)
    found, _ = nnls(
        np.vstack([rows, np.diag(weight / towards)]), np.concatenate([np.ones(len(rows)), weight])
    )
    return np.asarray(found)


def _costs(values: Row) -> Costs:
    return Costs(**dict(zip(TERMS, map(float, values), strict=True)), within=1.0)


def _row(work: Work) -> Row:
    counts = {"call": 1e6, "nodes": 1e6 * work.nodes, **work.model_dump(exclude={"nodes"})}
    return np.array([counts[term] / 1e6 for term in TERMS])


def _within(networks: Sequence[Network], apart: dict[str, dict[Method, Costs]], method: Method) -> float:
    """The factor that held the ratios of HELD of the networks by the costs of the others."""
    errors = [
        abs(np.log(seen / expected)) / max(0.3, 1 - overhead)
        for network in networks
        for seen, expected, overhead in _ratios(network, apart[network.name], method)
    ]
    return round(float(np.exp(np.quantile(errors, HELD))), 2) if errors else 2.0


def _ratios(
    network: Network, costs: dict[Method, Costs], method: Method
) -> Iterator[tuple[float, float, float]]:
    """(seen, expected, share of overhead) of each ratio to FP32 of that size; of FP32, to the own size."""
    own, slow = network.sides[0], costs["fp32"]
    for each in network.timed:
        work, plain = network.work[each.side], network.speed("fp32", each.side)
        if each.method != method or plain is None or (method == "fp32" and each.side == own):
            continue
        before = network.work[own] if method == "fp32" else work
        seen = each.speed if method == "fp32" else each.speed / plain
        fast = costs[method]
        yield seen, slow.of(before) / fast.of(work), fast.overhead(work) / fast.of(work)


def as_yaml(known: CostModel) -> str:
    head = "# Made by benchmarks/advice.py: what `cost_model.py` predicts by, in microseconds.\n"
    data = known.model_dump(mode="json")
    data["costs"] = {
        method: {name: float(f"{value:.3g}") for name, value in costs.items()}
        for method, costs in data["costs"].items()
    }
    return head + str(yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=118))


@dataclass(frozen=True)
class Score:
    """The advice on one network, by costs that it had no part in. judged: with the item of each variant."""

    network: Network
    judged: tuple[tuple[Timed, Item], ...]

    def best(self, *, worth: bool = False, small: bool = True) -> Timed:
        """The fastest of all variants, or of those worth trying; plain FP32 where none is faster."""
        own = self.network.sides[0]
        found = [
            each for each, item in self.judged if (item.worth or not worth) and (small or each.side == own)
        ]
        return max([*found, Timed("fp32", own, 1.0)], key=lambda each: each.speed)

    def holds(self, *, small: bool) -> bool:
        """Whether the winner is among what is worth trying, where anything is clearly faster than FP32."""
        best = self.best(small=small)
        return best.speed < NEARLY or best == self.best(worth=True, small=small)


def scored(networks: Sequence[Network], known: CostModel) -> list[Score]:
    found = []
    for network in networks:
        apart = fit(_others(networks, network))
        costs = {
            method: each.model_copy(update={"within": known.costs[method].within})
            for method, each in apart.items()
        }
        found.append(_score(network, known.model_copy(update={"costs": costs})))
    return found


def _score(network: Network, known: CostModel) -> Score:
    own = network.sides[0]
    timed = [each for each in network.timed if (each.recipe, each.side) != ("fp32", own)]
    variants = [_variant(each, own) for each in timed]
    here = Machine(
        cpu=known.cpu,
        architecture="x86_64",
        cores=1,
        memory_bytes=0,
        gpus=(),
        system="",
        python="",
        features=known.features,
    )
    advice = advise(network.facts, here, {}, variants, known=known)
    return Score(network, tuple(zip(timed, advice.items, strict=True)))


def _variant(timed: Timed, own: int) -> Variant:
    scale = "" if timed.side == own else f"preprocess: {{scale: {timed.side / own:.3f}}}\n"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(f"name: a\n{scale}{RECIPES[timed.recipe][1]}\n")
        (variant,) = recipe.read(path)
    return variant


def markdown(networks: Sequence[Network], known: CostModel) -> str:
    scores = scored(networks, known)
    used = ", ".join(f"{name} {version}" for name, version in known.versions.items())
    parts = [
        "# How good the advice is",
        "",
        f"Made by `python benchmarks/advice.py` from `benchmarks/advice_measured.jsonl`, {known.date}, on",
        f"{known.cpu} ({', '.join(known.features[:6])},",
        f"{', '.join(known.features[6:])}),",
        f"with {used}; one thread, random weights. Other programs used the machine too:",
        "baseline and variant took turns, and of the processor time of their calls the 5 % quantile counts.",
        "OpenVINO computes in another thread than the one that calls, so the others cost it more than",
        "onnxruntime: alone on a machine it does better with small networks. Each network is judged by costs",
        "that were fitted on the others. Accuracy is not in it: that takes trained networks.",
        "",
        *_summary(scores),
        "",
        "| network | pixels | MACs | winner | in the advice | winner of all sizes | in the advice | tried |",
        "| --- | ---: | ---: | --- | --- | --- | --- | ---: |",
        *map(_line, scores),
        "",
        "## Misses",
        "",
        *(_misses(scores) or ["None."]),
        "",
        *_notes(networks),
        "## Ranges",
        "",
        "factor: it held 80 % of the ratios of networks left out of the fit, where no call is overhead, and",
        "is the width of the ranges. `fp32` is the ratio of two sizes.",
        "",
        *_ranges(scores, known),
        "",
        "## Costs",
        "",
        "Microseconds of a call and of a node, and of a million of the rest (see",
        "`workbench/model/graph/work.py`).",
        "",
        f"| | {' | '.join(TERMS)} |",
        f"| --- |{' ---: |' * len(TERMS)}",
        *(
            f"| {method} | {' | '.join(f'{getattr(costs, term):.3g}' for term in TERMS)} |"
            for method, costs in known.costs.items()
        ),
    ]
    return "\n".join(parts) + "\n"


def _summary(scores: Sequence[Score]) -> Iterator[str]:
    judged = [pair for score in scores for pair in score.judged]
    for small, what in ((False, "at the own size"), (True, "of all sizes")):
        gains = [score for score in scores if score.best(small=small).speed >= NEARLY]
        held = sum(score.holds(small=small) for score in gains)
        pairs = [(score.best(worth=True, small=small), score.best(small=small)) for score in gains]
        kept = np.mean([found.speed / best.speed for found, best in pairs])
        clearly = f"more than {100 * (NEARLY - 1):.0f} % faster than plain FP32"
        yield f"- Winners {what}: {len(gains)} of {len(scores)} networks have one, {clearly}."
        yield f"  The advice holds it for {held}, and {100 * kept:.0f} % of its speed on average."
    tried, inside = sum(item.worth for _, item in judged), _inside(judged)
    saved = f"{100 - 100 * tried / len(judged):.0f} % are saved"
    yield f"- Trials: {tried} of {len(judged)} variants are worth trying; {saved}."
    yield f"- Ranges: {sum(inside)} of {len(inside)} speeds lie in what was expected."


def _inside(judged: Sequence[tuple[Timed, Item]]) -> list[bool]:
    return [item.low <= each.speed <= item.high for each, item in judged if item.low and item.high]


def _line(score: Score) -> str:
    network, best, all_best = score.network, score.best(small=False), score.best()
    tried = sum(item.worth for _, item in score.judged)
    cells = [
        f"`{network.name}`",
        str(network.sides[0]),
        f"{(network.facts.macs or 0) / 1e6:.3g} M",
        _winner(best),
        _held(score, small=False),
        f"{_winner(all_best)}" + (f" at {all_best.side}" if all_best.side != network.sides[0] else ""),
        _held(score, small=True),
        f"{tried} of {len(score.judged)}",
    ]
    return f"| {' | '.join(cells)} |"


def _winner(best: Timed) -> str:
    return "none" if best.speed < NEARLY else f"{best.recipe} {best.speed:.2f}"


def _held(score: Score, *, small: bool) -> str:
    if score.best(small=small).speed < NEARLY:
        return ""
    return "yes" if score.holds(small=small) else "**no**"


def _misses(scores: Sequence[Score]) -> list[str]:
    lines = []
    for score in scores:
        for small in (False, True):
            best, instead = score.best(small=small), score.best(worth=True, small=small)
            if score.holds(small=small) or (small and best == score.best(small=False)):
                continue
            item = dict(score.judged)[best]
            lines.append(
                f"- `{score.network.name}`: {best.recipe} at {best.side} pixels, {best.speed:.2f} times as "
                f"fast, expected {item.low:.2f} to {item.high:.2f}; the advice has {instead.recipe} at "
                f"{instead.side}, {instead.speed:.2f} times"
            )
    return lines


def _notes(networks: Sequence[Network]) -> Iterator[str]:
    noted: dict[str, list[str]] = {}
    for network in networks:
        if network.note is not None:
            noted.setdefault(network.note, []).append(f"`{network.name}`")
    for note, names in noted.items():
        yield f"Measured otherwise: {note}, of {', '.join(names)}."
        yield ""


def _ranges(scores: Sequence[Score], known: CostModel) -> Iterator[str]:
    yield "| | factor | speeds in the range |"
    yield "| --- | ---: | ---: |"
    for method, costs in known.costs.items():
        found = _inside([pair for score in scores for pair in score.judged if pair[0].method == method])
        yield f"| {method} | {costs.within:.2f} | {sum(found)} of {len(found)} |"


if __name__ == "__main__":
    main()
