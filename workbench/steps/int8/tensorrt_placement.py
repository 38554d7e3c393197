"""Where TensorRT wants its quantising pairs; `qdq` puts them there.

A pair is a QuantizeLinear and the DequantizeLinear that undoes it. From NVIDIA's "Explicit Quantization" and
"Q/DQ Layer-Placement Recommendations" (TensorRT documentation): quantise the inputs of operations with
weights and not their outputs; one scale per tensor of activations, one per output channel of weights, and no
zero points; in a residual addition, the branch that does not come straight from a convolution, so that Conv,
Add and ReLU become one INT8 kernel. Biases stay in float: TensorRT's DequantizeLinear takes no INT32. It
moves pairs over max pooling and splits them over concatenation by itself. TensorRT 10 and 11 both take
weights as an INT8 tensor behind a DequantizeLinear, a quarter of the size of floats behind a pair. The
product with the gate of a squeeze-and-excitation block is quantised too, as NVIDIA's quantisers do it: its
input is the largest tensor of the block, and would go through memory in float otherwise.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.model.graph.roles import WEIGHTED, Role, Wiring, group_of, roles_of, wiring_of
from workbench.steps.graph import output_axis

if TYPE_CHECKING:
    import onnx


# They compute in INT8 as well as in float, where pairs on both sides are there already.
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True, slots=True)
class Placement:
    """Which inputs read quantised values.

    weighted: names of the nodes whose weights are quantised, in graph order. pairs: tensors of activations,
    in graph order, and the inputs that read them through their one pair: (name of the node, number).
    """

    weighted: tuple[str, ...]
    pairs: dict[str, tuple[tuple[str, int], ...]]


def place(model: "onnx.ModelProto", chosen: Collection[str]) -> Placement:
    """Where pairs go in a prepared float graph (see `node_names.prepare`).

    chosen: names of the nodes that may be quantised. Convolutions and products with stored weights are, an
    Add, a Mul or an average pool where that saves a conversion. Matrix products of two activations stay in
    float, so that attention remains one kernel.
    """
    wiring, outputs = wiring_of(model), {output.name for output in model.graph.output}
    names = set(chosen)
    weighted = {n.name: n for n in model.graph.node if n.name in names and axis_of(n, wiring) is not None}
    pairs: dict[str, list[tuple[str, int]]] = {}
    for node in weighted.values():
        pairs.setdefault(node.input[0], []).append((node.name, 0))
    depths = _depths(model)
    for node in (node for node in model.graph.node if node.name in names):
        skip = _skip(node, weighted, wiring, outputs, depths, model) if node.op_type == "Add" else None
        if skip is not None:
            pairs.setdefault(node.input[skip], []).append((node.name, skip))
    roles = roles_of(model)
    followed = [n for n in model.graph.node if n.name in names and _before_pairs(n, weighted, pairs, wiring)]
    for node in followed:
        if node.op_type == "Mul" and _gates(node, roles.get(node.name, frozenset()), wiring):
            for number, name in enumerate(node.input):
                pairs.setdefault(name, []).append((node.name, number))
    for node in followed:
        if node.op_type in POOLS and node.input[0] in pairs:
            pairs[node.input[0]].append((node.name, 0))
    made = [value.name for value in model.graph.input] + [o for node in model.graph.node for o in node.output]
    return Placement(tuple(weighted), {name: tuple(pairs[name]) for name in made if name in pairs})


def _before_pairs(
    node: "onnx.NodeProto", weighted: Collection[str], pairs: Collection[str], wiring: Wiring
) -> bool:
    """Whether all that reads the node's output reads it quantised."""
    readers = wiring.readers.get(node.output[0], [])
    return node.output[0] in pairs and all(reader.name in weighted for reader in readers)


def _gates(product: "onnx.NodeProto", roles: Collection[Role], wiring: Wiring) -> bool:
    """Whether a Mul applies the gate of a squeeze-and-excitation block; its branch has others."""
    return "squeeze_excite" in roles and "hardswish" not in roles and len(wiring.computed(product)) == 2


def axis_of(node: "onnx.NodeProto", wiring: Wiring) -> int | None:
    """The axis of the output channels in the stored weights of `node`; None where it has no such weights.

    A grouped ConvTranspose has no axis of output channels, and counts as one without.
    """
    import onnx

    weights = wiring.constants.get(node.input[1]) if node.op_type in WEIGHTED else None
    if weights is None or weights.data_type != onnx.TensorProto.FLOAT or node.input[0] in wiring.constants:
        return None
    if node.op_type == "ConvTranspose":
        return 1 if group_of(node) == 1 else None
    if node.op_type != "Conv" and len(weights.dims) != 2:
        return None
    return output_axis(node)


def _skip(
    add: "onnx.NodeProto",
    weighted: "Mapping[str, onnx.NodeProto]",
    wiring: Wiring,
    outputs: Collection[str],
    depths: Mapping[str, int],
    model: "onnx.ModelProto",
) -> int | None:
    """The number of the input that takes a pair, where the other comes straight from a quantised convolution:
    where both do, as in a block that halves the resolution, the shorter branch.
    """
    if len(wiring.computed(add)) != 2 or add.input[0] == add.input[1] or not _same_shape(add, model):
        return None
    fusable = []
    for number, name in enumerate(add.input):
        maker = wiring.maker.get(name)
        alone = len(wiring.readers[name]) == 1 and name not in outputs
        if alone and maker is not None and maker.op_type == "Conv" and maker.name in weighted:
            fusable.append(number)
    if not fusable:
        return None
    return 1 - max(fusable, key=lambda number: depths.get(add.input[number], 0))


def _same_shape(add: "onnx.NodeProto", model: "onnx.ModelProto") -> bool:
    """Whether both inputs have one shape, as far as the graph says: a broadcast addition is not fused."""
    values = (*model.graph.value_info, *model.graph.input)
    types = [value.type.tensor_type for value in values if value.name in add.input]
    shapes = [[dim.dim_value for dim in kind.shape.dim] for kind in types if kind.HasField("shape")]
    if len(shapes) < 2:
        return True
    first, second = shapes  # 0 where the size is free or unknown
    return len(first) == len(second) and all(a == b or not a * b for a, b in zip(first, second, strict=True))


def _depths(model: "onnx.ModelProto") -> dict[str, int]:
    """Nodes on the longest way from the input to each tensor."""
    found: dict[str, int] = {}
    for node in model.graph.node:
        depth = 1 + max((found.get(name, 0) for name in node.input), default=0)
        found.update(dict.fromkeys(node.output, depth))
    return found
