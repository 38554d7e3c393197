"""A torch.export program to a `.tflite` file, by litert-torch, and to INT8 by ai-edge-quantizer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.litert.tflite import FILE, tflite_info
from workbench.errors import WorkbenchError, did_you_mean, summary
from workbench.steps.litert.settings import Litert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.photos.dataset import Images


# What the converter, and the code it runs over the network, raises for what it cannot write.
REFUSED = (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError, AssertionError, AttributeError)


def convert(step: Litert, source: Path, folder: Path, calibration: "Images | None") -> ArtifactInfo:
    """Write the file of a program that this process chain exported, of one photo a call, into `folder`.

    Raises WorkbenchError where an operator has no counterpart in LiteRT, or an exclusion fits nothing.
    """
    data = _floats(source)
    if step.quantize != "none":
        data = _quantized(step, data, calibration)
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
        except REFUSED as error:
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


def _quantized(step: Litert, data: bytes, calibration: "Images | None") -> bytes:
    from ai_edge_quantizer import quantizer, recipe_manager

    from workbench.model.export.torch_exporters import chatter_on_stderr

    manager = recipe_manager.RecipeManager()
    _add_rules(step, manager, data)
    with chatter_on_stderr():
        try:
            found = quantizer.Quantizer(bytearray(data), manager.get_quantization_recipe())
            ranges = found.calibrate(_calls(step, data, calibration)) if found.need_calibration else None
            result = found.quantize(ranges)
        except REFUSED as error:
            raise WorkbenchError(f"ai-edge-quantizer cannot quantise the network: {summary(error)}") from error
    return bytes(result.quantized_model)
