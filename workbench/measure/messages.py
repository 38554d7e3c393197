"""What the measuring process is asked, and what it says of itself: these cross the pipe to it."""

from dataclasses import dataclass

from workbench.backends import Engine


@dataclass(frozen=True, slots=True)
class Opened:
    """What the session says of itself.

    load_s: from the file on disk to a session that can be called, the runtime already imported.
    cold_start_s: from the start of this process to its first answer. engine: of GPU runtimes that have one.
    """

    load_s: float
    cold_start_s: float
    device: str
    provider: str
    threads: int
    engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class Describe:
    pass


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Logits of these photos, one photo at a time: exactly as the server will see them.

    Some artifacts answer differently in a batch (dynamic INT8 scales activations over all of it).
    """

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Warm:
    pass


@dataclass(frozen=True, slots=True)
class Burst:
    """Time this many calls, back to back."""

    calls: int


@dataclass(frozen=True, slots=True)
class ReadMemory:
    pass


@dataclass(frozen=True, slots=True)
class ReadAudit:
    """Open the artifact once more and look what runs."""


@dataclass(frozen=True, slots=True)
class Saturate:
    """Call from as many threads as the runtime's profile says, for this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WalkPath:
    """Time the whole path of a photo, from its bytes to its class, this many times."""

    photo: bytes
    name: str
    times: int


@dataclass(frozen=True, slots=True)
class TimeOnDevice:
    """Time calls of this many photos without the copies."""

    size: int


@dataclass(frozen=True, slots=True)
class MeasureThroughput:
    """Calls of this many photos, with and without the copies."""

    size: int


@dataclass(frozen=True, slots=True)
class ReadEnergy:
    """Call with this many photos until the GPU's energy counter has moved well."""

    size: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of this process: the most since it started, and now."""

    peak_bytes: int
    steady_bytes: int


OnGpu = TimeOnDevice | MeasureThroughput | ReadEnergy
Request = Describe | Evaluate | Warm | Burst | ReadMemory | ReadAudit | Saturate | WalkPath | OnGpu
