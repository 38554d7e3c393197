"""onnxruntime's CUDA provider and the libraries that it opens: are they here, and what installs them?"""

import contextlib
import ctypes
import importlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.system import nvidia
from workbench.system.nvidia import Gpu, Load, parts_of, version_of

CUDA_PROVIDER = "CUDAExecutionProvider"
BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
GPU_EXTRA = "in an environment without onnxruntime: pip install 'krishi-bench[gpu]'"
MINIMUM_DRIVER = {12: "525", 13: "580"}  # NVIDIA, CUDA Compatibility: minor version compatibility
ORT_FOR_CUDA_12 = "onnxruntime-gpu[cuda,cudnn]<1.27"  # the last built for CUDA 12, by their metadata
NOT_FOUND = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")


@dataclass(frozen=True, slots=True)
class Missing:
    what: str
    remedy: str  # the command, or what to do where no command does it


@dataclass(frozen=True, slots=True)
class Host:
    """How the machine and its environment are asked.

    load: as `ctypes.CDLL`. folder: where a distribution is installed. imported: as `importlib.import_module`.
    """

    gpu: Gpu | str
    load: Load
    folder: Callable[[str], Path | None]
    imported: Callable[[str], Any]

    @property
    def driver_cuda(self) -> int:
        """Major version of the newest CUDA that the driver runs."""
        return 0 if isinstance(self.gpu, str) else parts_of(self.gpu.cuda)[0]


def this_host() -> Host:
    return Host(nvidia.gpu(), ctypes.CDLL, _folder, importlib.import_module)


def _folder(distribution: str) -> Path | None:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as find

    try:
        return Path(str(find(distribution).locate_file(""))).resolve()
    except PackageNotFoundError:
        return None


def preload(onnxruntime: Any = None) -> None:
    """Load what onnxruntime needs of `nvidia-*` packages, where the system's loader does not look."""
    onnxruntime = onnxruntime or importlib.import_module("onnxruntime")
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def newer_driver(cuda: int) -> str:
    return f"update the NVIDIA driver to {MINIMUM_DRIVER.get(cuda, 'a newer one')} or later"


def check_onnxruntime(host: Host) -> str | Missing:
    try:
        onnxruntime = host.imported("onnxruntime")
        providers = onnxruntime.get_available_providers()
    except (ImportError, OSError, AttributeError) as error:
        return Missing(f"`onnxruntime` does not import ({error})", GPU_EXTRA)
    folders = [(name, folder) for name in BUILDS if (folder := host.folder(name)) is not None]
    # The same Python package: in one folder they overwrite each other's files.
    if len({folder for _, folder in folders}) < len(folders):
        names = [name for name, _ in folders]
        return Missing(
            f"{' and '.join(names)} are both installed and overwrite each other",
            f"pip uninstall -y {' '.join(names)}, then pip install 'krishi-bench[ort-gpu]'",
        )
    version, cuda = onnxruntime.__version__, str(getattr(onnxruntime, "cuda_version", ""))
    if CUDA_PROVIDER not in providers or not cuda:
        built = f"built without CUDA (it has {', '.join(providers)})"
        return Missing(f"onnxruntime {version} is {built}", GPU_EXTRA)
    if (wanted := parts_of(cuda)[0]) > host.driver_cuda:
        return Missing(
            f"onnxruntime {version} is built for CUDA {wanted}, and the driver runs {host.driver_cuda}",
            f"{newer_driver(wanted)}, or pip install '{ORT_FOR_CUDA_12}'",
        )
    preload(onnxruntime)
    return f"{version}, for CUDA {wanted}"


def library_check(soname: str, function: str = "") -> Callable[[Host], str | Missing]:
    """soname: its `{}` becomes the major version of onnxruntime's CUDA. function: returns its version."""

    def look(host: Host) -> str | Missing:
        onnxruntime = host.imported("onnxruntime")
        name = soname.format(parts_of(str(onnxruntime.cuda_version))[0])
        try:
            library = host.load(name)
        except OSError as error:
            text = str(error)
            return Missing(text if name in text else f"{name} does not load: {text}", _libraries(onnxruntime))
        ask = getattr(library, function, None) if function else None
        if ask is None:
            return name
        ask.restype = ctypes.c_size_t
        return f"{name}, version {version_of(int(ask()), 10000, 100, 1)}"

    return look


def _libraries(onnxruntime: Any) -> str:
    """The command that installs CUDA's libraries and cuDNN as this onnxruntime wants them."""
    return f"pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}'"


def check_provider(host: Host) -> str | Missing:
    """Whether the provider's own library loads: else onnxruntime silently takes the CPU instead."""
    onnxruntime = host.imported("onnxruntime")
    try:
        host.load(str(Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_cuda.so"))
    except OSError as error:
        # Another error is none: outside of onnxruntime it lacks what onnxruntime gives it.
        if found := NOT_FOUND.search(str(error)):
            return Missing(f"it needs {Path(found[1]).name}, which is not here", _libraries(onnxruntime))
    return "loads"
