"""INT8 quantisation with ranges from our own calibration, written as onnxruntime or as TensorRT wants it."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import prepare
from workbench.model.graph.onnx_file import load, opset_of
from workbench.model.graph.roles import WEIGHTED
from workbench.photos.dataset import Images
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


def static_int8(step: StaticInt8, source: Path, target: Path, images: Images) -> None:
    """Calibrate on `images` and quantise weights and activations.

    Raises WorkbenchError where there are too few photos, where a photo or an activation is not finite, where
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
        quantized = _quantizer(step, model, chosen, images, folder)
        if step.bias_correction:
            correct_biases(model, quantized(), images, step.calibration.images)
        if step.rest == "fp16":
            onnx.save(quantized(), folder / "placed.onnx")
            fp16(Fp16(use="fp16"), folder / "placed.onnx", target, images)
        else:
            onnx.save(quantized(), target)


def _quantizer(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str], images: Images, folder: Path
) -> "Callable[[], onnx.ModelProto]":
    """What quantises `model`, as it is by then, with ranges found on `images`."""
    where = place(model, chosen) if step.placement == "tensorrt" else None
    plan = dict.fromkeys(where.pairs, step.calibration) if where else calibration_plan(step, model, chosen)
    if not plan:
        raise WorkbenchError("static_int8: nothing is left to quantise", hint="exclude fewer nodes")
    ranges = find_ranges(model, plan, images, step.calibration.images, symmetric=step.symmetric_activations)
    if where:
        return partial(qdq.quantized, model, where, ranges, half=step.rest == "fp16")
    ort_quantizer.save_ranges(ranges, folder / ort_quantizer.RANGES)
    widened = mend_channels(model, set(chosen), ranges) if step.per_channel else {}
    return partial(ort_quantizer.quantized, step, model, folder, chosen, widened)


def _check_graph(step: StaticInt8, model: "onnx.ModelProto") -> None:
    """Refuse graphs that cannot be quantised as asked."""
    opset, plain = opset_of(model), "" if step.placement == "tensorrt" else ", or set `per_channel: false`"
    for asked, needed, what, instead in (
        (True, QDQ_OPSET, ": INT8", ""),
        (step.per_channel, PER_CHANNEL_QDQ_OPSET, ".per_channel: QDQ per channel", plain),
        (step.rest == "fp16", HALF_QDQ_OPSET, ".rest: INT8 beside FP16", ", or set `rest: fp32`"),
    ):
        if asked and opset < needed:
            raise WorkbenchError(
                f"static_int8{what} needs opset {needed} or later, the model has {opset}",
                hint=f"raise `export.opset` to {max(needed, PER_CHANNEL_QDQ_OPSET)} or more{instead}",
            )
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise WorkbenchError(
            "static_int8: the graph has no Conv, Gemm or MatMul: there is nothing to gain from INT8",
            hint="leave the step out",
        )
