"""Bias correction: what quantising shifts on average, taken back by the biases."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.model.graph.onnx_file import opset_of
from workbench.model.graph.roles import Wiring, wiring_of
from workbench.photos.dataset import Images
from workbench.steps.graph import Editor, batch_size, bias_of, float_weights, output_axis, unused, values_of

if TYPE_CHECKING:
    import onnx


PHOTOS = 64  # means settle long before the ranges do
AXES_AS_INPUT_OPSET = 18  # of ReduceMean


@dataclass(frozen=True, slots=True)
class BiasedLayer:
    """A convolution or Gemm of the float graph, with the scale and zero point of the activation it reads.

    weights: as INT8 represents them, in float32.
    """

    node: "onnx.NodeProto"
    scale: "onnx.TensorProto"
    zero_point: "onnx.TensorProto"
    weights: NDArray[np.float32]


def correct_biases(model: "onnx.ModelProto", quantized: "onnx.ModelProto", images: Images, count: int) -> int:
    """Shift the biases of `model`, in place, by what quantising shifts the outputs on average.

    Per output channel of each Conv and Gemm, the bias loses E[y'] - E[y], where y is the float output, y' the
    output with quantised weights and input, and the mean goes over photos and positions: the empirical bias
    correction of Nagel et al. (ICCV 2019), layer by layer with the input that the float network gives it, so
    that one pass does for all layers however deep. Only the means leave the network.

    quantized: the same graph in QDQ form. Returns the number of layers corrected.
    """
    layers = list(_layers(model, quantized))
    if not layers:
        return 0
    run = _with_twins(model, layers).run()
    batches = images.spread(min(count, PHOTOS, len(images)), batch_size(model))
    shifts = zip(*(run(batch) for batch in batches), strict=True)
    for layer, found in zip(layers, shifts, strict=True):
        mean = np.asarray(np.mean(found, axis=0, dtype=np.float64), np.float32)
        _subtract(model, layer.node.name, mean)
    return len(layers)


def _layers(model: "onnx.ModelProto", quantized: "onnx.ModelProto") -> Iterator[BiasedLayer]:
    """The layers whose weights and input are both quantised, and whose bias is stored or missing."""
    made, floats = wiring_of(quantized), wiring_of(model)
    names = {node.name: node for node in model.graph.node}
    for twin in quantized.graph.node:
        node = names.get(twin.name)
        if node is None or node.op_type not in ("Conv", "Gemm") or not _can_shift(node, floats):
            continue
        read, weights = (made.maker.get(name) for name in twin.input[:2])
        if read is None or weights is None or {read.op_type, weights.op_type} != {"DequantizeLinear"}:
            continue
        if weights.input[0] not in made.constants or read.input[0] not in made.maker:
            continue
        scale, zero_point = (made.constants[name] for name in read.input[1:3])
        yield BiasedLayer(node, scale, zero_point, float_weights(weights, made.constants))


def _can_shift(node: "onnx.NodeProto", wiring: Wiring) -> bool:
    """Whether the bias is a stored vector, or can be added; a Gemm's is not scaled."""
    if any(a.name == "beta" and a.f != 1.0 for a in node.attribute):
        return False
    if node.input[1] not in wiring.constants:
        return False
    if not bias_of(node):
        return True
    bias = wiring.constants.get(bias_of(node))
    return bias is not None and list(bias.dims) == [wiring.constants[node.input[1]].dims[output_axis(node)]]


def _with_twins(model: "onnx.ModelProto", layers: list[BiasedLayer]) -> Editor:
    """The float graph with a quantised twin of every layer, and the outputs that are their mean shifts."""
    editor = Editor(deepcopy(model))
    for number, layer in enumerate(layers):
        q, dq, w, out, off, mean, axes = (f"twin/{number}/{part}" for part in range(7))
        scale, zero = f"{q}/scale", f"{q}/zero_point"
        twin = deepcopy(layer.node)
        twin.name, twin.input[0], twin.input[1], twin.output[0] = out, dq, w, out
        over = [0, *range(2, layer.weights.ndim)] if twin.op_type == "Conv" else [0]
        editor.weights(scale, values_of(layer.scale))
        editor.weights(zero, values_of(layer.zero_point))
        editor.weights(w, layer.weights)
        editor.node("QuantizeLinear", [layer.node.input[0], scale, zero], q)
        editor.node("DequantizeLinear", [q, scale, zero], dq)
        editor.graph.node.append(twin)
        editor.node("Sub", [out, layer.node.output[0]], off)
        if opset_of(model) < AXES_AS_INPUT_OPSET:
            editor.node("ReduceMean", [off], mean, axes=over, keepdims=0)
        else:
            editor.weights(axes, np.array(over, np.int64))
            editor.node("ReduceMean", [off, axes], mean, keepdims=0)
        editor.output(mean, shape=None)
    return editor


def _subtract(model: "onnx.ModelProto", name: str, shift: NDArray[np.float32]) -> None:
    """Give the node a bias of its own, less `shift`."""
    node = next(node for node in model.graph.node if node.name == name)
    stored, old = wiring_of(model).constants, bias_of(node)
    values = values_of(stored[old]) - shift if old else -shift
    del node.input[2:]
    node.input.append(Editor(model).weights(unused(f"{old or name}/corrected", set(stored)), values))
