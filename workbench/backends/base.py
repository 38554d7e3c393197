"""What a runtime must offer to be measured and served."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from workbench.artifact import Artifact, Format
from workbench.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BackendName = Literal["onnxruntime", "torch", "null"]
Provider = Literal["cpu", "cuda", "tensorrt"]


class Runtime(BaseModel):
    """Where and how an artifact runs: the `runtime` section of a recipe. Measured so, served so.

    provider: onnxruntime's execution provider; the device's own by default.
    profile: `shared` runs as many sessions as there are processors, one thread each, and sleeps between
    calls; `latency` gives all processors to one session, whose threads spin while they wait.
    threads: of one session, where the profile's number is not what you want.
    batch: photos per call while timing. The server answers photo by photo.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: BackendName = "onnxruntime"
    device: Literal["cpu", "cuda"] = "cpu"
    provider: Provider | None = None
    profile: Literal["shared", "latency"] = "shared"
    threads: PositiveInt | None = None
    batch: PositiveInt = 1

    @property
    def intra_threads(self) -> int:
        """Threads of one session, on this machine."""
        return self.threads or (1 if self.profile == "shared" else usable_cores())

    @property
    def sessions(self) -> int:
        """Calls that run at once on this machine, so that no processor is promised twice."""
        return max(1, usable_cores() // self.intra_threads)

    @model_validator(mode="after")
    def _provider_fits(self) -> "Runtime":
        if self.provider is not None and self.backend != "onnxruntime":
            raise ValueError(f"`provider` belongs to onnxruntime; backend `{self.backend}` has none")
        if self.provider is not None and (self.provider == "cpu") != (self.device == "cpu"):
            raise ValueError(f"provider `{self.provider}` does not run on device `{self.device}`")
        return self


Infer = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""(N, C, H, W) -> (N, classes) logits, host memory in and out."""


@dataclass(frozen=True, slots=True)
class Session:
    """An opened artifact, with what was read back from the runtime rather than asked of it."""

    infer: Infer
    device: str
    provider: str
    threads: int


class Backend(Protocol):
    """A module with these names is a backend (see `backends/ort.py`)."""

    NAME: str
    FORMATS: frozenset[Format]
    PACKAGES: tuple[str, ...]
    """The distributions whose versions decide what this backend computes."""

    def unavailable(self, runtime: Runtime) -> str | None:
        """None where `runtime` can run here; else why not, and what to install."""
        ...

    def session(self, artifact: Artifact, runtime: Runtime) -> AbstractContextManager[Session]:
        """Open the artifact. Raises WorkbenchError where the runtime did not do as asked."""
        ...
