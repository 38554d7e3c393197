"""Casts of a graph, its element types, and how much of it is FP16."""

from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from workbench.backends.mac_count import in_order, macs_of, multiplying

if TYPE_CHECKING:
    import onnx


FLOAT, FLOAT16 = 1, 10  # onnx.TensorProto's numbers


def without_cast_pairs(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy in order, without casts that undo another, do nothing, or are there twice.

    Between two nodes that stay in FP32 a converter goes through FP16, where a value that they are kept for
    would overflow: FP32 to FP16 and back becomes nothing. FP16 to FP32 and back is exact. Graphs with If or
    Loop are only put in order, as their bodies read tensors that no node of the graph seems to read.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ordered = in_order(model.graph)
    if not any(bodies(node) for node in ordered):
        ordered = _without_pairs(ordered, model)
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    del copy.graph.value_info[:]  # converters leave types and sizes there that are no longer true
    return copy


def _without_pairs(ordered: "list[onnx.NodeProto]", model: "onnx.ModelProto") -> "list[onnx.NodeProto]":
    types = types_of(model)
    last = [value.name for value in model.graph.output]
    instead: dict[str, str] = {}  # a tensor that goes away, and the one to read
    casts: dict[str, str] = {}  # what a cast that stays gives, and what it reads
    known: dict[tuple[str, int], str] = {}
    left: list[onnx.NodeProto] = []
    for node in ordered:
        for position, name in enumerate(node.input):
            node.input[position] = instead.get(name, name)
        if node.op_type != "Cast" or not {FLOAT, FLOAT16} >= {_to(node), types.get(node.input[0], 0)}:
            left.append(node)
            continue
        source, given = node.input[0], node.output[0]
        while source in casts:
            source = casts[source]
        node.input[0] = source
        if types.get(source) == _to(node):
            instead[given] = source
        elif (source, _to(node)) in known:
            instead[given] = known[source, _to(node)]
        else:
            known[source, _to(node)] = given
            casts[given] = source
            left.append(node)
    return _with_outputs(_used(left, last, instead), last, instead)


def _used(
    nodes: "list[onnx.NodeProto]", last: Collection[str], instead: Mapping[str, str]
) -> "list[onnx.NodeProto]":
    """Without casts that nobody reads any more."""
    needed = {*last, *(instead[name] for name in last if name in instead)}
    left: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if node.op_type == "Cast" and needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        left.append(node)
    return left[::-1]


def _with_outputs(
    nodes: "list[onnx.NodeProto]", last: Collection[str], instead: Mapping[str, str]
) -> "list[onnx.NodeProto]":
    """The graph's outputs under their names, where the cast that gave one is gone."""
    import onnx

    made = {name for node in nodes for name in node.output}
    for name in last:
        source = instead.get(name)
        if source is None:
            continue
        if source in made and source not in last:
            for node in nodes:
                for names in (node.input, node.output):
                    for position, given in enumerate(names):
                        names[position] = name if given == source else given
            made.add(name)
        else:
            nodes.append(onnx.helper.make_node("Identity", [source], [name], name=f"{name}_as_it_is"))
    return nodes


def casts_to(node: "onnx.NodeProto") -> tuple[int, ...]:
    """The element type that a cast gives; empty of another node."""
    return (_to(node),) if node.op_type == "Cast" else ()


def _to(node: "onnx.NodeProto") -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def types_of(model: "onnx.ModelProto") -> dict[str, int]:
    """The element type of each tensor, as onnx.TensorProto numbers them, where ONNX infers it."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    types = {weight.name: int(weight.data_type) for weight in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types.setdefault(value.name, int(value.type.tensor_type.elem_type))
    return types


def half_share(model: "onnx.ModelProto") -> float | None:
    """The fraction of multiply-accumulates whose operands are FP16, from 0 to 1 (see `mac_count`).

    Where no shape of a product can be told, each weight counts once; None without any. Runtimes may still
    compute in something else: that is for the audit of a run to say.
    """
    types, counts = types_of(model), macs_of(model)
    products = multiplying(model)
    if not sum(counts.values()):
        stored = {weight.name: prod(weight.dims) for weight in model.graph.initializer}
        counts = {name: sum(stored.get(given, 0) for given in node.input[:2]) for name, node in products}
    total = sum(counts.values())
    half = sum(counts.get(name, 0) for name, node in products if types.get(node.input[0]) == FLOAT16)
    return half / total if total else None


def count_casts(model: "onnx.ModelProto") -> int:
    """Casts of the graph between FP16 and FP32; two of them are the photos' and the logits'."""
    types = types_of(model)
    return sum(
        {_to(node), types.get(node.input[0])} == {FLOAT, FLOAT16}
        for node in model.graph.node
        if node.op_type == "Cast"
    )


def control_flow(model: "onnx.ModelProto") -> list[str]:
    """Operators of the graph with a body, such as If and Loop."""
    return sorted({node.op_type for node in model.graph.node if bodies(node)})


def bodies(node: "onnx.NodeProto") -> "list[onnx.GraphProto]":
    return [graph for attribute in node.attribute for graph in _graphs(attribute)]


def _graphs(attribute: "onnx.AttributeProto") -> "Iterator[onnx.GraphProto]":
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs
