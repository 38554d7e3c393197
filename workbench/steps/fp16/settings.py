"""The `fp16` step as a recipe states it."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict

from workbench.system.removed import Compatible

if TYPE_CHECKING:
    pass


class Fp16(Compatible):
    """Weights and arithmetic in FP16.

    Photos and logits stay FP32 (the graph gets a cast at each end): every backend gives and takes float32.
    exclude_op_types, exclude_nodes: what stays in FP32; names of nodes, or glob patterns.
    keep_sensitive: nodes that FP16 would harm stay in FP32 too: what they take, give or add up would be
    beyond 65504 (with a margin for photos not seen) or vanish, or their weights would. Found by running the
    FP32 network over photos of data.calibration, or a few of the validation photos where there are none.
    Without it, an activation that does not fit is an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    REMOVED: ClassVar = {"keep_io_types": (True,), "converter": ("auto", "onnxruntime")}

    use: Literal["fp16"]
    exclude_op_types: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    keep_sensitive: bool = True
