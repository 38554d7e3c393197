"""The `fp16` step as a recipe states it."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    pass


Converter = Literal["onnxruntime", "modelopt"]


class Fp16(BaseModel):
    """Weights and arithmetic in FP16; photos and logits stay FP32, with a cast at each end of the graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["fp16"]
    keep_io_types: Literal[True] = Field(
        True, description="Photos and logits stay FP32, which every backend gives and takes."
    )
    exclude_op_types: tuple[str, ...] = Field((), description="Types of nodes that stay in FP32.")
    exclude_nodes: tuple[str, ...] = Field(
        (), description="Names of nodes, or patterns (`/features/*`), that stay in FP32."
    )
    keep_sensitive: bool = Field(
        True,
        description="Nodes that FP16 would harm stay in FP32: those that take, give or add up values near "
        "65504 and beyond, and those whose values or weights would vanish. They are found by running the "
        "FP32 network over up to 64 photos of `data.calibration`, or a few validation photos where there are "
        "none. `false` converts all nodes, and an activation that does not fit is an error.",
    )
    converter: Literal["auto", "onnxruntime", "modelopt"] = Field(
        "auto",
        description="Which library writes the casts: `onnxruntime`, or `modelopt` (AutoCast of NVIDIA's "
        "ModelOpt); `auto` takes ModelOpt where it is installed and takes the network.",
    )
