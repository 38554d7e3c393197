"""Each link that NVIDIA's runtimes hang on: how it is looked at, and what mends it.

Libraries are looked for where the runtimes find them: in the folders of NVIDIA's wheels, then by the system's
loader.
"""

import ctypes
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import first_line
from workbench.system.nvidia import DRIVER, NO_GPU, Gpu, Load, read_gpu
from workbench.system.packages import versions

MINIMUM_DRIVER = {12: "525", 13: "580"}  # NVIDIA, CUDA Compatibility: minor version compatibility
ORT_FOR_CUDA_12 = "onnxruntime-gpu[cuda,cudnn]<1.27"  # the last built for CUDA 12, by their metadata
TORCH_INDEX = {12: "cu126", 13: "cu130"}
NOT_FOUND = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")
# An ONNX file of one Identity of one number: what a provider is tried with.
IDENTITY = bytes.fromhex(
    "080812003a370a100a016112016222084964656e746974791201675a0f0a0161120a0a08080112040a020801"
    "620f0a0162120a0a08080112040a02080142040a00100d"
)
GPU_EXTRA = "in an environment without onnxruntime: pip install 'krishi-bench[gpu]'"


@dataclass(frozen=True, slots=True)
class Missing:
    """what: the problem. remedy: the command, or what to do where no command does it."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class HostProbe:
    """How the machine is looked at; tests bring their own.

    load: opens a shared library by its name or path, as `ctypes.CDLL` does; raises OSError.
    version: of an installed distribution, or None. imported: a module; raises ImportError or OSError.
    opened: what onnxruntime took when asked for a provider, by its name, to run IDENTITY.
    folders: of NVIDIA's wheels with libraries in them. capi: where onnxruntime's own libraries are.
    kernel: where the driver's kernel module says its version.
    """

    load: Load
    version: Callable[[str], str | None]
    imported: Callable[[str], Any]
    opened: Callable[[str], str]
    folders: tuple[Path, ...]
    capi: Path
    kernel: Path = Path("/sys/module/nvidia/version")

    @property
    def gpu(self) -> Gpu | str:
        return read_gpu(self.load)

    @property
    def driver_cuda(self) -> int:
        """Major version of the CUDA that the driver runs."""
        version = ctypes.c_int()
        self.load(DRIVER).cuDriverGetVersion(ctypes.byref(version))
        return version.value // 1000

    @property
    def cuda(self) -> int:
        """Major version of the CUDA whose libraries are wanted: onnxruntime-gpu's, or the driver's."""
        return self.ort_cuda or self.driver_cuda

    @property
    def ort_cuda(self) -> int | None:
        if self.version("onnxruntime-gpu") is None:
            return None
        try:
            built_for = str(getattr(self.imported("onnxruntime"), "cuda_version", ""))
        except (ImportError, OSError):
            return None
        return int(built_for.partition(".")[0]) if re.match(r"\d+", built_for) else None

    def library(self, name: str) -> Any:
        """Open a library by its soname. Raises OSError with what the loader said last."""
        for folder in self.folders:
            if (folder / name).is_file():
                return self.load(str(folder / name))
        return self.load(name)


def here() -> HostProbe:
    """This machine and this environment. Folders as the wheels of CUDA 12 and 13 have them."""
    wheels = [found for folder in _folders("nvidia") for found in sorted(folder.glob("*/lib"))]
    return HostProbe(
        load=ctypes.CDLL,
        version=lambda name: versions(name).get(name),
        imported=importlib.import_module,
        opened=_opened,
        folders=tuple(wheels),
        capi=next(iter(_folders("onnxruntime")), Path()) / "capi",
    )


def _opened(provider: str) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(IDENTITY, options, providers=[provider])
    return str(session.get_providers()[0])


def _folders(package: str) -> list[Path]:
    """Where a package is, without importing it; nowhere where it is not installed."""
    spec = find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _driver(look: HostProbe) -> str | Missing:
    seen = look.gpu
    if isinstance(seen, str) and seen != NO_GPU:
        what, _, remedy = seen.partition(": ")
        return Missing(what, remedy)
    return look.kernel.read_text().strip() if look.kernel.is_file() else "here; its version is not told"


def _cuda(look: HostProbe) -> str | Missing:
    version = ctypes.c_int()
    look.load(DRIVER).cuDriverGetVersion(ctypes.byref(version))
    said = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if version.value < 12000:
        return Missing(
            f"the driver runs CUDA {said} at most, and none of the packages here is built for less than 12",
            f"update the NVIDIA driver to {MINIMUM_DRIVER[12]} or later (CUDA 13: {MINIMUM_DRIVER[13]})",
        )
    return said


def _gpu(look: HostProbe) -> str | Missing:
    seen = look.gpu
    if isinstance(seen, str):
        what, _, remedy = seen.partition(": ")
        return Missing(what, remedy)
    total = ctypes.c_size_t()
    look.load(DRIVER).cuDeviceTotalMem_v2(ctypes.byref(total), 0)
    return f"{seen.name}, compute capability {seen.capability}, {total.value / 2**30:.0f} GiB"


def _library(look: HostProbe, name: str, version: Callable[[Any], str | None], remedy: str) -> str | Missing:
    """version: as the opened library tells it; its name is shown where it does not."""
    try:
        opened = look.library(name)
    except OSError as error:
        said = str(error)
        return Missing(said if name in said else f"{name} does not load: {said}", remedy)
    try:
        return version(opened) or name
    except AttributeError:  # a version of the library without that function
        return name


def _cuda_libraries(look: HostProbe) -> str:
    """The command that brings CUDA's libraries and cuDNN as onnxruntime-gpu wants them."""
    if (installed := look.version("onnxruntime-gpu")) is not None:
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]=={installed}'"
    return GPU_EXTRA


def _cudart(look: HostProbe) -> str | Missing:
    return _library(look, f"libcudart.so.{look.cuda}", _cudart_version, _cuda_libraries(look))


def _cublas(look: HostProbe) -> str | Missing:
    # libcublas needs libcublasLt, which its wheel keeps beside it.
    first = _library(look, f"libcublasLt.so.{look.cuda}", _cublas_version, _cuda_libraries(look))
    if isinstance(first, Missing):
        return first
    return _library(look, f"libcublas.so.{look.cuda}", lambda _: first, _cuda_libraries(look))


def _curand(look: HostProbe) -> str | Missing:
    return _library(look, "libcurand.so.10", lambda _: None, _cuda_libraries(look))


def _cudnn(look: HostProbe) -> str | Missing:
    return _library(look, "libcudnn.so.9", _cudnn_version, _cuda_libraries(look))


def _cudart_version(library: Any) -> str | None:
    number = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _cublas_version(library: Any) -> str | None:
    library.cublasLtGetVersion.restype = ctypes.c_size_t
    number = int(library.cublasLtGetVersion())
    return f"{number // 10000}.{number % 10000 // 100}" if number >= 100_000 else str(number)


def _cudnn_version(library: Any) -> str | None:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = int(library.cudnnGetVersion())
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def _onnxruntime_gpu(look: HostProbe) -> str | Missing:
    gpu, plain = look.version("onnxruntime-gpu"), look.version("onnxruntime")
    if gpu is None:
        return Missing("onnxruntime-gpu is not installed", GPU_EXTRA)
    if plain is not None:
        return Missing(
            f"onnxruntime {plain} lies beside onnxruntime-gpu {gpu}; they are one Python package, and the "
            "one installed last is half there",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'krishi-bench[ort-gpu]'",
        )
    if (wanted := look.ort_cuda) is None:
        return Missing(
            f"onnxruntime-gpu {gpu} does not say what CUDA it is built for, or does not import",
            "pip install --force-reinstall 'krishi-bench[ort-gpu]'",
        )
    if wanted > look.driver_cuda:
        return Missing(
            f"onnxruntime-gpu {gpu} is built for CUDA {wanted}, and the driver runs {look.driver_cuda}",
            f"update the NVIDIA driver to {MINIMUM_DRIVER.get(wanted, 'a newer one')} or later, or "
            f"pip install '{ORT_FOR_CUDA_12}'",
        )
    return f"{gpu}, for CUDA {wanted}"


def _provider(look: HostProbe, library: str, provider: str, remedy: str) -> str | Missing:
    """Whether a provider of onnxruntime comes up. Left to itself, onnxruntime takes the CPU instead."""
    try:
        look.load(str(look.capi / library))
    except OSError as error:
        # Another error is none: outside of onnxruntime it lacks what onnxruntime gives it.
        if found := NOT_FOUND.search(str(error)):
            return Missing(f"it needs {Path(found[1]).name}, which is not here", remedy)
    try:
        took = look.opened(provider)
    except (RuntimeError, ValueError, ImportError) as error:
        return Missing(f"it does not start: {first_line(error)}", remedy)
    if took != provider:
        return Missing(f"onnxruntime was asked for {provider} and took {took}", remedy)
    return "starts"


def _cuda_provider(look: HostProbe) -> str | Missing:
    library = "libonnxruntime_providers_cuda.so"
    return _provider(look, library, "CUDAExecutionProvider", _cuda_libraries(look))


def _tensorrt(look: HostProbe) -> str | Missing:
    try:
        version = str(look.imported("tensorrt").__version__)
    except (ImportError, OSError) as error:
        return Missing(f"`tensorrt` does not import ({error})", "pip install 'krishi-bench[tensorrt]'")
    if not (10, 3) <= tuple(map(int, re.findall(r"\d+", version)[:2])) < (12,):
        return Missing(f"TensorRT {version} is installed", "pip install 'tensorrt>=10.3,<12'")
    return version


def _cuda_python(look: HostProbe) -> str | Missing:
    try:
        look.imported("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        return Missing(f"`cuda.bindings` does not import ({error})", "pip install 'krishi-bench[tensorrt]'")
    version = look.version("cuda-bindings") or ""
    built_for = re.match(r"\d+", version)
    if built_for and int(built_for[0]) > look.driver_cuda:
        return Missing(
            f"cuda-bindings {version} is for CUDA {built_for[0]}, and the driver runs {look.driver_cuda}",
            f"update the NVIDIA driver, or pip install 'cuda-python<{built_for[0]}'",
        )
    return version or "here"


def _torch(look: HostProbe) -> str | Missing:
    try:
        torch = look.imported("torch")
    except (ImportError, OSError) as error:
        return Missing(f"`torch` does not import ({error})", "pip install 'krishi-bench[export]'")
    if torch.version.cuda is None:
        index = TORCH_INDEX[13 if look.driver_cuda >= 13 else 12]
        return Missing(
            f"torch {torch.__version__} is built without CUDA",
            f"install a CUDA build in its place, from torch's own index `{index}` (see pytorch.org)",
        )
    if not torch.cuda.is_available():
        return Missing(
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, and sees no GPU",
            f"update the NVIDIA driver, or install a torch for CUDA {look.driver_cuda}",
        )
    return f"{torch.__version__}, for CUDA {torch.version.cuda}"


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """after: the links that must hold before this one is looked at."""

    needed_for: str
    after: tuple[str, ...]
    look: Callable[[HostProbe], str | Missing]


PROVIDER = "for onnxruntime's cuda provider"
LINKS: Mapping[str, LinkCheck] = {
    "NVIDIA driver": LinkCheck("for everything on a GPU", (), _driver),
    "CUDA of the driver": LinkCheck("for everything on a GPU", ("NVIDIA driver",), _cuda),
    "GPU": LinkCheck("for everything on a GPU", ("CUDA of the driver",), _gpu),
    "CUDA runtime": LinkCheck(PROVIDER, ("GPU",), _cudart),
    "cuBLAS": LinkCheck(PROVIDER, ("GPU",), _cublas),
    "cuRAND": LinkCheck(PROVIDER, ("GPU",), _curand),
    "cuDNN 9": LinkCheck(PROVIDER, ("cuBLAS",), _cudnn),
    "onnxruntime-gpu": LinkCheck(PROVIDER, ("GPU",), _onnxruntime_gpu),
    "its CUDA provider": LinkCheck(
        PROVIDER,
        ("onnxruntime-gpu", "CUDA runtime", "cuBLAS", "cuRAND", "cuDNN 9"),
        _cuda_provider,
    ),
    "TensorRT for Python": LinkCheck("for backend tensorrt", ("GPU",), _tensorrt),
    "cuda-python": LinkCheck("for backend tensorrt", ("GPU",), _cuda_python),
    "torch for CUDA": LinkCheck("for backend torch on a GPU", ("GPU",), _torch),
}
