"""A quantised network, run layer by layer with 16-bit sums emulated where a CPU without VNNI has them.

The layers that multiply unsigned by signed bytes are computed by `int16`; all between them by onnxruntime.

Depthwise convolutions are not among them: their kernel adds 32-bit products one by one. Neither is
ConvInteger, whose product has the signed weights on the left, for which no kernel has 16-bit sums. Both,
and the logits of whole networks, were compared with onnxruntime 1.32 on a processor without VNNI (emulated
by Valgrind, which offers AVX2 and nothing newer): not one bit differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from workbench.backends.common import cpu_options, open_cpu, translated_ort_errors
from workbench.backends.mac_count import inputs_of
from workbench.measure.saturation.int16 import INPUTS, Arrays, Tally, attribute_of, layer_output

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime
    from numpy.typing import NDArray


@dataclass(slots=True)
class Segment:
    """Nodes that onnxruntime runs at once. needs, gives: the tensors that go in and come out."""

    nodes: "tuple[onnx.NodeProto, ...]"
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    session: "onnxruntime.InferenceSession | None" = None


class SplitNetwork:
    """A network cut at the layers that multiply unsigned by signed bytes; `layers` has their names, in order.

    Raises WorkbenchError where onnxruntime cannot open the file.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = _with_integer_layers(path)
        graph = self._model.graph
        self._stored: Arrays = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        source = inputs_of(graph)[0]
        self._input = source.name
        self._batch = max(1, int(source.type.tensor_type.shape.dim[0].dim_value))
        self._output = graph.output[0].name
        self._steps = list(_steps(graph, self._stored))
        self.layers = tuple(_name(step) for step in self._steps if not isinstance(step, Segment))

    def run(self, photo: "NDArray[Any]", tally: Tally | None = None) -> "NDArray[np.float32]":
        """Logits (1, classes) of one photo (1, C, H, W). tally: of sums clipped to 16 bits; None: exact."""
        import numpy as np

        tensors: Arrays = {self._input: np.repeat(photo, self._batch, axis=0)}
        for step in self._steps:
            if isinstance(step, Segment):
                tensors |= self._run_segment(step, {name: tensors[name] for name in step.needs})
            else:
                tensors[step.output[0]] = layer_output(step, self._stored | tensors, tally, _name(step))
        return tensors[self._output][:1].astype(np.float32)

    def _run_segment(self, segment: Segment, feed: Arrays) -> Arrays:
        with translated_ort_errors("run a part of the network alone, as `saturation` does"):
            # Opened on the first run, when the types of what goes in are known.
            segment.session = segment.session or _open(self._model, segment, feed)
            return dict(zip(segment.gives, segment.session.run(list(segment.gives), feed), strict=True))


def _name(node: "onnx.NodeProto") -> str:
    return str(node.name or node.output[0])


def _pairs_bytes(node: "onnx.NodeProto", stored: Arrays) -> bool:
    """Whether a node multiplies by signed bytes in a kernel that adds in pairs.

    Its data is then unsigned: onnxruntime multiplies signed by signed in 16 bits without loss, on any x86
    without instructions of its own for it.
    """
    import numpy as np

    if node.op_type not in INPUTS:
        return False
    role = dict(zip(INPUTS[node.op_type], node.input, strict=False))
    weight = stored.get(role["weight"])
    if weight is None or weight.dtype != np.int8:
        return False
    zero = stored.get(role.get("data_zero", ""))
    if zero is not None and zero.dtype != np.uint8:
        return False
    if node.op_type != "QLinearConv":
        return weight.ndim == 2
    depthwise = weight.shape[1] == 1 and attribute_of(node, "group", 1) == weight.shape[0]
    return weight.ndim == 4 and not depthwise


def _with_integer_layers(path: Path) -> "onnx.ModelProto":
    """The graph after onnxruntime has put integer operators in the place of quantise/dequantise pairs.

    That is what it runs; a layer it leaves in float has no bytes to lose. Saved below the level at which
    layers are moved to other layouts. Products that are quantised as they come stay in their parts.
    """
    import onnx

    options = cpu_options("ORT_ENABLE_EXTENDED")
    # On x86 onnxruntime turns signed data into unsigned before it multiplies, on ARM it does not: ask for
    # x86's graph, so that the answer does not depend on where the question is put.
    options.add_session_config_entry("session.qdqisint8allowed", "0")
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "integer.onnx")
        open_cpu(path, options, without=["MatMulIntegerToFloatFusion", "DynamicQuantizeMatMulFusion"])
        return onnx.load(options.optimized_model_filepath)


def _steps(graph: "onnx.GraphProto", stored: Arrays) -> "Iterator[Segment | onnx.NodeProto]":
    """The layers to emulate, and what stands between them, in the order of the graph: onnxruntime saves its
    nodes so that each comes after what it reads."""
    parts = groupby(graph.node, lambda node: _pairs_bytes(node, stored))
    groups = [(is_layer, tuple(nodes)) for is_layer, nodes in parts]
    reads = [set[str]().union(*map(_reads, nodes)) for _, nodes in groups]
    for place, (is_layer, nodes) in enumerate(groups):
        if is_layer:
            yield from nodes
            continue
        made = {name for node in nodes for name in node.output}
        wanted = {graph.output[0].name}.union(*reads[place + 1 :])
        needs = reads[place] - made - stored.keys() - {""}
        yield Segment(nodes, tuple(sorted(needs)), tuple(sorted(made & wanted - {""})))


def _reads(node: "onnx.NodeProto") -> set[str]:
    """The tensors a node takes, those its branches take from outside among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _reads(inner)
        names -= {name for inner in attribute.g.node for name in inner.output}
        names -= {weight.name for weight in attribute.g.initializer}
    return names


def _open(model: "onnx.ModelProto", segment: Segment, feed: Arrays) -> "onnxruntime.InferenceSession":
    import onnx

    read = {name for node in segment.nodes for name in _reads(node)}
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feed.items()}
    value = onnx.helper.make_tensor_value_info
    needs = [value(name, types[name], [None] * array.ndim) for name, array in feed.items()]
    gives = [onnx.ValueInfoProto(name=name) for name in segment.gives]
    graph = onnx.helper.make_graph(segment.nodes, "segment", needs, gives, weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return open_cpu(part)
