"""A runtime that computes nothing: what a worker costs before any real runtime is in it, and a stand-in
for tests of the measuring engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.backends.base import ANY_OPERATORS, Operators, RuntimeSettings, Session
from workbench.photos.contract import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.backends.artifact import Artifact, Format
    from workbench.backends.audit import Audit

NAME = "null"
PACKAGES: tuple[str, ...] = ()
FORMATS: "frozenset[Format]" = frozenset({"null", "onnx"})  # none of them is read
OPERATORS: frozenset[Operators] = ANY_OPERATORS
convert = prepare = None


class NullRuntime(RuntimeSettings):
    """No runtime: it computes nothing, so that the worker around it can be measured."""

    backend: Literal["null"] = "null"


def null_artifact(folder: Path, shape: tuple[int, int, int, int], classes: int) -> "Artifact":
    """Of an empty file that nothing reads. shape: (N, C, H, W) of its input."""
    from workbench.backends.artifact import Artifact, ArtifactInfo

    info = ArtifactInfo(format="null", file="", sha256="", size_bytes=0, input_shape=shape, classes=classes)
    return Artifact(folder, info)


def unavailable(runtime: NullRuntime) -> str | None:
    del runtime
    return None


def audit(artifact: "Artifact", runtime: NullRuntime, sample: "NDArray[Any]") -> "Audit":
    from workbench.backends.audit import Audit

    del artifact, runtime, sample
    return Audit(macs=0, verdict="it multiplies nothing")


@contextmanager
def session(artifact: "Artifact", runtime: NullRuntime) -> Iterator[Session]:
    """Logits that are the channel means, spread over the classes: cheap, and a function of the input."""
    import numpy as np

    weights = np.linspace(-1.0, 1.0, 3 * artifact.info.classes, dtype=np.float32).reshape(3, -1)
    across = (1, 2) if artifact.info.pixels else (2, 3)

    def infer(batch: Batch) -> "NDArray[np.float32]":
        logits: NDArray[np.float32] = batch.mean(axis=across, dtype=np.float32) @ weights
        return logits

    yield Session(infer, device="cpu", provider="null", threads=runtime.intra_threads)
