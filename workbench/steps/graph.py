"""Running and reading graphs, as several steps do it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends.common import cpu_options, filled, open_cpu
from workbench.model.graph.onnx_file import image_input

if TYPE_CHECKING:
    import onnx

FLOAT, FLOAT16, INT64 = 1, 10, 7  # onnx.TensorProto's numbers


def batch_size(model: "onnx.ModelProto") -> int:
    """One photo at a time, which bounds the memory; more only where the graph has a fixed batch."""
    return int(image_input(model).type.tensor_type.shape.dim[0].dim_value) or 1


def runner(
    model: "onnx.ModelProto", outputs: Sequence[str] | None = None
) -> Callable[[NDArray[Any]], list[Any]]:
    """A function that runs the network, as it is written, on a batch, and returns these outputs, or all."""
    session = open_cpu(model, cpu_options(threads=0))
    image, size = image_input(model).name, batch_size(model)
    return lambda batch: session.run(outputs, {image: filled(batch, size)})


def integer(node: "onnx.NodeProto", attribute: str, default: int = 0) -> int:
    """The value of an attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == attribute), default)


def bias_of(node: "onnx.NodeProto") -> str:
    """The name of the bias of a convolution or product; empty without one."""
    return node.input[2] if len(node.input) > 2 else ""


def output_axis(node: "onnx.NodeProto") -> int:
    """The axis of the output channels in the weights of a convolution or a product of two dimensions."""
    return 0 if node.op_type == "Conv" or integer(node, "transB") else 1


def float_weights(node: "onnx.NodeProto", stored: "Mapping[str, onnx.TensorProto]") -> NDArray[np.float32]:
    """The result of a DequantizeLinear of stored weights."""
    values, scale, *zero = (values_of(stored[name]) for name in node.input)
    offset = zero[0] if zero else np.zeros_like(scale, np.int8)
    if scale.ndim:  # per channel
        shape = [1] * values.ndim
        shape[integer(node, "axis", 1)] = -1
        scale, offset = scale.reshape(shape), offset.reshape(shape)
    weights: NDArray[np.float32] = (values.astype(np.int32) - offset.astype(np.int32)) * scale
    return weights.astype(np.float32)


def values_of(tensor: "onnx.TensorProto") -> NDArray[Any]:
    """A copy of a stored tensor that can be written to."""
    import onnx

    return np.array(onnx.numpy_helper.to_array(tensor))


def store(tensor: "onnx.TensorProto", values: NDArray[Any]) -> None:
    """Give a stored tensor other values."""
    import onnx

    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


class Editor:
    """Adds nodes, weights and outputs to a model, in place. outputs: names of those added."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.model, self.graph, self.outputs = model, model.graph, list[str]()

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        import onnx

        self.graph.node.append(onnx.helper.make_node(op, inputs, [output], **attributes))
        return output

    def weights(self, name: str, values: NDArray[Any]) -> str:
        import onnx

        self.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    def output(self, name: str, kind: int = FLOAT, shape: Sequence[int] | None = ()) -> None:
        import onnx

        self.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        self.outputs.append(name)

    def run(self) -> Callable[[NDArray[Any]], list[Any]]:
        """A function as `runner` gives, for the outputs added."""
        return runner(self.model, self.outputs)


def unused(name: str, used: set[str]) -> str:
    """A name that is not among the used ones, and is from now on."""
    while name in used:
        name += "_"
    used.add(name)
    return name
