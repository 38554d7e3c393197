"""FP16 graphs."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench.errors import WorkbenchError
from workbench.steps.nodes import known_op_types, matching


class Fp16(BaseModel):
    """Weights and arithmetic in FP16.

    keep_io_types: photos and logits stay FP32 (the graph gets a cast at each end); every backend gives and
    takes float32, so there is no other choice.
    exclude_op_types, exclude_nodes: what stays in FP32; names of nodes, or glob patterns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["fp16"]
    keep_io_types: Literal[True] = True
    exclude_op_types: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()


def fp16(step: Fp16, source: Path, target: Path) -> None:
    """Convert with onnxruntime's converter, which leaves some operators in FP32 of itself.

    Raises WorkbenchError where an exclusion fits nothing, or where nothing was left to convert.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    from workbench.onnx_info import load, weights

    model = load(source)
    op_types = known_op_types(step.exclude_op_types, model, field="fp16.exclude_op_types")
    nodes = matching(step.exclude_nodes, model, field="fp16.exclude_nodes")
    converted = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *op_types], node_block_list=nodes
    )
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights(converted)):
        raise WorkbenchError(
            "fp16: no weight was converted", hint="exclude fewer nodes, or leave the step out"
        )
    ordered = OnnxModel(converted)
    ordered.topological_sort(is_deterministic=True)  # the converter puts its casts last
    onnx.save(ordered.model, target)
