"""Where a search may go from a variant: other input sizes, other ranges, fewer layers in INT8. Pure."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.model.graph.roles import Role
from workbench.steps import Step
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.steps.int8.settings import StaticInt8
from workbench.steps.nncf.settings import NncfInt8
from workbench.workspace.recipe import RecipePreprocess, Variant

SMALLEST_SHARE = 0.4  # of the workspace's crop: below it a photo has a sixth of its pixels left
GRID = 16  # most networks halve their input four or five times


@dataclass(frozen=True, slots=True)
class Move:
    """A variant worth a look. why: one phrase, which the report groups by."""

    variant: Variant
    why: str


def sizes(crop: int) -> list[int]:
    """Smaller crops to try, largest first: multiples of GRID, or of half of it for small inputs."""
    step = GRID if crop >= 8 * GRID else GRID // 2
    largest = (crop - 1) // step * step
    return [size for size in range(largest, step, -step) if size >= SMALLEST_SHARE * crop]


def coarse(sizes: Sequence[int]) -> list[int]:
    """Every second size, from the second on: where a scan begins."""
    return list(sizes[1::2] or sizes)


def capped(variant: Variant, available: int) -> Variant:
    """The same, calibrated on no more photos than there are."""
    return replace(variant, steps=tuple(step.capped(available) for step in variant.steps))


def at_size(variant: Variant, crop: int) -> Variant:
    """The same at another crop; its resize follows."""
    kept = variant.preprocess.model_dump(exclude={"resize", "crop", "scale"}, exclude_none=True)
    return replace(variant, name=f"{variant.name}@{crop}px", preprocess=RecipePreprocess(crop=crop, **kept))


def static_step(variant: Variant) -> StaticInt8 | None:
    """The step that a search can refine, or None where the variant has none."""
    return next((step for step in variant.steps if isinstance(step, StaticInt8)), None)


def with_step(variant: Variant, label: str, **changes: object) -> Variant:
    """The variant with its quantising step changed."""
    steps: tuple[Step, ...] = tuple(
        type(step).model_validate({**step.model_dump(exclude_unset=True), **changes})
        if isinstance(step, StaticInt8 | NncfInt8)
        else step
        for step in variant.steps
    )
    return replace(variant, name=f"{variant.name}+{label}", steps=steps)


def refinements(variant: Variant, absent: Collection[Role] = ()) -> Iterator[Move]:
    """Known repairs of static INT8, cheap ones first: what to leave in float, and how ranges are found.

    absent: roles that no layer of the network plays. What the variant does already is left out; what it
    leaves in float stays there.
    """
    step = static_step(variant)
    if step is not None:
        yield from _new(variant, _repairs(variant, step, frozenset(absent)))


def _new(variant: Variant, moves: Iterator[Move]) -> Iterator[Move]:
    """Those that build something else than `variant` and than the ones before."""
    seen = {variant.digest}
    for move in moves:
        if move.variant.digest not in seen:
            seen.add(move.variant.digest)
            yield move


def _repairs(variant: Variant, step: StaticInt8, absent: frozenset[Role]) -> Iterator[Move]:
    if step.op_types is None:
        products = with_step(variant, "conv-only", op_types=("Conv", "Gemm", "MatMul"))
        yield Move(products, "INT8 in convolutions and products only")
    for roles, label in (
        (("squeeze_excite",), "float-se"),
        (("squeeze_excite", "hardswish"), "float-se-hs"),
        (("depthwise",), "float-dw"),
        (("first", "last"), "float-ends"),
    ):
        excluded = tuple(dict.fromkeys([*step.exclude_roles, *(r for r in roles if r not in absent)]))
        yield Move(with_step(variant, label, exclude_roles=excluded), "parts of the network left in float")
    yield Move(with_step(variant, "bias", bias_correction=True), "bias correction")
    yield Move(with_step(variant, "equalized", equalize=True), "cross-layer equalisation")
    for method in ("minmax", "percentile", "entropy"):
        if method != step.calibration.method:
            calibration = {**step.calibration.model_dump(), "method": method}
            yield Move(with_step(variant, method, calibration=calibration), "another way to find ranges")
    if step.per_channel and step.placement == "onnxruntime":
        yield Move(with_step(variant, "per-tensor", per_channel=False), "one scale per tensor of weights")


def mixed(variant: Variant, layers: Sequence[LayerSensitivity]) -> Iterator[Move]:
    """Mixed precision from what each layer costs and buys, boldest first.

    Leaving a layer in float undoes its error and gives its time back. Layers that buy nothing go first;
    of the others, those with the most error for the time they buy (a greedy knapsack).
    """
    if static_step(variant) is not None and layers:
        yield from _new(variant, _mixes(variant, layers))


def _mixes(variant: Variant, layers: Sequence[LayerSensitivity]) -> Iterator[Move]:
    idle = [layer.name for layer in layers if layer.gain_ns is not None and layer.gain_ns <= 0]
    if idle and len(idle) < len(layers):
        yield Move(_without(variant, idle, "gainful"), "INT8 only where it buys time")
    order, why = sorted(layers, key=_price, reverse=True), "the layers that cost most accuracy left in float"
    count = 1
    while count <= len(order) // 2:
        names = {layer.name for layer in order[:count]}
        yield Move(_without(variant, names, f"float-{count}"), why)
        if len(names.union(idle)) < len(layers):
            yield Move(_without(variant, names.union(idle), f"gainful-{count}"), why)
        count *= 2


def _price(layer: LayerSensitivity) -> float:
    """Error per nanosecond that INT8 saves; a layer that saves nothing is the first to go."""
    gain = layer.gain_ns
    if gain is None:
        return layer.error
    return math.inf if gain <= 0 and layer.error > 0 else layer.error / max(gain, 1.0)


def _without(variant: Variant, names: Collection[str], label: str) -> Variant:
    step = static_step(variant)
    assert step is not None
    # Sorted, so that the same choice is the same variant whichever way it was come by.
    return with_step(variant, label, exclude_nodes=sorted({*step.exclude_nodes, *names}))
