"""The runtimes, in one literal table. Importing it loads none of them."""

from workbench.backends import null, openvino, ort, torch
from workbench.backends.base import Backend, BackendName, Infer, Runtime, Session

BACKENDS: dict[BackendName, Backend] = {
    "onnxruntime": ort,
    "openvino": openvino,
    "torch": torch,
    "null": null,
}

__all__ = ["BACKENDS", "Backend", "BackendName", "Infer", "Runtime", "Session"]
