"""Casts of a graph, its element types, how much of it is FP16, and the note of that in the file."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends.mac_count import in_order, macs_of, multiplying
from workbench.errors import plural, some
from workbench.model.graph.onnx_file import load
from workbench.steps.graph import FLOAT, FLOAT16, integer

if TYPE_CHECKING:
    import onnx


NOTES = "krishi_bench.fp16"  # the key of the file's metadata


def without_cast_pairs(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy in order, without casts that undo another, do nothing, or are there twice.

    Between two nodes that stay in FP32 a converter goes through FP16, where a value that they are kept for
    would overflow: FP32 to FP16 and back becomes nothing. FP16 to FP32 and back is exact. Graphs with If or
    Loop are only put in order, as their bodies read tensors that no node of the graph seems to read.
    """
    copy, ordered = deepcopy(model), in_order(model.graph)
    if not any(has_body(node) for node in ordered):
        ordered = _without_pairs(ordered, model)
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    del copy.graph.value_info[:]  # converters leave types and sizes there that are no longer true
    return copy


def _without_pairs(ordered: "list[onnx.NodeProto]", model: "onnx.ModelProto") -> "list[onnx.NodeProto]":
    types = types_of(model)
    outputs = [value.name for value in model.graph.output]
    instead: dict[str, str] = {}  # the tensor to read, by the one that is removed
    sources: dict[str, str] = {}  # the input of each cast that stays, by its output
    casts: dict[tuple[str, int], str] = {}  # the output, by input and type
    left: list[onnx.NodeProto] = []
    for node in ordered:
        for position, name in enumerate(node.input):
            node.input[position] = instead.get(name, name)
        kind = cast_type(node)
        if not kind or not {FLOAT, FLOAT16} >= {kind, types.get(node.input[0], 0)}:
            left.append(node)
            continue
        source, output = node.input[0], node.output[0]
        while source in sources:
            source = sources[source]
        node.input[0] = source
        if types.get(source) == kind:
            instead[output] = source
        elif (source, kind) in casts:
            instead[output] = casts[source, kind]
        else:
            casts[source, kind] = output
            sources[output] = source
            left.append(node)
    needed = {*outputs, *(instead[name] for name in outputs if name in instead)}
    return _with_outputs(_without_unread(left, needed), outputs, instead)


def _without_unread(nodes: "list[onnx.NodeProto]", needed: set[str]) -> "list[onnx.NodeProto]":
    """Without casts whose output no node and no output of the graph needs."""
    left: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if node.op_type != "Cast" or not needed.isdisjoint(node.output):
            needed.update(node.input)
            left.append(node)
    return left[::-1]


def _with_outputs(
    nodes: "list[onnx.NodeProto]", outputs: list[str], instead: dict[str, str]
) -> "list[onnx.NodeProto]":
    """The graph's outputs under their names, where the cast that gave one was removed."""
    import onnx

    computed = {name for node in nodes for name in node.output}
    for name in outputs:
        source = instead.get(name)
        if source in computed and source not in outputs:
            for node in nodes:
                node.input[:] = [name if given == source else given for given in node.input]
                node.output[:] = [name if given == source else given for given in node.output]
            computed.add(name)
        elif source is not None:
            nodes.append(onnx.helper.make_node("Identity", [source], [name], name=f"{name}_as_it_is"))
    return nodes


def cast_type(node: "onnx.NodeProto") -> int:
    """The element type that a cast gives; 0 of another node."""
    return integer(node, "to") if node.op_type == "Cast" else 0


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

    Where no shape of a product is known, each weight counts once; None without any. Runtimes may still
    compute in another type, which the audit of a run shows.
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
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    return sum({cast_type(node), types.get(node.input[0])} == {FLOAT, FLOAT16} for node in casts)


def has_body(node: "onnx.NodeProto") -> bool:
    """Whether it is control flow, such as If and Loop."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


@dataclass(frozen=True, slots=True)
class Fp16Notes:
    """The note of a conversion, which `fp16` leaves in the file it writes.

    kept: nodes that stayed in FP32 because FP16 would harm them, and why. half_share: fraction of the MACs in
    FP16; None where shapes hide it. casts: between FP16 and FP32, those at both ends included.
    """

    kept: Mapping[str, str]
    half_share: float | None
    casts: int

    def text(self) -> str:
        """One line for the log."""
        share = "" if self.half_share is None else f", {self.half_share:.1%} of the multiplications in FP16"
        kept = [f"`{name}` ({reason})" for name, reason in self.kept.items()]
        listed = f": {some(kept, quote='')}" if kept else ""
        sensitive, casts = plural(len(kept), "sensitive node"), plural(self.casts, "cast")
        return f"fp16: {sensitive} kept in FP32{listed}{share}, {casts}"


def notes_of(path: Path) -> Fp16Notes | None:
    """The note of `fp16` in a file, None without one. Raises WorkbenchError as `load` does."""
    for entry in load(path).metadata_props:
        if entry.key == NOTES:
            return Fp16Notes(**json.loads(entry.value))
    return None
