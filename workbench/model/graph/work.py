"""How much a call of a network has to do, by kinds of work that processors do at different speeds."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Self

from workbench.backends.mac_count import CONVOLUTIONS, MULTIPLYING, Shape, macs_of, shapes_of
from workbench.model.graph.roles import Role, Wiring
from workbench.system.records import Record

if TYPE_CHECKING:
    import onnx


# Nodes that compute nothing, and those that every runtime computes within the product before them.
VIEWS = frozenset({"Cast", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Identity"}) | {
    *("Range", "Reshape", "Shape", "Squeeze", "Unsqueeze")
}
FUSED = frozenset({"BatchNormalization", "Clip", "LeakyRelu", "Relu"})
SHAPE_VALUES = 16  # of a tensor at most that holds a shape rather than activations


class Work(Record):
    """The work of one photo, in FP32. Values are numbers, of 4 bytes.

    nodes: that compute, but for those fused into others. plain, depthwise: multiply-accumulates of
    convolutions; depthwise filters see one channel. products: of matrix products. weights: values stored.
    moved: values that the multiplying nodes read and write. between: values that the other nodes write;
    gated: those of swish and hard-swish among them.
    """

    nodes: int
    plain: int
    depthwise: int
    products: int
    weights: int
    moved: int
    between: int
    gated: int

    @property
    def macs(self) -> int:
        return self.plain + self.depthwise + self.products

    def scaled(self, pixels: float) -> Self:
        """On photos of so many times the pixels: the nodes and the weights stay."""
        kept = {"nodes": self.nodes, "weights": self.weights}
        return type(self)(**{name: round(pixels * count) for name, count in self} | kept)


def work_of(model: "onnx.ModelProto", wiring: Wiring, roles: Mapping[str, frozenset[Role]]) -> Work | None:
    """Count the work by the shapes of the graph; None where it hides them."""
    shapes, macs = shapes_of(model), macs_of(model)
    if not sum(macs.values()):
        return None
    counted = dict.fromkeys(Work.model_fields, 0)
    counted["weights"] = sum(prod(weight.dims) for weight in wiring.constants.values())
    for index, node in enumerate(model.graph.node):
        own, written = roles.get(node.name, frozenset()), _values(shapes.get(node.output[0]))
        if node.op_type in MULTIPLYING:
            counted["nodes"] += 1
            counted["moved"] += written + _values(shapes.get(node.input[0]))
            counted[_kind(node, own)] += macs.get(node.name or f"{node.op_type}_{index}", 0)
        elif written > SHAPE_VALUES and not _is_free(node, wiring):
            counted["nodes"] += 1
            counted["between"] += written
            counted["gated"] += written if "hardswish" in own else 0
    return Work(**counted)


def _values(shape: Shape | None) -> int:
    return 0 if shape is None else prod(shape)


def _kind(node: "onnx.NodeProto", roles: frozenset[Role]) -> str:
    if node.op_type not in CONVOLUTIONS:
        return "products"
    return "depthwise" if "depthwise" in roles else "plain"


def _is_free(node: "onnx.NodeProto", wiring: Wiring) -> bool:
    """Whether it computes nothing, or is computed within a node before it."""
    computed = wiring.computed(node)
    if node.op_type in VIEWS or not computed:
        return True
    maker = wiring.maker.get(computed[0])
    return node.op_type in FUSED and maker is not None and maker.op_type in MULTIPLYING
