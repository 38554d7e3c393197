"""What a runtime must offer to be measured and served."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from workbench.artifact import Artifact, Format
from workbench.audit import Audit
from workbench.images import Batch
from workbench.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BackendName = Literal["onnxruntime", "openvino", "torch", "null"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Hint = Literal["f32", "bf16", "f16"]

# The fields of `runtime` that one backend alone understands; on any other they are an error, not ignored.
FIELDS_OF: dict[BackendName, frozenset[str]] = {
    "onnxruntime": frozenset(
        {"provider", "graph_level", "spinning", "execution_mode", "arena", "prepacking", "flush_denormals"}
    ),
    "openvino": frozenset({"precision", "streams"}),
    "torch": frozenset({"precision", "compile"}),
    "null": frozenset(),
}


class Runtime(BaseModel):
    """Where and how an artifact runs: the `runtime` section of a recipe. Measured so, served so.

    provider: onnxruntime's execution provider; the device's own by default.
    profile: `shared` runs as many sessions as there are processors, one thread each, and sleeps between
    calls; `latency` gives all processors to one session, whose threads spin while they wait.
    threads: of one session, where the profile's number is not what you want.
    batch: photos per call while timing. The server answers photo by photo.
    precision: what openvino and torch compute in, where the graph leaves it open.
    streams: inference requests that openvino works on at once.
    compile: torch compiles the network ahead of time (inductor, weights frozen) while the artifact is built.
    graph_level: how far onnxruntime rewrites the graph when it opens it. spinning: its threads spin while
    they wait; the profile's habit by default. execution_mode: `parallel` runs independent branches at once.
    arena: it keeps freed memory for itself. prepacking: it stores weights in its kernels' own order.
    flush_denormals: numbers too small for float32's normal range count as zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: BackendName = "onnxruntime"
    device: Literal["cpu", "cuda"] = "cpu"
    provider: Provider | None = None
    profile: Literal["shared", "latency"] = "shared"
    threads: PositiveInt | None = None
    batch: PositiveInt = 1
    precision: Hint | None = None
    streams: PositiveInt | None = None
    compile: bool = False
    graph_level: Literal["disable", "basic", "extended", "layout", "all"] = "all"
    spinning: bool | None = None
    execution_mode: Literal["sequential", "parallel"] = "sequential"
    arena: bool = True
    prepacking: bool = True
    flush_denormals: bool = False

    @property
    def intra_threads(self) -> int:
        """Threads of one session, on this machine."""
        return self.threads or (1 if self.profile == "shared" else usable_cores())

    @property
    def sessions(self) -> int:
        """Calls that run at once on this machine, so that no processor is promised twice."""
        return max(1, usable_cores() // self.intra_threads)

    @model_validator(mode="after")
    def _fields_fit(self) -> "Runtime":
        for owner, names in FIELDS_OF.items():
            mine = FIELDS_OF[self.backend]
            for name in sorted(self.model_fields_set & names - mine):
                # A default that was written out, as in a manifest, asks for nothing.
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"`{name}` belongs to {owner}; backend `{self.backend}` has none")
        if self.provider is not None and (self.provider in ("cpu", "openvino")) != (self.device == "cpu"):
            raise ValueError(f"provider `{self.provider}` does not run on device `{self.device}`")
        if self.backend == "torch" and self.precision == "f16" and self.device == "cpu":
            raise ValueError("precision `f16` on the cpu belongs to openvino; torch computes in f32 or bf16")
        return self


Infer = Callable[[Batch], "NDArray[np.float32]"]
"""(N, C, H, W) float32, or (N, H, W, C) uint8 where `ArtifactInfo.pixels` -> (N, classes) logits, host memory
in and out."""


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

    def audit(self, artifact: Artifact, runtime: Runtime, sample: "NDArray[Any]") -> Audit:
        """What really runs where and in which precision; found by opening the artifact once more.

        sample: one batch as the session takes it. Raises WorkbenchError as `session` does.
        """
        ...

    def session(self, artifact: Artifact, runtime: Runtime) -> AbstractContextManager[Session]:
        """Open the artifact. Raises WorkbenchError where the runtime did not do as asked."""
        ...
