"""PyTorch on an NVIDIA GPU: requirements, TF32, weights in half precision, the machine of a package."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.backends.artifact import Artifact
from workbench.backends.common import refuse_override
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import WorkbenchError
from workbench.system import nvidia, nvidia_check
from workbench.system.machine import collect
from workbench.system.nvidia import Gpu, parts_of
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import torch


NEEDS_CAPABILITY = {"bf16": (8, 0), "tf32": (8, 0)}
TRITON_CAPABILITY = (7, 0)

_switch = threading.Lock()
_open: list[bool] = []  # for each open session of this process: it may use TF32


def unavailable(runtime: TorchRuntime) -> str | None:
    """Why `runtime` cannot run on the GPU here, or None."""
    if (missing := nvidia_check.missing_link(nvidia_check.TORCH)) is not None:
        return missing
    found = nvidia.gpu()
    assert isinstance(found, Gpu)
    capability = parts_of(found.capability)
    this = f"{found.name} (compute capability {found.capability})"
    if capability < NEEDS_CAPABILITY.get(runtime.precision or "f32", (0, 0)):
        return f"{this} has no {runtime.precision} instructions, which came with capability 8.0 (Ampere)"
    if runtime.compile:
        if capability < TRITON_CAPABILITY:
            return f"`compile: true` needs a GPU of capability 7.0 (Volta) or newer, not {this}"
        if missing_package("triton", extra="export") is not None:
            return "`compile: true` on a GPU needs `triton`: pip install triton"
    return None


def bound_to() -> str:
    """The machine that a network compiled here runs on; its host code needs the processor too."""
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
    """Switch TF32 on or off while this is open. cuDNN's convolutions have it on by default.

    Raises WorkbenchError where another session of this process, or the environment, has it otherwise: torch
    has one switch for the process.
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
        # This function keeps torch's older setting in step, which inductor reads; it refuses a mixture.
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
    """Store weights of two dimensions and more in `half`, to which autocast would round them in every call.

    Biases, statistics and scales stay in float32, as under autocast: norms need that. The layout stays as it
    was exported: with `channels_last`, which cuDNN prefers for half precision, views of the exported forward
    may not exist.
    """
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dtype == torch.float32 and parameter.ndim > 1:
                parameter.data = parameter.data.to(half)
