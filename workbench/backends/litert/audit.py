"""The audit of LiteRT, read from an interpreter's own list of nodes and tensors.

After delegation the list holds every node of the file, and behind them one node for each piece that the
delegate took, with the tensors that go in and come out of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from workbench.backends.audit import Audit, Computed, Delegation, Product, audit_of

Node = Mapping[str, Any]  # op_name, inputs, outputs: indices of tensors
Tensor = Mapping[str, Any]  # index, shape, dtype

DELEGATE = "DELEGATE"
XNNPACK = "XNNPACK"
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE_CONV")
CASTS = ("QUANTIZE", "DEQUANTIZE", "CAST")
PRECISIONS: Mapping[str, Computed] = {
    "int8": "int8", "uint8": "int8", "float16": "fp16", "bfloat16": "bf16", "float32": "fp32",
}  # fmt: skip


def delegation_of(nodes: Sequence[Node], tensors: Sequence[Tensor], photo: int) -> Delegation:
    """How much of the network runs in the delegate; nodes that only unpack constants are not counted.

    photo: index of the input's tensor.
    """
    own, taken, shapes = _own(nodes, photo), _taken(nodes), _shapes(tensors)
    outside = [index for index in own if index not in taken]
    counts = {index: macs for index in own if (macs := macs_of(nodes[index], shapes)) is not None}
    return Delegation(
        delegate=XNNPACK,
        partitions=sum(node["op_name"] == DELEGATE for node in nodes),
        nodes=len(own),
        delegated=len(own) - len(outside),
        macs=sum(counts.values()),
        delegated_macs=sum(macs for index, macs in counts.items() if index in taken),
        outside=dict(Counter(nodes[index]["op_name"] for index in outside)),
    )


def audit_nodes(
    nodes: Sequence[Node], tensors: Sequence[Tensor], photo: int, delegation: Delegation, *, stored: str
) -> Audit:
    """The audit without the delegate's sentence. stored: the precision of the file's weights."""
    own = _own(nodes, photo)
    shapes, types = _shapes(tensors), {each["index"]: each["dtype"].__name__ for each in tensors}
    products = [
        Product(_precision(nodes[index], types), macs_of(nodes[index], shapes))
        for index in own
        if nodes[index]["op_name"] in PRODUCTS
    ]
    asked: Computed = "int8" if stored == "int8" else "fp16" if stored == "fp16" else "fp32"
    audit = audit_of(
        products,
        asked=asked,
        providers={XNNPACK: delegation.nodes},
        casts=sum(nodes[index]["op_name"] in CASTS for index in own),
        unfused_qdq=None,
    )
    outside = delegation.nodes - delegation.delegated
    ran = {XNNPACK: delegation.delegated, "LiteRT": outside}
    return audit.model_copy(update={"providers": {name: count for name, count in ran.items() if count}})


def _own(nodes: Sequence[Node], photo: int) -> list[int]:
    """Positions of the nodes that compute something from the photo, the tensor of that index."""
    depends, found = {photo}, []
    for index, node in enumerate(nodes):
        if node["op_name"] != DELEGATE and depends & {int(tensor) for tensor in node["inputs"]}:
            found.append(index)
            depends |= {int(tensor) for tensor in node["outputs"]}
    return found


def _taken(nodes: Sequence[Node]) -> set[int]:
    """Positions of the nodes inside the delegate's pieces: all between what goes in and what comes out."""
    makers = {
        int(tensor): index
        for index, node in enumerate(nodes)
        if node["op_name"] != DELEGATE
        for tensor in node["outputs"]
    }
    found: set[int] = set()
    for piece in nodes:
        if piece["op_name"] != DELEGATE:
            continue
        given, waiting = {int(t) for t in piece["inputs"]}, [int(t) for t in piece["outputs"]]
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if tensor not in given and maker is not None and maker not in found:
                found.add(maker)
                waiting += [int(t) for t in nodes[maker]["inputs"]]
    return found


def _shapes(tensors: Sequence[Tensor]) -> dict[int, tuple[int, ...]]:
    return {int(each["index"]): tuple(map(int, each["shape"])) for each in tensors}


def macs_of(node: Node, shapes: Mapping[int, tuple[int, ...]]) -> int | None:
    """Multiply-accumulates of a node for one photo; None where it is no product, or hides a shape."""
    if (name := node["op_name"]) not in PRODUCTS:
        return None
    inputs = [shapes.get(int(tensor), ()) for tensor in node["inputs"]]
    made = shapes.get(int(node["outputs"][0]), ())
    match name:
        case "CONV_2D":  # weights (out, height, width, in / groups)
            return prod(made) * prod(inputs[1][1:])
        case "DEPTHWISE_CONV_2D":  # (1, height, width, out)
            return prod(made) * prod(inputs[1][1:3])
        case "FULLY_CONNECTED":  # (out, in)
            return prod(made) * inputs[1][-1]
        case "TRANSPOSE_CONV":  # output shape; (out, height, width, in); data
            return prod(inputs[2]) * prod(inputs[1][:3])
        case _:
            return prod(made) * inputs[0][-1]


def _precision(node: Node, types: Mapping[int, str]) -> Computed:
    """Of the weights: with INT8 ones and float data, the kernel quantises the data in each call."""
    position = 0 if node["op_name"] == "BATCH_MATMUL" else 1
    return PRECISIONS.get(types.get(int(node["inputs"][position]), ""), "unknown")
