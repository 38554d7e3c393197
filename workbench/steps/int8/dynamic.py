"""Dynamic INT8: weights quantised ahead, activations while running."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import prepare
from workbench.model.graph.onnx_file import load

if TYPE_CHECKING:
    from workbench.steps.int8.settings import DynamicInt8


def dynamic_int8(step: "DynamicInt8", source: Path, target: Path) -> None:
    """Quantise the weights. Raises WorkbenchError where the graph has no node of `op_types`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    from workbench.model.graph.onnx_file import precision_of

    supported = {*IntegerOpsRegistry, "Gemm"}
    if unknown := sorted(set(step.op_types) - supported):
        raise WorkbenchError(
            f"dynamic_int8.op_types: `{unknown[0]}` cannot be quantised dynamically",
            hint=f"onnxruntime quantises {', '.join(sorted(supported))}",
        )
    products = {"MatMul", "Gemm"}
    op_types = {*step.op_types, *(products if products & set(step.op_types) else ())}
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        if not any(node.op_type in op_types for node in prepare(source, prepared).graph.node):
            raise _nothing_to_do(step)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=sorted(op_types),
            per_channel=step.per_channel,
            weight_type=QuantType.QInt8 if step.weight == "qint8" else QuantType.QUInt8,
        )
    if precision_of(load(target)) != "int8":
        target.unlink()
        raise _nothing_to_do(step)


def _nothing_to_do(step: "DynamicInt8") -> WorkbenchError:
    return WorkbenchError(
        f"dynamic_int8.op_types: the graph has no {' or '.join(step.op_types)} with constant weights: "
        "nothing to quantise",
        hint="convolutional networks gain from `static_int8` instead; `op_types: [Conv]` works, and is slow",
    )
