"""The NVIDIA GPU of this machine, asked of the driver itself: no package of NVIDIA's is needed for that."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
NO_DRIVER = (
    f"no NVIDIA driver is here ({DRIVER} cannot be loaded): on a machine with an NVIDIA GPU install its "
    "driver; in a container, start it with `--gpus all`"
)
NO_GPU = (
    "the NVIDIA driver is here, but shows no GPU: see `nvidia-smi`, and the variable CUDA_VISIBLE_DEVICES"
)

Load = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU that CUDA shows. capability: `9.0`. cuda: the newest that the driver runs, `13.0`."""

    name: str
    capability: str
    cuda: str
    memory_bytes: int = 0
    address: str | None = None  # on the PCI bus; NVML has another order than CUDA, and shows all GPUs


@lru_cache(maxsize=1)
def gpu() -> Gpu | str:
    """The GPU, or why there is none. Makes no CUDA context, which would hold memory of the GPU."""
    return read_gpu(ctypes.CDLL)


def read_gpu(load: Load) -> Gpu | str:
    """load: opens a shared library by its name, as `ctypes.CDLL` does; raises OSError."""
    try:
        driver = load(DRIVER)
    except OSError:
        return NO_DRIVER
    if (code := driver.cuInit(0)) != 0:
        # CUDA_ERROR_NO_DEVICE is 100; others are a driver that does not fit its kernel module, above all.
        return NO_GPU if code == 100 else f"the NVIDIA driver does not start (error {code}): see `nvidia-smi`"
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    if count.value == 0:
        return NO_GPU
    name, address = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGetName(name, 256, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    driver.cuDeviceGetPCIBusId(address, 32, 0)
    capability, cuda = f"{major.value}.{minor.value}", version_of(version.value, 1000, 10)
    shown, place = name.value.decode(errors="replace"), address.value.decode() or None
    return Gpu(shown, capability, cuda, memory.value, place)


def driver_here() -> bool:
    """Whether a process here may start CUDA; the driver is not asked, which takes time."""
    return driver_version() is not None or Path("/dev/nvidiactl").exists()


def driver_version() -> str | None:
    """The version of the kernel module; None outside Linux, and in a container that hides /sys."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def version_of(number: int, *units: int) -> str:
    """A version as NVIDIA's libraries return it: 13020 in units of 1000 and 10 is `13.2`."""
    parts = []
    for unit in units:
        part, number = divmod(number, unit)
        parts.append(str(part))
    return ".".join(parts)


def parts_of(version: str) -> tuple[int, ...]:
    """Major and minor of `13.2`, to compare versions and compute capabilities by."""
    return tuple(int(part) for part in version.split(".")[:2])
