"""Running and reading graphs, as several steps do it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.backends.common import cpu_options, filled, open_cpu
from workbench.model.graph.onnx_file import image_input

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def batch_size(model: "onnx.ModelProto") -> int:
    """One photo at a time, which bounds the memory; more only where the graph has a fixed batch."""
    return int(image_input(model).type.tensor_type.shape.dim[0].dim_value) or 1


def runner(
    model: "onnx.ModelProto", outputs: Sequence[str] | None = None
) -> "Callable[[NDArray[Any]], list[Any]]":
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


def float_weights(node: "onnx.NodeProto", stored: "Mapping[str, onnx.TensorProto]") -> "NDArray[np.float32]":
    """The result of a DequantizeLinear of stored weights."""
    import numpy as np
    import onnx

    values, scale, *zero = (onnx.numpy_helper.to_array(stored[name]) for name in node.input)
    offset = zero[0] if zero else np.zeros_like(scale, np.int8)
    if scale.ndim:  # per channel
        shape = [1] * values.ndim
        shape[integer(node, "axis", 1)] = -1
        scale, offset = scale.reshape(shape), offset.reshape(shape)
    weights: NDArray[np.float32] = (values.astype(np.int32) - offset.astype(np.int32)) * scale
    return weights.astype(np.float32)


def unused(name: str, used: set[str]) -> str:
    """A name that is not among the used ones, and is from now on."""
    while name in used:
        name += "_"
    used.add(name)
    return name
