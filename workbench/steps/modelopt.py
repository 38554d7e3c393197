"""INT8 by NVIDIA ModelOpt: pairs placed for TensorRT by NVIDIA's own rules. It runs on the CPU."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from workbench.errors import Unsuited, WorkbenchError, first_line
from workbench.model.export.torch_exporters import chatter_on_stderr
from workbench.model.graph.node_names import known_op_types, matching, named
from workbench.steps.base import BaseStep, OpsetNeed
from workbench.steps.fp16.autocast import INSTALL, missing
from workbench.steps.int8.calibration import batch_size

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from workbench.photos.dataset import Images


LOWEST_OPSET = 19  # ModelOpt raises older ones to this, and a step keeps the opset


class ModeloptInt8(BaseStep):
    """INT8 weights and activations for TensorRT, with FP16 or FP32 between them.

    ModelOpt knows which patterns TensorRT fuses, and leaves in float what gains nothing there, among that
    products with one row, such as a classifier's last layer at batch 1. Its result keeps the weights in float
    with a pair behind each: an engine has them in INT8, the file is hardly smaller. `static_int8` with
    `placement: tensorrt` has more ways to calibrate, and needs nothing installed.

    method: how ranges are found: entropy clips what costs least information, max takes all that was seen.
    images: photos used for calibration, taken evenly from the classes.
    exclude_nodes, exclude_op_types: what stays in float; names of nodes, or glob patterns.
    high_precision_dtype: the type of what is not quantised, which TensorRT computes as it is written.
    """

    PACKAGES: ClassVar = (
        *("nvidia-modelopt", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "numpy"),
    )
    FAMILY: ClassVar = "int8"
    READS: ClassVar = frozenset({"calibration"})
    HALVES: ClassVar = True

    use: Literal["modelopt_int8"]
    method: Literal["entropy", "max"] = "entropy"
    images: Annotated[int, Field(gt=0, strict=True)] = 128
    exclude_nodes: tuple[str, ...] = ()
    exclude_op_types: tuple[str, ...] = ()
    high_precision_dtype: Literal["fp16", "fp32"] = "fp16"

    def opset_need(self) -> OpsetNeed:
        return OpsetNeed(LOWEST_OPSET, "step `modelopt_int8`", "the first whose pairs take FP16")

    def capped(self, photos: int) -> Self:
        return self.model_copy(update={"images": photos}) if self.images > photos else self


def modelopt_onnx(step: ModeloptInt8, source: Path, target: Path, images: "Images") -> None:
    """Quantise an ONNX file into one with explicit pairs; photos and logits stay FP32.

    Raises Unsuited where ModelOpt is not installed; WorkbenchError where there are too few photos, where an
    exclusion fits nothing, where nothing is left to quantise, where the opset is too old, or where ModelOpt
    refuses the network.
    """
    if reason := missing():
        raise Unsuited(f"modelopt_int8: {reason}", hint=INSTALL)
    import onnx

    from workbench.model.graph.onnx_file import image_input, opset_of

    model = named(source)
    if opset_of(model) < LOWEST_OPSET:
        raise WorkbenchError(
            f"modelopt_int8: ModelOpt needs opset {LOWEST_OPSET}, the model has {opset_of(model)}",
            hint=f"raise `export.opset` to {LOWEST_OPSET} or more, or use `static_int8` with "
            "`placement: tensorrt`, which takes 13",
        )
    names = matching(step.exclude_nodes, model, field="modelopt_int8.exclude_nodes")
    known_op_types(step.exclude_op_types, model, field="modelopt_int8.exclude_op_types")
    photos = {image_input(model).name: _photos(step, model, images)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "named.onnx")
        result = _quantized(step, folder, photos, names)
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise WorkbenchError(
            "modelopt_int8: ModelOpt left every node in float",
            hint="exclude fewer nodes, or leave the step out",
        )
    if opset_of(result) != opset_of(model):
        raise WorkbenchError(
            f"modelopt_int8: ModelOpt changed the opset from {opset_of(model)} to {opset_of(result)}",
            hint=f"export with opset {opset_of(result)}",
        )
    onnx.save(result, target)


def _quantized(
    step: ModeloptInt8, folder: Path, photos: "dict[str, NDArray[np.float32]]", excluded: list[str]
) -> "onnx.ModelProto":
    """What ModelOpt makes of `named.onnx` in `folder`, where it leaves its intermediate files too."""
    import onnx

    written = folder / "quantized.onnx"
    with chatter_on_stderr():
        try:
            from modelopt.onnx.quantization import quantize

            quantize(
                str(folder / "named.onnx"),
                quantize_mode="int8",
                calibration_data=photos,
                calibration_method=step.method,
                calibration_eps=["cpu"],  # so that the ranges are the same on every machine
                nodes_to_exclude=[rf"{re.escape(name)}\Z" for name in excluded],
                op_types_to_exclude=list(step.exclude_op_types),
                high_precision_dtype=step.high_precision_dtype,
                output_path=str(written),
                log_level="WARNING",
            )
            return onnx.load(written)
        except Exception as error:  # it raises whatever its parts raise, bare Exception among them
            raise WorkbenchError(
                f"modelopt_int8: ModelOpt fails on this network: {type(error).__name__}: {first_line(error)}",
                hint="`static_int8` with `placement: tensorrt` is another way; the log has ModelOpt's words",
            ) from error


def _photos(step: ModeloptInt8, model: "onnx.ModelProto", images: "Images") -> "NDArray[np.float32]":
    """(n, C, H, W), n a multiple of the model's batch."""
    import numpy as np

    if step.images > len(images):
        raise WorkbenchError(
            f"modelopt_int8.images: {step.images} photos asked for, data.calibration has {len(images)}",
            hint=f"lower `images` to {len(images)} or less, or add photos",
        )
    size = batch_size(model)
    count = max(1, step.images // size) * size
    return np.concatenate(list(images.spread(count, size)))
