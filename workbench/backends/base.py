"""What a runtime must offer to be measured and served."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import PositiveInt, ValidationInfo, field_validator, model_validator

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.photos.contract import Batch
from workbench.system.machine import usable_cores
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BackendName = Literal["onnxruntime", "openvino", "tensorrt", "torch", "null"]
Provider = Literal["cpu", "cuda", "openvino"]
Hint = Literal["f32", "tf32", "bf16", "f16"]

GPU_SESSIONS = 8
# The fields of `runtime` that one backend alone understands; on any other they are an error, not ignored.
FIELDS_OF: dict[BackendName, frozenset[str]] = {
    "onnxruntime": frozenset(
        {
            "provider", "graph_level", "spinning", "precision", "cuda_graph",
        }
    ),
    "openvino": frozenset({"precision", "streams"}),
    "tensorrt": frozenset(
        {
            "precision", "cuda_graph", "max_batch",
        }
    ),
    "torch": frozenset({"precision", "compile", "cuda_graph"}),
    "null": frozenset(),
}  # fmt: skip
# What a backend computes in where the graph leaves it open, on the CPU and on a GPU. ONNX files say fp16.
PRECISIONS: dict[tuple[BackendName, str], frozenset[Hint]] = {
    ("onnxruntime", "cpu"): frozenset({"f32"}),
    ("onnxruntime", "cuda"): frozenset({"f32", "tf32"}),
    ("openvino", "cpu"): frozenset({"f32", "bf16", "f16"}),
    ("tensorrt", "cuda"): frozenset({"f32", "tf32"}),
    ("torch", "cpu"): frozenset({"f32", "bf16"}),
    ("torch", "cuda"): frozenset({"f32", "tf32", "bf16", "f16"}),
}


class Runtime(Record):
    """Where and how an artifact runs: the `runtime` section of a recipe. Measured so, served so.

    provider: onnxruntime's execution provider; the device's own by default.
    profile: `shared` runs as many sessions as there are processors, one thread each, and sleeps between
    calls; `latency` gives all processors to one session, whose threads spin while they wait.
    threads: of one session, where the profile's number is not what you want.
    batch: photos per call while timing. The server answers photo by photo.
    precision: what is computed in, where the graph leaves it open. `tf32`: a GPU rounds what it multiplies
    to TensorFloat-32, 10 bits behind the point; left to themselves, GPU libraries do so for `f32` too, and
    here they do not.
    cuda_graph: the GPU repeats a call that was recorded once, instead of being told each kernel.
    max_batch: photos a TensorRT engine takes at most, where the graph's batch is free; 64 by default.
    streams: inference requests that openvino works on at once.
    compile: torch compiles the network ahead of time (inductor, weights frozen) while the artifact is built.
    graph_level: how far onnxruntime rewrites the graph when it opens it. spinning: its threads spin while
    they wait; the profile's habit by default.
    """

    REMOVED: ClassVar = {
        "execution_mode": ("sequential",),
        "arena": (True,),
        "prepacking": (True,),
        "flush_denormals": (False,),
        "workspace_mb": (None,),
        "builder_level": (None,),
        "hardware_compatible": (False,),
        "version_compatible": (False,),
    }
    REMOVED_VALUES: ClassVar = {
        "provider": ("tensorrt", "tensorrt-rtx"),
        "graph_level": ("extended", "layout"),
    }

    backend: BackendName = "onnxruntime"
    device: Literal["cpu", "cuda"] = "cpu"
    provider: Provider | None = None
    profile: Literal["shared", "latency"] = "shared"
    threads: PositiveInt | None = None
    batch: PositiveInt = 1
    precision: Hint | None = None
    streams: PositiveInt | None = None
    compile: bool = False
    cuda_graph: bool = False
    max_batch: PositiveInt | None = None
    graph_level: Literal["disable", "basic", "all"] = "all"
    spinning: bool | None = None

    @property
    def intra_threads(self) -> int:
        """Threads of one session, on this machine."""
        return self.threads or (1 if self.profile == "shared" else usable_cores())

    @property
    def sessions(self) -> int:
        """Calls that run at once on this machine, so that no processor is promised twice. On a GPU more than
        a few gain nothing, and each takes memory of it."""
        here = max(1, usable_cores() // self.intra_threads)
        return here if self.device == "cpu" else min(here, GPU_SESSIONS)

    @field_validator("precision", mode="before")
    @classmethod
    def _fp16_is_a_step(cls, given: object, info: ValidationInfo) -> object:
        # Else `f16` would be suggested, which is refused next.
        backend = info.data.get("backend")
        if given in ("fp16", "float16", "half") and backend in ("onnxruntime", "tensorrt"):
            raise ValueError(
                f"precision `{given}` does not exist for {backend}: fp16 is a step of the recipe, "
                "`steps: [{use: fp16}]`"
            )
        return given

    @model_validator(mode="after")
    def _fields_fit(self) -> "Runtime":
        known = frozenset().union(*FIELDS_OF.values())
        for name in sorted(self.model_fields_set & known - FIELDS_OF[self.backend]):
            # A default that was written out, as in a manifest, asks for nothing.
            if getattr(self, name) != type(self).model_fields[name].default:
                owners = ", ".join(owner for owner, names in FIELDS_OF.items() if name in names)
                raise ValueError(f"`{name}` belongs to {owners}; backend `{self.backend}` has none")
        if self.provider is not None and (self.provider in ("cpu", "openvino")) != (self.device == "cpu"):
            raise ValueError(f"provider `{self.provider}` does not run on device `{self.device}`")
        if self.backend == "tensorrt" and self.device != "cuda":
            raise ValueError("backend `tensorrt` runs on NVIDIA GPUs: it needs `device: cuda`")
        if self.device == "cuda" and self.backend in ("openvino", "null"):
            raise ValueError(f"backend `{self.backend}` runs on the cpu only")
        if self.cuda_graph and self.device != "cuda":
            raise ValueError("`cuda_graph` needs `device: cuda`")
        if self.max_batch is not None and self.max_batch < self.batch:
            raise ValueError(f"`max_batch` {self.max_batch} is less than `batch` {self.batch}")
        takes = PRECISIONS.get((self.backend, self.device), frozenset())
        if self.precision is not None and self.precision not in takes:
            raise ValueError(
                f"precision `{self.precision}` does not exist for {self.backend} on {self.device}: "
                f"it takes {' or '.join(sorted(takes))}"
                + ("; fp16 is a step of the recipe" if self.backend in ("onnxruntime", "tensorrt") else "")
            )
        return self


Infer = Callable[[Batch], "NDArray[np.float32]"]
"""(N, C, H, W) float32, or (N, H, W, C) uint8 where `ArtifactInfo.pixels` -> (N, classes) logits, host memory
in and out."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Calls of a GPU without the copies: the input is there before, the logits stay there.

    time: (batch, calls) -> nanoseconds of each. how: by what they were taken, in a few words.
    """

    time: Callable[[Batch, int], tuple[int, ...]]
    how: str


class Engine(Record):
    """What a GPU runtime made of the artifact for the machine it is on, and for that machine alone.

    bound_to: GPU, driver and library versions. build_s: None where it was built before and kept.
    """

    size_bytes: int
    bound_to: str
    build_s: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """An opened artifact, with what was read back from the runtime rather than asked of it.

    on_device, engine: of GPU runtimes that have them.
    """

    infer: Infer
    device: str
    provider: str
    threads: int
    on_device: OnDevice | None = None
    engine: Engine | None = None


class Backend(Protocol):
    """A module with these names is a backend (see `backends/ort.py`)."""

    NAME: str
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
