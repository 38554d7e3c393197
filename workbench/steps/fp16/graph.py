"""The conversion to FP16: a graph that the converter gets right, and what stays in FP32 anyway."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

from workbench.backends.mac_count import MULTIPLYING
from workbench.errors import WorkbenchError, summary
from workbench.model.graph.onnx_file import opset_of
from workbench.model.graph.plain_graph import plain
from workbench.model.graph.roles import wiring_of
from workbench.steps.fp16.casts import has_body, types_of
from workbench.steps.graph import FLOAT, unused

if TYPE_CHECKING:
    import onnx


# Inputs that ONNX wants in FP32 whatever the data is, by operator: scales that decide a size.
SIZES: Mapping[str, tuple[int, ...]] = {"Resize": (2,), "Upsample": (1,)}
OLD_RESIZE = 10  # the opset whose Resize has its scales where newer ones have the region


def prepared(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy that means the same, in the form that the converter gets right.

    Functions are inlined; every node has a name of its own, so that it can be kept; weights are no inputs
    (files of the first years list them there, and would get a cast each); float constants are initializers:
    onnxruntime's converter leaves `value_float` as it is, and rounds constants of nodes that stay in FP32.
    """
    import onnx

    copy = deepcopy(model)
    if copy.functions:
        copy = onnx.inliner.inline_local_functions(copy)
    plain(copy)
    names: set[str] = set()
    for node in copy.graph.node:
        node.name = unused(node.name or f"{node.op_type}_{next(iter(node.output), '')}", names)
    return copy


def separated(model: "onnx.ModelProto", kept: Collection[str]) -> None:
    """Give the nodes of `kept`, and the inputs of SIZES, FP32 weights of their own, in place.

    A weight that a converted node shares with them would be rounded for all: what is beyond FP16 would be
    cut off before the node that stays in FP32 for its sake.
    """
    graph = model.graph
    stored = {weight.name: weight for weight in graph.initializer if weight.data_type == FLOAT}
    names = set(stored)
    whole: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    half: set[str] = set()
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in stored:
                continue
            uses = whole.setdefault(name, [])
            if node.name in kept or position in sizes_of(node, model):
                uses.append((node, position))
            else:
                half.add(name)
    for name, uses in whole.items():
        if uses and name in half:
            graph.initializer.append(stored[name])
            graph.initializer[-1].name = unused(f"{name}_fp32", names)
            for node, position in uses:
                node.input[position] = graph.initializer[-1].name


def sizes_of(node: "onnx.NodeProto", model: "onnx.ModelProto") -> tuple[int, ...]:
    """Positions of the inputs of SIZES of a node."""
    if node.op_type == "Resize" and opset_of(model) <= OLD_RESIZE:
        return (1,)
    return SIZES.get(node.op_type, ())


def always_kept(model: "onnx.ModelProto") -> set[str]:
    """Names of the nodes that onnxruntime's converter leaves in FP32 by itself, and of those that ONNX
    defines for FP32 and not for FP16 at the model's opset, such as Celu."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    version = opset_of(model)
    nodes = model.graph.node
    return {n.name for n in nodes if n.op_type in DEFAULT_OP_BLOCK_LIST or _lacks_half(n, version)}


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
    """Convert with onnxruntime's converter, photos and logits in FP32.

    kept, op_types: nodes, and operators within the bodies of If and Loop, that stay in FP32.
    Raises WorkbenchError where the converter gives up.
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


def between(model: "onnx.ModelProto", kept: Collection[str]) -> list[str]:
    """Nodes that multiply nothing and stand between kept ones only: converted, they cost two casts each."""
    types, wiring = types_of(model), wiring_of(model)
    outputs = {value.name for value in model.graph.output}
    found: list[str] = []
    for node in model.graph.node:
        if node.name in kept or node.op_type in MULTIPLYING or has_body(node):
            continue
        before = [wiring.maker[name] for name in _floats(node.input, types) if name in wiring.maker]
        after = [reader for name in _floats(node.output, types) for reader in wiring.readers.get(name, [])]
        if not before or not after or not outputs.isdisjoint(_floats(node.output, types)):
            continue
        if all(neighbour.name in kept for neighbour in (*before, *after)):
            found.append(node.name)
    return found


def _floats(names: Iterable[str], types: Mapping[str, int]) -> list[str]:
    return [name for name in names if types.get(name) == FLOAT]
