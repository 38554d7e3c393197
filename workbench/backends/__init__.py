"""The runtimes, in one literal table. Importing it loads none of them."""

from workbench.backends import null, openvino, ort, tensorrt, torch
from workbench.backends.base import Backend, BackendName, Engine, Infer, OnDevice, Runtime, Session

BACKENDS: dict[BackendName, Backend] = {
    "onnxruntime": ort,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "torch": torch,
    "null": null,
}

__all__ = ["BACKENDS", "Backend", "BackendName", "Engine", "Infer", "OnDevice", "Runtime", "Session"]
