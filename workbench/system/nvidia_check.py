"""The chain from the NVIDIA driver to the runtimes: the first link that does not hold, and its remedy.

`doctor` and every backend ask it. No link makes a CUDA context, which would keep memory of the GPU in this
process while others are measured; libraries stay open.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.system.nvidia import NO_GPU, Gpu, parts_of
from workbench.system.nvidia_libraries import (
    MINIMUM_DRIVER,
    Host,
    Missing,
    check_onnxruntime,
    check_provider,
    library_check,
    newer_driver,
    this_host,
)

State = Literal["ok", "broken", "not looked at"]

# The last links of the backends' chains.
ORT, TENSORRT, TORCH = "CUDA provider", "cuda-python", "torch for CUDA"
TENSORRT_EXTRA = "pip install 'krishi-bench[tensorrt]'"
TORCH_INDEX = {12: "cu126", 13: "cu130"}
KERNEL_MODULE = Path("/sys/module/nvidia/version")


def _driver(host: Host) -> str | Missing:
    if isinstance(host.gpu, str) and host.gpu != NO_GPU:
        return _missing(host.gpu)
    if isinstance(host.gpu, Gpu) and host.driver_cuda < min(MINIMUM_DRIVER):
        return Missing(
            f"the driver runs CUDA {host.gpu.cuda} at most, and none of the packages here is built for less "
            f"than {min(MINIMUM_DRIVER)}",
            newer_driver(min(MINIMUM_DRIVER)),
        )
    cuda = f", for CUDA {host.gpu.cuda}" if isinstance(host.gpu, Gpu) else ""
    return (KERNEL_MODULE.read_text().strip() if KERNEL_MODULE.is_file() else "unknown version") + cuda


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
            f"{newer_driver(built_for)}, or pip install 'cuda-python<{built_for}'",
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
