"""ONNX to OpenVINO's IR: `model.xml` (the graph) and `model.bin` (the weights)."""

import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo, Companion, Precision
from workbench.backends.common import PROBE_SIDE
from workbench.backends.openvino import reason, without_telemetry
from workbench.errors import WorkbenchError, plural
from workbench.system.files import sha256_file

if TYPE_CHECKING:
    import onnx


GRAPH, WEIGHTS = "model.xml", "model.bin"
PRODUCTS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)


def read(data: bytes, name: str) -> Any:
    """The openvino.Model of an ONNX file, with folded constants: NNCF does not find computed weights.

    data: the whole file; the same bytes give the same IR. name: for messages. Metadata and doc strings are
    dropped: exporters leave paths of source files there. Raises WorkbenchError.
    """
    without_telemetry()
    import onnx
    import openvino
    from openvino import frontend
    from openvino.tools.ovc.error import Error

    onnx_model = onnx.load_from_string(data)
    for part in (onnx_model, onnx_model.graph, *onnx_model.graph.node):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    _fit_pools(onnx_model)
    for node in onnx_model.graph.node:
        while len(node.input) and not node.input[-1]:  # openvino reads some operators wrongly with them
            del node.input[-1]
    try:
        model = openvino.convert_model(io.BytesIO(onnx_model.SerializeToString()))
    except (
        RuntimeError,
        Error,
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    ) as error:
        raise WorkbenchError(
            f"openvino cannot read {name}: {reason(error)}",
            hint="another `export.exporter` or `export.opset` may write operators that it has; "
            "onnxruntime runs them all",
        ) from error
    _number(model)
    return model


def _fit_pools(model: "onnx.ModelProto") -> None:
    """Shrink windows of `ceil_mode` that are larger than their input, which openvino refuses, to all of it.

    EfficientNet of transformers ends in one. What lies in the window stays the same.
    """
    import onnx

    pools = [node for node in model.graph.node if node.op_type in ("AveragePool", "MaxPool")]
    inferred = onnx.shape_inference.infer_shapes(model).graph if pools else model.graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.input)
    }
    for node in pools:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        sides = [dim.dim_value for dim in shapes.get(node.input[0], ())][2:]
        window = attributes["kernel_shape"].ints
        padded = any(attributes["pads"].ints) if "pads" in attributes else False
        dilated = (
            any(step != 1 for step in attributes["dilations"].ints) if "dilations" in attributes else False
        )
        ceiled = "ceil_mode" in attributes and attributes["ceil_mode"].i
        if not ceiled or padded or dilated or not all(sides) or len(sides) != len(window):
            continue
        window[:] = [min(pair) for pair in zip(window, sides, strict=True)]


def save(model: Any, folder: Path) -> None:
    import openvino

    _number(model)
    openvino.save_model(model, folder / GRAPH, compress_to_fp16=False)


def _number(model: Any) -> None:
    """Name nodes without an ONNX name by their position: openvino counts them (`Reshape_6053`) per process.

    A node that has a name in the ONNX file gives it to its tensor too.
    """
    for position, node in enumerate(model.get_ordered_ops()):
        named = any(end.names for end in node.outputs())
        if not named and re.fullmatch(r"[A-Z][A-Za-z0-9]*_+\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}__{position}")


def names_of(model: Any, source: "onnx.ModelProto", nodes: "Iterable[onnx.NodeProto]") -> list[str]:
    """Names of the openvino nodes that these nodes of the ONNX graph `source` became.

    One may become several (a convolution and the addition of its bias): all between its inputs, which keep
    the names of their tensors, and its output. A folded node has none.
    """
    tensors = {name for node in source.graph.node for name in node.output}
    made = {
        name: node
        for node in model.get_ordered_ops()
        if node.get_type_name() != "Result"
        for end in node.outputs()
        for name in end.names
    }
    found: dict[str, None] = {}
    for node in nodes:
        waiting = [made[name] for name in node.output if name in made]
        while waiting:
            current = waiting.pop()
            found[current.get_friendly_name()] = None
            for parent in (value.get_node() for value in current.input_values()):
                own = {name for end in parent.outputs() for name in end.names}
                if parent.get_type_name() not in ("Constant", "Parameter") and not own & tensors:
                    waiting.append(parent)
    return list(found)


def ir_info(folder: Path) -> ArtifactInfo:
    """`artifact.json` of the IR in `folder`, read back from the files.

    Raises WorkbenchError where they are not a classifier: one input of (N, 3, H, W) float32 or (N, H, W, 3)
    uint8, one output of (N, classes) float32.
    """
    without_telemetry()
    import openvino

    path, weights = folder / GRAPH, folder / WEIGHTS
    try:
        model = openvino.Core().read_model(path.read_bytes(), weights.read_bytes())
    except (OSError, RuntimeError) as error:
        raise WorkbenchError(f"{path} is not an OpenVINO network: {reason(error)}") from error
    pixels = _check_ends(path, model)
    return ArtifactInfo(
        format="openvino",
        file=GRAPH,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        precision=precision_of(model),
        input_shape=_input_shape(path, model, pixels=pixels),
        classes=_classes(path, model, pixels=pixels),
        companions=(Companion(file=WEIGHTS, sha256=sha256_file(weights), size_bytes=weights.stat().st_size),),
        pixels=pixels,
    )


def _check_ends(path: Path, model: Any) -> bool:
    """Whether it takes pixels. Raises WorkbenchError for other inputs and outputs than a classifier's."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise WorkbenchError(
            f"{path} has {plural(len(model.inputs), 'input')} and {plural(len(model.outputs), 'output')}: "
            "a classifier has one of each"
        )
    taken, given = (end.get_element_type().get_type_name() for end in (model.input(), model.output()))
    if taken not in ("f32", "u8") or given != "f32":
        raise WorkbenchError(
            f"{path} takes {taken} and gives {given}: photos and logits go in and out as f32",
            hint="export the network in float32; quantising makes it smaller",
        )
    return bool(taken == "u8")


def _sizes(end: Any) -> list[int]:
    """Of an input or output; 0 where free."""
    shape = end.get_partial_shape()
    if shape.rank.is_dynamic:
        return []
    return [size.get_length() if size.is_static else 0 for size in shape]


def _input_shape(path: Path, model: Any, *, pixels: bool) -> tuple[int, int, int, int]:
    sizes = _sizes(model.input())
    if len(sizes) == 4 and pixels and sizes[3] == 3:
        return (sizes[0], 3, sizes[1], sizes[2])
    if len(sizes) == 4 and not pixels and sizes[1] in (0, 3):
        return (sizes[0], sizes[1], sizes[2], sizes[3])
    raise WorkbenchError(
        f"{path} takes an input of shape {model.input().get_partial_shape()}",
        hint="photos go in as (N, 3, height, width) float32: export the network with that input",
    )


def _classes(path: Path, model: Any, *, pixels: bool) -> int:
    """Logits per image; found by fixing the input where the file does not declare them."""
    sizes = _sizes(model.output())
    if not (len(sizes) == 2 and sizes[1]):
        n, channels, height, width = _input_shape(path, model, pixels=pixels)
        image = [height or PROBE_SIDE, width or PROBE_SIDE]
        probe = model.clone()
        probe.reshape([n or 1, *image, 3] if pixels else [n or 1, channels or 3, *image])
        sizes = _sizes(probe.output())
    if not (len(sizes) == 2 and sizes[1]):
        raise WorkbenchError(f"{path}: its output has the shape {sizes}: a classifier gives (N, classes)")
    return sizes[1]


def precision_of(model: Any) -> Precision:
    """int8 where a product has weights of 8 bits; else the type of most weight bytes."""
    bytes_of: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        if node.get_type_name() in PRODUCTS and _stored(node.input_value(1).get_node()) in ("i8", "u8"):
            return "int8"
        if node.get_type_name() == "Constant":
            bytes_of[node.get_element_type().get_type_name()] += node.get_byte_size()
    if bytes_of["f16"] > bytes_of["f32"]:
        return "fp16"
    return "bf16" if bytes_of["bf16"] > bytes_of["f32"] else "fp32"


def _stored(node: Any) -> str:
    """The type of the constant that a weight is scaled up from, through conversions and shapes."""
    while node.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize"):
        node = node.input_value(0).get_node()
    constant = node.get_type_name() == "Constant"
    return str(node.get_element_type().get_type_name()) if constant else "none"
