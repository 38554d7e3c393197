"""The chain from the NVIDIA driver to the runtimes: the first link that does not hold, and its remedy.

`doctor` and every backend ask it. No link makes a CUDA context, which would keep memory of the GPU in this
process while others are measured; libraries stay open.
"""

import contextlib
import ctypes
import importlib
import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.system import nvidia
from workbench.system.nvidia import NO_GPU, Gpu, Load, parts_of, version_of

State = Literal["ok", "broken", "not looked at"]

# The last links of the backends' chains.
ORT, TENSORRT, TORCH = "CUDA provider", "cuda-python", "torch for CUDA"
TENSORRT_EXTRA = "pip install 'krishi-bench[tensorrt]'"
TORCH_INDEX = {12: "cu126", 13: "cu130"}

CUDA_PROVIDER = "CUDAExecutionProvider"
BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
GPU_EXTRA = "in an environment without onnxruntime: pip install 'krishi-bench[gpu]'"
MINIMUM_DRIVER = {12: "525", 13: "580"}  # NVIDIA, CUDA Compatibility: minor version compatibility
ORT_FOR_CUDA_12 = "onnxruntime-gpu[cuda,cudnn]<1.27"  # the last built for CUDA 12, by their metadata
NOT_FOUND = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")


@dataclass(frozen=True, slots=True)
class Missing:
    """what: the problem. remedy: the command, or what to do where no command does it."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Host:
    """How the machine and its environment are asked.

    load: opens a shared library by its name or path, as `ctypes.CDLL` does; raises OSError.
    folder: where a distribution is installed, or None. imported: a module; raises ImportError or OSError.
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


def preload(onnxruntime: Any) -> None:
    """Load what onnxruntime needs of `nvidia-*` packages, where the system's loader does not look."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


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
        return Missing(
            f"onnxruntime {version} is built without CUDA (it has {', '.join(providers)})", GPU_EXTRA
        )
    if (wanted := parts_of(cuda)[0]) > host.driver_cuda:
        return Missing(
            f"onnxruntime {version} is built for CUDA {wanted}, and the driver runs {host.driver_cuda}",
            f"{_newer_driver(wanted)}, or pip install '{ORT_FOR_CUDA_12}'",
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


def _newer_driver(cuda: int) -> str:
    return f"update the NVIDIA driver to {MINIMUM_DRIVER.get(cuda, 'a newer one')} or later"


def _driver(host: Host) -> str | Missing:
    if isinstance(host.gpu, str) and host.gpu != NO_GPU:
        return _missing(host.gpu)
    if isinstance(host.gpu, Gpu) and host.driver_cuda < min(MINIMUM_DRIVER):
        return Missing(
            f"the driver runs CUDA {host.gpu.cuda} at most, and none of the packages here is built for less "
            f"than {min(MINIMUM_DRIVER)}",
            _newer_driver(min(MINIMUM_DRIVER)),
        )
    cuda = f", for CUDA {host.gpu.cuda}" if isinstance(host.gpu, Gpu) else ""
    return (nvidia.driver_version() or "unknown version") + cuda


def _gpu(host: Host) -> str | Missing:
    if isinstance(host.gpu, str):
        return _missing(host.gpu)
    gib = host.gpu.memory_bytes / 2**30
    return f"{host.gpu.name}, compute capability {host.gpu.capability}, {gib:.0f} GiB"


def _missing(sentence: str) -> Missing:
    what, _, remedy = sentence.partition(": ")
    return Missing(what, remedy)


def _tensorrt(host: Host) -> str | Missing:
    try:
        version = str(host.imported("tensorrt").__version__)
    except (ImportError, OSError) as error:
        return Missing(f"`tensorrt` does not import ({error})", TENSORRT_EXTRA)
    # From 10.3 on: strongly typed networks, contexts that take their memory from us.
    if not (10, 3) <= parts_of(version) < (12,):
        return Missing(f"TensorRT {version} is installed", "pip install 'tensorrt>=10.3,<12'")
    return version


def _cuda_python(host: Host) -> str | Missing:
    try:
        host.imported("cuda.bindings.runtime")
        version = str(host.imported("cuda.bindings").__version__)
    except (ImportError, OSError, AttributeError) as error:
        return Missing(f"`cuda.bindings` does not import ({error})", TENSORRT_EXTRA)
    if (built_for := parts_of(version)[0]) > host.driver_cuda:
        return Missing(
            f"cuda-bindings {version} is for CUDA {built_for}, and the driver runs {host.driver_cuda}",
            f"{_newer_driver(built_for)}, or pip install 'cuda-python<{built_for}'",
        )
    return version


def _torch(host: Host) -> str | Missing:
    assert isinstance(host.gpu, Gpu)
    try:
        torch = host.imported("torch")
    except (ImportError, OSError) as error:
        return Missing(f"`torch` does not import ({error})", "pip install 'krishi-bench[export]'")
    index = TORCH_INDEX[min(max(host.driver_cuda, 12), 13)]
    other = f"install a build from torch's own index `{index}` in its place (see pytorch.org)"
    version, cuda = torch.__version__, torch.version.cuda
    if cuda is None:
        return Missing(f"torch {version} is built without CUDA", other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is said below
        sees = torch.cuda.is_available()
    if not sees and parts_of(host.gpu.cuda) < parts_of(cuda):
        problem = (
            f"torch {version} is built for CUDA {cuda}, and the driver runs CUDA {host.gpu.cuda} at most"
        )
        return Missing(problem, f"update the NVIDIA driver, or {other}")
    if not sees:
        return Missing(
            f"torch {version} for CUDA {cuda} finds no GPU, but the driver shows {host.gpu.name}",
            '`python -c "import torch; torch.cuda.init()"` says why',
        )
    codes = torch.cuda.get_arch_list()
    if not runs_on(codes, parts_of(host.gpu.capability)):
        this = f"{host.gpu.name} (compute capability {host.gpu.capability})"
        return Missing(f"torch {version} has no code for {this}, only for {', '.join(codes)}", other)
    return f"{version}, for CUDA {cuda}"


def runs_on(built_for: list[str], capability: tuple[int, ...]) -> bool:
    """Whether a build with code for these (`sm_90`, `compute_120`) runs on a GPU of this capability.

    Machine code runs on its own generation, from its own minor version upwards; PTX (`compute_`) on all
    later ones; what ends in `a` on exactly one, in `f` on its generation. (CUDA Programming Guide, chapter
    on compute capabilities.)
    """
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        target = (int(digits[:-1]), int(digits[-1]))
        if number.endswith("a"):
            fits = target == capability
        elif kind == "compute" and not number.endswith("f"):
            fits = target <= capability
        else:
            fits = target[0] == capability[0] and target <= capability
        if fits:
            return True
    return False


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """after: the links that must hold before this one is looked at. look: its version, or what is missing."""

    needed_for: str
    after: tuple[str, ...]
    look: Callable[[Host], str | Missing]


PROVIDER = "for onnxruntime's cuda provider"
LINKS: Mapping[str, LinkCheck] = {
    "NVIDIA driver": LinkCheck("for everything on a GPU", (), _driver),
    "GPU": LinkCheck("for everything on a GPU", ("NVIDIA driver",), _gpu),
    "onnxruntime-gpu": LinkCheck(PROVIDER, ("GPU",), check_onnxruntime),
    "CUDA runtime": LinkCheck(PROVIDER, ("onnxruntime-gpu",), library_check("libcudart.so.{}")),
    "cuBLAS": LinkCheck(
        PROVIDER, ("onnxruntime-gpu",), library_check("libcublasLt.so.{}", "cublasLtGetVersion")
    ),
    "cuRAND": LinkCheck(PROVIDER, ("onnxruntime-gpu",), library_check("libcurand.so.10")),
    "cuDNN 9": LinkCheck(PROVIDER, ("cuBLAS",), library_check("libcudnn.so.9", "cudnnGetVersion")),
    ORT: LinkCheck(PROVIDER, ("CUDA runtime", "cuBLAS", "cuRAND", "cuDNN 9"), check_provider),
    "TensorRT for Python": LinkCheck("for backend tensorrt", ("GPU",), _tensorrt),
    TENSORRT: LinkCheck("for backend tensorrt", ("TensorRT for Python",), _cuda_python),
    TORCH: LinkCheck("for backend torch on a GPU", ("GPU",), _torch),
}


@dataclass(frozen=True, slots=True)
class Link:
    """found: the version, or what is wrong. needed_for: the runtimes that hang on it."""

    name: str
    needed_for: str
    state: State
    found: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        if self.state == "not looked at":
            return self.state
        return f"{self.found}: {self.remedy}" if self.remedy else str(self.found)


@dataclass(frozen=True, slots=True)
class Chain:
    links: tuple[Link, ...]

    @property
    def first_broken(self) -> Link | None:
        return next((link for link in self.links if link.state == "broken"), None)


def chain(host: Host | None = None, last: str | None = None) -> Chain:
    """Look at every link whose own links hold; up to `last`, only at those it hangs on."""
    at = this_host() if host is None else host
    found: dict[str, Link] = {}
    for name in LINKS if last is None else _before(last):
        check = LINKS[name]
        if any(found[before].state != "ok" for before in check.after):
            found[name] = Link(name, check.needed_for, "not looked at")
            continue
        seen = check.look(at)
        if isinstance(seen, Missing):
            found[name] = Link(name, check.needed_for, "broken", seen.what, seen.remedy)
        else:
            found[name] = Link(name, check.needed_for, "ok", seen)
    return Chain(tuple(found.values()))


def _before(last: str) -> dict[str, None]:
    """The links that `last` hangs on, and itself, in order."""
    return {name: None for before in LINKS[last].after for name in _before(before)} | {last: None}


def missing_link(last: str, host: Host | None = None) -> str | None:
    """None where the chain holds up to the link `last`; else what is missing, and the remedy."""
    broken = chain(host, last).first_broken
    return str(broken) if broken else None
