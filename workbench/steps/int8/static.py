"""INT8 quantisation with ranges from our own calibration, written as onnxruntime or as TensorRT wants it."""

from collections.abc import Collection
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import prepare
from workbench.model.graph.onnx_file import load, opset_of
from workbench.model.graph.roles import WEIGHTED
from workbench.steps.fp16.convert import fp16
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8 import ort_quantizer, qdq
from workbench.steps.int8.bias import correct_biases
from workbench.steps.int8.calibration import find_ranges
from workbench.steps.int8.equalize import equalize, mend_channels
from workbench.steps.int8.node_selection import calibration_plan, chosen_nodes
from workbench.steps.int8.settings import HALF_QDQ_OPSET, PER_CHANNEL_QDQ_OPSET, QDQ_OPSET, StaticInt8
from workbench.steps.int8.tensorrt_placement import place

if TYPE_CHECKING:
    import onnx

    from workbench.photos.dataset import Images


def static_int8(step: StaticInt8, source: Path, target: Path, images: "Images") -> None:
    """Calibrate on `images` and quantise weights and activations.

    Raises WorkbenchError where a photo or an activation is not finite, where
    an exclusion fits nothing, where nothing is left, or where the opset lacks what the step asks for.
    """
    import onnx

    with TemporaryDirectory() as name:
        folder = Path(name)
        _check_graph(step, load(source))  # before it is prepared, which raises opset 9 silently
        model = prepare(source, folder / "prepared.onnx")
        chosen = chosen_nodes(step, model)
        if step.equalize:
            equalize(model)
        if step.placement == "tensorrt":
            placed = folder / "placed.onnx" if step.rest == "fp16" else target
            onnx.save(_for_tensorrt(step, model, chosen, images), placed)
            if step.rest == "fp16":
                fp16(Fp16(use="fp16"), placed, target, images)
        else:
            copyfile(_for_onnxruntime(step, model, chosen, images, folder), target)


def _for_onnxruntime(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str], images: "Images", folder: Path
) -> Path:
    import onnx

    plan = calibration_plan(step, model, chosen)
    if not plan:
        raise _nothing_left()
    ranges = find_ranges(model, plan, images, step.calibration.images, symmetric=step.symmetric_activations)
    ort_quantizer.save_ranges(ranges, folder / ort_quantizer.RANGES)
    widened = mend_channels(model, set(chosen), ranges) if step.per_channel else {}
    if step.bias_correction:
        shifted = onnx.load(ort_quantizer.quantized(step, model, folder, chosen, widened))
        correct_biases(model, shifted, images, step.calibration.images)
    return ort_quantizer.quantized(step, model, folder, chosen, widened)


def _for_tensorrt(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str], images: "Images"
) -> "onnx.ModelProto":
    where, half = place(model, chosen), step.rest == "fp16"
    if not where.weighted:
        raise _nothing_left()
    plan = dict.fromkeys(where.pairs, step.calibration)
    ranges = find_ranges(model, plan, images, step.calibration.images, symmetric=True)
    if step.bias_correction:
        shifted = qdq.quantized(model, where, ranges, half=half)
        correct_biases(model, shifted, images, step.calibration.images)
    return qdq.quantized(model, where, ranges, half=half)


def _nothing_left() -> WorkbenchError:
    return WorkbenchError("static_int8: nothing is left to quantise", hint="exclude fewer nodes")


def _check_graph(step: StaticInt8, model: "onnx.ModelProto") -> None:
    """Refuse graphs that cannot be quantised as asked."""
    opset = opset_of(model)
    if opset < QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8: INT8 needs opset {QDQ_OPSET} or later, the model has {opset}",
            hint=f"raise `export.opset` to {PER_CHANNEL_QDQ_OPSET} or more",
        )
    if step.per_channel and opset < PER_CHANNEL_QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8.per_channel: QDQ per channel needs opset {PER_CHANNEL_QDQ_OPSET}, "
            f"the model has {opset}",
            hint=f"raise `export.opset` to {PER_CHANNEL_QDQ_OPSET} or more"
            if step.placement == "tensorrt"
            else "raise `export.opset`, or set `per_channel: false`",
        )
    if step.rest == "fp16" and opset < HALF_QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8.rest: INT8 beside FP16 needs opset {HALF_QDQ_OPSET}, the model has {opset}",
            hint=f"raise `export.opset` to {HALF_QDQ_OPSET} or more, or set `rest: fp32`",
        )
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise WorkbenchError(
            "static_int8: the graph has no Conv, Gemm or MatMul: there is nothing to gain from INT8",
            hint="leave the step out",
        )
