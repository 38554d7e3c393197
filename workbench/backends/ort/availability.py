"""What stands between onnxruntime and an NVIDIA GPU: the driver, the build, the libraries, the plug-in.

The first broken link is named, in the order in which a person would mend them.
"""

import contextlib
import ctypes
import io
import re
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends.common import onnxruntime_errors
from workbench.errors import WorkbenchError
from workbench.system import nvidia
from workbench.system.nvidia import Load
from workbench.system.packages import missing_package, versions

if TYPE_CHECKING:
    import onnxruntime


CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"

BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
GPU = "on a machine with an NVIDIA GPU, install 'krishi-bench[gpu]' in an environment without onnxruntime"
# What each provider opens. cuDNN is opened late by the CUDA provider, whose convolutions need it.
# TensorRT's leftovers run on the CUDA provider.
OPENS: dict[str, tuple[str, ...]] = {
    CUDA: ("libonnxruntime_providers_cuda.so", "libcudnn.so.9"),
    TENSORRT: (
        "libonnxruntime_providers_cuda.so",
        "libcudnn.so.9",
        "libonnxruntime_providers_tensorrt.so",
    ),
}
# The packages that bring them; named after the CUDA they are for only up to CUDA 12, but for the last three.
WHEELS = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvJitLink": "nvidia-nvjitlink",
    "libcudnn": "nvidia-cudnn",
    "libnvinfer": "tensorrt",
    "libnvinfer_plugin": "tensorrt",
    "libnvonnxparser": "tensorrt",
}
ALWAYS_NAMED = frozenset({"nvidia-cudnn", "tensorrt"})
DRIVERS = frozenset({nvidia.DRIVER, "libnvidia-ml.so.1"})
NOT_FOUND = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")

PLUGIN, PLUGIN_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"
NO_PLUGIN = f"`{PLUGIN_PACKAGE}` is not installed: pip install it, beside a plain onnxruntime"
# Of the plug-in 0.5: compute capabilities it takes, besides 12.0 and newer. Data centre GPUs (8.0, 9.0,
# 10.0) are not among them.
RTX_TAKES = frozenset({"8.6", "8.9"})


_registering = threading.Lock()


def missing_link(provider: str) -> str | None:
    """None where onnxruntime can run `provider` on the GPU here; else what is missing, and the remedy."""
    if (reason := nvidia.missing_gpu()) is not None:
        return reason
    if (reason := missing_package("onnxruntime", extra="ort-gpu")) is not None:
        return reason
    if (reason := clash(tuple(versions(*BUILDS)))) is not None:
        return reason
    if provider == RTX:
        return _missing_plugin()
    import onnxruntime

    here = onnxruntime.get_available_providers()
    if provider not in here:
        return f"this onnxruntime has no {provider} (it has {', '.join(here)}): {GPU}"
    return old_driver(nvidia.gpu(), _built_for()) or missing_libraries(provider)


def _built_for() -> str:
    """The CUDA version of this onnxruntime, `13.0`; empty where it is built without."""
    import onnxruntime

    return str(getattr(onnxruntime, "cuda_version", ""))


def clash(builds: Sequence[str]) -> str | None:
    """Distributions that bring the same Python package overwrite each other's files."""
    if len(builds) < 2:
        return None
    return (
        f"{' and '.join(builds)} are both installed and overwrite each other: "
        f"pip uninstall -y {' '.join(builds)}, then install the one you want"
    )


def old_driver(gpu: nvidia.Gpu | str, built_for: str) -> str | None:
    """The driver must run the CUDA that onnxruntime was built for. Minor versions are compatible."""
    if isinstance(gpu, str) or not built_for:
        return None
    major = built_for.partition(".")[0]
    if int(gpu.cuda.partition(".")[0]) >= int(major):
        return None
    return (
        f"this onnxruntime is built for CUDA {built_for}, and the driver runs CUDA {gpu.cuda} at most: "
        f"update the NVIDIA driver to one for CUDA {major}"
    )


def missing_libraries(provider: str, load: Load = ctypes.CDLL) -> str | None:
    """The first library that `provider` cannot load, and the package that brings it; None where all load."""
    if sys.platform != "linux" or provider not in OPENS:
        return None
    import onnxruntime

    preload(load)
    if (soname := first_missing(OPENS[provider], Path(onnxruntime.__file__).parent / "capi", load)) is None:
        return None
    return f"{provider} needs {soname}, which is not here: {remedy(soname, _built_for())}"


def first_missing(names: Sequence[str], folder: Path, load: Load) -> str | None:
    """The library that keeps one of these from loading, as the loader names it.

    Other errors are none of that: onnxruntime's own providers cannot be loaded outside of it, and say so
    only once all they need is there.
    """
    for name in names:
        try:
            load(str(folder / name) if (folder / name).exists() else name)
        except OSError as error:
            if found := NOT_FOUND.search(str(error)):
                return Path(found[1]).name
    return None


def remedy(soname: str, built_for: str) -> str:
    """Which package brings a library, for onnxruntime built for this CUDA."""
    if soname.startswith("libonnxruntime"):
        return f"this onnxruntime is built without it; {GPU}"
    if soname in DRIVERS:
        return "it comes with the NVIDIA driver"
    major = built_for.partition(".")[0] or "13"
    library, _, number = soname.partition(".so.")
    if (package := WHEELS.get(library)) is None:
        return "install the CUDA toolkit that has it, or add its folder to LD_LIBRARY_PATH"
    named = package + (f"-cu{major}" if package in ALWAYS_NAMED or int(major) < 13 else "")
    install = f"pip install '{named}=={number.partition('.')[0]}.*'"
    if package == "tensorrt":
        return install
    return f"{install}, or all of CUDA at once: pip install 'onnxruntime-gpu[cuda,cudnn]'"


def preload(load: Load = ctypes.CDLL) -> None:
    """Load the NVIDIA libraries of Python packages, which the system's loader does not look for.

    Those of `nvidia-*` packages, which CUDA builds of torch need too, and TensorRT's.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    found = find_spec("tensorrt_libs")
    for folder in found.submodule_search_locations or () if found else ():
        for name in ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"):
            if (path := Path(folder) / name).exists():
                with contextlib.suppress(OSError):  # `missing_libraries` names what that leaves missing
                    load(str(path))


def _missing_plugin() -> str | None:
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return f"provider plug-ins need onnxruntime 1.24 or later, and this is {onnxruntime.__version__}"
    if find_spec(PLUGIN) is None:
        return NO_PLUGIN
    if (reason := unsupported_by_rtx(nvidia.gpu())) is not None:
        return reason
    try:
        rtx_devices()
    except WorkbenchError as error:
        return error.message
    return None


def unsupported_by_rtx(gpu: nvidia.Gpu | str) -> str | None:
    """TensorRT for RTX is for the GPUs of workstations: it refuses others when it opens a file."""
    if isinstance(gpu, str) or gpu.capability in RTX_TAKES or float(gpu.capability) >= 12:
        return None
    return (
        f"TensorRT for RTX takes GPUs of compute capability 8.6, 8.9, or 12.0 and newer, and {gpu.name} has "
        f"{gpu.capability}: use `backend: tensorrt`, or provider `cuda`"
    )


@lru_cache(maxsize=1)
def rtx_devices() -> "tuple[onnxruntime.OrtEpDevice, ...]":
    """The first GPU of the TensorRT-RTX plug-in, which is registered once per process.

    Raises WorkbenchError where it is not installed, does not load, or shows no GPU.
    """
    import onnxruntime

    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ModuleNotFoundError as error:
        raise WorkbenchError(NO_PLUGIN) from error
    name = plugin.get_ep_name()
    with _registering:
        try:
            if not _shown(name):
                onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        except onnxruntime_errors(FileNotFoundError) as error:
            found = NOT_FOUND.search(str(error))
            why = f"it needs {Path(found[1]).name}, which is not here" if found else str(error)
            raise WorkbenchError(f"onnxruntime cannot load the TensorRT-RTX plug-in: {why}") from error
    if not (devices := _shown(name)):
        raise WorkbenchError("the TensorRT-RTX plug-in is registered, and shows no GPU that it takes")
    return devices[:1]


def _shown(name: str) -> "tuple[onnxruntime.OrtEpDevice, ...]":
    import onnxruntime

    return tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == name)
