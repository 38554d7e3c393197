"""The audit of OpenVINO, read from the graph that its compiled model executes."""

from math import prod
from typing import TYPE_CHECKING

from workbench.backends.audit import Audit, Computed, Product, audit_of

if TYPE_CHECKING:
    import openvino as ov


PRECISIONS: dict[str, Computed] = {
    "u8": "int8", "i8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32",
}  # fmt: skip
NOT_RUN = frozenset({"Const", "Input", "Output"})
PRODUCTS = frozenset({"FullyConnected", "MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Convolution", "Deconvolution"})
QUANTISES = frozenset({"FakeQuantize", "Quantize"})


def audit_compiled(compiled: "ov.CompiledModel", asked: Computed, *, stored: bool = False) -> Audit:
    """Read the graph that a compiled model executes, without running it.

    asked: the precision to expect. stored: it is the file's. A free batch counts as 1.
    """
    nodes = [
        node for node in compiled.get_runtime_model().get_ops() if _info(node, "layerType") not in NOT_RUN
    ]
    batch = _batch(compiled)
    products = [
        Product(PRECISIONS.get(_info(node, "runtimePrecision"), "unknown"), _macs(node, batch))
        for node in nodes
        if _info(node, "layerType") in PRODUCTS | CONVOLUTIONS
    ]
    return audit_of(
        products,
        asked=asked,
        providers={", ".join(compiled.get_property("EXECUTION_DEVICES")): len(nodes)},
        casts=sum(map(_casts, nodes)),
        unfused_qdq=sum(_info(node, "layerType") in QUANTISES for node in nodes),
        stored=stored,
    )


def _info(node: "ov.Node", key: str) -> str:
    notes = node.get_rt_info()
    return str(notes[key].astype(str)) if key in notes else ""


def _batch(compiled: "ov.CompiledModel") -> int:
    first = compiled.inputs[0].get_partial_shape()[0]
    return int(first.get_length()) if first.is_static else 1


def _shape(port: "ov.Input | ov.Output") -> tuple[int, ...] | None:
    """Its sizes, with a free batch as 1; None where more is free."""
    sizes = list(port.get_partial_shape())
    if sizes and sizes[0].is_dynamic:
        sizes[0] = type(sizes[0])(1)
    return tuple(int(size.get_length()) for size in sizes) if all(s.is_static for s in sizes) else None


def _macs(node: "ov.Node", batch: int) -> int | None:
    """For one photo. Weights are (out, in, *kernel), with the groups before them where there are some."""
    inputs = [_shape(port) for port in node.inputs()]
    output = _shape(node.outputs()[0])
    if output is None or len(inputs) < 2 or inputs[0] is None or not inputs[0]:
        return None
    kind = _info(node, "layerType")
    if kind in PRODUCTS:
        return prod(output) * inputs[0][-1] // batch
    weight = inputs[1]
    if weight is None:
        return None
    spread = inputs[0] if kind == "Deconvolution" else output
    return prod(spread) * prod(weight[1 - len(output) :]) // batch


def _casts(node: "ov.Node") -> bool:
    kind = _info(node, "layerType")
    if kind != "Reorder":
        return kind == "Convert"
    given, made = node.inputs(), node.outputs()
    return bool(given) and given[0].get_element_type() != made[0].get_element_type()
