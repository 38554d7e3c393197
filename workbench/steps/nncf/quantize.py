"""INT8 by NNCF: OpenVINO's quantiser, with bias correction and accuracy control, for IR and for ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.openvino import ir
from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import known_op_types, matching, named
from workbench.model.graph.onnx_file import image_input, opset_of
from workbench.steps.base import Photos, calibration_of
from workbench.steps.graph import batch_size
from workbench.steps.nncf.call import PhotoBatches, quantized, selection_of
from workbench.steps.nncf.settings import NncfInt8

if TYPE_CHECKING:
    import onnx


LOWEST_OPSET = 13  # below it, ONNX cannot quantise weights per channel


def nncf_onnx(step: NncfInt8, source: Path, target: Path, photos: Photos) -> None:
    """Quantise an ONNX file into an ONNX file (QDQ).

    Raises WorkbenchError where there are too few photos, where an exclusion fits nothing, where nothing is
    left to quantise, or where NNCF refuses the network.
    """
    import onnx

    model = named(source)
    if opset_of(model) < LOWEST_OPSET:
        raise WorkbenchError(
            f"nncf_int8: quantising per channel needs opset {LOWEST_OPSET}, the model has {opset_of(model)}",
            hint="raise `export.opset`, or run it on `backend: openvino`, which has no such limit",
        )
    name = image_input(model).name
    ignored = [node.name for node in _ignored(step, model)]
    batches = _batches(step, model, photos)
    selection = selection_of(step.accuracy_control, photos, batches.size)
    result = quantized(step, model, ignored, batches, selection, lambda batch: {name: batch})
    stored = {weight.name for weight in result.graph.initializer}
    if not any(node.op_type == "DequantizeLinear" and node.input[0] in stored for node in result.graph.node):
        raise _nothing_left(step)
    _to_unsigned(result)
    onnx.save(result, target)


def nncf_ir(step: NncfInt8, source: Path, folder: Path, photos: Photos) -> ArtifactInfo:
    """Quantise an ONNX file into an IR in `folder` (see `ir.save`). Raises as `nncf_onnx` does."""
    model = named(source)
    batches = _batches(step, model, photos)
    network = ir.read(source.read_bytes(), source.name)
    ignored = ir.names_of(network, model, _ignored(step, model))
    selection = selection_of(step.accuracy_control, photos, batches.size)
    result = quantized(step, network, ignored, batches, selection, lambda batch: batch)
    if ir.precision_of(result) != "int8":
        raise _nothing_left(step)
    _check_finite(result, next(iter(batches)))
    ir.save(result, folder)
    return ir.ir_info(folder)


def _to_unsigned(model: "onnx.ModelProto") -> None:
    """Store activations as uint8 where NNCF chose int8: the same 256 steps, with the zero point moved.
    onnxruntime's kernels for x86 are made for uint8 activations, and slow with int8 ones."""
    import numpy as np
    import onnx

    graph = model.graph
    stored = {weight.name: weight for weight in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        first = writers.get(node.input[0]) if node.op_type == "DequantizeLinear" else node
        zero = node.input[2] if first is not None and first.op_type == "QuantizeLinear" else None
        if zero is None or stored[zero].data_type != onnx.TensorProto.INT8:
            continue
        node.input[2] = f"{zero}_unsigned"
        if node.input[2] not in stored:
            raised = (onnx.numpy_helper.to_array(stored[zero]).astype(np.int16) + 128).astype(np.uint8)
            stored[node.input[2]] = onnx.numpy_helper.from_array(raised, node.input[2])
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(weight for name, weight in stored.items() if name in used)
    # The types noted for tensors between nodes would be wrong now.
    graph.ClearField("value_info")


def _ignored(step: NncfInt8, model: "onnx.ModelProto") -> "list[onnx.NodeProto]":
    names = set(matching(step.ignored_nodes, model, field="nncf_int8.ignored_nodes"))
    types = known_op_types(step.ignored_types, model, field="nncf_int8.ignored_types")
    return [node for node in model.graph.node if node.name in names or node.op_type in types]


def _batches(step: NncfInt8, model: "onnx.ModelProto", photos: Photos) -> PhotoBatches:
    images = calibration_of(photos, step.use)
    if step.images > len(images):
        raise WorkbenchError(
            f"nncf_int8.images: {step.images} photos asked for, data.calibration has {len(images)}",
            hint=f"lower `images` to {len(images)} or less, or add photos",
        )
    return PhotoBatches(images, step.images, batch_size(model))


def _check_finite(network: Any, batch: Any) -> None:
    import numpy as np
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    logits = openvino.Core().compile_model(network, "CPU", exact)([batch])[0]
    if not np.isfinite(logits).all():
        raise WorkbenchError(
            "nncf_int8: the result gives logits that are not finite (NaN or infinity)",
            hint="leave the nodes with the largest activations out: `ignored_nodes`, `ignored_types`",
        )


def _nothing_left(step: NncfInt8) -> WorkbenchError:
    if step.accuracy_control is not None:
        return WorkbenchError(
            "nncf_int8.accuracy_control: every layer went back to float: no INT8 network keeps this accuracy",
            hint="raise `max_drop`, or try other settings of `nncf_int8` first",
        )
    return WorkbenchError("nncf_int8: nothing is left to quantise", hint="ignore fewer nodes")
