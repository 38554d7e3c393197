"""Calls of onnxruntime's quantisers: the static one with ranges found before, and the dynamic one."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import prepare
from workbench.model.graph.onnx_file import load, precision_of
from workbench.model.graph.roles import wiring_of
from workbench.steps.int8.equalize import Overrides
from workbench.steps.int8.range_search import Range
from workbench.steps.int8.settings import DynamicInt8, StaticInt8

if TYPE_CHECKING:
    import onnx


RANGES = "ranges.json"


def quantized(
    step: StaticInt8, model: "onnx.ModelProto", folder: Path, chosen: Collection[str], widened: Overrides
) -> "onnx.ModelProto":
    """What onnxruntime's quantiser makes, in `folder`, with the ranges of the file `RANGES` there."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    mended, quantized = folder / "mended.onnx", folder / "quantized.onnx"
    onnx.save(model, mended)
    quantize_static(
        mended,
        quantized,
        calibration_cache_path=folder / RANGES,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in chosen}),
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in chosen],
        per_channel=step.per_channel,
        reduce_range=step.reduce_range,
        activation_type=types[step.activation],
        weight_type=types[step.weight],
        extra_options={"ActivationSymmetric": step.symmetric_activations, "TensorQuantOverrides": widened},
    )
    return _with_float_logits(onnx.load(quantized))


def _with_float_logits(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Leave out the pair behind the last product: 256 levels make ties of logits that are not equal.
    Its INT8 kernel writes floats as fast; other operators would lose theirs, and are left as they are."""
    wiring, graph = wiring_of(model), model.graph
    for output in graph.output:
        pair = wiring.maker.get(output.name)
        marked = wiring.maker.get(pair.input[0]) if pair and pair.op_type == "DequantizeLinear" else None
        product = wiring.maker.get(marked.input[0]) if marked else None
        if pair is None or marked is None or product is None or product.op_type not in ("Gemm", "MatMul"):
            continue
        if len(wiring.readers[product.output[0]]) == len(wiring.readers[marked.output[0]]) == 1:
            product.output[0] = output.name
            graph.node.remove(pair)
            graph.node.remove(marked)
            unread = {*pair.input[1:], *marked.input[1:]}.difference(*(node.input for node in graph.node))
            for weight in [weight for weight in graph.initializer if weight.name in unread]:
                graph.initializer.remove(weight)
    return model


def save_ranges(ranges: Mapping[str, Range], path: Path) -> None:
    """Ranges in the file that `quantize_static` takes instead of calibrating."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, save_tensors_data
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    # To the quantiser a range is a range: MinMax is what it expects by default.
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), path)


def dynamic_int8(step: DynamicInt8, source: Path, target: Path) -> None:
    """Quantise the weights. Raises WorkbenchError where the graph has no node of `op_types`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

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


def _nothing_to_do(step: DynamicInt8) -> WorkbenchError:
    return WorkbenchError(
        f"dynamic_int8.op_types: the graph has no {' or '.join(step.op_types)} with constant weights: "
        "nothing to quantise",
        hint="convolutional networks gain from `static_int8` instead; `op_types: [Conv]` works, and is slow",
    )
