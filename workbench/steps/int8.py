"""INT8 quantisation with ranges from our own calibration, written as onnxruntime or as TensorRT wants it."""

from collections.abc import Collection
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import WorkbenchError
from workbench.onnx_info import load, opset_of
from workbench.steps import qdq, quantizer
from workbench.steps.bias import correct_biases
from workbench.steps.calibration import Calibration, CalibrationOverride, find_ranges
from workbench.steps.equalize import equalize, mend_channels
from workbench.steps.fp16 import Fp16, fp16
from workbench.steps.nodes import prepare
from workbench.steps.placement import place
from workbench.steps.roles import WEIGHTED, Role
from workbench.steps.selection import calibration_plan, chosen_nodes, overridden

if TYPE_CHECKING:
    import onnx

    from workbench.dataset import Images

QDQ_OPSET = 10  # the first with QuantizeLinear
PER_CHANNEL_QDQ_OPSET = 13  # (De)QuantizeLinear has its `axis` since then
HALF_QDQ_OPSET = 19  # they take FP16 since then


class DynamicInt8(BaseModel):
    """INT8 weights; activations are quantised at run time, every time.

    op_types: convolutions are left out by default, because ConvInteger is what makes dynamic INT8 slow.
    MatMul and Gemm go together: the quantiser turns every Gemm into a MatMul and an Add first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["dynamic_int8"]
    weight: Literal["qint8", "quint8"] = "qint8"
    per_channel: bool = False
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] = ("MatMul", "Gemm")


class StaticInt8(BaseModel):
    """INT8 weights and activations, with ranges calibrated on real photos.

    format: qdq marks the graph and leaves the choice of kernels to the runtime, and the logits in float;
    qoperator writes onnxruntime's own operators, which are slow on x86 with int8 activations.
    placement: which tensors are quantised. onnxruntime: what its quantiser chooses, for CPUs. tensorrt: the
    inputs of convolutions and products and the skips of residual additions alone, symmetric int8, weights per
    channel, biases in float (see `placement`): what TensorRT fuses. On a CPU it is no faster than float.
    rest: with placement tensorrt, the type of what is not quantised, which TensorRT computes as it is;
    nodes that fp16 would harm stay in fp32 (see `Fp16`).
    symmetric: activations have their zero in the middle of the levels. By default int8 ones have, the form
    that TensorRT and most ARM kernels take, and uint8 ones have a zero point of their own, which fits the
    outputs of ReLU and hard-swish.
    reduce_range: 7-bit weights, for x86 CPUs without VNNI, where pairs of 8-bit products overflow 16 bits.
    overrides: other calibration methods for what some nodes put out.
    op_types: the types of node to quantise, with the ReLU or Clip that follows; by default all that
    onnxruntime can.
    only_nodes: names of nodes, or glob patterns: these alone are quantised, with the ReLU or Clip that
    follows; all by default. exclude_nodes: these are left in float. Both as they are called after
    onnxruntime's pre-processing, which keeps the exporter's names but fuses some nodes.
    exclude_op_types, exclude_roles: likewise by type, and by the part a node plays; one that the network
    does not have is fine, so that a recipe fits many.
    equalize: rescale weights across layers first, where a ReLU or nothing is between them.
    bias_correction: take back by the biases what quantising shifts on average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["static_int8"]
    format: Literal["qdq", "qoperator"] = "qdq"
    placement: Literal["onnxruntime", "tensorrt"] = "onnxruntime"
    rest: Literal["fp32", "fp16"] = "fp32"
    activation: Literal["uint8", "int8"] = "uint8"
    weight: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    symmetric: bool | None = None
    reduce_range: bool = False
    calibration: Calibration = Calibration()
    overrides: tuple[CalibrationOverride, ...] = ()
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    only_nodes: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    exclude_op_types: tuple[str, ...] = ()
    exclude_roles: tuple[Role, ...] = ()
    equalize: bool = False
    bias_correction: bool = False

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("placement") == "tensorrt":
            return {"activation": "int8", **given}
        return given

    @model_validator(mode="after")
    def _placement_fits(self) -> "StaticInt8":
        if self.placement == "onnxruntime":
            if self.rest == "fp16":
                raise ValueError(
                    "rest fp16 needs placement tensorrt: CPUs compute the rest in float32 anyway"
                )
            return self
        for field, fits, why in (
            ("format", self.format == "qdq", "it does not know onnxruntime's own operators"),
            ("activation", self.activation == "int8", "its INT8 has a sign"),
            ("weight", self.weight == "int8", "its INT8 has a sign"),
            ("per_channel", self.per_channel, "its kernels take a scale per channel at no cost"),
            ("symmetric", self.symmetric is not False, "it has no zero points"),
            ("reduce_range", not self.reduce_range, "its sums have 32 bits and do not overflow"),
        ):
            if not fits:
                given = str(getattr(self, field)).lower()
                raise ValueError(f"{field} {given} is nothing for TensorRT: {why}; leave `{field}` out")
        return self

    @model_validator(mode="after")
    def _types_fit(self) -> "StaticInt8":
        if self.activation == "int8" and self.weight == "uint8":
            raise ValueError("activation int8 needs weight int8: onnxruntime has no other kernels for it")
        return self

    @property
    def symmetric_activations(self) -> bool:
        """`symmetric`, or what goes with the type."""
        return self.activation == "int8" if self.symmetric is None else self.symmetric


def static_int8(step: StaticInt8, source: Path, target: Path, images: "Images") -> None:
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
        if step.placement == "tensorrt":
            placed = folder / "placed.onnx" if step.rest == "fp16" else target
            onnx.save(_for_tensorrt(step, model, chosen, images), placed)
            if step.rest == "fp16":
                fp16(Fp16(use="fp16", converter="onnxruntime"), placed, target, images)
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
    quantizer.save_ranges(ranges, folder / quantizer.RANGES)
    widened = mend_channels(model, set(chosen), ranges) if step.per_channel else {}
    if step.bias_correction:
        shifted = onnx.load(quantizer.quantized(step, model, folder, chosen, widened, "qdq"))
        correct_biases(model, shifted, images, step.calibration.images)
    return quantizer.quantized(step, model, folder, chosen, widened, step.format)


def _for_tensorrt(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str], images: "Images"
) -> "onnx.ModelProto":
    where, half = place(model, chosen), step.rest == "fp16"
    if not where.weighted:
        raise _nothing_left()
    plan = overridden(step, model, where.pairs)
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
    if step.per_channel and step.format == "qdq" and opset < PER_CHANNEL_QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8.per_channel: QDQ per channel needs opset {PER_CHANNEL_QDQ_OPSET}, "
            f"the model has {opset}",
            hint=f"raise `export.opset` to {PER_CHANNEL_QDQ_OPSET} or more"
            if step.placement == "tensorrt"
            else "raise `export.opset`, or set `per_channel: false` or `format: qoperator`",
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
