"""What stands between onnxruntime and an NVIDIA GPU: the driver, the build, the libraries.

The first broken link is named, in the order in which a person would mend them.
"""

import contextlib
import ctypes
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from workbench.system import nvidia
from workbench.system.nvidia import Load
from workbench.system.packages import missing_package, versions

CUDA = "CUDAExecutionProvider"

BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
GPU = "on a machine with an NVIDIA GPU, install 'krishi-bench[gpu]' in an environment without onnxruntime"
# What the CUDA provider opens; cuDNN late, for convolutions.
OPENS = ("libonnxruntime_providers_cuda.so", "libcudnn.so.9")
# The packages that bring them; named after the CUDA they are for only up to CUDA 12, but for the last.
WHEELS = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvJitLink": "nvidia-nvjitlink",
    "libcudnn": "nvidia-cudnn",
}
ALWAYS_NAMED = frozenset({"nvidia-cudnn"})
DRIVERS = frozenset({nvidia.DRIVER, "libnvidia-ml.so.1"})
NOT_FOUND = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")


def missing_link() -> str | None:
    """None where onnxruntime can run its CUDA provider here; else what is missing, and the remedy."""
    if (reason := nvidia.missing_gpu()) is not None:
        return reason
    if (reason := missing_package("onnxruntime", extra="ort-gpu")) is not None:
        return reason
    if (reason := clash(tuple(versions(*BUILDS)))) is not None:
        return reason
    import onnxruntime

    here = onnxruntime.get_available_providers()
    if CUDA not in here:
        return f"this onnxruntime has no {CUDA} (it has {', '.join(here)}): {GPU}"
    return old_driver(nvidia.gpu(), _built_for()) or missing_libraries()


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


def missing_libraries(load: Load = ctypes.CDLL) -> str | None:
    """The first library that the CUDA provider cannot load, and the package that
    brings it; None where all load."""
    if sys.platform != "linux":
        return None
    import onnxruntime

    preload()
    if (soname := first_missing(OPENS, Path(onnxruntime.__file__).parent / "capi", load)) is None:
        return None
    return f"{CUDA} needs {soname}, which is not here: {remedy(soname, _built_for())}"


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
    return f"{install}, or all of CUDA at once: pip install 'onnxruntime-gpu[cuda,cudnn]'"


def preload() -> None:
    """Load the NVIDIA libraries of `nvidia-*` packages, which the system's loader does not look for."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
