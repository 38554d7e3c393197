"""The protocol of a backend, its sessions and its settings."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from workbench.errors import FieldProblem, WorkbenchError
from workbench.photos.contract import Batch
from workbench.system.machine import usable_cores
from workbench.system.packages import versions
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.backends.artifact import Artifact, ArtifactInfo, Format
    from workbench.backends.audit import Audit
    from workbench.system.environments import VirtualEnvironment

Device = Literal["cpu", "cuda"]
Hint = Literal["f32", "tf32", "bf16", "f16"]
Target = Literal["server", "android"]
# What a step may write, as far as runtimes differ in it. `onnx`: what all take, pairs of signed INT8 too.
Operators = Literal["onnx", "integer", "unsigned", "onnxruntime"]
OPERATORS: dict[Operators, str] = {
    "onnx": "ONNX",
    "integer": "operators on integers",
    "unsigned": "uint8 activations",
    "onnxruntime": "onnxruntime's own operators",
}
ANY_OPERATORS: frozenset[Operators] = frozenset(OPERATORS)

GPU_SESSIONS = 8
FP16_NAMES = ("fp16", "float16", "half")


class RuntimeSettings(Record):
    """The settings that all backends share; an artifact is measured and served with them.

    PRECISIONS: what the backend computes in on a device, where the graph leaves it open.
    FP16_IN_GRAPH: FP16 is in the graph, by a step of the recipe.
    DISTRIBUTION: that `version` is of; None where the backend runs in this environment alone. ALONGSIDE: the
    distributions that its sessions and its audit import, at the versions that are installed here, or else
    at the one that is named.
    FORKABLE: modules of its libraries that start no thread when they are imported: a process may fork after.
    TARGETS: what its files are opened on; torch's are never published for one.
    """

    DEVICES: ClassVar[tuple[Device, ...]] = ("cpu",)
    PRECISIONS: ClassVar[Mapping[Device, tuple[Hint, ...]]] = {}
    FP16_IN_GRAPH: ClassVar[bool] = False
    TARGETS: ClassVar[frozenset[Target]] = frozenset({"server"})
    DISTRIBUTION: ClassVar[str | None] = None
    ALONGSIDE: ClassVar[tuple[str, ...]] = ()
    FORKABLE: ClassVar[tuple[str, ...]] = ()
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

    backend: str
    device: Device = Field(
        "cpu", validate_default=True, description="`cpu`, or `cuda`: the first NVIDIA GPU."
    )
    profile: Literal["shared", "latency"] = Field(
        "shared",
        description="`shared`: one thread for each call, as many calls at once as there are processors, no "
        "spinning. `latency`: one call at a time, on all processors, whose threads spin while they wait. "
        "Latency is timed with one call at a time in both.",
    )
    threads: PositiveInt | None = Field(
        None, description="Threads of one session; by default as many as the profile gives it."
    )
    batch: PositiveInt = Field(
        1,
        description="Photos per call while timing. Larger ones make each photo wait, and win only with "
        "`objective: throughput`.",
    )
    precision: Hint | None = Field(
        None,
        description="Type to compute in, where the graph leaves it open; `f32` by default. `bf16` on "
        "openvino and torch; `f16` on openvino, and on torch with a GPU; `tf32` on a GPU, which rounds the "
        "factors to 10 bits behind the point: FP32 on a GPU is exact unless it is asked for.",
    )

    version: str | None = Field(
        None,
        description="Version of the runtime, such as `1.26.0`, in an environment of its own that is made at "
        "first use; by default the one that is installed. For onnxruntime, openvino, litert and executorch "
        "on the CPU.",
    )
    packages: tuple[str, ...] = Field(
        (),
        description="Packages of that environment, `name==1.2.3` each, besides those that it has or instead "
        "of their versions. Needs `version`.",
    )

    def environment(self) -> "VirtualEnvironment | None":
        """The environment that sessions run in; None: this one, as also for the version installed here."""
        if self.version is None or self.DISTRIBUTION is None:
            return None
        if not self.packages and versions(self.DISTRIBUTION).get(self.DISTRIBUTION) == self.version:
            return None
        from workbench.system.environments import locked

        pins = [f"{self.DISTRIBUTION}=={self.version}", *self.packages]
        return locked(f"{self.DISTRIBUTION}-{self.version}", pins, ours=self.ALONGSIDE)

    @property
    def intra_threads(self) -> int:
        """Threads of one session, on this machine."""
        return self.threads or (1 if self.profile == "shared" else usable_cores())

    @property
    def sessions(self) -> int:
        """Calls that run at once on this machine, on processors of their own."""
        # On a GPU more than a few gain nothing, and each takes memory of it.
        here = max(1, usable_cores() // self.intra_threads)
        return here if self.device == "cpu" else min(here, GPU_SESSIONS)

    @property
    def computes(self) -> Hint:
        """`precision`, or its default."""
        return self.precision or "f32"

    @property
    def largest_batch(self) -> int | None:
        """Photos of a call at most, where the settings limit them."""
        return None

    def decides(self) -> tuple[str, ...]:
        """The settings, and facts of this machine, that decide the bytes of the exported file."""
        return ()

    @field_validator("device")
    @classmethod
    def _runs_there(cls, device: Device) -> Device:
        if device not in cls.DEVICES:
            where = (
                "on the cpu only" if cls.DEVICES == ("cpu",) else "on NVIDIA GPUs: it needs `device: cuda`"
            )
            raise ValueError(f"backend `{backend_name(cls)}` runs {where}")
        return device

    @field_validator("version")
    @classmethod
    def _version_exists(cls, version: str | None, info: ValidationInfo) -> str | None:
        from packaging.version import InvalidVersion, Version

        if version is None:
            return None
        if cls.DISTRIBUTION is None:
            raise ValueError(f"backend `{backend_name(cls)}` runs in the version that is installed")
        if info.data.get("device", "cpu") != "cpu":
            raise ValueError("`version` is for `device: cpu`")
        try:
            given = Version(version)
        except InvalidVersion:
            raise ValueError(f"`{version}` is not a version, such as 1.26.0") from None
        # `1.26` is 1.26.0: one name for one version.
        return (
            str(given) + ".0" * (3 - len(given.release)) if str(given) == given.base_version else str(given)
        )

    @model_validator(mode="after")
    def _packages_fit(self) -> Self:
        if self.packages and self.version is None:
            raise ValueError("`packages` needs `version`: they are of the environment that it runs in")
        if self.packages:
            try:
                self.environment()
            except WorkbenchError as error:
                raise FieldProblem(error.message, hint=error.hint, at=("packages",)) from None
        return self

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_exists(cls, given: object, info: ValidationInfo) -> object:
        device = info.data.get("device")
        if device is None or given is None or given in (takes := cls.PRECISIONS.get(device, ())):
            return given
        name = backend_name(cls)
        if cls.FP16_IN_GRAPH and given in FP16_NAMES:
            # Else `f16` would be suggested, which is refused next.
            raise ValueError(
                f"precision `{given}` does not exist for {name}: fp16 is a step of the recipe, "
                "`steps: [{use: fp16}]`"
            )
        if given not in get_args(Hint):
            return given  # pydantic lists the values there are
        raise ValueError(
            f"precision `{given}` does not exist for {name} on {device}: "
            f"it takes {' or '.join(sorted(takes)) or 'none'}"
            + ("; fp16 is a step of the recipe" if cls.FP16_IN_GRAPH else "")
        )


def backend_name(settings: type[RuntimeSettings]) -> str:
    """The one value of `backend` in these settings."""
    return str(settings.model_fields["backend"].default)


class CudaSettings(RuntimeSettings):
    """The settings of backends that run on NVIDIA GPUs."""

    DEVICES: ClassVar[tuple[Device, ...]] = ("cpu", "cuda")

    cuda_graph: bool = Field(
        False,
        description="The GPU repeats a call that was recorded once, instead of being given each kernel. "
        "Needs `device: cuda`.",
    )

    @model_validator(mode="after")
    def _graph_on_gpu(self) -> Self:
        if self.cuda_graph and self.device != "cuda":
            raise ValueError("`cuda_graph` needs `device: cuda`")
        return self


Infer = Callable[[Batch], "NDArray[np.float32]"]
"""(N, C, H, W) float32, or (N, H, W, C) uint8 where `ArtifactInfo.pixels` -> (N, classes) logits, host memory
in and out."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Timing on a GPU without copies: the input is there before, the logits stay there.

    time: (batch, calls) -> nanoseconds of each. how: the clock, in a few words.
    """

    time: Callable[[Batch, int], tuple[int, ...]]
    how: str


class Engine(Record):
    """The engine that a GPU runtime built of the artifact, for one machine alone.

    bound_to: GPU, driver and library versions. build_s: None where it was built before.
    """

    size_bytes: int
    bound_to: str
    build_s: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """An opened artifact. device, provider, threads and version are read back from the runtime."""

    infer: Infer
    device: str
    provider: str
    threads: int
    on_device: OnDevice | None = None
    engine: Engine | None = None
    version: str | None = None


SettingsT = TypeVar("SettingsT", bound=RuntimeSettings, contravariant=True)


class Backend(Protocol[SettingsT]):
    """A module with these names is a backend (see `backends/openvino/backend.py`, docs/extending.md).

    NAME: as `runtime.backend` has it. PACKAGES: the distributions whose versions decide what it computes.
    FORMATS: of the files it opens. OPERATORS: of those that steps write; empty where it does not begin from
    an ONNX file.
    """

    NAME: str
    PACKAGES: tuple[str, ...]
    FORMATS: "frozenset[Format]"
    OPERATORS: frozenset[Operators]

    @property
    def convert(self) -> "Callable[[Artifact, Path], ArtifactInfo] | None":
        """Writes the file it opens into a folder, from an ONNX artifact; None where it opens that itself."""
        ...

    @property
    def prepare(self) -> "Callable[[Artifact, SettingsT], None] | None":
        """Builds and keeps what `session` needs beside the artifact, in minutes; None where that is nothing.

        `session` does it where it was not called before on this machine.
        """
        ...

    def unavailable(self, runtime: SettingsT) -> str | None:
        """None where `runtime` can run here; else why not, and what to install."""
        ...

    def audit(self, artifact: "Artifact", runtime: SettingsT, sample: "NDArray[Any]") -> "Audit":
        """Open the artifact once more and read where and in which precision it runs.

        sample: one batch as the session takes it. Raises WorkbenchError as `session` does.
        """
        ...

    def session(self, artifact: "Artifact", runtime: SettingsT) -> AbstractContextManager[Session]:
        """Open the artifact. Raises WorkbenchError where the runtime did not do as asked."""
        ...
