"""Layers of a graph that compute as in training: on the other photos of a batch, or by chance."""

from typing import TYPE_CHECKING

from workbench.model.graph.onnx_file import opset_of
from workbench.model.graph.onnx_source import graphs_of, nodes_of
from workbench.model.graph.plain_graph import constant_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

MODE_OPSET = 14  # the first in which BatchNormalization states its mode; before, its outputs tell


def training_layers(model: "onnx.ModelProto") -> tuple[str, ...]:
    """The names of the BatchNormalization and Dropout nodes in training mode."""
    import numpy as np
    import onnx

    stored = {
        weight.name: weight
        for graph in graphs_of(model.graph)
        for weight in graph.initializer
        if weight.data_location != onnx.TensorProto.EXTERNAL
    }
    made = {node.output[0]: node for node in nodes_of(model.graph) if node.op_type == "Constant"}

    def constant(name: str) -> "NDArray[np.generic] | None":
        if name in stored:
            return np.asarray(onnx.numpy_helper.to_array(stored[name]))
        return constant_of(made[name]) if name in made else None

    def trains(node: "onnx.NodeProto") -> bool:
        if node.op_type == "BatchNormalization":
            stated = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
            return stated or (opset_of(model) < MODE_OPSET and any(node.output[1:]))
        if node.op_type != "Dropout" or len(node.input) < 3:
            return False
        ratio, mode = constant(node.input[1]), constant(node.input[2])
        return mode is not None and bool(mode.any()) and (ratio is None or bool(ratio.any()))

    return tuple(node.name or node.output[0] for node in nodes_of(model.graph) if trains(node))
