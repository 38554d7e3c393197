"""Writing quantised tensors into a float graph in the form that TensorRT reads: symmetric INT8."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.model.graph.roles import wiring_of
from workbench.steps.graph import Editor, unused, values_of
from workbench.steps.int8.equalize import DEAD, FINEST
from workbench.steps.int8.range_search import Range
from workbench.steps.int8.tensorrt_placement import Placement, axis_of

if TYPE_CHECKING:
    import onnx


LEVELS = 127  # on each side of zero


def quantized(
    model: "onnx.ModelProto", placement: Placement, ranges: Mapping[str, Range], *, half: bool = False
) -> "onnx.ModelProto":
    """A copy of the prepared float graph with its pairs, and its weights in INT8.

    ranges: of every tensor of `placement.pairs`; the larger end counts. half: only scales that FP16 has.
    """
    result = deepcopy(model)
    writer = _Writer(result, half=half)
    read = {place: tensor for tensor, places in placement.pairs.items() for place in places}
    nodes = [n for v in model.graph.input if v.name in placement.pairs for n in writer.pair(v.name, ranges)]
    for node in result.graph.node:
        if node.name in placement.weighted:
            nodes += writer.weights(node)
        for number in range(len(node.input)):
            if (tensor := read.get((node.name, number))) is not None:
                node.input[number] = writer.read(tensor)
        nodes.append(node)
        for name in node.output:
            if name in placement.pairs:
                nodes += writer.pair(name, ranges)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    _drop_unused(result)
    return result


class _Writer:
    """Makes the nodes, and stores their scales, under names that the graph does not have yet."""

    def __init__(self, model: "onnx.ModelProto", *, half: bool) -> None:
        self.editor, self.half, self.wiring = Editor(model), half, wiring_of(model)
        self.taken = {*self.wiring.constants, *self.wiring.readers, *self.wiring.maker}
        self.done: dict[tuple[str, int], str] = {}  # weights by axis: two layers may share theirs
        self.names: dict[str, str] = {}

    def read(self, tensor: str) -> str:
        """The name under which a tensor's quantised values are read."""
        if tensor not in self.names:
            self.names[tensor] = unused(f"{tensor}_dequantized", self.taken)
        return self.names[tensor]

    def pair(self, tensor: str, ranges: Mapping[str, Range]) -> "Iterator[onnx.NodeProto]":
        import onnx

        limit = np.asarray(max(abs(end) for end in ranges[tensor]))
        levels = unused(f"{tensor}_quantized", self.taken)
        stored = self._stored(tensor, _scale(limit, half=self.half))
        for op, source, output in (
            ("QuantizeLinear", tensor, levels),
            ("DequantizeLinear", levels, self.read(tensor)),
        ):
            yield onnx.helper.make_node(op, [source, *stored], [output], f"{tensor}_{op}")

    def weights(self, node: "onnx.NodeProto") -> "Iterator[onnx.NodeProto]":
        """Let `node` read its weights in INT8, from a node that is returned where there is none yet."""
        import onnx

        axis = axis_of(node, self.wiring)
        assert axis is not None
        name = node.input[1]
        output = self.done.get((name, axis))
        if output is None:
            output = self.done[name, axis] = unused(f"{name}_dequantized", self.taken)
            values = values_of(self.wiring.constants[name])
            scale = _scale(_limits(values, axis), half=self.half)
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            levels = np.clip(np.rint(values / scale.reshape(shape)), -LEVELS, LEVELS).astype(np.int8)
            stored = [self._store(f"{name}_quantized", levels), *self._stored(name, scale)]
            yield onnx.helper.make_node("DequantizeLinear", stored, [output], f"{output}_node", axis=axis)
        node.input[1] = output

    def _stored(self, name: str, scale: NDArray[np.float32]) -> list[str]:
        zeros = np.zeros(scale.shape, np.int8)
        return [self._store(f"{name}_scale", scale), self._store(f"{name}_zero_point", zeros)]

    def _store(self, name: str, values: NDArray[Any]) -> str:
        return self.editor.weights(unused(name, self.taken), values)


def _limits(weights: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """The largest |weight| of each output channel; of a dead one, what gives it a scale above zero."""
    largest = np.abs(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)).max(axis=1)
    largest = largest.astype(np.float64)
    top = float(largest.max()) or 1.0
    limits: NDArray[np.float64] = np.where(largest > DEAD * top, largest, FINEST * top)
    return limits


def _scale(limits: NDArray[np.float64], *, half: bool) -> NDArray[np.float32]:
    """Limits over LEVELS; with `half`, the next larger number of FP16, so that nothing is clipped."""
    scale = np.maximum(limits / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    if half:
        near = scale.astype(np.float16)
        scale = np.where(near < scale, np.nextafter(near, np.float16(np.inf)), near).astype(np.float32)
    return np.asarray(scale, np.float32)


def _drop_unused(model: "onnx.ModelProto") -> None:
    """Remove the float weights that no node reads."""
    graph = model.graph
    used = _read(graph) | {output.name for output in graph.output}
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] not in used]:
        graph.node.remove(node)
    for value in [value for value in graph.input if value.name not in used]:
        graph.input.remove(value)  # files of the first years list their weights as inputs too


def _read(graph: "onnx.GraphProto") -> set[str]:
    """The names of what the nodes read, those in branches and loops among them."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return {name for node in graph.node for name in node.input}.union(*map(_read, inner))
