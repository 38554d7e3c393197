"""Which nodes a static INT8 step quantises, and how the ranges of their tensors are found."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import known_op_types, matching
from workbench.model.graph.roles import roles_of, wiring_of
from workbench.steps.int8.settings import Calibration, StaticInt8

if TYPE_CHECKING:
    import onnx


ACTIVATIONS = frozenset({"Relu", "Clip"})  # that the quantiser merges into the range


def chosen_nodes(step: StaticInt8, model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that `step` quantises in a prepared graph (see `prepare`), in graph order."""
    excluded = {*matching(step.exclude_nodes, model, field="static_int8.exclude_nodes")}
    if step.exclude_roles:
        unwanted = set(step.exclude_roles)
        excluded |= {name for name, roles in roles_of(model).items() if roles & unwanted}
    op_types = _types_of(step, model)
    types = {node.name: node.op_type for node in model.graph.node}
    chosen = {name for name in types.keys() - excluded if types[name] in op_types}
    chosen |= {name for name in _merged(chosen, model) - excluded if types[name] not in step.exclude_op_types}
    return [node.name for node in model.graph.node if node.name in chosen]


def _merged(names: Collection[str], model: "onnx.ModelProto") -> set[str]:
    """The ReLU or Clip that alone reads an output of these nodes: in INT8 it is part of the range."""
    readers = wiring_of(model).readers
    after = [readers.get(node.output[0], []) for node in model.graph.node if node.name in names]
    return {found[0].name for found in after if len(found) == 1 and found[0].op_type in ACTIVATIONS}


def calibration_plan(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str]
) -> dict[str, Calibration]:
    """The calibration of each tensor that a chosen node reads or writes, weights aside."""
    plan = dict.fromkeys(activations(model, chosen), step.calibration)
    readers = wiring_of(model).readers
    for node in model.graph.node:
        # The quantiser gives what a ReLU alone reads the range of its output: the extremes are enough.
        merged = node.op_type in ACTIVATIONS and node.name in chosen
        if merged and node.input[0] in plan and len(readers[node.input[0]]) == 1:
            plan[node.input[0]] = step.calibration.model_copy(update={"method": "minmax"})
    return plan


def _types_of(step: StaticInt8, model: "onnx.ModelProto") -> set[str]:
    """The types of node that `step` quantises. Raises WorkbenchError where one is unknown."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    supported = {*QDQRegistry, *QLinearOpsRegistry}
    if unknown := sorted(set(step.op_types or ()) - supported):
        raise WorkbenchError(
            f"static_int8.op_types: `{unknown[0]}` cannot be quantised",
            hint=f"onnxruntime quantises {', '.join(sorted(supported))}",
        )
    excluded = known_op_types(step.exclude_op_types, model, field="static_int8.exclude_op_types")
    return set(step.op_types or supported) - excluded


def activations(model: "onnx.ModelProto", chosen: Collection[str]) -> list[str]:
    """The float tensors that the chosen nodes read or write, weights aside: what needs a range."""
    import onnx

    graph = model.graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    } - {weight.name for weight in graph.initializer}
    nodes = [node for node in graph.node if node.name in chosen]
    touched = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    return [name for name in touched if name in floats]
