"""The runtimes, in one literal table. Importing it loads none of them."""

from workbench.backends import null
from workbench.backends.base import Backend, BackendName, Engine, Infer, OnDevice, Runtime, Session
from workbench.backends.openvino import backend as openvino
from workbench.backends.ort import backend as ort
from workbench.backends.tensorrt import backend as tensorrt
from workbench.backends.torch import backend as torch

BACKENDS: dict[BackendName, Backend] = {
    "onnxruntime": ort,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "torch": torch,
    "null": null,
}

__all__ = ["BACKENDS", "Backend", "BackendName", "Engine", "Infer", "OnDevice", "Runtime", "Session"]
