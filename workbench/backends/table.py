"""The backends, in one literal table. Importing it loads none of the runtimes."""

from typing import Any

from workbench.backends import null
from workbench.backends.base import Backend
from workbench.backends.executorch import backend as executorch
from workbench.backends.litert import backend as litert
from workbench.backends.openvino import backend as openvino
from workbench.backends.ort import backend as ort
from workbench.backends.tensorrt import backend as tensorrt
from workbench.backends.torch import backend as torch

BACKENDS: dict[str, Backend[Any]] = {
    "onnxruntime": ort,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "litert": litert,
    "executorch": executorch,
    "torch": torch,
    "null": null,
}
