"""The roles of nodes in a network, read from the graph: names differ between exporters, shapes do not."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx


Role = Literal["first", "last", "depthwise", "squeeze_excite", "hardswish"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
GATES = frozenset({"Sigmoid", "HardSigmoid", "Clip"})
POOLS = frozenset({"GlobalAveragePool", "ReduceMean", "AveragePool"})
WITH_A_CONSTANT = frozenset({"Add", "Mul", "Div"})
WHOLE = frozenset({"HardSwish", "Swish"})  # the function as one operator
ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Gelu", "Tanh"})
LAYOUTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
# The operators between the pool and the gate of a squeeze-and-excitation branch.
IN_BRANCH = WEIGHTED | GATES | WITH_A_CONSTANT | WHOLE | ACTIVATIONS | LAYOUTS
LONGEST_BRANCH = 24  # nodes; a decomposed hard-swish in the middle takes five


@dataclass(frozen=True, slots=True)
class Wiring:
    """The producer and the readers of each tensor, and the stored tensors."""

    maker: "dict[str, onnx.NodeProto]"
    readers: "dict[str, list[onnx.NodeProto]]"
    constants: "dict[str, onnx.TensorProto]"

    def computed(self, node: "onnx.NodeProto") -> list[str]:
        """The inputs of a node that are not stored."""
        return [name for name in node.input if name and name not in self.constants]


def wiring_of(model: "onnx.ModelProto") -> Wiring:
    """Read the graph once. Constant nodes count as stored tensors."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    maker: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
            continue
        maker.update(dict.fromkeys(node.output, node))
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return Wiring(maker, readers, constants)


def roles_of(model: "onnx.ModelProto") -> dict[str, frozenset[Role]]:
    """The roles of each node that has one, by its name; of a float graph, before it is quantised.

    first, last: the first and last convolution or product with stored weights, in graph order.
    depthwise: convolutions with one input channel per filter. squeeze_excite: the branch from the pool to the
    gate, and the Mul that applies it (Hu et al. 2018). hardswish: x * gate(x) as one operator or as several
    (Mul, Clip, HardSigmoid, Sigmoid, ...), so swish too.
    """
    wiring = wiring_of(model)
    return roles_among(model.graph.node, wiring, lambda node: is_depthwise(node, wiring))


def roles_among(
    nodes: "Sequence[onnx.NodeProto]",
    wiring: Wiring,
    depthwise: "Callable[[onnx.NodeProto], bool]",
    *,
    gates_fused: bool = False,
) -> dict[str, frozenset[Role]]:
    """`roles_of`, of nodes in graph order. gates_fused: gates may be part of the node before them, unseen."""
    found: dict[str, set[Role]] = {}

    def mark(role: Role, nodes: "Iterable[onnx.NodeProto]") -> None:
        for node in nodes:
            if node.name:
                found.setdefault(node.name, set()).add(role)

    weighted = [n for n in nodes if n.op_type in WEIGHTED and n.input[1] in wiring.constants]
    mark("first", weighted[:1])
    mark("last", weighted[-1:])
    mark("depthwise", filter(depthwise, weighted))
    for node in nodes:
        if node.op_type in WHOLE:
            mark("hardswish", [node])
        if node.op_type == "Mul":
            mark("hardswish", _swish(node, wiring, gates_fused))
            mark("squeeze_excite", _squeeze_excite(node, wiring, gates_fused))
    return {name: frozenset(roles) for name, roles in found.items()}


@dataclass(frozen=True, slots=True)
class OnnxLike:
    """A node of another format as the rules read it. name: that no other node has; op_type: ONNX's name."""

    name: str
    op_type: str
    input: tuple[str, ...]
    output: tuple[str, ...]


def roles_of_others(
    nodes: Sequence[OnnxLike], photo: str, depthwise: Collection[str], *, gates_fused: bool = False
) -> dict[str, frozenset[Role]]:
    """`roles_of`, of nodes of another format, in graph order.

    photo: the tensor that they are given; what else nothing makes is stored. depthwise: names of such nodes.
    """
    made = {result: node for node in nodes for result in node.output}
    readers: dict[str, list[OnnxLike]] = {}
    for node in nodes:
        for name in dict.fromkeys(filter(None, node.input)):
            readers.setdefault(name, []).append(node)
    stored: dict[str, Any] = dict.fromkeys(readers.keys() - made.keys() - {photo})
    like: Any = nodes
    wiring: Any = (made, readers, stored)
    return roles_among(like, Wiring(*wiring), lambda node: node.name in depthwise, gates_fused=gates_fused)


def is_depthwise(node: "onnx.NodeProto", wiring: Wiring) -> bool:
    """Whether a convolution with stored weights has one input channel per filter."""
    groups = group_of(node)
    return node.op_type == "Conv" and groups > 1 and wiring.constants[node.input[1]].dims[1] == 1


def group_of(node: "onnx.NodeProto") -> int:
    """The number of groups of a convolution."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _gated(node: "onnx.NodeProto", wiring: Wiring) -> list[tuple[str, str]]:
    """Both readings of a product of two computed tensors: (tensor, gate)."""
    computed = wiring.computed(node)
    return list(zip(computed, reversed(computed), strict=True)) if len(computed) == 2 else []


def _swish(product: "onnx.NodeProto", wiring: Wiring, gates_fused: bool) -> "list[onnx.NodeProto]":
    """The nodes of x * gate(x), where the gate is made of x and constants alone."""
    for value, name in _gated(product, wiring):
        chain: list[onnx.NodeProto] = []
        while name != value and len(chain) < 5:
            node = wiring.maker.get(name)
            if node is None or node.op_type not in GATES | WITH_A_CONSTANT:
                break
            if len(computed := wiring.computed(node)) != 1:
                break
            chain.append(node)
            name = computed[0]
        if name == value and (any(node.op_type in GATES for node in chain) or (gates_fused and chain)):
            return [*chain, product, *_division(product, chain, wiring)]
    return []


def _division(
    product: "onnx.NodeProto", chain: "list[onnx.NodeProto]", wiring: Wiring
) -> "list[onnx.NodeProto]":
    """The division by 6 where it comes after the product: x * clip(x + 3, 0, 6) / 6."""
    kinds = {node.op_type for node in chain}
    readers = wiring.readers.get(product.output[0], [])
    if "Clip" not in kinds or kinds & {"Div", "Mul"} or len(readers) != 1:
        return []
    after = readers[0]
    return [after] if after.op_type in ("Div", "Mul") and len(wiring.computed(after)) == 1 else []


def _squeeze_excite(product: "onnx.NodeProto", wiring: Wiring, gates_fused: bool) -> "list[onnx.NodeProto]":
    """The nodes from a pool over x to the product of x with a gate; none for any other product."""
    for value, gate in _gated(product, wiring):
        branch = _branch(value, gate, wiring)
        kinds = {node.op_type for node in branch}
        if kinds & WEIGHTED and (gates_fused or kinds & GATES):
            return [*branch, product]
    return []


def _branch(value: str, gate: str, wiring: Wiring) -> "list[onnx.NodeProto]":
    """The nodes that compute `gate` from a pool over `value`; empty where it has another origin."""
    branch: dict[str, onnx.NodeProto] = {}  # by first output
    waiting = [gate]
    while waiting:
        node = wiring.maker.get(waiting.pop())
        if node is None or len(branch) > LONGEST_BRANCH:
            return []
        if node.output[0] in branch:
            continue
        branch[node.output[0]] = node
        if node.op_type in POOLS and node.input[0] == value:
            continue
        if node.op_type not in IN_BRANCH:
            return []
        waiting.extend(wiring.computed(node))
    return list(branch.values())
