"""Mending weights before they are quantised: equalised across layers, and without dead channels."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.model.graph.roles import Wiring, group_of, wiring_of
from workbench.steps.graph import bias_of, output_axis, store, values_of
from workbench.steps.int8.range_search import Range

if TYPE_CHECKING:
    import onnx


Overrides = dict[str, list[dict[str, float | int]]]

SWEEPS = 20  # over all pairs; scales settle long before
SETTLED = 1e-3  # change of a scale that ends the sweeps
DEAD = 1e-6  # of a layer's largest weight: a channel below is lost in the rounding of its output anyway
LARGEST_BIAS = float(2**29)  # in int32, a quarter of what fits
FINEST = 1e-3  # of a layer's largest weight: what a dead channel's scale is made from


def equalize(model: "onnx.ModelProto") -> int:
    """Rescale the channels between convolutions so that both their weights use the same range, in place.

    Returns the number of pairs. For a pair W1, W2 with nothing or a ReLU between them, channel i of W1 and
    its bias are divided, and those weights of W2 that read it multiplied, by s = sqrt(r1 / r2), where r is
    the largest |weight| of the channel (Nagel et al., "Data-free quantization through weight equalization
    and bias correction", ICCV 2019): the function stays the same, as ReLU(s x) = s ReLU(x) for s > 0. That
    does not hold for ReLU6 or hard-swish, so pairs around them are left alone, as are tensors read twice.
    """
    wiring = wiring_of(model)
    pairs = [pair for node in model.graph.node if (pair := _pair(node, model, wiring))]
    touched = {node.input[1] for pair in pairs for node in pair}
    weights = {name: values_of(wiring.constants[name]) for name in touched}
    biases = {
        first.input[2]: values_of(wiring.constants[first.input[2]]) for first, _ in pairs if bias_of(first)
    }
    for _ in range(SWEEPS):
        change = 0.0
        for first, second in pairs:
            own = weights[first.input[1]]
            by_input = _by_input(second, weights[second.input[1]])  # a view: writes to the weights
            scales = _scales(own, by_input)
            own /= scales.reshape(-1, *[1] * (own.ndim - 1))
            by_input *= scales.reshape(by_input.shape[0], 1, by_input.shape[2], 1)
            if bias := bias_of(first):
                biases[bias] /= scales
            change = max(change, float(np.abs(scales - 1).max()))
        if change < SETTLED:
            break
    for name, values in {**weights, **biases}.items():
        store(wiring.constants[name], values)
    return len(pairs)


def _pair(
    first: "onnx.NodeProto", model: "onnx.ModelProto", wiring: Wiring
) -> "tuple[onnx.NodeProto, onnx.NodeProto] | None":
    """A convolution and the one that alone reads it, through a ReLU or directly."""
    if not _own_weights(first, wiring):
        return None
    outputs = {output.name for output in model.graph.output}
    tensor = first.output[0]
    for _ in range(2):
        readers = wiring.readers.get(tensor, [])
        if len(readers) != 1 or tensor in outputs:
            return None
        reader = readers[0]
        if reader.op_type == "Relu":
            tensor = reader.output[0]
            continue
        reads_it = reader.op_type == "Conv" and reader.input[0] == tensor
        return (first, reader) if reads_it and _own_weights(reader, wiring) else None
    return None


def _own_weights(node: "onnx.NodeProto", wiring: Wiring) -> bool:
    """Whether a convolution's weights and bias are stored and no other node reads them."""
    if node.op_type != "Conv":
        return False
    stored = [name for name in node.input[1:] if name]
    return all(name in wiring.constants and len(wiring.readers[name]) == 1 for name in stored)


def _by_input(node: "onnx.NodeProto", weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (O, I / groups, ...) as a view (groups, O / groups, I / groups, positions)."""
    groups, outputs, inputs = group_of(node), *weights.shape[:2]
    return weights.reshape(groups, outputs // groups, inputs, -1)


def _scales(first: NDArray[np.float32], by_input: NDArray[np.float32]) -> NDArray[np.float32]:
    """sqrt(r1 / r2) of each channel between two layers; 1 where either end is dead."""
    out = np.abs(first).reshape(len(first), -1).max(axis=1)
    into = np.abs(by_input).max(axis=(1, 3)).reshape(-1)
    alive = (out > DEAD * out.max()) & (into > DEAD * into.max())
    ratio = np.divide(out, into, out=np.ones_like(out), where=alive)
    scales: NDArray[np.float32] = np.sqrt(ratio)
    return scales


def mend_channels(model: "onnx.ModelProto", nodes: Collection[str], ranges: Mapping[str, Range]) -> Overrides:
    """Zero the weights of dead channels in place, and give channels safe scales where theirs are not.

    Per channel, next to no weight means next to no scale, and the bias divided by it overflows int32
    (onnxruntime #11415); no weight at all means a scale of 1 and a coarse bias. Returns, for the quantiser,
    the range of every channel of the weights concerned, as `TensorQuantOverrides` takes them.

    nodes: names of those that will be quantised. ranges: of the activations.
    """
    wiring = wiring_of(model)
    found: Overrides = {}
    for node in model.graph.node:
        if node.name not in nodes or node.op_type not in ("Conv", "Gemm"):
            continue
        if node.input[1] not in wiring.constants or node.input[0] not in ranges:
            continue
        weights = values_of(wiring.constants[node.input[1]])
        axis = output_axis(node)
        by_channel = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
        largest = np.abs(by_channel).max(axis=1)
        dead = largest <= DEAD * largest.max()
        if (dead & (largest > 0)).any():
            weights[(slice(None),) * axis + (dead,)] = 0
            store(wiring.constants[node.input[1]], weights)
        needed = np.where(dead, FINEST * largest.max(), largest)
        if (bias := bias_of(node)) in wiring.constants:
            low, high = ranges[node.input[0]]
            step = (max(high, 0.0) - min(low, 0.0)) / 255
            values = np.abs(values_of(wiring.constants[bias]).astype(np.float64)).reshape(-1)
            needed = np.maximum(needed, 127 * values / (step * LARGEST_BIAS))
        if (needed > largest).any() and needed.max() > 0:
            found[node.input[1]] = _merged(found.get(node.input[1]), needed, axis)
    return found


def _merged(
    known: list[dict[str, float | int]] | None, needed: NDArray[np.float64], axis: int
) -> list[dict[str, float | int]]:
    """The channels' ranges; weights that two layers share take the wider one."""
    limits = needed if known is None else [max(a["rmax"], b) for a, b in zip(known, needed, strict=True)]
    return [{"axis": axis, "rmin": -float(limit), "rmax": float(limit)} for limit in limits]
