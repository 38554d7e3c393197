"""What onnxruntime's GPU providers are told, from a recipe's `runtime`."""

from pathlib import Path
from typing import Any

import pytest

from workbench.backends import OrtRuntime
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.backends.common import TF32
from workbench.backends.ort import gpu as ort_gpu
from workbench.backends.ort.availability import CUDA, RTX, TENSORRT
from workbench.backends.ort.options import cuda_options, profiles, rtx_options, sizes, tensorrt_options
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
def test_cuda_graphs_are_asked_for_by_the_name_each_provider_knows(wanted: bool) -> None:
    runtime, value = gpu(cuda_graph=wanted), "1" if wanted else "0"
    assert cuda_options(artifact(), runtime)["enable_cuda_graph"] == value
    assert tensorrt_options(artifact(), runtime, "x", None, None)["trt_cuda_graph_enable"] == str(wanted)
    assert rtx_options(artifact(), runtime, "x", None)["enable_cuda_graph"] == value


def test_tensorrt_computes_in_what_the_graph_says() -> None:
    options = tensorrt_options(artifact(precision="fp16"), gpu(), "x", "/engines", "/times")
    assert not [name for name in options if "fp16" in name or "int8" in name or "bf16" in name]
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("True", "/engines")
    assert (options["trt_timing_cache_enable"], options["trt_timing_cache_path"]) == ("True", "/times")


def test_where_nothing_can_be_kept_no_cache_is_asked_for() -> None:
    options = tensorrt_options(artifact(), gpu(), "x", None, None)
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("False", "False")
    assert not [name for name in options if name.endswith("_path")]
    assert "nv_runtime_cache_path" not in rtx_options(artifact(), gpu(), "x", None)


@pytest.mark.parametrize("folder", [None, "/engines"])
def test_tensorrts_switches_are_the_words_that_onnxruntimes_python_side_takes(folder: str | None) -> None:
    options = tensorrt_options(artifact(4), gpu(cuda_graph=True), "x", folder, folder)
    switches = {value for name, value in options.items() if name.endswith("_enable")}
    assert switches and switches <= {"True", "False"}  # it refuses "1": "should be 'True' or 'False'"


def test_a_free_batch_is_built_for_a_range_and_a_fixed_one_is_not() -> None:
    option = "trt_profile_{}_shapes"
    assert profiles(artifact(), gpu(batch=8), "photos", option) == {
        "trt_profile_min_shapes": "photos:1x3x32x48",
        "trt_profile_opt_shapes": "photos:8x3x32x48",
        "trt_profile_max_shapes": "photos:64x3x32x48",
    }
    assert profiles(artifact(pixels=True), gpu(batch=96), "x", option)[option.format("max")] == "x:96x32x48x3"
    assert profiles(artifact(4), gpu(), "x", option) == {}
    assert profiles(artifact(input_shape=(0, 3, 0, 0)), gpu(), "x", option) == {}


def test_a_graph_is_captured_for_few_sizes_and_the_measured_one_is_among_them() -> None:
    graphs = gpu(cuda_graph=True, batch=48)
    assert sizes(artifact(), graphs, CUDA) == (1, 2, 4, 8, 16, 32, 48, 64)
    assert sizes(artifact(), gpu(cuda_graph=True, batch=100), TENSORRT)[-2:] == (64, 100)
    assert sizes(artifact(4), graphs, CUDA) == (4,)
    assert sizes(artifact(), gpu(), CUDA) == ()
    assert sizes(artifact(), gpu(), RTX) == tuple(range(1, 65))


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One that has opened no engine yet. Its variables are put back."""
    monkeypatch.setenv(TF32, "unset")
    monkeypatch.delenv(TF32)
    monkeypatch.setattr(ort_gpu, "_tf32_was", [])
    return monkeypatch


def test_tensorrt_is_kept_from_tf32_by_the_variable_that_it_reads(process: pytest.MonkeyPatch) -> None:
    import os

    ort_gpu.settle_tf32(gpu(), CUDA)
    assert TF32 not in os.environ  # the CUDA provider has an option
    ort_gpu.settle_tf32(gpu(), TENSORRT)
    assert os.environ[TF32] == "0"
    ort_gpu.settle_tf32(gpu(precision="f32"), TENSORRT)
    with pytest.raises(WorkbenchError, match="TF32 is switched off for this whole process"):
        ort_gpu.settle_tf32(gpu(precision="tf32"), TENSORRT)


def test_a_process_that_began_with_tf32_cannot_be_exact_any_more(process: pytest.MonkeyPatch) -> None:
    ort_gpu.settle_tf32(gpu(precision="tf32"), TENSORRT)
    with pytest.raises(WorkbenchError, match="TF32 is switched on for this whole process"):
        ort_gpu.settle_tf32(gpu(), TENSORRT)


def test_a_variable_that_forces_tf32_is_not_overlooked(process: pytest.MonkeyPatch) -> None:
    process.setenv(TF32, "1")
    with pytest.raises(WorkbenchError, match="TF32 is switched on") as caught:
        ort_gpu.settle_tf32(gpu(), CUDA)
    assert "unset NVIDIA_TF32_OVERRIDE" in (caught.value.hint or "")
