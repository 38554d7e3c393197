"""PyTorch on an NVIDIA GPU: what stands in the way, TF32, weights in half, what a package is bound to."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.backends.artifact import Artifact
from workbench.backends.common import refuse_override
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import WorkbenchError
from workbench.system import nvidia
from workbench.system.machine import collect
from workbench.system.nvidia import Gpu
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import torch


NEEDS_CAPABILITY = {"bf16": (8, 0), "tf32": (8, 0)}
TRITON_CAPABILITY = (7, 0)

_switch = threading.Lock()
_open: list[bool] = []  # of the sessions that are open in this process: may they use TF32?


def unavailable(runtime: TorchRuntime) -> str | None:
    """Why `runtime` cannot run on the GPU here, or None.

    Asks the driver and the build of torch alone: a question to the GPU itself would make a CUDA context in
    this process, hundreds of MB of the GPU's memory, and keep it while others measure.
    """
    found = nvidia.gpu()
    if isinstance(found, str):
        return found
    if (missing := missing_package("torch")) is not None:
        return missing
    import torch

    if torch.version.cuda is None:
        build = "a ROCm build" if torch.version.hip else "a CPU build"
        return f"this torch is {build}: install a CUDA build of torch, see https://pytorch.org/get-started"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is said below
        sees = torch.cuda.is_available()
    if not sees:
        return _unseen(found, torch.__version__, torch.version.cuda)
    return _too_old(found, torch.cuda.get_arch_list(), runtime)


def _unseen(found: Gpu, version: str, built_for: str) -> str:
    if _numbers(found.cuda) < _numbers(built_for):
        return (
            f"the NVIDIA driver runs CUDA {found.cuda} at most, and this torch ({version}) is built for "
            f"CUDA {built_for}: update the driver, or install torch for CUDA {found.cuda} or older"
        )
    return (
        f"torch {version} for CUDA {built_for} finds no GPU, but the driver shows {found.name} and runs CUDA "
        f'{found.cuda}: `python -c "import torch; torch.cuda.init()"` says why'
    )


def _too_old(found: Gpu, built_for: list[str], runtime: TorchRuntime) -> str | None:
    capability = _numbers(found.capability)
    this = f"{found.name} (compute capability {found.capability})"
    if not runs_on(built_for, capability):
        return f"this torch has no code for {this}, only for {', '.join(built_for)}: install another build"
    if capability < NEEDS_CAPABILITY.get(runtime.precision or "f32", (0, 0)):
        return f"{this} has no {runtime.precision} instructions, which came with capability 8.0 (Ampere)"
    if runtime.compile:
        if capability < TRITON_CAPABILITY:
            return f"`compile: true` needs a GPU of capability 7.0 (Volta) or newer, not {this}"
        if missing_package("triton", extra="export") is not None:
            return "`compile: true` on a GPU needs `triton`: pip install triton"
    return None


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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def bound_to() -> str:
    """What a network compiled here is made for. The processor too: its host code is compiled for that."""
    import torch

    found = nvidia.gpu()
    name = f"{found.name} {found.capability}" if isinstance(found, Gpu) else "no GPU"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {collect().processor}"


def refuse_foreign(artifact: Artifact) -> None:
    """Raise WorkbenchError where a compiled package was made for another GPU, torch, CUDA or processor."""
    if artifact.info.bound_to != (here := bound_to()):
        raise WorkbenchError(
            f"{artifact.path.name} was made for {artifact.info.bound_to}; here is {here}",
            hint="build it here: `krishi-bench run` with the same recipe on this machine",
        )


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """TF32 on or off, as long as this is open. cuDNN's convolutions have it on by default.

    torch has one switch for the whole process: raises WorkbenchError where another session wants it
    otherwise. Matrix products are switched by the one function that keeps torch's older and newer settings
    in step: inductor reads the older one, and refuses a mixture of both. Raises too where the environment
    decides otherwise.
    """
    import torch

    refuse_override(allowed)
    with _switch:
        if (not allowed) in _open:
            raise WorkbenchError(
                "runtime.precision: a model that is open in this process computes "
                f"{'without' if allowed else 'with'} TF32, and torch has one switch for all",
                hint="open `tf32` models in a process of their own",
            )
        precision = "tf32" if allowed else "ieee"
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]
        _open.append(allowed)
    try:
        yield
    finally:
        with _switch:
            _open.remove(allowed)


def round_weights(module: "torch.nn.Module", half: "torch.dtype") -> None:
    """Hold in `half` what autocast would round to it in every call: weights of two dimensions and more, and
    with them position embeddings, which autocast would leave.

    The rest (biases, statistics, scales) stays in float32, as under autocast alone: norms need that. Their
    layout stays as it was exported: with `channels_last`, which cuDNN prefers for half precision, the views
    that a forward was exported with may not exist. Inductor chooses layouts itself.
    """
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dtype == torch.float32 and parameter.ndim > 1:
                parameter.data = parameter.data.to(half)
