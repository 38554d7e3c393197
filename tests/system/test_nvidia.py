"""What is said of the GPU, asked of the driver's library: here a stand-in for it."""

import ctypes
from typing import Any

import pytest

from workbench.system import nvidia
from workbench.system.nvidia import NO_DRIVER, NO_GPU, Gpu, missing_gpu, read_gpu


class Driver:
    """libcuda.so.1 as far as it is asked: it writes through the pointers it is given, as the real one."""

    def __init__(
        self, *, code: int = 0, gpus: int = 1, version: int = 13000, capability: str = "9.0"
    ) -> None:
        self.code, self.gpus, self.version = code, gpus, version
        self.capability = [int(part) for part in capability.split(".")]

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.gpus
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0

    def cuDeviceGetName(self, name: Any, *_: int) -> int:  # noqa: N802
        name.value = b"NVIDIA H200"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _: int) -> int:  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.capability[attribute - nvidia.MAJOR]
        return 0


def test_the_gpu_is_described_by_the_driver_alone() -> None:
    driver = Driver(version=12080, capability="8.6")
    assert read_gpu(lambda _: driver) == Gpu("NVIDIA H200", "8.6", "12.8")


def test_without_a_driver_the_remedy_is_the_driver() -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    assert read_gpu(absent) == NO_DRIVER
    assert "libcuda.so.1" in NO_DRIVER and "--gpus all" in NO_DRIVER


@pytest.mark.parametrize("driver", [Driver(code=100), Driver(gpus=0)])
def test_a_driver_that_shows_no_gpu_is_told_from_none(driver: Driver) -> None:
    assert read_gpu(lambda _: driver) == NO_GPU


def test_a_driver_that_does_not_start_is_named_with_its_error() -> None:
    assert read_gpu(lambda _: Driver(code=803)) == (
        "the NVIDIA driver does not start (error 803): see `nvidia-smi`"
    )


def test_what_is_missing_is_what_was_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: NO_GPU)
    assert missing_gpu() == NO_GPU
    monkeypatch.setattr(nvidia, "gpu", lambda: Gpu("NVIDIA H200", "9.0", "13.0"))
    assert missing_gpu() is None
