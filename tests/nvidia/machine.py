"""A machine with an NVIDIA GPU, TensorRT and CUDA that are all pretended."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.nvidia import fake_tensorrt
from tests.nvidia.fake_cuda import FakeCuda
from tests.nvidia.fake_world import World
from tests.nvidia.surface import load
from workbench.backends.artifact import Artifact
from workbench.backends.gpu import engine_store
from workbench.model.graph.onnx_file import artifact_info
from workbench.system import nvidia

GPU = nvidia.Gpu("NVIDIA Test GPU", "9.0", "13.0")
SIDE, CLASSES, CHANNELS = 8, 5, 4
MACS = {"conv": 3 * CHANNELS * 9 * SIDE * SIDE, "fc": CHANNELS * CLASSES}


def install(monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType | None) -> None:
    """Make `import name` give a module; None: it is not installed."""
    if module is not None:
        module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)


def install_cuda(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    package, bindings, runtime = ModuleType("cuda"), ModuleType("cuda.bindings"), cuda.module()
    package.__path__, bindings.__path__ = [], []
    package.bindings, bindings.runtime = bindings, runtime  # type: ignore[attr-defined]
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", runtime)):
        install(monkeypatch, name, module)


def pretend(monkeypatch: pytest.MonkeyPatch, surface: str, folder: Path) -> World:
    """surface: the TensorRT, `tensorrt-10.13`. folder: for the cache, and what the driver tells."""
    cuda = FakeCuda()
    world = World(load(surface), cuda)
    install(monkeypatch, "tensorrt", fake_tensorrt.module(world))
    install_cuda(monkeypatch, cuda)
    monkeypatch.setattr(nvidia, "gpu", lambda: GPU)
    monkeypatch.setenv("KRISHI_CACHE", str(folder / "cache"))
    monkeypatch.setattr(engine_store, "DRIVER_VERSION", folder / "driver")
    (folder / "driver").write_text("580.65.06\n")
    return world


def network(folder: Path, *, batch: int = 0, pixels: bool = False, name: str = "model.onnx") -> Artifact:
    """A small classifier: convolution, pooling, matrix product. batch: 0 leaves it free."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32),
        "matrix": rng.standard_normal((CHANNELS, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["photo", "kernel"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("Gemm", ["d", "matrix"], ["logits"], name="fc"),
    ]
    shape, kind = (3, SIDE, SIDE), TensorProto.FLOAT
    if pixels:
        shape, kind = (SIDE, SIDE, 3), TensorProto.UINT8
        nodes[:0] = [
            helper.make_node("Cast", ["pixels"], ["float"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["photo"], name="turn", perm=[0, 3, 1, 2]),
        ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels" if pixels else "photo", kind, [batch or "N", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch or "N", CLASSES])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    return Artifact(folder, artifact_info(folder / name))
