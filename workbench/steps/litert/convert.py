"""A torch.export program to a `.tflite` file, by litert-torch, and to INT8 by ai-edge-quantizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.litert.tflite import FILE, tflite_info
from workbench.errors import WorkbenchError, summary
from workbench.steps.base import CONVERTER_ERRORS, calibration_of
from workbench.steps.litert.exclusions import check_operators, excluded_patterns
from workbench.steps.litert.settings import Litert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.photos.dataset import Images
    from workbench.steps.base import Photos


def write_tflite(step: Litert, source: Path, folder: Path, photos: "Photos") -> ArtifactInfo:
    """Write the file of a program that this process chain exported, of one photo a call, into `folder`.

    Raises WorkbenchError where an operator has no counterpart in LiteRT, or an exclusion fits nothing.
    """
    data = _floats(source)
    if step.quantize != "none":
        data = _quantized(step, data, photos)
    path = folder / FILE
    path.write_bytes(data)
    return tflite_info(path)


def _floats(source: Path) -> bytes:
    import litert_torch
    import torch

    from workbench.model.export.torch_exporters import chatter_on_stderr

    with source.open("rb") as file:
        program = torch.export.load(file)
    (photo,) = program.example_inputs[0]
    with chatter_on_stderr(), torch.no_grad():
        try:
            module = litert_torch.to_channel_last_io(program.module(), args=[0])
            written = litert_torch.convert(module, (photo.permute(0, 2, 3, 1).contiguous(),))
        except CONVERTER_ERRORS as error:
            raise WorkbenchError(
                f"litert-torch cannot convert the network: {summary(error)}",
                hint="onnxruntime and ExecuTorch run more operators; the log of this trial has all its words",
            ) from error
    content: bytes = written.model_content()
    return content


@dataclass(frozen=True, slots=True)
class _Calls:
    """Photos as the calls of a signature, again and again: the quantiser counts them before it uses them."""

    images: "Images"
    count: int
    argument: str
    channels_last: bool

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> "Iterator[dict[str, NDArray[np.float32]]]":
        for batch in self.images.spread(self.count, 1):
            yield {self.argument: batch.transpose(0, 2, 3, 1) if self.channels_last else batch}


def _quantized(step: Litert, data: bytes, photos: "Photos") -> bytes:
    from ai_edge_quantizer import quantizer, recipe_manager

    from workbench.model.export.torch_exporters import chatter_on_stderr

    manager = recipe_manager.RecipeManager()
    _add_rules(step, manager, data)
    calls = _calls(step, data, photos)
    with chatter_on_stderr():
        try:
            found = quantizer.Quantizer(bytearray(data), manager.get_quantization_recipe())
            ranges = found.calibrate(calls) if found.need_calibration else None
            result = found.quantize(ranges)
        except CONVERTER_ERRORS as error:
            raise WorkbenchError(
                f"ai-edge-quantizer cannot quantise the network: {summary(error)}"
            ) from error
    return bytes(result.quantized_model)


def _add_rules(step: Litert, manager: Any, data: bytes) -> None:
    """Everything in INT8, but for what the step leaves in float; later rules go first."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    names = qtyping.TFLOperationName
    everything = {"regex": ".*", "operation_name": names.ALL_SUPPORTED}
    if step.quantize == "static":
        manager.add_static_config(**everything, activation_num_bits=8, weight_num_bits=8)
    else:
        manager.add_dynamic_config(**everything, num_bits=8)
    check_operators(step, {name.value for name in names})
    ends = [names.INPUT, names.OUTPUT] if step.float_ends else []
    for operation in [*ends, *map(names, step.exclude_op_types)]:
        manager.add_quantization_config(".*", operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    for pattern in excluded_patterns(step, data):
        manager.add_quantization_config(pattern, names.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _calls(step: Litert, data: bytes, photos: "Photos") -> dict[str, _Calls]:
    """Calibration photos by signature."""
    from workbench.backends.litert.interpreter import Interpreter

    images = calibration_of(photos, step.use)
    opened = Interpreter(data, FILE, threads=1)
    (signature,) = opened.native.get_signature_list()
    (argument,) = opened.native.get_signature_list()[signature]["inputs"]
    count = min(step.images, len(images))
    return {signature: _Calls(images, count, argument, opened.channels_last)}
