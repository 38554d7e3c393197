"""What an `executorch` step leaves in float, as a filter of XNNPACK's quantiser.

The roles are those of ONNX files, found by the same rules: aten's operators are read as ONNX's.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, did_you_mean
from workbench.model.graph.roles import OnnxLike, Role, roles_of_others
from workbench.steps.executorch.settings import Executorch

if TYPE_CHECKING:
    from torch.fx import Graph, Node

CONVOLUTIONS = ("conv2d", "conv1d", "convolution")
GROUPS = 6  # the position of a convolution's groups among its arguments
AS_ONNX: Mapping[str, str] = {
    **dict.fromkeys(CONVOLUTIONS, "Conv"), "conv_transpose2d": "ConvTranspose", "linear": "Gemm",
    "matmul": "MatMul", "mm": "MatMul", "bmm": "MatMul", "mean": "ReduceMean",
    "adaptive_avg_pool2d": "GlobalAveragePool", "avg_pool2d": "AveragePool", "add": "Add", "mul": "Mul",
    "div": "Div", "sigmoid": "Sigmoid", "hardsigmoid": "HardSigmoid", "hardtanh": "Clip", "relu6": "Clip",
    "clamp": "Clip", "hardswish": "HardSwish", "silu": "Swish", "relu": "Relu", "leaky_relu": "LeakyRelu",
    "prelu": "PRelu", "gelu": "Gelu", "tanh": "Tanh", "flatten": "Flatten", "view": "Reshape",
    "reshape": "Reshape", "squeeze": "Squeeze", "unsqueeze": "Unsqueeze", "permute": "Transpose",
    "transpose": "Transpose",
}  # fmt: skip


def filter_of(step: Executorch, quantizer: Any) -> "Callable[[Node], bool]":
    """Whether the quantiser may quantise a node. Raises WorkbenchError for an operator that it never does."""
    targets: dict[str, set[object]] = {}
    for pattern in quantizer.SUPPORTED_PATTERNS:
        name = pattern.name.removesuffix("_relu").removesuffix("_bn")
        targets.setdefault(name, set()).update(pattern.op_overloads)
    for kind in step.exclude_op_types:
        if kind not in targets:
            raise WorkbenchError(
                f"executorch.exclude_op_types: XNNPACK's quantiser knows no operator `{kind}`",
                hint=did_you_mean(kind, sorted(targets)) or f"it knows {', '.join(sorted(targets))}",
            )
    left = {target for kind in step.exclude_op_types for target in targets[kind]}
    roles: dict[Graph, dict[str, frozenset[Role]]] = {}

    def may_quantize(node: "Node") -> bool:
        if node.graph not in roles:
            roles[node.graph] = roles_of_graph(node.graph)
        own = roles[node.graph].get(node.name, frozenset())
        return node.target not in left and not own & set(step.exclude_roles)

    return may_quantize


def roles_of_graph(graph: Any) -> dict[str, frozenset[Role]]:
    """The roles of the nodes of a `torch.fx.Graph` of aten's operators that have one, by name."""
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    (photo,) = (node.name for node in graph.nodes if node.op == "placeholder")
    like = []
    for node in nodes:
        given = tuple(value.name for value in node.args if hasattr(value, "name"))
        like.append(OnnxLike(node.name, AS_ONNX.get(kind := operator(node), kind), given, (node.name,)))
    depthwise = {node.name for node in nodes if operator(node) in CONVOLUTIONS and _is_depthwise(node)}
    return roles_of_others(like, photo, depthwise)


def _is_depthwise(node: Any) -> bool:
    """Whether it has one input channel per filter, and several of them."""
    groups = node.args[GROUPS] if len(node.args) > GROUPS else 1
    return bool(1 < groups == node.args[0].meta["val"].shape[1])


def operator(node: Any) -> str:
    """`conv2d` of `aten.conv2d.default`, in either form of the graph, and of what computes in place."""
    name = str(getattr(node.target, "__name__", node.target))
    parts = [part for part in name.split(".") if part not in ("aten", "default", "out", "Tensor", "edge")]
    return parts[0].removesuffix("_") if parts else name
