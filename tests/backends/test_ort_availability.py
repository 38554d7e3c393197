"""What stands between onnxruntime and a GPU: one link is named, the first that is broken, with its remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the chain begins with it")

from workbench.backends import BACKENDS, OrtRuntime
from workbench.backends.ort import availability
from workbench.backends.ort.availability import clash, first_missing, old_driver, remedy
from workbench.system import nvidia

GPU = nvidia.Gpu("Test GPU", "8.9", "13.0")
RUNTIME = OrtRuntime(device="cuda")


def lacking(*missing: str) -> Callable[[str], object]:
    """A loader that finds everything but these, and tells it as glibc's does."""

    def load(name: str) -> object:
        for soname in missing:
            if name in (soname, f"needs {soname}"):
                raise OSError(f"{soname}: cannot open shared object file: No such file or directory")
        return object()

    return load


def test_without_a_driver_nothing_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "missing_gpu", lambda: nvidia.NO_DRIVER)
    assert BACKENDS["onnxruntime"].unavailable(RUNTIME) == nvidia.NO_DRIVER


def test_two_builds_in_one_environment_are_a_broken_install(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = clash(["onnxruntime", "onnxruntime-gpu"])
    assert reason == (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
    )
    assert clash(["onnxruntime"]) is None
    monkeypatch.setattr(nvidia, "missing_gpu", lambda: None)
    monkeypatch.setattr(availability, "versions", lambda *names: dict.fromkeys(names[:2], "1.31.1"))
    assert BACKENDS["onnxruntime"].unavailable(OrtRuntime(device="cuda")) == reason


def test_the_cpu_build_is_told_from_the_one_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is the build for GPUs")
    monkeypatch.setattr(nvidia, "missing_gpu", lambda: None)
    reason = BACKENDS["onnxruntime"].unavailable(OrtRuntime(device="cuda"))
    assert reason is not None
    assert reason.startswith("this onnxruntime has no CUDAExecutionProvider (it has ")
    assert "krishi-bench[gpu]" in reason


def test_a_build_for_gpus_without_cuda_names_the_library_and_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is not the build for GPUs")
    monkeypatch.setattr(nvidia, "missing_gpu", lambda: None)
    reason = BACKENDS["onnxruntime"].unavailable(RUNTIME)
    if reason is None:
        pytest.skip("the CUDA libraries are here")
    major = onnxruntime.cuda_version.partition(".")[0]
    assert f"needs libcublasLt.so.{major}, which is not here: pip install 'nvidia-cublas" in reason


def test_a_driver_must_run_the_cuda_of_the_build() -> None:
    assert old_driver(GPU, "13.0") is None
    assert old_driver(GPU, "12.8") is None
    assert old_driver(GPU, "") is None
    reason = old_driver(nvidia.Gpu("Test GPU", "8.9", "12.4"), "13.0")
    assert reason is not None
    assert "built for CUDA 13.0, and the driver runs CUDA 12.4 at most" in reason


@pytest.mark.parametrize(
    ("soname", "cuda", "said"),
    [
        ("libcublasLt.so.13", "13.0", "pip install 'nvidia-cublas==13.*', or"),
        ("libcublas.so.12", "12.8", "pip install 'nvidia-cublas-cu12==12.*', or"),
        ("libcurand.so.10", "13.0", "pip install 'nvidia-curand==10.*', or"),
        ("libcudart.so.13", "13.0", "pip install 'nvidia-cuda-runtime==13.*', or"),
        ("libcudnn.so.9", "13.0", "pip install 'nvidia-cudnn-cu13==9.*', or"),
        ("libcuda.so.1", "13.0", "comes with the NVIDIA driver"),
        ("libsomething.so.1", "13.0", "LD_LIBRARY_PATH"),
        ("libonnxruntime_providers_cuda.so", "", "built without it"),
    ],
)
def test_every_library_has_a_remedy(soname: str, cuda: str, said: str) -> None:
    assert said in remedy(soname, cuda)


def test_the_first_library_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "provider.so").touch()
    path = str(tmp_path / "provider.so")
    names = ["provider.so", "libcudnn.so.9"]

    def provider_needs_cublas(name: str) -> object:
        if name == path:
            raise OSError("libcublasLt.so.13: cannot open shared object file: No such file or directory")
        return object()

    def provider_needs_onnxruntime(name: str) -> object:
        if name == path:
            raise OSError(f"{path}: undefined symbol: Provider_GetHost")
        return object()

    assert first_missing(names, tmp_path, provider_needs_cublas) == "libcublasLt.so.13"
    assert first_missing(names, tmp_path, lacking("libcudnn.so.9")) == "libcudnn.so.9"
    assert first_missing(names, tmp_path, provider_needs_onnxruntime) is None


def test_the_real_loader_says_what_is_missing_as_we_read_it(tmp_path: Path) -> None:
    import ctypes

    assert first_missing(["libnotthere.so.7"], tmp_path, ctypes.CDLL) == "libnotthere.so.7"
