"""What an FP16 file must pass: activations fit, and most multiplications are in FP16."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.onnx_file import load
from workbench.steps.fp16.casts import FLOAT16, casts_to, half_share, types_of
from workbench.steps.fp16.ranges import measured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LARGEST_FP16 = 65504.0
LEAST_HALF = 0.5  # of the MACs of an fp16 file


def fits_fp16(source: Path, result: Path, batch: "NDArray[np.float32]") -> None:
    """Compare the FP32 activations with what FP16 holds.

    The result cannot tell: on the CPU, onnxruntime runs it in FP32 between casts, and nothing overflows
    until the file meets a GPU.
    """
    import onnx

    model = load(source)
    converted = load(result)
    types = types_of(converted)
    cast = {node.input[0] for node in converted.graph.node if FLOAT16 in casts_to(node)}
    half = cast | {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16}
    if not half:
        return
    for name, peak in measured(model, [batch]).tensors.items():
        if name in half and LARGEST_FP16 < peak < float("inf"):
            raise WorkbenchError(
                f"the activation `{name}` reaches {peak:.3g}; fp16 ends at {LARGEST_FP16:g}",
                hint="leave the node that computes it in fp32, with `exclude_nodes` or `exclude_op_types`; "
                "`keep_sensitive: true` of `fp16` finds such nodes",
            )


def mostly_half(result: Path) -> None:
    """A file that would be computed in FP32 between casts is not what was asked for."""
    from workbench.steps.fp16.notes import notes_of

    share = half_share(load(result))
    if share is None or share >= LEAST_HALF:
        return
    notes = notes_of(result)
    kept = list(notes.kept.items()) if notes else []
    because = f" (FP16 would harm {len(kept)} nodes: `{kept[0][0]}`, as {kept[0][1]})" if kept else ""
    raise WorkbenchError(
        f"{share:.0%} of the multiplications are in fp16, the others were left in fp32{because}",
        hint="leave the step out, or use bf16, which has the range of fp32"
        if kept
        else "exclude fewer nodes, or leave the step out",
    )
