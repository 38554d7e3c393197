"""The structure of a network, as far as it decides which optimisations help."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from workbench.backends.artifact import Precision
from workbench.backends.mac_count import CONVOLUTIONS, macs_of
from workbench.model.graph.onnx_file import image_input, opset_of, precision_of
from workbench.model.graph.roles import POOLS, WEIGHTED, Wiring, roles_of, wiring_of
from workbench.model.graph.training_mode import training_layers
from workbench.model.graph.work import Work, work_of
from workbench.system.records import Record

if TYPE_CHECKING:
    import onnx


DEAD = 1e-5  # of a layer's largest weight: a channel below it is dead, and its scale would be next to 0
PASSING = frozenset({"Where", "Cast", "Dropout", "Identity", "Reshape", "Transpose"})


class NetworkFacts(Record):
    """A float classifier, read from its ONNX graph.

    operators: nodes by type. macs: multiply-accumulates for one photo; None where the shapes are hidden.
    parameters: stored floats. input_shape: (C, H, W), 0 where free. convolutions: depthwise ones included.
    depthwise_share, matmul_share: of the MACs. squeeze_excite: blocks. hard_swish, swish: activations
    x * gate(x), by the gate. attention: pairs of products around a softmax. dead_channels: output channels
    whose weights are all but zero. first, last: the nodes with weights at both ends. work: of one photo; None
    where the shapes are hidden. training: layers that compute as in training.
    """

    operators: dict[str, int]
    opset: int
    precision: Precision
    macs: int | None
    parameters: int
    input_shape: tuple[int, int, int]
    convolutions: int
    depthwise: int
    depthwise_share: float
    matmul_share: float
    squeeze_excite: int
    hard_swish: int
    swish: int
    attention: int
    dead_channels: int
    any_size: bool
    first: str | None
    last: str | None
    work: Work | None
    training: tuple[str, ...] = ()

    @property
    def gates(self) -> int:
        """Activations and branches that multiply a tensor by a function of itself."""
        return self.squeeze_excite + self.hard_swish + self.swish

    @property
    def transformer(self) -> bool:
        return self.attention > 0 and self.matmul_share > 0.5


def facts_of(model: "onnx.ModelProto") -> NetworkFacts:
    """Read a float network with one input and one output, before it is quantised."""
    import onnx

    wiring, roles, macs = wiring_of(model), roles_of(model), macs_of(model)
    nodes = list(model.graph.node)
    operators = Counter(node.op_type for node in nodes)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    by_type = {node.name: node.op_type for node in nodes}
    total = sum(macs.values())
    products = sum(count for name, count in macs.items() if by_type.get(name) not in CONVOLUTIONS)
    hard, soft = _swishes(model, wiring, roles)
    depthwise = _nodes_with("depthwise", roles)
    image = image_input(model).type.tensor_type
    _, *size = (dim.dim_value for dim in image.shape.dim)
    if image.elem_type == onnx.TensorProto.UINT8:  # pixels: the channels come last
        size = [size[2], *size[:2]]
    return NetworkFacts(
        operators=dict(operators.most_common()),
        opset=opset_of(model),
        precision=precision_of(model),
        macs=total or None,
        parameters=sum(prod(w.dims) for w in wiring.constants.values() if w.data_type in floats),
        input_shape=(size[0], size[1], size[2]),
        convolutions=operators["Conv"],
        depthwise=len(depthwise),
        depthwise_share=sum(macs.get(name, 0) for name in depthwise) / total if total else 0.0,
        matmul_share=products / total if total else 0.0,
        squeeze_excite=sum(by_type[name] in POOLS for name in _nodes_with("squeeze_excite", roles)),
        hard_swish=hard,
        swish=soft,
        attention=_attentions(model, wiring),
        dead_channels=sum(_dead_channels(node, wiring) for node in nodes),
        any_size=not all(size[1:]),
        first=next(iter(_nodes_with("first", roles)), None),
        last=next(iter(_nodes_with("last", roles)), None),
        work=work_of(model, wiring, roles),
        training=training_layers(model),
    )


def _nodes_with(role: str, roles: Mapping[str, frozenset[str]]) -> list[str]:
    return [name for name, own in roles.items() if role in own]


def _swishes(
    model: "onnx.ModelProto", wiring: Wiring, roles: Mapping[str, frozenset[str]]
) -> tuple[int, int]:
    """Count the activations x * hard_sigmoid(x), and x * sigmoid(x)."""
    hard = soft = 0
    for node in model.graph.node:
        if "hardswish" not in roles.get(node.name, ()):
            continue
        computed = wiring.computed(node)
        makers = [wiring.maker[name].op_type for name in computed if name in wiring.maker]
        if node.op_type == "Swish" or (node.op_type == "Mul" and len(computed) == 2 and "Sigmoid" in makers):
            soft += 1
        elif node.op_type == "HardSwish" or (node.op_type == "Mul" and len(computed) == 2):
            hard += 1
    return hard, soft


def _attentions(model: "onnx.ModelProto", wiring: Wiring) -> int:
    """Count the softmaxes whose result is multiplied with a computed tensor; the last one's is not."""
    fused = sum("Attention" in node.op_type for node in model.graph.node)
    return fused + sum(
        _weighs(node, wiring, hops=3) for node in model.graph.node if node.op_type == "Softmax"
    )


def _weighs(node: "onnx.NodeProto", wiring: Wiring, *, hops: int) -> bool:
    """Whether a product follows, behind a guard against NaN, a cast or a dropout that exporters insert."""
    for reader in wiring.readers.get(node.output[0], []):
        if reader.op_type == "MatMul" and len(wiring.computed(reader)) == 2:
            return True
        if hops and reader.op_type in PASSING and _weighs(reader, wiring, hops=hops - 1):
            return True
    return False


def _dead_channels(node: "onnx.NodeProto", wiring: Wiring) -> int:
    """Count the output channels whose largest weight is less than DEAD of the layer's."""
    import numpy as np
    import onnx

    if node.op_type not in WEIGHTED or node.input[1] not in wiring.constants:
        return 0
    weight = onnx.numpy_helper.to_array(wiring.constants[node.input[1]])
    if weight.ndim < 2 or weight.dtype.kind != "f":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed):
        weight = weight.swapaxes(-1, 0)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return int((largest < DEAD * largest.max()).sum())
