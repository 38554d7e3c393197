"""Which nodes FP16 would harm: found by running the FP32 network over photos and looking at its weights.

FP16 ends at 65504, and below 6.1e-5 it loses digits until nothing is left at 6e-8. Beside the inputs and
outputs of nodes, the sums inside of them count: convolutions and matrix products add up in FP32 on NVIDIA
GPUs, reductions and pooling in FP16 where TensorRT takes the graph as typed (it warns of layer norms made of
`ReduceMean` and `Pow`), and the fused layer norms of onnxruntime's CUDA provider add up squares in FP16.
A softmax adds up numbers up to 1 and does no harm below 65504 of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.model.graph.onnx_file import image_input
from workbench.steps.fp16.casts import types_of
from workbench.steps.fp16.graph import sizes_of
from workbench.steps.graph import FLOAT, Editor, batch_size, integer, runner, values_of

if TYPE_CHECKING:
    import onnx


LARGEST = 65504.0
SMALLEST = 2.0**-14  # below, numbers have fewer digits the smaller they are
# For other photos. Activations have tails that fall off exponentially or faster: of a hundred thousand
# values each, the largest of a million photos is then under twice the largest of eight. Squares of them: 4.
MARGIN = 4.0
LIMIT = LARGEST / MARGIN
ROUNDING = 0.01  # of the weights' norm, or of the logits' span; numbers that FP16 holds well cost 0.0002
TRIED = 8  # batches on which small activations are rounded

MEANS = frozenset({"ReduceMean", "GlobalAveragePool", "AveragePool"})
SUMS = frozenset({"ReduceSum", "ReduceL1"})
# They add up squares of what they take, or the mean of those, which is at most the square of the largest.
NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "InstanceNormalization"}
    | {"GroupNormalization", "MeanVarianceNormalization", "LpNormalization"}
)
# Bounds beyond FP16's end bound nothing, cut or not; the values of a mask count where they are put out.
BOUNDS: Mapping[str, tuple[int, ...]] = {"Clip": (1, 2), "Where": (1, 2)}
# What they put out has the values of the first input; the others are sizes and positions.
SHAPED = frozenset({"Expand", "Reshape", "Tile", "Slice", "Gather", "Squeeze", "Unsqueeze", "Pad", "Resize"})
INTEGERS = frozenset({6, 7})  # onnx.TensorProto: INT32, INT64
# Inputs that are added to the result: their rounding counts beside the result, however small they are.
ADDED: Mapping[str, tuple[int, ...]] = {
    "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "Add": (0, 1), "Sub": (0, 1), "Sum": (0, 1, 2, 3),
    "Max": (0, 1), "Min": (0, 1), "Where": (1, 2), "Concat": tuple(range(16)), "LayerNormalization": (2,),
    "InstanceNormalization": (2,), "GroupNormalization": (2,), "BatchNormalization": (2, 3, 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peaks:
    """Largest absolute values over the photos. tensors: by name. sums: inside of nodes, by node name."""

    tensors: Mapping[str, float]
    sums: Mapping[str, float]


def sensitive(model: "onnx.ModelProto", batches: "Sequence[NDArray[Any]]") -> dict[str, str]:
    """The nodes of a prepared FP32 network that have to stay in FP32, with the reasons, in graph order.

    batches: photos as the network takes them, in batches of any size. Activations that are all too small for
    FP16 count where rounding them changes the logits: in a network with biases they may not. Nodes inside of
    If and Loop are left out.
    """
    peaks = measured(model, batches)
    # Infinities, as masks have them, are in FP16 too.
    unfit = {name: f"reaches {peak:.3g}" for name, peak in peaks.tensors.items() if LIMIT < peak < inf}
    tiny = {name: peak for name, peak in peaks.tensors.items() if 0 < peak < SMALLEST}
    if tiny and change_of_rounding(model, list(tiny), batches[:TRIED]) > ROUNDING:
        unfit |= {name: f"is never above {peak:.3g}" for name, peak in tiny.items()}
    weights = {weight.name: weight for weight in model.graph.initializer if weight.data_type == FLOAT}
    sizes = _sizes(model)
    nodes: dict[str, str] = {}
    for node in model.graph.node:
        reason = (
            _touching(node, unfit)
            or _adding_up(node, peaks)
            or _weights_harmed(node, weights, peaks, model)
            or ("it computes sizes" if node.name in sizes else None)
        )
        if reason:
            nodes[node.name] = reason
    return nodes


def measured(model: "onnx.ModelProto", batches: "Iterable[NDArray[Any]]") -> Peaks:
    """Run the network in FP32. The maxima are nodes of the graph: no activation leaves the runtime."""
    editor, types, image = Editor(deepcopy(model)), types_of(model), image_input(model).name
    floats = [
        name
        for name in (image, *(name for node in model.graph.node for name in node.output))
        if types.get(name) == FLOAT
    ]
    counting = [
        node
        for node in model.graph.node
        if node.op_type in MEANS | SUMS and node.input and types.get(node.input[0]) == FLOAT
    ]
    for number, name in enumerate(floats):
        _add_peak(editor, name, f"peak/{number}")
    for number, node in enumerate(counting):
        _add_sum(editor, node, f"sum/{number}")
    run, size = editor.run(), batch_size(model)
    highest = np.zeros(len(editor.outputs))
    for batch in batches:
        for start in range(0, len(batch), size):
            peaks = run(batch[start : start + size])
            highest = np.maximum(highest, [float(value) for value in peaks])
    sums = zip(counting, highest[len(floats) :], strict=True)
    return Peaks(
        {name: float(peak) for name, peak in zip(floats, highest, strict=False)},
        {node.name: float(peak) * _window(node) for node, peak in sums},
    )


def _add_peak(editor: Editor, name: str, at: str) -> None:
    editor.node("Abs", [name], f"{at}/abs")
    editor.output(editor.node("ReduceMax", [f"{at}/abs"], f"{at}/max", keepdims=0))


def _add_sum(editor: Editor, node: "onnx.NodeProto", at: str) -> None:
    """The node once more, on absolute values: no partial sum is larger, in whichever order.

    A mean is multiplied by the number of values that each one is a mean of, or, where windows overlap, by the
    size of the window (see `_window`).
    """
    absolute = deepcopy(node)
    absolute.name, absolute.input[0], absolute.output[0] = "", f"{at}/abs", f"{at}/out"
    del absolute.output[1:]
    editor.node("Abs", [node.input[0]], f"{at}/abs")
    editor.graph.node.append(absolute)
    peak = editor.node("ReduceMax", [f"{at}/out"], f"{at}/max", keepdims=0)
    if node.op_type in MEANS and node.op_type != "AveragePool":
        for part in ("abs", "out"):
            editor.node("Size", [f"{at}/{part}"], f"{at}/{part}/count")
            editor.node("Cast", [f"{at}/{part}/count"], f"{at}/{part}/size", to=FLOAT)
        editor.node("Div", [f"{at}/abs/size", f"{at}/out/size"], f"{at}/values")
        peak = editor.node("Mul", [peak, f"{at}/values"], f"{at}/sum")
    editor.output(peak)


def _window(node: "onnx.NodeProto") -> int:
    if node.op_type != "AveragePool":
        return 1
    return prod(next((a.ints for a in node.attribute if a.name == "kernel_shape"), [1]))


def change_of_rounding(
    model: "onnx.ModelProto", tensors: Sequence[str], batches: "Iterable[NDArray[Any]]"
) -> float:
    """How far logits move where these tensors, all below SMALLEST, are rounded to FP16.

    A fraction of the span of a photo's logits, the largest over the photos. In FP32, adding 0.75 and
    subtracting it leaves multiples of 2**-24: the numbers that FP16 has below SMALLEST.
    """
    import onnx

    rounded = deepcopy(model)
    graph, chosen = rounded.graph, set(tensors) - {value.name for value in model.graph.output}
    Editor(rounded).weights("rounded/by", np.array(0.75, np.float32))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in chosen:
                node.output[position] = f"rounded/{name}"
                nodes.append(onnx.helper.make_node("Add", [f"rounded/{name}", "rounded/by"], [f"up/{name}"]))
                nodes.append(onnx.helper.make_node("Sub", [f"up/{name}", "rounded/by"], [name]))
    del graph.node[:]
    graph.node.extend(nodes)
    runs = [runner(model), runner(rounded)]
    size, furthest = batch_size(model), 0.0
    for batch in batches:
        before, after = (run(batch[:size])[0] for run in runs)
        span = before.max(axis=-1) - before.min(axis=-1)
        moved = np.abs(after - before).max(axis=-1)
        furthest = max(furthest, float((moved / np.maximum(span, np.finfo(np.float32).tiny)).max()))
    return furthest


def _touching(node: "onnx.NodeProto", unfit: Mapping[str, str]) -> str | None:
    names = (name for name in (*node.output, *node.input) if name in unfit)
    return next((f"`{name}` {unfit[name]}" for name in names), None)


def _adding_up(node: "onnx.NodeProto", peaks: Peaks) -> str | None:
    taken = peaks.tensors.get(node.input[0], 0.0) if node.input else 0.0
    given = peaks.tensors.get(node.output[0], 0.0) if node.output else 0.0
    total = peaks.sums.get(node.name, 0.0)
    if node.op_type == "ReduceL2":
        total = given**2
    if node.op_type in NORMS:  # a bound as it is, and far from the mean that it bounds
        total = taken**2 / MARGIN
    if node.op_type == "LRN":
        total = taken**2 * integer(node, "size", 1)
    if not LIMIT < total < inf:
        return None
    return f"it adds up to {total * (MARGIN if node.op_type in NORMS else 1):.3g}"


def _weights_harmed(
    node: "onnx.NodeProto", weights: "Mapping[str, onnx.TensorProto]", peaks: Peaks, model: "onnx.ModelProto"
) -> str | None:
    skipped = (*BOUNDS.get(node.op_type, ()), *sizes_of(node, model))
    for position, name in enumerate(node.input):
        if name not in weights or position in skipped:
            continue
        values = values_of(weights[name])
        values = values[np.isfinite(values)]
        if not values.any():
            continue
        peak = float(np.abs(values).max())
        if peak > LARGEST:
            return f"its weight `{name}` reaches {peak:.3g}"
        lost = np.abs(values - values.astype(np.float16).astype(np.float32))
        if position in ADDED.get(node.op_type, ()):
            beside = peaks.tensors.get(node.output[0], 0.0)
            share = float(lost.max()) / beside if beside else 0.0
        else:
            share = float(np.linalg.norm(lost / peak) / np.linalg.norm(values / peak))
        if share > ROUNDING:
            return f"its weight `{name}` is mostly too small: {share:.0%} would be lost"
    return None


def _sizes(model: "onnx.ModelProto") -> frozenset[str]:
    """Nodes that compute with sizes in floats, from a shape to another: a rounded size is another size."""
    types = types_of(model)
    sizes: set[str] = set()
    from_shapes: list[onnx.NodeProto] = []
    needed: set[str] = set()
    for node in model.graph.node:
        values = node.input[:1] if node.op_type in SHAPED else node.input
        if node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif not sizes.isdisjoint(values):
            sizes.update(node.output)
            from_shapes.append(node)
        needed.update(node.input[i] for i in sizes_of(node, model) if i < len(node.input))
        if node.op_type == "Cast" and types.get(node.output[0]) in INTEGERS:
            needed.add(node.input[0])
    found: set[str] = set()
    for node in reversed(from_shapes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            if any(types.get(name) == FLOAT for name in (*node.input, *node.output)):
                found.add(node.name)
    return frozenset(found)
