"""What a run leaves behind, and reading it back: `results/<run-id>/`."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from workbench.audit import Audit
from workbench.backends import Engine, Runtime
from workbench.errors import WorkbenchError
from workbench.files import digest_of, file_name, make_folder, translated_os_errors, write_atomic
from workbench.images import Preprocess
from workbench.machine import Machine
from workbench.saturation import Saturation

Status = Literal["ok", "failed", "skipped", "pruned"]


def _as_recorded(value: object) -> object:
    return {"decode": "full", **value} if isinstance(value, dict) else value


# In a file: what was written before `decode` could be chosen was measured on photos decoded in full.
Recorded = Annotated[Preprocess, BeforeValidator(_as_recorded)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parity(_Record):
    """How far the variant's logits are from the source model's in FP32, on all validation photos.

    max_rel: largest absolute difference over the largest absolute logit of the reference.
    top1_agreement: fraction of photos with the same top-1 class.
    kl: mean Kullback-Leibler divergence of the variant's probabilities from the reference's, in nats.
    """

    images: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    kl: float = 0.0


class Accuracy(_Record):
    """Counts on one part of the validation photos; rates and intervals are derived on read.

    correct_top5: None where there are no more than five classes.
    class_images, class_correct: per class, in the order of the class names.
    losses, gains: photos the baseline gets right and the variant wrong, and the reverse; class_losses and
    class_gains likewise per class.
    ece: expected calibration error of the softmax confidence (15 bins), a fraction of 1.
    """

    images: int
    correct: int
    correct_top5: int | None
    macro_f1: float
    class_images: tuple[int, ...]
    class_correct: tuple[int, ...]
    losses: int
    gains: int
    class_losses: tuple[int, ...] = ()
    class_gains: tuple[int, ...] = ()
    ece: float | None = None

    @property
    def top1(self) -> float:
        return self.correct / self.images


class GpuConditions(_Record):
    """What decides the speed of a GPU and stays as it is. Clocks in MHz, power in watts; None: not told.

    default_power_w: the limit it was made with; below it, somebody lowered it.
    """

    name: str
    driver: str
    memory_bytes: int | None
    max_sm_mhz: int | None
    max_memory_mhz: int | None
    power_limit_w: float | None
    default_power_w: float | None
    persistence: bool | None
    mig: bool | None


class Conditions(_Record):
    """What decides the speed of a processor and can be read once; "unknown" where it cannot, never "ok".

    affinity: processors this process may use. quota: processors' worth of time a container may use.
    gpu: of the GPU that was measured on; None where none was.
    """

    affinity: tuple[int, ...]
    quota: float | None
    governor: str
    turbo: str
    gpu: GpuConditions | None = None


class GpuState(_Record):
    """The GPU while something was timed, read a few times a second; None where NVML does not tell.

    sm_mhz, memory_mhz: the lowest and the highest clock seen. celsius: the highest. watts: the mean.
    throttled: reasons that NVML gave for lowered clocks, idling aside. others: processes on the GPU that are
    none of ours.
    """

    sm_mhz: tuple[int, int] | None
    memory_mhz: tuple[int, int] | None
    celsius: int | None
    watts: float | None
    throttled: tuple[str, ...] | None
    others: int | None


class GpuThroughput(_Record):
    """Photos a second at a batch size. with_copies: host memory to host memory, as a server calls it.
    on_device: without the copies; None where the runtime has no such call."""

    batch: int
    with_copies: float
    on_device: float | None


class GpuUse(_Record):
    """What a variant did on the GPU. One photo a call, but for throughput.

    device_p50_ns: the call without the copies, and how that was taken. memory_bytes: of the GPU, held by the
    measuring process; whole_gpu: NVML did not tell by process, so it is what the GPU's use grew by.
    joules: per photo, at the largest batch of `throughput`, of the whole GPU. engine: what was built for it.
    """

    device_p50_ns: float | None = None
    device_how: str | None = None
    memory_bytes: int | None = None
    whole_gpu: bool = False
    joules: float | None = None
    throughput: tuple[GpuThroughput, ...] = ()
    state: GpuState | None = None
    engine: Engine | None = None


class Environment(_Record):
    """The machine during one round of timing; None where it cannot be read.

    steal: share of the processors' time the hypervisor gave to others. pressure: share of the time some
    process waited for a processor. runnable: processes that wanted one at the end. spin_s: the slower of a
    fixed loop's durations before and after. preemptions: how often a session lost its processor to others.
    disturbed: why the round should be repeated, or None.
    """

    seconds: float
    steal: float | None
    pressure: float | None
    runnable: int | None
    spin_s: float
    disturbed: str | None
    preemptions: int = 0
    gpu: GpuState | None = None


class Latency(_Record):
    """One session, one batch at a time. The raw samples are in `latency.parquet`.

    p90_ns, p95_ns, p99_ns: None where there are too few samples to bound them (29, 59 and 299).
    p95_upper_ns, p99_upper_ns: their distribution-free 95 % upper bounds.
    cold_p50_ns: median of the first call after other sessions had the processor; all others are hot.
    round_log_ratios: per round of fresh launches, log(variant time / baseline time) of one photo, paired.
    settled: every launch reached a steady state in its warm-up.
    confirmed: measured again in fresh rounds after it was chosen.
    """

    batch_size: int
    samples: int
    mean_ns: float
    p50_ns: float
    p90_ns: float | None
    p95_ns: float | None
    p99_ns: float | None
    p95_upper_ns: float | None = None
    p99_upper_ns: float | None = None
    cold_p50_ns: float
    round_log_ratios: tuple[float, ...]
    settled: bool
    confirmed: bool = False


class WholePath(_Record):
    """From the bytes of a photo to its class, as the server does it: medians in nanoseconds.

    photo: which one, in words. rest: softmax and top-1.
    """

    photo: str
    bytes: int
    decode_ns: float
    preprocess_ns: float
    infer_ns: float
    rest_ns: float


class TrialResult(_Record):
    """One variant in one run: what was built, what was measured, and how it ended.

    reason: why it did not end `ok`. digest: of the variant; artifact_digest: of the model file.
    provider, threads, opset, precision: read back from the session and the file. note: of the artifact.
    cold_start_s: from the start of a process to its first answer. *_memory_bytes: above a process with no
    runtime in it. accuracy: on the photos that choose; certification: on those that choose nothing.
    saturated_ips: photos a second with every processor busy, as the server would run it.
    preprocess: its own, where it is not the run's. size_bytes: of all its files. audit: what really ran.
    saturation: what 16-bit accumulation, as on CPUs without VNNI, would change; None where nothing could.
    gpu: of variants that run on one.
    """

    schema_version: Literal[1] = 1
    variant: str
    recipe: str
    digest: str
    status: Status
    reason: str | None = None
    backend: str
    device: str
    provider: str | None = None
    threads: int | None = None
    opset: int | None = None
    precision: str | None = None
    note: str | None = None
    steps: int = 0
    artifact_digest: str | None = None
    artifact_key: str | None = None
    size_bytes: int | None = None
    build_s: float | None = None
    load_s: float | None = None
    cold_start_s: float | None = None
    peak_memory_bytes: int | None = None
    steady_memory_bytes: int | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    certification: Accuracy | None = None
    latency: Latency | None = None
    saturated_ips: float | None = None
    whole_path: tuple[WholePath, ...] = ()
    preprocess: Recorded | None = None
    audit: Audit | None = None
    saturation: Saturation | None = None
    gpu: GpuUse | None = None


class Budget(_Record):
    """What the winner must meet, and what it is chosen by.

    max_accuracy_drop: fraction of 1, against the FP32 baseline on the same photos.
    max_class_drop: fraction of a class's photos that it may lose, more than it gains.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_class_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    objective: Literal["latency", "size", "memory"] = "latency"
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    max_memory_mb: Annotated[float, Field(gt=0)] | None = None


class RunInfo(_Record):
    """`run.json`: everything that was the same for all trials of a run.

    certification_images: photos kept apart to certify the winner; uncertified: why there are none;
    leak: because calibration and validation share photos. notes: what to know of the data, as sentences.
    noise_floor: what a second copy of the baseline differed by, as a fraction; None before it is known.
    environments: of every round of timing, the confirming ones last; timing_ended: why no more followed.
    """

    schema_version: Literal[1] = 1
    run_id: str
    created_at: datetime
    arguments: tuple[str, ...]
    name: str
    workspace: str
    machine: Machine
    libraries: dict[str, str]
    checkpoint_digest: str
    validation_digest: str
    validation_images: int
    calibration_digest: str | None
    class_names: tuple[str, ...]
    preprocess: Recorded
    budget: Budget
    baseline: str
    runtimes: dict[str, Runtime]
    synthetic: bool = False
    certification_images: int = 0
    uncertified: str | None = None
    leak: bool = False
    notes: tuple[str, ...] = ()
    noise_floor: float | None = None
    conditions: Conditions | None = None
    environments: tuple[Environment, ...] = ()
    repeated_rounds: int = 0
    timing_ended: str | None = None


class RunFolder:
    """`results/<run-id>/`, being written or read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, results: Path) -> "RunFolder":
        """A new folder named by the time; two runs in the same second both get one."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        with translated_os_errors(results):
            make_folder(results)
            for suffix in ["", *(f"-{n:03}" for n in range(2, 1000))]:
                path = results / f"{stamp}{suffix}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                for name in ("logs", "predictions"):
                    (path / name).mkdir()
                return cls(path)
        raise WorkbenchError(f"{results} already has a thousand runs of this second")

    def remove_if_never_begun(self) -> None:
        """Delete the folder of a run that was refused before it wrote `run.json`."""
        if not (self.path / "run.json").exists():
            shutil.rmtree(self.path)

    @property
    def run_id(self) -> str:
        return self.path.name

    def log(self, variant: str) -> Path:
        return self.path / "logs" / f"{file_name(variant)}.txt"

    def golden(self, contract: Preprocess) -> Path:
        """The photos a bundle is checked with, as this preprocessing cuts them."""
        # Named as before `decode` could be chosen: the runs of that time have files to find.
        plain = {"decode"} if contract.decode == "full" else None
        return self.path / f"golden-{digest_of(contract.model_dump(mode='json', exclude=plain))[:12]}.npz"

    def predictions(self, variant: str) -> Path:
        return self.path / "predictions" / f"{file_name(variant)}.npz"

    def save_info(self, info: RunInfo) -> None:
        write_atomic(self.path / "run.json", info.model_dump_json(indent=2).encode() + b"\n")

    def append(self, result: TrialResult) -> None:
        """Add a line to `trials.jsonl` and force it to disk. The last line of a variant counts."""
        path = self.path / "trials.jsonl"
        with translated_os_errors(path), path.open("ab") as file:
            file.write(result.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def info(self) -> RunInfo:
        path = self.path / "run.json"
        try:
            return RunInfo.model_validate_json(path.read_bytes())
        except OSError as error:
            raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            raise WorkbenchError(
                f"{path} was not written by this version of krishi-bench: {field}: {problem['msg']}",
                hint="name another run, or move this folder away",
            ) from error

    def trials(self) -> list[TrialResult]:
        """The last record of each variant, in the order they were first written.

        A last line cut short by a crash is left out; anything else that cannot be read is an error.
        """
        path = self.path / "trials.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        latest: dict[str, TrialResult] = {}
        for number, line in enumerate(lines[:-1], start=1):
            try:
                result = TrialResult.model_validate_json(line)
            except ValidationError as error:
                raise WorkbenchError(f"{path}:{number} is not a trial: {error.errors()[0]['msg']}") from error
            latest[result.variant] = result
        return list(latest.values())


def runs(results: Path) -> list[RunFolder]:
    """The runs under `results`, oldest first."""
    if not results.is_dir():
        return []
    return [RunFolder(path) for path in sorted(results.iterdir()) if (path / "run.json").is_file()]


def find_run(results: Path, run_id: str | None) -> RunFolder:
    """The named run, or the latest. Raises WorkbenchError where there is none."""
    found = runs(results)
    if not found:
        raise WorkbenchError(f"{results} holds no run yet", hint="start with `krishi-bench run recipes/`")
    if run_id is None:
        return found[-1]
    for run in found:
        if run.run_id == run_id:
            return run
    raise WorkbenchError(f"{results} has no run `{run_id}`", hint=f"the latest is `{found[-1].run_id}`")
