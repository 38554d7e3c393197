"""What each layer of a static INT8 graph costs and buys: the error it alone brings, the time it saves."""

import re
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends.common import cpu_options, filled, open_cpu, profiled_nodes
from workbench.backends.softmax import log_softmax
from workbench.model.graph.onnx_file import image_input, load
from workbench.model.graph.roles import Wiring, wiring_of
from workbench.photos.contract import Batch
from workbench.steps.graph import FLOAT16, float_weights, store, values_of

if TYPE_CHECKING:
    import onnx


LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
PROFILED_CALLS = 30
Times = tuple[
    dict[str, float], dict[str, float]
]  # nanoseconds by node: of the float graph, of the INT8 graph
ACTIVATIONS = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Mul"})


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """A layer that the graph computes in INT8.

    error: mean Kullback-Leibler divergence of the network's probabilities, in nats, with this layer alone
    quantised. float_ns, int8_ns: what it takes in either graph, None where the profile does not show it.
    """

    name: str
    error: float
    float_ns: float | None
    int8_ns: float | None

    @property
    def gain_ns(self) -> float | None:
        if self.float_ns is None or self.int8_ns is None:
            return None
        return self.float_ns - self.int8_ns


def layers(
    prepared: Path, quantized: Path, photos: Batch, seconds: float, times: Times | None = None
) -> list[LayerSensitivity]:
    """Every layer of `quantized`, in graph order.

    prepared: the float graph that was quantised, its nodes named alike. photos: as the graph takes them; as
    many as fit in `seconds` are used, at least two. Both graphs run in onnxruntime on one thread. times: of
    the nodes of both, where another machine has taken them.
    """
    float_times, int8_times = times or times_of(prepared, quantized, photos)
    source = load(prepared)
    errors = errors_of(source, load(quantized), photos, seconds)
    aliases = _outputs_after(source)
    found = []
    for name, error in errors.items():
        floats = (float_times[alias] for alias in (name, *aliases[name]) if alias in float_times)
        found.append(LayerSensitivity(name, error, next(floats, None), int8_times.get(name)))
    return found


def times_of(prepared: Path, quantized: Path, photos: Batch) -> Times:
    """What the nodes of both graphs take on this machine."""
    return node_times(prepared, photos[:1]), node_times(quantized, photos[:1])


def node_times(path: Path, photo: Batch) -> dict[str, float]:
    """Nanoseconds of each node, the median of some calls, from onnxruntime's own profile.

    Names as in the file, as far as onnxruntime keeps them: it appends `_token_N` to what it rewrites, and
    calls a convolution in its own layout by its output, `<output>_nchwc`, which is returned as `<output>`.
    """
    options = cpu_options("ORT_ENABLE_ALL")
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_cpu(path, options)
        image = session.get_inputs()[0]
        size = image.shape[0] if isinstance(image.shape[0], int) else 1
        feed = {image.name: filled(photo, size)}
        for _ in range(PROFILED_CALLS):
            session.run(None, feed)
        nodes = profiled_nodes(session)
    times: dict[str, list[float]] = {}
    for node in nodes:
        plain = re.sub(r"(_token_\d+|_nchwc)+$", "", node["name"])
        times.setdefault(plain, []).append(1000.0 * node["dur"])
    return {name: median(values) for name, values in times.items()}


def _outputs_after(model: "onnx.ModelProto") -> dict[str, list[str]]:
    """By node: its output, and those of the activations that onnxruntime may have fused into it."""
    readers = wiring_of(model).readers
    found = {}
    for node in model.graph.node:
        names = [node.output[0]]
        for _ in range(3):  # hard-swish is two nodes once it was written out
            after = [reader for name in names for reader in readers.get(name, [])]
            outputs = [reader.output[0] for reader in after if reader.op_type in ACTIVATIONS]
            names += [output for output in outputs if output not in names]
        found[node.name] = names
    return found


def errors_of(
    source: "onnx.ModelProto", quantized: "onnx.ModelProto", photos: Batch, seconds: float
) -> dict[str, float]:
    """The divergence that each layer of `quantized` brings when it alone is quantised.

    One session serves all layers: in a copy of the float graph, the input of every layer passes a switch
    between itself and its quantised self, and its weights can be fed.
    """
    switched, by_layer = _switched(source, quantized)
    session = open_cpu(switched, cpu_options("ORT_ENABLE_ALL"))
    images = image_input(source)
    fixed = images.type.tensor_type.shape.dim[0].dim_value

    def logits(batch: Batch, feeds: "Mapping[str, NDArray[Any]]") -> NDArray[np.float64]:
        size = fixed or len(batch)
        parts = [filled(batch[start : start + size], size) for start in range(0, len(batch), size)]
        rows = [session.run(None, {images.name: part, **feeds})[0] for part in parts]
        return np.concatenate(rows)[: len(batch)].astype(float)

    off = {_switch_of(name): np.asarray(False) for name in by_layer}
    started = time.perf_counter()
    logits(photos[:1], off)
    logits(photos[:1], off)
    each = (time.perf_counter() - started) / 2
    count = max(2, min(len(photos), int(seconds / max(each, 1e-6) / max(1, len(by_layer)))))
    chosen = photos[np.arange(count) * len(photos) // count]
    before = log_softmax(logits(chosen, off))
    errors = {}
    for name, feeds in by_layer.items():
        after = log_softmax(logits(chosen, {**off, **feeds}))
        errors[name] = float((np.exp(before) * (before - after)).sum(axis=1).mean())
    return errors


def _switched(
    source: "onnx.ModelProto", quantized: "onnx.ModelProto"
) -> "tuple[onnx.ModelProto, dict[str, dict[str, NDArray[Any]]]]":
    """A graph that takes, beside the image, one boolean per layer and any layer's weights.
    Returned with what to feed to quantise a layer, by its name: its switch and its quantised weights."""
    import onnx

    wiring = wiring_of(quantized)
    twins = {node.name: node for node in quantized.graph.node if node.op_type in LAYERS}
    model = deepcopy(source)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    feeds: dict[str, dict[str, NDArray[Any]]] = {}
    listed = {value.name for value in graph.input}
    for node in graph.node:
        twin = twins.get(node.name)
        # A layer in float still reads rounded values where its neighbours are in INT8: its weights decide.
        stored = _dequantizer(twin, 1, wiring) if twin and twin.input[1] else None
        scale = _input_scale(twin, wiring) if twin else None
        if scale and stored and node.input[1] in constants:
            weight, switch = node.input[1], _switch_of(node.name)
            weights = float_weights(stored, wiring.constants)
            feeds[node.name] = {switch: np.asarray(True), weight: weights}
            nodes += _fake_quantized(node, switch, scale)
            graph.initializer.extend(scale)
            graph.input.append(onnx.helper.make_tensor_value_info(switch, onnx.TensorProto.BOOL, []))
            if weight not in listed:
                listed.add(weight)
                tensor = constants[weight]
                graph.input.append(onnx.helper.make_tensor_value_info(weight, tensor.data_type, tensor.dims))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model, feeds


def _switch_of(layer: str) -> str:
    return f"quantise {layer}"


def _dequantizer(node: "onnx.NodeProto", position: int, wiring: Wiring) -> "onnx.NodeProto | None":
    """The DequantizeLinear that gives an input of a node, with stored scales and, of weights, values."""
    maker = wiring.maker.get(node.input[position])
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    stored = maker.input if position else maker.input[1:]
    return maker if all(name in wiring.constants for name in stored) else None


def _input_scale(twin: "onnx.NodeProto", wiring: Wiring) -> "list[onnx.TensorProto] | None":
    """Scale and zero point of what a quantised layer reads, renamed for it; None where it reads floats."""
    reader = _dequantizer(twin, 0, wiring)
    if reader is None or len(reader.input) < 3:
        return None
    found = []
    for what, name in zip(("scale", "zero"), reader.input[1:], strict=True):
        tensor = deepcopy(wiring.constants[name])
        if tensor.data_type == FLOAT16:  # what stays float there is fp16; here it is fp32
            store(tensor, values_of(tensor).astype(np.float32))
        tensor.name = f"{what} of {twin.name}"
        found.append(tensor)
    return found


def _fake_quantized(
    node: "onnx.NodeProto", switch: str, scale: "Sequence[onnx.TensorProto]"
) -> "list[onnx.NodeProto]":
    """Nodes that round the input of `node` to its levels where `switch` is true; `node` then reads theirs."""
    import onnx

    original, names = node.input[0], [tensor.name for tensor in scale]
    rounded, chosen = f"{switch} rounded", f"{switch} chosen"
    make = onnx.helper.make_node
    node.input[0] = chosen
    return [
        make("QuantizeLinear", [original, *names], [f"{switch} levels"]),
        make("DequantizeLinear", [f"{switch} levels", *names], [rounded]),
        make("Where", [switch, rounded, original], [chosen]),
    ]
