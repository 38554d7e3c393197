"""What the driver's library says of the GPU: here a stand-in for it."""

import ctypes
from typing import Any

import pytest

from workbench.system import nvidia
from workbench.system.nvidia import NO_DRIVER, NO_GPU, Gpu, parts_of, read_gpu, version_of


class Driver:
    """libcuda.so.1 as far as it is asked: it writes through the pointers it is given, as the real one."""

    def __init__(self, *, code: int = 0, gpus: int = 1) -> None:
        self.code, self.gpus = code, gpus

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        return put(count, self.gpus)

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        return put(version, 12080)

    def cuDeviceGetName(self, name: Any, *_: int) -> int:  # noqa: N802
        name.value = b"NVIDIA A10"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _: int) -> int:  # noqa: N802
        return put(value, {nvidia.MAJOR: 8, nvidia.MINOR: 6}[attribute])

    def cuDeviceTotalMem_v2(self, value: Any, _: int) -> int:  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_size_t))[0] = 24 * 2**30
        return 0

    def cuDeviceGetPCIBusId(self, address: Any, *_: int) -> int:  # noqa: N802
        address.value = b"0000:3B:00.0"
        return 0


def put(pointer: Any, value: int) -> int:
    ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = value
    return 0


def test_the_gpu_is_described_by_the_driver_alone() -> None:
    assert read_gpu(lambda _: Driver()) == Gpu("NVIDIA A10", "8.6", "12.8", 24 * 2**30, "0000:3B:00.0")


def test_without_a_driver_the_remedy_is_the_driver() -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    assert read_gpu(absent) == NO_DRIVER
    assert "libcuda.so.1" in NO_DRIVER and "--gpus all" in NO_DRIVER


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (Driver(code=100), NO_GPU),
        (Driver(gpus=0), NO_GPU),
        (Driver(code=803), "the NVIDIA driver does not start (error 803): see `nvidia-smi`"),
    ],
)
def test_a_driver_without_a_gpu_says_why(driver: Driver, reason: str) -> None:
    assert read_gpu(lambda _: driver) == reason


def test_versions_are_read_in_the_units_of_each_library() -> None:
    assert version_of(13020, 1000, 10) == "13.2"
    assert version_of(91301, 10000, 100, 1) == "9.13.1"
    assert parts_of("13.2") == (13, 2) > parts_of("9.13.1")
