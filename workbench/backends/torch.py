"""PyTorch, eager: an exported program (`.pt2`) or a TorchScript file."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.artifact import Artifact, Format
from workbench.backends.base import Runtime, Session
from workbench.backends.packages import missing_package
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "torch"
FORMATS: frozenset[Format] = frozenset({"torch-export", "torchscript"})
PACKAGES: tuple[str, ...] = ("torch",)


def unavailable(runtime: Runtime) -> str | None:
    if (missing := missing_package("torch", extra="export")) is not None:
        return missing
    if runtime.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "torch sees no CUDA GPU: it needs an NVIDIA GPU, its driver and a CUDA build of torch"
    return None


@contextmanager
def session(artifact: Artifact, runtime: Runtime) -> Iterator[Session]:
    """Open a torch artifact from its verified bytes, in inference mode."""
    import torch

    torch.set_num_threads(runtime.intra_threads)
    data = io.BytesIO(artifact.read())
    with warnings.catch_warnings():
        # torch.jit.load is deprecated, and still the only reader of the files that people have.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if artifact.info.format == "torchscript":
                module = torch.jit.load(data, map_location=runtime.device).eval()  # type: ignore[no-untyped-call]
            else:
                module = torch.export.load(data).module().to(runtime.device)
        except (RuntimeError, ValueError) as error:
            raise WorkbenchError(f"torch cannot open {artifact.path.name}: {error}") from error

    def infer(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(batch).to(runtime.device)).cpu().numpy()
        return logits

    yield Session(infer, device=runtime.device, provider="eager", threads=torch.get_num_threads())
