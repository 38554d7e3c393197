"""A runtime that computes nothing: what a worker costs before any real runtime is in it, and a stand-in
for tests of the measuring engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.artifact import Artifact, Format
from workbench.backends.base import Runtime, Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "null"
FORMATS: frozenset[Format] = frozenset({"null"})
PACKAGES: tuple[str, ...] = ()


def unavailable(runtime: Runtime) -> str | None:
    return None if runtime.device == "cpu" else "backend `null` runs on the cpu only"


@contextmanager
def session(artifact: Artifact, runtime: Runtime) -> Iterator[Session]:
    """Logits that are the channel means, spread over the classes: cheap, and a function of the input."""
    import numpy as np

    weights = np.linspace(-1.0, 1.0, 3 * artifact.info.classes, dtype=np.float32).reshape(3, -1)

    def infer(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
        logits: NDArray[np.float32] = batch.mean(axis=(2, 3)) @ weights
        return logits

    yield Session(infer, device="cpu", provider="null", threads=runtime.intra_threads)
