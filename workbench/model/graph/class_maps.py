"""The head of a network applied at each place of its last feature map, as a second part of its output.

Where the head is a global average pool and a linear layer, its scores at the places are the class activation
maps of B. Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), and their mean
is the scores of the network. Where a hidden layer lies between, the head is applied a small step away from
the mean of the places instead, which gives its slope there: the weights of Grad-CAM (R. Selvaraju et al.,
ICCV 2017), without a gradient.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.backends.common import filled, open_cpu
from workbench.backends.mac_count import inputs_of
from workbench.errors import Unsuited
from workbench.model.graph.plain_graph import plain
from workbench.model.graph.roles import POOLS, Wiring, wiring_of
from workbench.photos.contract import Batch

if TYPE_CHECKING:
    import onnx

STEP = 1 / 32  # towards a place, from the mean of all, where the head bends
OUTPUT = "scores_and_class_maps"
PREFIX = "class_maps/"
BENDING = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Swish"}
    | {"Tanh", "Gelu", "Erf", "Mish", "Softplus", "Pow", "Sqrt", "Exp", "LayerNormalization", "ReduceMean"}
)
AFTER_SCORES = frozenset({"Identity", "Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True)
class MappedModel:
    """model: its one output is (n, classes + classes * height * width) float32, what the network gives and
    then the scores at each place. grid: (height, width). step: 1 where the head is linear, else STEP."""

    model: "onnx.ModelProto"
    grid: tuple[int, int]
    step: float


@dataclass(frozen=True, slots=True)
class _Head:
    """What follows the pool. nodes: in graph order. scores: its end, before a softmax if there is one.

    spatial: the pool keeps two axes of length 1. channels_last: it averages (n, height, width, channels).
    """

    pool: "onnx.NodeProto"
    nodes: "list[onnx.NodeProto]"
    scores: str
    spatial: bool
    channels_last: bool


def with_class_maps(model: "onnx.ModelProto", samples: Batch) -> MappedModel:
    """Change the model in place. samples: as it takes them; of one its feature map is measured.

    Raises Unsuited where it does not end in a global average pool and a head that takes the mean alone.
    """
    import onnx

    graph = plain(model).graph
    head = _head_of(model, wiring_of(model))
    feature = _value_of(model, head.pool.input[0], samples)
    if feature.ndim != 4:
        raise Unsuited("its last feature map has no height and width")
    height, width = feature.shape[1:3] if head.channels_last else feature.shape[2:]
    bends = {node.op_type for node in head.nodes} & BENDING
    if bends and any(node.op_type == "DynamicQuantizeLinear" for node in head.nodes):
        raise Unsuited("its head has a hidden layer of dynamic INT8, too coarse to tell places apart")
    builder = _Builder(model)
    rows = builder.rows(head, feature.dtype, STEP if bends else 1.0)
    scores = builder.copied(head, rows)
    output, classes = graph.output[0].name, _value_of(model, head.scores, samples).shape[1]
    places = builder.add("Reshape", scores, builder.stored([-1, height * width, classes]))
    maps = builder.add("Flatten", builder.add("Transpose", places, perm=[0, 2, 1]), axis=1)
    wide = builder.add("Cast", maps, to=onnx.TensorProto.FLOAT)
    graph.node.append(onnx.helper.make_node("Concat", [output, wide], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, None))
    return MappedModel(model, (int(height), int(width)), STEP if bends else 1.0)


def _head_of(model: "onnx.ModelProto", wiring: Wiring) -> _Head:
    """Raises Unsuited where no global average pool is passed by every way from the photo to the output."""
    scores = _before_softmax(model.graph.output[0].name, wiring)
    for pool in reversed([node for node in model.graph.node if node.op_type in POOLS]):
        inside = _between(pool.output[0], scores, wiring)
        axes = _averaged(pool, wiring)
        if inside is None or axes is None:
            continue
        moved, nodes = {pool.output[0]}, []
        for node in model.graph.node:
            if node.output[0] in inside and moved & set(node.input):
                moved.update(node.output)
                nodes.append(node)
        return _Head(pool, nodes, scores, spatial=_keeps_axes(pool), channels_last=axes == (1, 2))
    raise Unsuited("it does not end in a global average pool over height and width, and a head")


def _before_softmax(name: str, wiring: Wiring) -> str:
    found: str | None = name
    while found is not None and (node := wiring.maker.get(found)) is not None:
        if node.op_type in ("Softmax", "LogSoftmax"):
            return str(node.input[0])
        found = node.input[0] if node.op_type in AFTER_SCORES else None
    return name


def _between(start: str, end: str, wiring: Wiring) -> set[str] | None:
    """The tensors that `end` is made of, back to `start`; None where it takes anything around it."""
    seen, waiting = {start}, [end]
    while waiting:
        name = waiting.pop()
        if name in seen or name in wiring.constants or not name:
            continue
        if (node := wiring.maker.get(name)) is None:
            return None  # a photo
        seen.update(node.output)
        waiting.extend(node.input)
    return seen - {start}


def _averaged(pool: "onnx.NodeProto", wiring: Wiring) -> tuple[int, int] | None:
    """The two axes that a pool over a whole map of rank 4 averages; None for any other."""
    import onnx

    if (
        pool.op_type != "ReduceMean"
    ):  # whether the window of an AveragePool is the whole map, is checked later
        return 2, 3
    stored = wiring.constants.get(pool.input[1]) if len(pool.input) > 1 else None
    given = next((list(a.ints) for a in pool.attribute if a.name == "axes"), None)
    if stored is not None:
        given = onnx.numpy_helper.to_array(stored).reshape(-1).tolist()
    axes = tuple(sorted(axis % 4 for axis in given or ()))
    return (axes[0], axes[1]) if axes in ((2, 3), (1, 2)) else None


def _keeps_axes(pool: "onnx.NodeProto") -> bool:
    return pool.op_type != "ReduceMean" or all(a.i for a in pool.attribute if a.name == "keepdims")


def _value_of(model: "onnx.ModelProto", name: str, samples: Batch) -> Any:
    """The array of a tensor for the samples."""
    import onnx

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    if name not in [output.name for output in opened.graph.output]:
        opened.graph.output.append(onnx.ValueInfoProto(name=name))
    image = inputs_of(model.graph)[0]
    size = image.type.tensor_type.shape.dim[0].dim_value
    return open_cpu(opened).run([name], {image.name: filled(samples[: size or None], size)})[0]


class _Builder:
    """Adds nodes and stored tensors, under names of its own, to the end of a graph."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self._graph = model.graph
        self._count = 0

    def stored(self, values: Any, dtype: Any = "int64") -> str:
        import numpy as np
        import onnx

        name = self._name()
        self._graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        import onnx

        name = self._name()
        node = onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self._graph.node.append(node)
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._count}"

    def rows(self, head: _Head, dtype: Any, step: float) -> str:
        """The feature map at `step` from its mean: (n * height * width, channels), or with two axes more."""
        feature = head.pool.input[0]
        if head.channels_last:
            feature = self.add("Transpose", feature, perm=[0, 3, 1, 2])
        if step != 1:
            mean = self.add("GlobalAveragePool", feature)
            away = self.add("Mul", self.add("Sub", feature, mean), self.stored(step, dtype))
            feature = self.add("Add", mean, away)
        rows = self.add("Flatten", self.add("Transpose", feature, perm=[0, 2, 3, 1]), axis=3)
        if not head.spatial:
            return rows
        # 0 keeps the size that is there.
        ends = [1, 1, -1] if head.channels_last else [-1, 1, 1]
        return self.add("Reshape", rows, self.stored([0, *ends]))

    def copied(self, head: _Head, rows: str) -> str:
        """The scores of the head for these rows."""
        import onnx

        named = {head.pool.output[0]: rows}
        for node in head.nodes:
            # The mean was rounded to 8 bits with a range of its own, which single places leave.
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in named:
                named[node.output[0]] = named[node.input[0]]
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{PREFIX}{node.name or node.output[0]}"
            for position, name in enumerate(node.input):
                copy.input[position] = named.get(name, name)
            for position, name in enumerate(node.output):
                copy.output[position] = named[name] = f"{PREFIX}{name}" if name else ""
            if node.op_type == "Reshape":
                copy.input[1] = self._for_any_batch(copy.input[1])
            self._graph.node.append(copy)
        return named[head.scores]

    def _for_any_batch(self, shape: str) -> str:
        """A stored shape whose first size is the one that is there: it may be that of the photos."""
        import onnx

        for stored in self._graph.initializer:
            if stored.name == shape and (sizes := onnx.numpy_helper.to_array(stored).tolist())[0] > 0:
                return self.stored([0, *sizes[1:]])
        return shape
