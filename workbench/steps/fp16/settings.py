"""The `fp16` step as a recipe states it."""

from typing import ClassVar, Literal

from pydantic import Field

from workbench.steps.base import BaseStep


class Fp16(BaseStep):
    """Weights and arithmetic in FP16; photos and logits stay FP32, with a cast at each end of the graph."""

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
    FAMILY: ClassVar = "fp16"
    READS: ClassVar = frozenset({"calibration"})
    HALVES: ClassVar = True
    REMOVED: ClassVar = {"keep_io_types": (True,), "converter": ("auto", "onnxruntime")}

    use: Literal["fp16"]
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
