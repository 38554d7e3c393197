"""What a LiteRT step leaves in float, as patterns of the quantiser, which names a node by its results.

The roles are those of ONNX files, found by the same rules: LiteRT's operators are read as ONNX's.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from workbench.backends.litert.audit import DELEGATE, Node
from workbench.backends.litert.interpreter import Interpreter
from workbench.backends.litert.tflite import FILE
from workbench.errors import WorkbenchError, did_you_mean
from workbench.model.graph.roles import OnnxLike, Role, roles_of_others
from workbench.steps.litert.settings import Litert

DEPTHWISE = "DEPTHWISE_CONV_2D"
AS_ONNX: Mapping[str, str] = {
    "CONV_2D": "Conv", DEPTHWISE: "Conv", "FULLY_CONNECTED": "Gemm", "BATCH_MATMUL": "MatMul",
    "TRANSPOSE_CONV": "ConvTranspose", "MEAN": "ReduceMean", "AVERAGE_POOL_2D": "AveragePool",
    "ADD": "Add", "MUL": "Mul", "DIV": "Div", "LOGISTIC": "Sigmoid", "RELU6": "Clip", "MINIMUM": "Clip",
    "MAXIMUM": "Clip", "HARD_SWISH": "HardSwish", "RELU": "Relu", "LEAKY_RELU": "LeakyRelu", "PRELU": "PRelu",
    "GELU": "Gelu", "TANH": "Tanh", "RESHAPE": "Reshape", "SQUEEZE": "Squeeze", "EXPAND_DIMS": "Unsqueeze",
    "TRANSPOSE": "Transpose",
}  # fmt: skip


def excluded_patterns(step: Litert, data: bytes) -> list[str]:
    """Regular expressions that fit what the step leaves in float by pattern or by role.

    data: the file in float. Raises WorkbenchError where a pattern fits no node.
    """
    native = Interpreter(data, FILE, threads=1).native
    nodes = [node for node in native._get_ops_details() if node["op_name"] != DELEGATE]
    tensors = {each["index"]: each["name"] for each in native.get_tensor_details()}
    results = [";".join(tensors.get(int(index), "") for index in node["outputs"]) for node in nodes]
    for pattern in step.exclude_nodes:
        _check_pattern(pattern, results)
    taken, unwanted = native.get_input_details()[0]["index"], set(step.exclude_roles)
    found = [
        re.escape(result)
        for result, roles in zip(results, roles_of_nodes(nodes, taken), strict=True)
        if roles & unwanted
    ]
    return [*step.exclude_nodes, *([f"^(?:{'|'.join(found)});?$"] if found else [])]


def roles_of_nodes(nodes: Sequence[Node], photo: int) -> list[frozenset[Role]]:
    """The roles of each node of a file in float. photo: index of the input's tensor.

    An activation that is fused into the node before it is not told apart, so a product with what is made of
    one of its factors alone counts as swish, and one with a branch from a pool as squeeze-and-excitation.
    """
    like = [
        OnnxLike(
            str(position),
            AS_ONNX.get(node["op_name"], node["op_name"]),
            tuple(str(index) if index >= 0 else "" for index in map(int, node["inputs"])),
            tuple(str(int(index)) for index in node["outputs"]),
        )
        for position, node in enumerate(nodes)
    ]
    depthwise = {node.name for node in like if nodes[int(node.name)]["op_name"] == DEPTHWISE}
    found = roles_of_others(like, str(photo), depthwise, gates_fused=True)
    return [found.get(node.name, frozenset()) for node in like]


def check_operators(step: Litert, known: Collection[str]) -> None:
    """Raise WorkbenchError where the step names an operator that the quantiser does not know."""
    for kind in step.exclude_op_types:
        if kind not in known:
            raise WorkbenchError(
                f"litert.exclude_op_types: LiteRT's quantiser knows no operator `{kind}`",
                hint=did_you_mean(kind, sorted(known)) or f"it knows {', '.join(sorted({*known} - {'*'}))}",
            )


def _check_pattern(pattern: str, results: Sequence[str]) -> None:
    try:
        fits = any(re.search(pattern, result) for result in results)
    except re.error as error:
        raise WorkbenchError(
            f"litert.exclude_nodes: `{pattern}` is no regular expression: {error}"
        ) from error
    if not fits:
        raise WorkbenchError(
            f"litert.exclude_nodes: `{pattern}` fits no node of the network",
            hint=f"its results are named {', '.join(results[:3])}, and so on",
        )
