"""Multiply-accumulates of an ONNX graph, node by node, from its shapes alone."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


Shape = tuple[int, ...]

# Positions of the data and the weights among the inputs of the operators that multiply.
_PLAIN, _QUANTISED = (0, 1), (0, 3)
CONVOLUTIONS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvInteger"), _PLAIN),
    "QLinearConv": _QUANTISED,
}
GEMMS: Mapping[str, tuple[int, int]] = {"Gemm": _PLAIN, "FusedGemm": _PLAIN, "QGemm": _QUANTISED}
MATMULS = ("MatMul", "FusedMatMul", "FusedMatMulActivation", "MatMulInteger", "MatMulIntegerToFloat")
MULTIPLYING: Mapping[str, tuple[int, int]] = {
    **CONVOLUTIONS,
    **GEMMS,
    **dict.fromkeys((*MATMULS, "DynamicQuantizeMatMul", "ConvTranspose"), _PLAIN),
    "QLinearMatMul": _QUANTISED,
}

LARGEST_CONSTANT = 4096  # bytes; the sizes that a Reshape takes from a constant are far below

# onnxruntime's own operators whose shapes follow from one of ONNX: ONNX's name, and which inputs it takes.
_SAME_SHAPE = ("Identity", (0,))
_STAND_INS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", _PLAIN),
    "FusedGemm": ("Gemm", _PLAIN),
    "FusedMatMul": ("MatMul", _PLAIN),
    "MatMulIntegerToFloat": ("MatMul", _PLAIN),
    "DynamicQuantizeMatMul": ("MatMul", _PLAIN),
    "QGemm": ("Gemm", _QUANTISED),
    "QLinearConv": ("Conv", _QUANTISED),
    "QLinearAdd": ("Add", _QUANTISED),
    "QLinearMul": ("Mul", _QUANTISED),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearReduceMean": ("ReduceMean", (0,)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _SAME_SHAPE),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), _SAME_SHAPE),
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization"), _SAME_SHAPE),
}
_KEPT_ATTRIBUTES = frozenset(
    {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad"}
    | {"transA", "transB", "axes", "axis", "keepdims", "noop_with_empty_axes"}
)


def macs_of(model: "onnx.ModelProto") -> dict[str, int]:
    """Multiply-accumulates for one photo of the nodes that multiply: convolutions and matrix products.

    Keys are node names, in graph order; a node without one is `{op_type}_{position in the graph}`.
    A free batch counts as 1, a fixed one is divided out; biases are not counted, and neither are the bodies
    of If and Loop. A node whose shapes ONNX cannot infer is left out.
    """
    shapes = shapes_of(model)
    batch = _batch(model)
    counted = {}
    for name, node in multiplying(model):
        macs = macs_of_call(
            node.op_type, [shapes.get(given) for given in node.input], shapes.get(node.output[0])
        )
        if macs is not None:
            counted[name] = macs // batch
    return counted


def macs_of_call(op_type: str, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
    """Multiply-accumulates of one node, for the whole batch; None where a shape it takes is missing.

    The channels of a convolution's data may come second or last: its weights are (out, in / groups, *kernel)
    either way.
    """
    if op_type not in MULTIPLYING or output is None:
        return None
    data, weight = (inputs[i] if i < len(inputs) else None for i in MULTIPLYING[op_type])
    if op_type in CONVOLUTIONS:
        return None if weight is None else prod(output) * prod(weight[1:])
    if op_type == "ConvTranspose":
        return None if data is None or weight is None else prod(data) * prod(weight[1:])
    if data is None or not data:
        return None
    if op_type in GEMMS:  # either may be stored transposed: the depth is what is left beside the rows
        return prod(output) * (prod(data) // output[0])
    return prod(output) * data[-1]


def multiplying(model: "onnx.ModelProto") -> "list[tuple[str, onnx.NodeProto]]":
    """The nodes that multiply, under the names that `macs_of` gives them."""
    return [
        (node.name or f"{node.op_type}_{index}", node)
        for index, node in enumerate(model.graph.node)
        if node.op_type in MULTIPLYING
    ]


def _batch(model: "onnx.ModelProto") -> int:
    shapes = [value.type.tensor_type.shape.dim for value in inputs_of(model.graph)]
    return next((max(1, int(dims[0].dim_value)) for dims in shapes if len(dims) > 1), 1)


def inputs_of(graph: "onnx.GraphProto") -> "list[onnx.ValueInfoProto]":
    """The inputs of a call, without the weights, which old files list as inputs too."""
    stored = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def shapes_of(model: "onnx.ModelProto") -> dict[str, Shape]:
    """Every tensor's shape that can be inferred, with free batches set to 1."""
    import onnx

    graph = _skeleton(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    except onnx.shape_inference.InferenceError:  # a domain the file does not import: it states no shapes
        return {}
    shapes: dict[str, Shape] = {weight.name: tuple(weight.dims) for weight in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        # Rank 0 and no shape at all look alike here; no tensor that is multiplied has rank 0.
        if dims and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _skeleton(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph to infer shapes in: a batch of 1, and ONNX's operators in the place of onnxruntime's.

    Without the shapes that the file states, which hold the free batch, and the values of large weights, which
    no shape depends on.
    """
    import onnx

    graph = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph.functions.extend(model.functions)
    graph.graph.input.extend(model.graph.input)
    graph.graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if weight.ByteSize() <= LARGEST_CONSTANT:
            graph.graph.initializer.append(weight)
        else:
            graph.graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
    for value in inputs_of(graph.graph):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and not dims[0].dim_value:
            dims[0].dim_value = 1
    for value in graph.graph.output:
        value.type.tensor_type.ClearField("shape")
    ordered = in_order(model.graph)
    for node in ordered:
        _stand_in(node)
    graph.graph.node.extend(ordered)
    return graph


def in_order(graph: "onnx.GraphProto") -> "list[onnx.NodeProto]":
    """Copies of the nodes, each after those it reads from.

    ONNX asks for this order and its shape inference relies on it; onnxruntime opens files without it, and
    its fp16 converter writes such files. Nodes in a circle come last, as they stand.
    """
    import onnx

    left = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    awaited = {name for node in left for name in node.output}
    ordered: list[onnx.NodeProto] = []
    while left:
        waiting: list[onnx.NodeProto] = []
        for node in left:
            if awaited.isdisjoint(node.input):
                ordered.append(node)
                awaited.difference_update(node.output)
            else:
                waiting.append(node)
        if len(waiting) == len(left):
            return ordered + waiting
        left = waiting
    return ordered


def _stand_in(node: "onnx.NodeProto") -> None:
    if not node.domain.startswith("com.microsoft"):
        return
    if node.op_type == "QLinearConcat":  # scale and zero point of the output, then three inputs for each part
        op_type, inputs = "Concat", list(node.input[2::3])
    elif node.op_type in _STAND_INS:
        op_type, positions = _STAND_INS[node.op_type]
        inputs = [node.input[i] for i in positions]
    else:
        return
    keep = frozenset() if op_type == "Identity" else _KEPT_ATTRIBUTES
    kept = [attribute for attribute in node.attribute if attribute.name in keep]
    node.op_type, node.domain = op_type, ""
    del node.input[:]
    node.input.extend(inputs)
    attributes = [type(attribute).FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend(attributes)
    del node.output[1:]
