"""What onnxruntime's CUDA provider is told, from a recipe's `runtime`."""

from pathlib import Path
from typing import Any

import pytest

from workbench.backends import OrtRuntime
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.backends.common import TF32, refuse_override
from workbench.backends.ort.gpu import cuda_options, graph_sizes
from workbench.errors import WorkbenchError


def artifact(batch: int = 0, **fields: Any) -> Artifact:
    shape = fields.pop("input_shape", (batch, 3, 32, 48))
    info = ArtifactInfo(
        format="onnx", file="m.onnx", sha256="0" * 64, size_bytes=1, input_shape=shape, classes=5, **fields
    )
    return Artifact(Path("nowhere"), info)


def gpu(**fields: Any) -> OrtRuntime:
    return OrtRuntime(device="cuda", **fields)


def test_fp32_is_exact_unless_tf32_is_asked_for() -> None:
    assert [
        cuda_options(artifact(), gpu(precision=precision))["use_tf32"] for precision in (None, "f32", "tf32")
    ] == ["0", "0", "1"]


def test_algorithms_are_searched_for_where_shapes_are_few() -> None:
    def search(batch: int, **fields: Any) -> str:
        return cuda_options(artifact(batch), gpu(**fields))["cudnn_conv_algo_search"]

    assert search(8) == "EXHAUSTIVE"
    assert search(0, cuda_graph=True) == "EXHAUSTIVE"
    assert search(0) == "HEURISTIC"


@pytest.mark.parametrize("wanted", [False, True])
def test_a_cuda_graph_is_captured_where_it_is_asked_for(wanted: bool) -> None:
    assert cuda_options(artifact(), gpu(cuda_graph=wanted))["enable_cuda_graph"] == str(int(wanted))


def test_a_graph_is_captured_for_few_sizes_and_the_measured_one_is_among_them() -> None:
    graphs = gpu(cuda_graph=True, batch=48)
    assert graph_sizes(artifact(), graphs) == (1, 2, 4, 8, 16, 32, 48, 64)
    assert graph_sizes(artifact(), gpu(cuda_graph=True, batch=100))[-2:] == (64, 100)
    assert graph_sizes(artifact(4), graphs) == (4,)
    assert graph_sizes(artifact(), gpu()) == ()


def test_a_variable_that_forces_tf32_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TF32, "1")
    with pytest.raises(WorkbenchError, match="TF32 is switched on") as caught:
        refuse_override(tf32=False)
    assert "unset NVIDIA_TF32_OVERRIDE" in (caught.value.hint or "")
    refuse_override(tf32=True)
    monkeypatch.setenv(TF32, "0")
    with pytest.raises(WorkbenchError, match="TF32 is switched off"):
        refuse_override(tf32=True)
