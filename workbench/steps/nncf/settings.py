"""The `nncf_int8` step as a recipe states it."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from workbench.backends.base import Operators
from workbench.steps.base import BaseStep

Count = Annotated[int, Field(gt=0, strict=True)]


class AccuracyControl(BaseModel):
    """Layers go back to float, those that distort the logits most first, until the accuracy is good enough.

    max_drop: of top-1, as a fraction of 1, against the float network, on the photos that choose.
    images: of those photos; all by default. minutes: after them the last network tried is taken as it is.
    Every layer costs one pass over the photos. The accuracy that counts is measured afterwards all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    images: Count | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None


class NncfInt8(BaseStep):
    """INT8 weights and activations; the errors of rounding are corrected in the biases.

    For openvino above all: NNCF leaves the outputs of convolutions in float up to their activation function,
    and onnxruntime computes such convolutions in float unless that function is a ReLU.

    preset: mixed quantises activations with a zero point of their own, which fits hard-swish and the like;
    performance symmetrically, which suits networks of ReLU.
    images: photos used for calibration, taken evenly from the classes.
    fast_bias_correction: False corrects each bias on the network quantised so far: better, and much slower.
    channel_alignment: evens out the channels of neighbouring convolutions first, for depthwise networks.
    overflow_fix: half the weight range, for processors without VNNI, whose 16-bit sums saturate: in all
    layers, in the first one, or nowhere.
    range_estimator: how the ranges of single photos become one; NNCF's own choice by default.
    ignored_types, ignored_nodes: ONNX operators, and names or glob patterns of ONNX nodes, left in float.
    model_type: transformer keeps the sensitive parts of attention in float.
    """

    PACKAGES: ClassVar = ("onnx", "nncf", "openvino", "numpy")
    FAMILY: ClassVar = "int8"
    READS: ClassVar = frozenset({"calibration", "validation"})
    TAKES_PIXELS: ClassVar = True
    NATIVE: ClassVar = frozenset({"openvino"})

    use: Literal["nncf_int8"]
    preset: Literal["mixed", "performance"] = "mixed"
    images: Count = 300
    fast_bias_correction: bool = True
    channel_alignment: bool = False
    overflow_fix: Literal["enable", "disable", "first_layer"] = "first_layer"
    range_estimator: (
        Literal["minmax", "mean_minmax", "median_minmax", "mean_quantile", "histogram"] | None
    ) = None
    ignored_types: tuple[str, ...] = ()
    ignored_nodes: tuple[str, ...] = ()
    model_type: Literal["transformer"] | None = None
    accuracy_control: AccuracyControl | None = None

    def operators(self) -> Operators:
        return "unsigned"

    def capped(self, photos: int) -> Self:
        return self.model_copy(update={"images": photos}) if self.images > photos else self
