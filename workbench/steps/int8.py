"""INT8 quantisation by onnxruntime's quantiser, with ranges from our own calibration."""

from collections.abc import Collection, Mapping
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import WorkbenchError
from workbench.onnx_info import load, opset_of
from workbench.steps.bias import correct_biases
from workbench.steps.calibration import Calibration, CalibrationOverride, find_ranges
from workbench.steps.equalize import equalize, mend_channels
from workbench.steps.nodes import known_op_types, matching, prepare
from workbench.steps.roles import WEIGHTED, Role, roles_of, wiring_of
from workbench.steps.thresholds import Range

if TYPE_CHECKING:
    import onnx

    from workbench.dataset import Images
    from workbench.steps.equalize import Overrides

QDQ_OPSET = 10  # the first with QuantizeLinear
PER_CHANNEL_QDQ_OPSET = 13  # (De)QuantizeLinear has its `axis` since then
ACTIVATIONS = frozenset({"Relu", "Clip"})  # that the quantiser merges into the range


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

    format: qdq marks the graph and leaves the choice of kernels to the runtime, and the logits in float;
    qoperator writes onnxruntime's own operators, which are slow on x86 with int8 activations.
    symmetric: activations have their zero in the middle of the levels. By default int8 ones have, the form
    that TensorRT and most ARM kernels take, and uint8 ones have a zero point of their own, which fits the
    outputs of ReLU and hard-swish.
    reduce_range: 7-bit weights, for x86 CPUs without VNNI, where pairs of 8-bit products overflow 16 bits.
    overrides: other calibration methods for what some nodes put out.
    op_types: the types of node to quantise, with the ReLU or Clip that follows; by default all that
    onnxruntime can.
    only_nodes: names of nodes, or glob patterns: these alone are quantised, with the ReLU or Clip that
    follows; all by default. exclude_nodes: these are left in float. Both as they are called after
    onnxruntime's pre-processing, which keeps the exporter's names but fuses some nodes.
    exclude_op_types, exclude_roles: likewise by type, and by the part a node plays; one that the network
    does not have is fine, so that a recipe fits many.
    equalize: rescale weights across layers first, where a ReLU or nothing is between them.
    bias_correction: take back by the biases what quantising shifts on average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["static_int8"]
    format: Literal["qdq", "qoperator"] = "qdq"
    activation: Literal["uint8", "int8"] = "uint8"
    weight: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    symmetric: bool | None = None
    reduce_range: bool = False
    calibration: Calibration = Calibration()
    overrides: tuple[CalibrationOverride, ...] = ()
    op_types: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    only_nodes: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    exclude_op_types: tuple[str, ...] = ()
    exclude_roles: tuple[Role, ...] = ()
    equalize: bool = False
    bias_correction: bool = False

    @model_validator(mode="after")
    def _types_fit(self) -> "StaticInt8":
        if self.activation == "int8" and self.weight == "uint8":
            raise ValueError("activation int8 needs weight int8: onnxruntime has no other kernels for it")
        return self

    @property
    def symmetric_activations(self) -> bool:
        """`symmetric`, or what goes with the type."""
        return self.activation == "int8" if self.symmetric is None else self.symmetric


def dynamic_int8(step: DynamicInt8, source: Path, target: Path) -> None:
    """Quantise the weights. Raises WorkbenchError where the graph has no node of `op_types`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    from workbench.onnx_info import precision_of

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


def static_int8(step: StaticInt8, source: Path, target: Path, images: "Images") -> None:
    """Calibrate on `images` and quantise weights and activations.

    Raises WorkbenchError where there are too few photos, where a photo or an activation is not finite, where
    an exclusion fits nothing, where nothing is left, or where the opset lacks what the step asks for.
    """
    import onnx

    with TemporaryDirectory() as name:
        folder = Path(name)
        _check_graph(step, load(source))  # before it is prepared, which raises opset 9 silently
        model = prepare(source, folder / "prepared.onnx")
        chosen = chosen_nodes(step, model)
        if step.equalize:
            equalize(model)
        plan = calibration_plan(step, model, chosen)
        if not plan:
            raise WorkbenchError("static_int8: nothing is left to quantise", hint="exclude fewer nodes")
        symmetric = step.symmetric_activations
        ranges = find_ranges(model, plan, images, step.calibration.images, symmetric=symmetric)
        _save_ranges(ranges, folder / "ranges.json")
        widened = mend_channels(model, set(chosen), ranges) if step.per_channel else {}
        if step.bias_correction:
            shifted = onnx.load(_quantized(step, model, folder, chosen, widened, "qdq"))
            correct_biases(model, shifted, images, step.calibration.images)
        copyfile(_quantized(step, model, folder, chosen, widened, step.format), target)


def _check_graph(step: StaticInt8, model: "onnx.ModelProto") -> None:
    """Refuse graphs that cannot be quantised as asked."""
    opset = opset_of(model)
    if opset < QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8: INT8 needs opset {QDQ_OPSET} or later, the model has {opset}",
            hint=f"raise `export.opset` to {PER_CHANNEL_QDQ_OPSET} or more",
        )
    if step.per_channel and step.format == "qdq" and opset < PER_CHANNEL_QDQ_OPSET:
        raise WorkbenchError(
            f"static_int8.per_channel: QDQ per channel needs opset {PER_CHANNEL_QDQ_OPSET}, "
            f"the model has {opset}",
            hint="raise `export.opset`, or set `per_channel: false` or `format: qoperator`",
        )
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise WorkbenchError(
            "static_int8: the graph has no Conv, Gemm or MatMul: there is nothing to gain from INT8",
            hint="leave the step out",
        )


def chosen_nodes(step: StaticInt8, model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that `step` quantises in a prepared graph (see `prepare`), in graph order."""
    excluded = {*matching(step.exclude_nodes, model, field="static_int8.exclude_nodes")}
    if step.exclude_roles:
        unwanted = set(step.exclude_roles)
        excluded |= {name for name, roles in roles_of(model).items() if roles & unwanted}
    op_types = _op_types(step, model)
    only = set(matching(step.only_nodes, model, field="static_int8.only_nodes"))
    named = only or {node.name for node in model.graph.node}
    types = {node.name: node.op_type for node in model.graph.node}
    chosen = {name for name in named - excluded if types[name] in op_types}
    chosen |= {name for name in _merged(chosen, model) - excluded if types[name] not in step.exclude_op_types}
    return [node.name for node in model.graph.node if node.name in chosen]


def _merged(names: Collection[str], model: "onnx.ModelProto") -> set[str]:
    """The ReLU or Clip that alone reads an output of these nodes: in INT8 it is part of the range."""
    readers = wiring_of(model).readers
    after = [readers.get(node.output[0], []) for node in model.graph.node if node.name in names]
    return {found[0].name for found in after if len(found) == 1 and found[0].op_type in ACTIVATIONS}


def calibration_plan(
    step: StaticInt8, model: "onnx.ModelProto", chosen: Collection[str]
) -> dict[str, Calibration]:
    """How the range of each tensor is found that a chosen node reads or writes, weights aside."""
    plan = dict.fromkeys(activations(model, chosen), step.calibration)
    for number, override in enumerate(step.overrides):
        field = f"static_int8.overrides[{number}].nodes"
        named = set(matching(override.nodes, model, field=field))
        named |= _merged(named, model)
        for node in model.graph.node:
            if node.name in named:
                plan.update({o: override.applied(step.calibration) for o in node.output if o in plan})
    readers = wiring_of(model).readers
    for node in model.graph.node:
        # The quantiser gives what a ReLU alone reads the range of its output: the extremes are enough.
        merged = node.op_type in ACTIVATIONS and node.name in chosen
        if merged and node.input[0] in plan and len(readers[node.input[0]]) == 1:
            plan[node.input[0]] = step.calibration.model_copy(update={"method": "minmax"})
    return plan


def activations(model: "onnx.ModelProto", chosen: Collection[str]) -> list[str]:
    """The float tensors that the chosen nodes read or write, weights aside: what needs a range."""
    import onnx

    graph = model.graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    } - {weight.name for weight in graph.initializer}
    names = set(chosen)
    touched = {
        name: None  # a dict keeps the order of the graph
        for node in graph.node
        if node.name in names
        for name in (*node.input, *node.output)
    }
    return [name for name in touched if name in floats]


def _op_types(step: StaticInt8, model: "onnx.ModelProto") -> set[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    supported = {*QDQRegistry, *QLinearOpsRegistry}
    if unknown := sorted(set(step.op_types or ()) - supported):
        raise WorkbenchError(
            f"static_int8.op_types: `{unknown[0]}` cannot be quantised",
            hint=f"onnxruntime quantises {', '.join(sorted(supported))}",
        )
    excluded = known_op_types(step.exclude_op_types, model, field="static_int8.exclude_op_types")
    return set(step.op_types or supported) - excluded


def _quantized(
    step: StaticInt8,
    model: "onnx.ModelProto",
    folder: Path,
    chosen: Collection[str],
    widened: "Overrides",
    form: Literal["qdq", "qoperator"],
) -> Path:
    """The file that onnxruntime's quantiser makes in `folder`, with the ranges that lie there."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    mended, quantized = folder / "mended.onnx", folder / f"{form}.onnx"
    onnx.save(model, mended)
    quantize_static(
        mended,
        quantized,
        calibration_cache_path=folder / "ranges.json",
        quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
        op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in chosen}),
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in chosen],
        per_channel=step.per_channel,
        reduce_range=step.reduce_range,
        activation_type=types[step.activation],
        weight_type=types[step.weight],
        extra_options={"ActivationSymmetric": step.symmetric_activations, "TensorQuantOverrides": widened},
    )
    if form == "qdq":
        onnx.save(_with_float_logits(onnx.load(quantized)), quantized)
    return quantized


def _with_float_logits(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Leave out the pair behind the last product: 256 levels make ties of logits that are not equal.

    Its INT8 kernel writes floats as fast; other operators would lose theirs, and are left as they are.
    """
    wiring, graph = wiring_of(model), model.graph
    for output in graph.output:
        pair = wiring.maker.get(output.name)
        marked = wiring.maker.get(pair.input[0]) if pair and pair.op_type == "DequantizeLinear" else None
        product = wiring.maker.get(marked.input[0]) if marked else None
        if pair is None or marked is None or product is None or product.op_type not in ("Gemm", "MatMul"):
            continue
        if len(wiring.readers[product.output[0]]) == len(wiring.readers[marked.output[0]]) == 1:
            product.output[0] = output.name
            unused = {*pair.input[1:], *marked.input[1:]}
            graph.node.remove(pair)
            graph.node.remove(marked)
            _drop_unused(model, unused)
    return model


def _drop_unused(model: "onnx.ModelProto", names: set[str]) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for weight in [w for w in model.graph.initializer if w.name in names - used]:
        model.graph.initializer.remove(weight)


def _save_ranges(ranges: Mapping[str, Range], path: Path) -> None:
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
