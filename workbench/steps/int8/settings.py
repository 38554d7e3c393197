"""The INT8 steps of onnxruntime as a recipe states them."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from workbench.backends.base import Operators
from workbench.model.graph.roles import Role
from workbench.steps.base import BaseStep, OpsetNeed
from workbench.steps.int8.calibration import Calibration, CalibrationOverride

QDQ_OPSET = 10  # the first with QuantizeLinear
PER_CHANNEL_QDQ_OPSET = 13  # (De)QuantizeLinear has its `axis` since then
HALF_QDQ_OPSET = 19  # they take FP16 since then


class DynamicInt8(BaseStep):
    """INT8 weights; activations are quantised at run time, every time.

    op_types: convolutions are left out by default, because ConvInteger is what makes dynamic INT8 slow.
    MatMul and Gemm go together: the quantiser turns every Gemm into a MatMul and an Add first.
    """

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")
    FAMILY: ClassVar = "int8"

    use: Literal["dynamic_int8"]
    weight: Literal["qint8", "quint8"] = "qint8"
    per_channel: bool = False
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] = ("MatMul", "Gemm")

    def operators(self) -> Operators:
        return "integer"


class StaticInt8(BaseStep):
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

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
    FAMILY: ClassVar = "int8"
    READS: ClassVar = frozenset({"calibration"})
    HALVES: ClassVar = True
    TAKES_PIXELS: ClassVar = True
    PORTABLE: ClassVar = "placement: tensorrt"

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

    def operators(self) -> Operators:
        if self.format == "qoperator":
            return "onnxruntime"
        return "unsigned" if self.activation == "uint8" else "onnx"

    def opset_need(self) -> OpsetNeed | None:
        if self.rest == "fp32":
            return None
        return OpsetNeed(HALF_QDQ_OPSET, "`rest: fp16`", "the first whose pairs take FP16")

    def note_of(self, result: Path) -> str | None:
        from workbench.steps.fp16.notes import notes_of

        notes = notes_of(result)
        return notes.text() if notes else None

    def capped(self, photos: int) -> Self:
        if self.calibration.images <= photos:
            return self
        fewer = self.calibration.model_copy(update={"images": photos})
        return self.model_copy(update={"calibration": fewer})
