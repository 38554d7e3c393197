"""Which nodes FP16 would harm: found by running the FP32 network over photos and looking at its weights.

FP16 ends at 65504, and below 6.1e-5 it loses digits until nothing is left at 6e-8. What is looked at, beside
what each node takes and puts out, are the sums inside of nodes: convolutions and matrix products add up in
FP32 on NVIDIA GPUs, reductions and pooling add up in FP16 where TensorRT is told that the graph is typed
(it warns of layer norms made of `ReduceMean` and `Pow`), and the fused layer norms of onnxruntime's CUDA
provider add up squares in FP16. A softmax adds up numbers up to 1 and does no harm below 65504 of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from workbench.backends.common import cpu_options, filled, open_cpu
from workbench.model.graph.onnx_file import image_input
from workbench.steps.fp16.casts import FLOAT, types_of
from workbench.steps.fp16.graph import sizes_of
from workbench.steps.int8.calibration import batch_size

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


LARGEST = 65504.0
SMALLEST = 2.0**-14  # below, numbers have fewer digits the smaller they are
# For photos not seen. Activations have tails that fall off exponentially or faster: of a hundred thousand
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
    """The nodes of a prepared FP32 network (see `fp16_graph.prepared`) that have to stay in FP32, each with
    the reason, in graph order.

    batches: photos as the network takes them, in batches of any size. Activations that are all too small for
    FP16 count where rounding them changes the logits: in a network with biases they may not. Nodes inside of
    If and Loop are not looked at.
    """
    peaks = measured(model, batches)
    unfit = {name: f"reaches {peak:.3g}" for name, peak in peaks.tensors.items() if _too_large(peak)}
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
    import numpy as np
    import onnx

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    types = types_of(model)
    floats = [name for node in model.graph.node for name in node.output if types.get(name) == FLOAT]
    image = image_input(model).name
    if types.get(image) == FLOAT:
        floats.insert(0, image)
    counting = [
        node
        for node in model.graph.node
        if node.op_type in MEANS | SUMS and node.input and types.get(node.input[0]) == FLOAT
    ]
    wanted: list[str] = []
    for number, name in enumerate(floats):
        _emit_peak(augmented.graph, name, f"peak/{number}", wanted)
    for number, node in enumerate(counting):
        _emit_sum(augmented.graph, node, f"sum/{number}", wanted)
    session, size = open_cpu(augmented, cpu_options(threads=0)), batch_size(model)
    highest = np.zeros(len(wanted))
    for batch in batches:
        for start in range(0, len(batch), size):
            given = filled(batch[start : start + size], size)
            highest = np.maximum(highest, [float(value) for value in session.run(wanted, {image: given})])
    sums = zip(counting, highest[len(floats) :], strict=True)
    return Peaks(
        {name: float(peak) for name, peak in zip(floats, highest, strict=False)},
        {node.name: float(peak) * _window(node) for node, peak in sums},
    )


def _emit_peak(graph: "onnx.GraphProto", name: str, at: str, wanted: list[str]) -> None:
    import onnx

    made = onnx.helper.make_node
    graph.node.append(made("Abs", [name], [f"{at}/abs"]))
    graph.node.append(made("ReduceMax", [f"{at}/abs"], [f"{at}/max"], keepdims=0))
    graph.output.append(onnx.helper.make_tensor_value_info(f"{at}/max", FLOAT, []))
    wanted.append(f"{at}/max")


def _emit_sum(graph: "onnx.GraphProto", node: "onnx.NodeProto", at: str, wanted: list[str]) -> None:
    """The node once more, on absolute values: no partial sum is larger, in whichever order.

    A mean is multiplied by what it is a mean of: the values taken for each one put out, or, where windows
    overlap, the size of the window (see `_window`).
    """
    import onnx

    made = onnx.helper.make_node
    again = onnx.NodeProto.FromString(node.SerializeToString())
    again.name, again.input[0], again.output[0] = "", f"{at}/abs", f"{at}/out"
    del again.output[1:]
    graph.node.extend([made("Abs", [node.input[0]], [f"{at}/abs"]), again])
    graph.node.append(made("ReduceMax", [f"{at}/out"], [f"{at}/max"], keepdims=0))
    if node.op_type in MEANS and node.op_type != "AveragePool":
        for part in ("abs", "out"):
            graph.node.append(made("Size", [f"{at}/{part}"], [f"{at}/{part}/count"]))
            graph.node.append(
                made("Cast", [f"{at}/{part}/count"], [f"{at}/{part}/size"], to=onnx.TensorProto.FLOAT)
            )
        graph.node.append(made("Div", [f"{at}/abs/size", f"{at}/out/size"], [f"{at}/values"]))
        graph.node.append(made("Mul", [f"{at}/max", f"{at}/values"], [f"{at}/sum"]))
        wanted.append(f"{at}/sum")
    else:
        wanted.append(f"{at}/max")
    graph.output.append(onnx.helper.make_tensor_value_info(wanted[-1], FLOAT, []))


def _window(node: "onnx.NodeProto") -> int:
    if node.op_type != "AveragePool":
        return 1
    return prod(next((a.ints for a in node.attribute if a.name == "kernel_shape"), [1]))


def _too_large(peak: float) -> bool:
    """Infinities, as masks have them, are in FP16 too."""
    return isfinite(peak) and peak > LIMIT


def change_of_rounding(
    model: "onnx.ModelProto", tensors: Sequence[str], batches: "Iterable[NDArray[Any]]"
) -> float:
    """How far logits move where these tensors, all below SMALLEST, are rounded to what FP16 has there.

    Of the span of a photo's logits, the largest over the photos. In FP32, adding 0.75 and taking it away
    again leaves multiples of 2**-24: the numbers that FP16 has below SMALLEST.
    """
    import numpy as np
    import onnx

    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph, chosen = rounded.graph, frozenset(tensors) - {value.name for value in model.graph.output}
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.75, np.float32), "rounded/by"))
    nodes = []
    for node in model.graph.node:
        again = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(again)
        for position, name in enumerate(again.output):
            if name in chosen:
                again.output[position] = f"rounded/{name}"
                nodes.append(onnx.helper.make_node("Add", [f"rounded/{name}", "rounded/by"], [f"up/{name}"]))
                nodes.append(onnx.helper.make_node("Sub", [f"up/{name}", "rounded/by"], [name]))
    del graph.node[:]
    graph.node.extend(nodes)
    sessions = [open_cpu(graph, cpu_options(threads=0)) for graph in (model, rounded)]
    image, size, furthest = image_input(model).name, batch_size(model), 0.0
    for batch in batches:
        given = {image: filled(batch[:size], size)}
        before, after = (session.run(None, given)[0] for session in sessions)
        span = before.max(axis=-1) - before.min(axis=-1)
        moved = np.abs(after - before).max(axis=-1)
        furthest = max(furthest, float((moved / np.maximum(span, np.finfo(np.float32).tiny)).max()))
    return furthest


def _touching(node: "onnx.NodeProto", unfit: Mapping[str, str]) -> str | None:
    for name in (*node.output, *node.input):
        if name in unfit:
            return f"`{name}` {unfit[name]}"
    return None


def _adding_up(node: "onnx.NodeProto", peaks: Peaks) -> str | None:
    taken = peaks.tensors.get(node.input[0], 0.0) if node.input else 0.0
    given = peaks.tensors.get(node.output[0], 0.0) if node.output else 0.0
    total = peaks.sums.get(node.name, 0.0)
    if node.op_type == "ReduceL2":
        total = given**2
    if node.op_type in NORMS:  # a bound as it is, and far from the mean that it bounds
        total = taken**2 / MARGIN
    if node.op_type == "LRN":
        total = taken**2 * next((a.i for a in node.attribute if a.name == "size"), 1)
    if not isfinite(total) or total <= LIMIT:
        return None
    return f"it adds up to {total * (MARGIN if node.op_type in NORMS else 1):.3g}"


def _weights_harmed(
    node: "onnx.NodeProto",
    weights: "Mapping[str, onnx.TensorProto]",
    peaks: Peaks,
    model: "onnx.ModelProto",
) -> str | None:
    import numpy as np
    import onnx

    skipped = (*BOUNDS.get(node.op_type, ()), *sizes_of(node, model))
    for position, name in enumerate(node.input):
        if name not in weights or position in skipped:
            continue
        values = onnx.numpy_helper.to_array(weights[name])
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
    for node in model.graph.node:
        values = node.input[:1] if node.op_type in SHAPED else node.input
        if node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif not sizes.isdisjoint(values):
            sizes.update(node.output)
            from_shapes.append(node)
    needed: set[str] = set()
    for node in model.graph.node:
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
