"""The `nncf_int8` step as a recipe states it."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from workbench.backends.base import Operators
from workbench.steps.base import BaseStep
from workbench.system.records import Record

Count = Annotated[int, Field(gt=0, strict=True)]


class AccuracyControl(Record):
    """Return layers to float, those that distort the logits most first, until the accuracy drop is small.

    Every layer costs one pass over the photos for selection. The accuracy that counts is measured afterwards.
    """

    max_drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.01,
        description="Largest drop of top-1 against the float network, as a fraction of 1, on the photos for "
        "selection.",
    )
    images: Count | None = Field(
        None, description="How many of the photos for selection are used; all by default."
    )
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Time limit in minutes, after which the last network tried is taken; none by default.",
    )


class NncfInt8(BaseStep):
    """INT8 weights and activations by NNCF's post-training quantisation, with the biases corrected.

    On `backend: openvino` it quantises the IR, elsewhere the ONNX file, which needs opset 13. It is made for
    openvino: NNCF leaves the output of a convolution in float up to its activation function, and onnxruntime
    computes such a convolution in float unless that function is a ReLU.
    """

    PACKAGES: ClassVar = ("onnx", "nncf", "openvino", "numpy")
    FAMILY: ClassVar = "int8"
    READS: ClassVar = frozenset({"calibration", "validation"})
    TAKES_PIXELS: ClassVar = True
    NATIVE: ClassVar = frozenset({"openvino"})

    use: Literal["nncf_int8"]
    preset: Literal["mixed", "performance"] = Field(
        "mixed",
        description="`mixed`: activations with a zero point of their own, which fits hard-swish and swish; "
        "`performance`: symmetric ones, which suit networks of ReLU.",
    )
    images: Count = Field(300, description="Calibration photos used, taken evenly from the classes.")
    fast_bias_correction: bool = Field(
        True,
        description="Correct all biases in one pass; `false` corrects each on the network quantised so far, "
        "which is more exact and takes many times longer.",
    )
    channel_alignment: bool = Field(
        False, description="Even out the channels of neighbouring convolutions first, for depthwise networks."
    )
    overflow_fix: Literal["enable", "disable", "first_layer"] = Field(
        "first_layer",
        description="Half the weight range, for processors without VNNI, whose 16-bit sums saturate: "
        "`enable` in all layers, `first_layer` in the first one, `disable` in none.",
    )
    range_estimator: (
        Literal["minmax", "mean_minmax", "median_minmax", "mean_quantile", "histogram"] | None
    ) = Field(
        None,
        description="How the ranges of single photos become one: `minmax`, `mean_minmax`, `median_minmax`, "
        "`mean_quantile` or `histogram`; by default NNCF's own choice.",
    )
    ignored_types: tuple[str, ...] = Field((), description="ONNX operators that stay in float.")
    ignored_nodes: tuple[str, ...] = Field(
        (), description="ONNX nodes that stay in float, by name or pattern."
    )
    model_type: Literal["transformer"] | None = Field(
        None, description="`transformer` keeps the sensitive parts of attention in float."
    )
    accuracy_control: AccuracyControl | None = Field(
        None,
        description="Return layers to float until the drop is small enough; a section of its own, none by "
        "default.",
    )

    def operators(self) -> Operators:
        return "unsigned"

    def capped(self, photos: int) -> Self:
        return self.model_copy(update={"images": photos}) if self.images > photos else self
