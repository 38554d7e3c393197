"""The `fp16` step as a recipe states it."""

from pathlib import Path
from typing import ClassVar, Literal

from workbench.steps.base import BaseStep


class Fp16(BaseStep):
    """Weights and arithmetic in FP16.

    keep_io_types: photos and logits stay FP32 (the graph gets a cast at each end); every backend gives and
    takes float32, so there is no other choice.
    exclude_op_types, exclude_nodes: what stays in FP32; names of nodes, or glob patterns.
    keep_sensitive: nodes that FP16 would harm stay in FP32 too: what they take, give or add up would be
    beyond 65504 (with a margin for photos not seen) or vanish, or their weights would. Found by running the
    FP32 network over photos of data.calibration, or a few of the validation photos where there are none.
    Without it, an activation that does not fit is an error.
    converter: `modelopt` is AutoCast of NVIDIA ModelOpt; `auto` takes it where it is installed and does the
    network, and onnxruntime's converter elsewhere.
    """

    PACKAGES: ClassVar = (
        *("onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "nvidia-modelopt", "onnx-graphsurgeon"),
    )
    FAMILY: ClassVar = "fp16"
    READS: ClassVar = frozenset({"calibration"})
    HALVES: ClassVar = True

    use: Literal["fp16"]
    keep_io_types: Literal[True] = True
    exclude_op_types: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    keep_sensitive: bool = True
    converter: Literal["auto", "onnxruntime", "modelopt"] = "auto"

    def note_of(self, result: Path) -> str | None:
        from workbench.steps.fp16.notes import notes_of

        notes = notes_of(result)
        return notes.text() if notes else None
