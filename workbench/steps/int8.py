"""INT8 quantisation by onnxruntime's quantiser, with ranges from our own calibration."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import WorkbenchError
from workbench.steps.calibration import Calibration, Range, find_ranges
from workbench.steps.nodes import known_op_types, matching

if TYPE_CHECKING:
    import onnx

    from workbench.dataset import Images

PER_CHANNEL_QDQ_OPSET = 13  # (De)QuantizeLinear has its `axis` since then


class DynamicInt8(BaseModel):
    """INT8 weights; activations are quantised at run time, every time.

    op_types: convolutions are left out by default, because ConvInteger is what makes dynamic INT8 slow.
    MatMul and Gemm go together: the quantiser turns every Gemm into a MatMul and an Add first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["dynamic_int8"]
    weight: Literal["qint8", "quint8"] = "qint8"
    per_channel: bool = False
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] = ("MatMul", "Gemm")


class StaticInt8(BaseModel):
    """INT8 weights and activations, with ranges calibrated on real photos.

    format: qdq marks the graph and leaves the choice of kernels to the runtime; qoperator writes
    onnxruntime's own operators, which are slow on x86 with int8 activations.
    activation: uint8 is quantised with a zero point of its own, which fits the outputs of ReLU and
    hard-swish; int8 symmetrically (zero point 0), the form that TensorRT and most ARM kernels take.
    exclude_nodes: names of nodes, or glob patterns, to leave in float; as they are called after
    onnxruntime's pre-processing, which keeps the exporter's names but fuses some nodes.
    exclude_op_types: likewise by type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["static_int8"]
    format: Literal["qdq", "qoperator"] = "qdq"
    activation: Literal["uint8", "int8"] = "uint8"
    weight: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    calibration: Calibration = Calibration()
    exclude_nodes: tuple[str, ...] = ()
    exclude_op_types: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _types_fit(self) -> "StaticInt8":
        if self.activation == "int8" and self.weight == "uint8":
            raise ValueError("activation int8 needs weight int8: onnxruntime has no other kernels for it")
        return self


def dynamic_int8(step: DynamicInt8, source: Path, target: Path) -> None:
    """Quantise the weights. Raises WorkbenchError where the graph has no node of `op_types`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    from workbench.onnx_info import load, precision_of

    supported = {*IntegerOpsRegistry, "Gemm"}
    if unknown := sorted(set(step.op_types) - supported):
        raise WorkbenchError(
            f"dynamic_int8.op_types: `{unknown[0]}` cannot be quantised dynamically",
            hint=f"onnxruntime quantises {', '.join(sorted(supported))}",
        )
    products = {"MatMul", "Gemm"}
    op_types = {*step.op_types, *(products if products & set(step.op_types) else ())}
    with TemporaryDirectory() as folder:
        prepared = _prepared(source, Path(folder))
        if not any(node.op_type in op_types for node in load(prepared).graph.node):
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


def static_int8(step: StaticInt8, source: Path, target: Path, images: "Images") -> None:
    """Calibrate on `images` and quantise weights and activations.

    Raises WorkbenchError where there are too few photos, where an exclusion fits nothing, where an
    activation is not finite, or where the opset lacks what the step asks for.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from workbench.onnx_info import load, opset_of

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    with TemporaryDirectory() as folder:
        prepared = _prepared(source, Path(folder))
        model = load(prepared)
        if step.per_channel and step.format == "qdq" and opset_of(model) < PER_CHANNEL_QDQ_OPSET:
            raise WorkbenchError(
                f"static_int8.per_channel: QDQ per channel needs opset {PER_CHANNEL_QDQ_OPSET}, "
                f"the model has {opset_of(model)}",
                hint="raise `export.opset`, or set `per_channel: false` or `format: qoperator`",
            )
        excluded = matching(step.exclude_nodes, model, field="static_int8.exclude_nodes")
        op_types = _op_types(step, model)
        tensors = activations(model, op_types, excluded)
        if not tensors:
            raise WorkbenchError("static_int8: nothing is left to quantise", hint="exclude fewer nodes")
        symmetric = step.activation == "int8"
        ranges = find_ranges(model, tensors, images, step.calibration, symmetric=symmetric)
        quantize_static(
            prepared,
            target,
            calibration_cache_path=_saved(ranges, Path(folder) / "ranges.json"),
            quant_format=QuantFormat.QDQ if step.format == "qdq" else QuantFormat.QOperator,
            op_types_to_quantize=op_types,
            nodes_to_exclude=excluded,
            per_channel=step.per_channel,
            activation_type=types[step.activation],
            weight_type=types[step.weight],
            extra_options={"ActivationSymmetric": symmetric},
        )


def activations(model: "onnx.ModelProto", op_types: Collection[str], excluded: Collection[str]) -> list[str]:
    """The float tensors that nodes to be quantised read or write, weights aside: what needs a range."""
    import onnx

    graph = model.graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    } - {weight.name for weight in graph.initializer}
    touched = {
        name: None  # a dict keeps the order of the graph
        for node in graph.node
        if node.op_type in op_types and node.name not in excluded
        for name in (*node.input, *node.output)
    }
    return [name for name in touched if name in floats]


def _op_types(step: StaticInt8, model: "onnx.ModelProto") -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    excluded = known_op_types(step.exclude_op_types, model, field="static_int8.exclude_op_types")
    return sorted({*QDQRegistry, *QLinearOpsRegistry} - excluded)


def _prepared(source: Path, folder: Path) -> Path:
    """onnxruntime's pre-processing: fold batch norms, fuse, infer shapes. Its quantiser expects the result.

    Symbolic shape inference is left out: it is for transformers with several free sizes, and ONNX's own
    finds every type in image classifiers with a free batch.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared


def _saved(ranges: Mapping[str, Range], path: Path) -> Path:
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
    return path
