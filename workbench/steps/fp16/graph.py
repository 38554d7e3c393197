"""Before a conversion to FP16: a graph that converters get right, and what stays in FP32 anyway."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from workbench.backends.mac_count import MULTIPLYING, inputs_of
from workbench.errors import WorkbenchError, summary
from workbench.steps.fp16.casts import FLOAT, bodies, types_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


# Inputs that ONNX wants in FP32 whatever the data is, by operator: scales that decide a size.
SIZES: Mapping[str, tuple[int, ...]] = {"Resize": (2,), "Upsample": (1,)}
OLD_RESIZE = 10  # the opset whose Resize has its scales where newer ones have the region


def prepared(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy that means the same, in the form both converters get right.

    Functions are inlined; every node has a name of its own, so that it can be kept; weights are no inputs
    (files of the first years list them there, and would get a cast each); float constants are initializers:
    onnxruntime's converter leaves `value_float` as it is, and rounds constants of nodes that stay in FP32.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.functions:
        copy = onnx.inliner.inline_local_functions(copy)
    graph = copy.graph
    inputs = inputs_of(graph)
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
        copy.ir_version = max(copy.ir_version, 4)
    _name_nodes(graph)
    nodes = []
    for node in graph.node:
        value = _float_constant(node)
        if value is None:
            nodes.append(node)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    if len(nodes) < len(graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return copy


def _name_nodes(graph: "onnx.GraphProto") -> None:
    used: set[str] = set()
    for node in graph.node:
        name = node.name or f"{node.op_type}_{next(iter(node.output), '')}"
        while name in used:
            name += "_"
        node.name = name
        used.add(name)


def _float_constant(node: "onnx.NodeProto") -> "NDArray[np.float32] | None":
    import numpy as np
    import onnx

    if node.op_type != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == FLOAT:
            value: NDArray[np.float32] = onnx.numpy_helper.to_array(attribute.t)
            return value
        if attribute.name == "value_float":
            return np.array(attribute.f, np.float32)
        if attribute.name == "value_floats":
            return np.array(attribute.floats, np.float32)
    return None


def separated(model: "onnx.ModelProto", kept: Collection[str]) -> None:
    """Give the nodes of `kept`, and the inputs of SIZES, FP32 weights of their own, in place.

    A weight that a converted node shares with them would be rounded for all: what is beyond FP16 would be
    cut off before the node that stays in FP32 for its sake.
    """
    graph = model.graph
    stored = {weight.name: weight for weight in graph.initializer if weight.data_type == FLOAT}
    users: dict[str, dict[bool, list[tuple[onnx.NodeProto, int]]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in stored:
                whole = node.name in kept or position in sizes_of(node, model)
                users.setdefault(name, {}).setdefault(whole, []).append((node, position))
    names = set(stored)
    for name, uses in users.items():
        if len(uses) < 2:
            continue
        copy = f"{name}_fp32"
        while copy in names:
            copy += "_"
        names.add(copy)
        graph.initializer.append(stored[name])
        graph.initializer[-1].name = copy
        for node, position in uses[True]:
            node.input[position] = copy


def sizes_of(node: "onnx.NodeProto", model: "onnx.ModelProto") -> tuple[int, ...]:
    """Positions of the inputs of SIZES of a node."""
    from workbench.model.graph.onnx_file import opset_of

    if node.op_type == "Resize" and opset_of(model) <= OLD_RESIZE:
        return (1,)
    return SIZES.get(node.op_type, ())


def without_half(model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that ONNX defines for FP32 and not for FP16 at the model's opset, such as Celu."""
    from workbench.model.graph.onnx_file import opset_of

    version = opset_of(model)
    return [node.name for node in model.graph.node if _lacks_half(node, version)]


def _lacks_half(node: "onnx.NodeProto", version: int) -> bool:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return False
    ends = [*schema.inputs[:1], *schema.outputs[:1]]
    return any("tensor(float)" in end.types and "tensor(float16)" not in end.types for end in ends)


def by_onnxruntime(
    model: "onnx.ModelProto", kept: Collection[str], op_types: Collection[str]
) -> "onnx.ModelProto":
    """Converted with onnxruntime's converter, photos and logits in FP32.

    kept, op_types: nodes, and operators within the bodies of If and Loop, that stay in FP32 besides
    `always_kept`. Raises WorkbenchError where the converter gives up.
    """
    from onnx.shape_inference import InferenceError
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *sorted(op_types)]
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=blocked, node_block_list=sorted(kept)
        )
    except (AssertionError, KeyError, RuntimeError, ValueError, InferenceError) as error:
        raise WorkbenchError(
            f"fp16: onnxruntime's converter fails here: {summary(error)}",
            hint="put `simplify` before `fp16`, or export with another opset",
        ) from error
    return converted


def always_kept(model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that onnxruntime's converter leaves in FP32 of itself."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    blocked = frozenset(DEFAULT_OP_BLOCK_LIST)
    return [node.name for node in model.graph.node if node.op_type in blocked]


def between(model: "onnx.ModelProto", kept: Collection[str]) -> list[str]:
    """Nodes that multiply nothing and stand between kept ones only: converted, they cost two casts each."""
    types = types_of(model)
    made_by = {name: node.name for node in model.graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    last = {value.name for value in model.graph.output}
    found: list[str] = []
    for node in model.graph.node:
        if node.name in kept or node.op_type in MULTIPLYING or bodies(node):
            continue
        before = [made_by[name] for name in node.input if types.get(name) == FLOAT and name in made_by]
        given = [name for name in node.output if types.get(name) == FLOAT]
        after = [reader for name in given for reader in readers.get(name, [])]
        if not before or not after or last & set(given):
            continue
        if all(name in kept for name in (*before, *after)):
            found.append(node.name)
    return found
