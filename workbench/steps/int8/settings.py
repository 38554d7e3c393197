"""The INT8 steps of onnxruntime as a recipe states them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from workbench.backends.base import Operators
from workbench.model.graph.roles import Role
from workbench.steps.base import BaseStep, OpsetNeed
from workbench.system.records import Record

QDQ_OPSET = 10  # the first with QuantizeLinear
PER_CHANNEL_QDQ_OPSET = 13  # (De)QuantizeLinear has its `axis` since then
HALF_QDQ_OPSET = 19  # they take FP16 since then

Method = Literal["minmax", "entropy", "percentile"]
Percentile = Annotated[float, Field(gt=50, le=100)]

# Of a histogram. With onnxruntime's default of 128, `entropy` equals `minmax`.
BINS = 2048


class Calibration(Record):
    """How the ranges of activations are found: two passes over the photos, in bounded memory.

    onnxruntime's default of 128 bins makes its `entropy` equal to `minmax`, hence our own.
    """

    REMOVED: ClassVar = {"deviations": None, "bins": (BINS,)}
    REMOVED_VALUES: ClassVar = {"method": ("distribution",)}

    method: Method = Field(
        "minmax",
        description="The range of a tensor: `minmax`, all values that occurred; `entropy`, the part that "
        "keeps most of the distribution (KL divergence over histograms of 2048 bins, Migacz 2017); "
        "`percentile`, all but the outermost values.",
    )
    images: Annotated[int, Field(gt=0, strict=True)] = Field(
        200,
        description="Calibration photos used at most, taken evenly from the classes.",
    )
    percentile: Percentile = Field(
        99.99,
        description="Share of the values that is kept, in percent; for method `percentile`. With `uint8` "
        "activations the rest is cut half at each end, with symmetric ones by magnitude.",
    )


class DynamicInt8(BaseStep):
    """INT8 weights; activations are quantised at run time, at every call, so no photos are needed.

    The quantiser is onnxruntime's `quantize_dynamic`.
    """

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")
    FAMILY: ClassVar = "int8"

    use: Literal["dynamic_int8"]
    weight: Literal["qint8", "quint8"] = Field(
        "qint8", description="Type of the weights: `qint8`, symmetric around zero, or `quint8`."
    )
    per_channel: bool = Field(
        False, description="A weight scale for every output channel; by default one for each layer."
    )
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("MatMul", "Gemm"),
        description="Types of the nodes to quantise. MatMul and Gemm go together: the quantiser turns every "
        "Gemm into a MatMul and an Add first. Conv becomes ConvInteger, which is slow.",
    )

    def operators(self) -> Operators:
        return "integer"


class StaticInt8(BaseStep):
    """INT8 weights and activations, with the ranges of the activations calibrated on photos beforehand.

    The graph is marked (QDQ), which leaves the choice of kernels to the runtime, and the logits in float. The
    ranges come from our own calibration; the quantiser is onnxruntime's `quantize_static`.
    """

    REMOVED: ClassVar = {
        "format": ("qdq",),
        "symmetric": (None,),
        "overrides": ([], ()),
        "only_nodes": ([], ()),
    }
    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
    FAMILY: ClassVar = "int8"
    READS: ClassVar = frozenset({"calibration"})
    HALVES: ClassVar = True
    TAKES_PIXELS: ClassVar = True
    PORTABLE: ClassVar = "placement: tensorrt"

    use: Literal["static_int8"]
    placement: Literal["onnxruntime", "tensorrt"] = Field(
        "onnxruntime",
        description="Which tensors are quantised. `onnxruntime`: those that its quantiser chooses, for CPUs. "
        "`tensorrt`: those that TensorRT fuses, which are the inputs of convolutions and products and the "
        "skips of residual additions; symmetric int8, weights per channel, biases in float. Such a file is "
        "several times slower than float on a CPU.",
    )
    rest: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="Type of the nodes that are not quantised. `fp16` needs `placement: tensorrt` and opset "
        "19; nodes that FP16 would harm stay in `fp32`, as in step `fp16`.",
    )
    activation: Literal["uint8", "int8"] = Field(
        "uint8",
        description="Type of the activations. `uint8` has a zero point of its own, which fits the outputs of "
        "ReLU and hard-swish; `int8` has its zero in the middle of the levels, the form that TensorRT and "
        "most ARM kernels take. `int8` needs `weight: int8`; `placement: tensorrt` implies it.",
    )
    weight: Literal["int8", "uint8"] = Field("int8", description="Type of the weights: `int8` or `uint8`.")
    per_channel: bool = Field(
        True,
        description="A weight scale for every output channel, with the scales of dead channels repaired; "
        "`false`: one for each layer.",
    )
    reduce_range: bool = Field(
        False,
        description="7-bit weights, for x86 processors without VNNI: they sum pairs of 8-bit products in 16 "
        "bits, which overflow.",
    )
    calibration: Calibration = Field(
        Calibration(), description="How the ranges of the activations are found; a section of its own."
    )
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description="Types of the nodes to quantise, with the ReLU or Clip that follows; by default all that "
        "onnxruntime can.",
    )
    exclude_nodes: tuple[str, ...] = Field(
        (),
        description="Names of nodes, or patterns (`/features/*`), that stay in float, as they are called "
        "after onnxruntime's pre-processing: it keeps the exporter's names but fuses some nodes. A pattern "
        "that fits no node is an error.",
    )
    exclude_op_types: tuple[str, ...] = Field(
        (), description="Types of nodes that stay in float. A type that the network does not have is fine."
    )
    exclude_roles: tuple[Role, ...] = Field(
        (),
        description="Layers that stay in float by their part in the network: `first`, `last`, `depthwise`, "
        "`squeeze_excite`, `hardswish` (swish too). A part that the network does not have is fine.",
    )
    equalize: bool = Field(
        False,
        description="Even out the weight ranges of neighbouring layers first, where a ReLU or nothing is "
        "between them; the float network computes the same (Nagel et al. 2019).",
    )
    bias_correction: bool = Field(
        False,
        description="Subtract from the biases the mean shift that quantising causes, measured on the "
        "calibration photos (Nagel et al. 2019).",
    )

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("placement") == "tensorrt":
            return {"activation": "int8", **given}
        return given

    @model_validator(mode="after")
    def _placement_fits(self) -> "StaticInt8":
        if self.activation == "int8" and self.weight == "uint8" and self.placement == "onnxruntime":
            raise ValueError("activation int8 needs weight int8: onnxruntime has no other kernels for it")
        if self.rest == "fp16" and self.placement == "onnxruntime":
            raise ValueError("rest fp16 needs placement tensorrt: CPUs compute the rest in float32 anyway")
        if self.placement == "onnxruntime":
            return self
        for field, fits, why in (
            ("activation", self.activation == "int8", "its INT8 has a sign"),
            ("weight", self.weight == "int8", "its INT8 has a sign"),
            ("per_channel", self.per_channel, "its kernels take a scale per channel at no cost"),
            ("reduce_range", not self.reduce_range, "its sums have 32 bits and do not overflow"),
        ):
            if not fits:
                given = str(getattr(self, field)).lower()
                raise ValueError(f"{field} {given} is nothing for TensorRT: {why}; leave `{field}` out")
        return self

    @property
    def symmetric_activations(self) -> bool:
        """Whether activations have their zero in the middle of the levels."""
        return self.activation == "int8"

    def operators(self) -> Operators:
        return "unsigned" if self.activation == "uint8" else "onnx"

    def opset_need(self) -> OpsetNeed | None:
        need = OpsetNeed(HALF_QDQ_OPSET, "`rest: fp16`", "the first whose pairs take FP16")
        return need if self.rest == "fp16" else None

    def calibration_photos(self) -> int:
        return self.calibration.images
