"""What a run leaves behind, and reading it back: `results/<run-id>/`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from workbench.backends import Runtime, Target, removed_setting
from workbench.backends.artifact import ExportRecord
from workbench.backends.audit import Audit
from workbench.backends.softmax import OutputKind
from workbench.measure.pairs import VariantPair
from workbench.measure.readings import Readings
from workbench.measure.records import (
    Accuracy,
    Conditions,
    Environment,
    GpuUse,
    Latency,
    NoneHeldOut,
    Parity,
    SameAnswers,
    Saturation,
    SharedPhotos,
    TimingEnd,
    WholePath,
)
from workbench.measure.stats import Interval
from workbench.photos.contract import Preprocess
from workbench.photos.overlap import Separation
from workbench.results.reasons import Cause, Objective, Status
from workbench.results.remarks import Remark
from workbench.system.machine import Machine
from workbench.system.records import Record
from workbench.system.spans import Stage


def _as_recorded(value: object) -> object:
    return {"decode": "full", "rounding": "albumentations", **value} if isinstance(value, dict) else value


# In a file: what was written before `decode` and `rounding` could be chosen was measured on photos decoded in
# full, with sizes rounded and the crop's place rounded down.
Recorded = Annotated[Preprocess, BeforeValidator(_as_recorded)]


def _still_there(runtimes: object) -> object:
    """Leave out runtimes that this version no longer has: their trials stay, but cannot be promoted."""
    if not isinstance(runtimes, dict):
        return runtimes
    gone = {name for name, given in runtimes.items() if isinstance(given, dict) and removed_setting(given)}
    return {name: given for name, given in runtimes.items() if name not in gone}


class TrialResult(Record):
    """One variant in one run: what was built, what was measured, and how it ended.

    cause: why it did not end `ok`; reason: its message, and in older runs the only record of it.
    calibration_images: photos that INT8 ranges were found on; None without, and in older runs.
    digest: of the variant; build_digest: without its runtime, None in older runs; artifact_digest: of the
    model file; size_bytes: of all its files.
    provider, threads, runtime_version, opset, precision: read back from the session and the file. note,
    export: of the artifact.
    cold_start_s: from the start of a process to its first answer. *_memory_bytes: above a process with no
    runtime in it. accuracy: on the selection photos; certification: on the held-out photos.
    same_answers: it computes the baseline's function; None where it does not, and in older runs.
    saturated_ips: photos a second with every processor busy, as the server would run it.
    saturated_log_ratios: per fresh launch, log(that / the baseline's), paired; empty where not measured so.
    readings: of several launches, whose medians are load_s, cold_start_s and *_memory_bytes.
    preprocess: its own, where it is not the run's. audit: what really ran.
    saturation: what 16-bit accumulation, as on CPUs without VNNI, would change; None where nothing could.
    built_on: the machine of a fleet that made its artifact for others; None where it was built here.
    """

    schema_version: Literal[1] = 1
    variant: str
    recipe: str
    digest: str
    build_digest: str | None = None
    status: Status
    reason: str | None = None
    cause: Cause | None = None
    backend: str
    device: str
    provider: str | None = None
    threads: int | None = None
    runtime_version: str | None = None
    opset: int | None = None
    precision: str | None = None
    note: str | None = None
    export: ExportRecord | None = None
    steps: int = 0
    calibration_images: int | None = None
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
    same_answers: SameAnswers | None = None
    latency: Latency | None = None
    saturated_ips: float | None = None
    saturated_log_ratios: tuple[float, ...] = ()
    readings: Readings | None = None
    whole_path: tuple[WholePath, ...] = ()
    preprocess: Recorded | None = None
    audit: Audit | None = None
    saturation: Saturation | None = None
    gpu: GpuUse | None = None
    built_on: str | None = None


class PhotoFiles(Record):
    """`photos.json`: the validation photos in the order of the predictions. paths: absolute."""

    schema_version: Literal[1] = 1
    paths: tuple[str, ...]
    sha256: tuple[str, ...]


class FieldBudget(Record):
    """`budget.field`: what a variant may lose on photos as a field gives them (`krishi-bench stress`)."""

    severity: Annotated[int, Field(ge=1, le=5)] = Field(
        3, description="Severity of the stresses, 1 to 5: docs/stress.md shows and measures them."
    )
    max_drop: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02,
        description="Largest drop of top-1 against the FP32 baseline on the same stressed photos, as a "
        "fraction of 1, under every stress; certified on held-out photos at 95 % for all stresses together.",
    )


class Budget(Record):
    """The limits that the winner must meet, and the objective that it is chosen by."""

    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Largest drop of top-1 against the FP32 baseline on the same photos, as a fraction of 1; "
        "its one-sided 95 % upper bound must be within it.",
    )
    max_class_drop: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Largest net loss of any class, as a fraction of its photos; where a class has no "
        "photo to judge by, what loses answers is refused. No limit by default.",
    )
    objective: Objective = Field(
        "latency",
        description="The winner has the least `latency`, `size` or `memory` of all within the budget, or the "
        "most `throughput`: photos a second with every processor busy, as a server calls, batches included.",
    )
    max_size_mb: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest size of all files of the artifact, in MB (10^6 bytes); no limit by default.",
    )
    max_latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest median latency of one call, in ms; no limit by default."
    )
    max_memory_mb: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest peak memory above that of a process without a runtime, in MB (10^6 bytes); no "
        "limit by default.",
    )
    field: FieldBudget | None = Field(
        None,
        description="What it may lose under field stresses: section `budget.field`. `promote` refuses what "
        "was not measured or not certified there. No rule by default.",
    )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on limits that limit nothing."""
        limits = {
            "max_accuracy_drop": self.max_accuracy_drop,
            "max_class_drop": self.max_class_drop,
            "field.max_drop": self.field and self.field.max_drop,
        }
        return tuple(
            f"budget.{name}: 1 is a drop of 100 points, so no limit; one point is 0.01"
            for name, limit in limits.items()
            if limit == 1
        )


MisjudgementKind = Literal[
    "faster_than_advised", "slower_than_advised", "less_than_advised", "not_the_same", "won_unadvised"
]


class Misjudgement(Record):
    """A variant that turned out otherwise than advised. low, high: the range of speed-ups expected."""

    variant: str
    expected: Literal["faster", "slower", "same", "unknown"]
    low: float
    high: float
    because: str
    speedup: float
    speedup_ci: Interval | None
    kind: MisjudgementKind


class AdviceScore(Record):
    """right: of the `timed` variants, those the advice was right about.

    not_worth, not_here: variants that `--advised` left out.
    """

    right: int
    timed: int
    wrong: tuple[Misjudgement, ...] = ()
    not_worth: int = 0
    not_here: int = 0


class Attempts(Record):
    """What one kind of attempt of a search came to. best: the best of the variants tried, as a look saw it.

    outlook: whether `best` seems to keep the budget, to lose more than it allows, or too uncertain to tell.
    """

    why: str
    tried: int
    best: str
    speedup: float
    drop: float
    images: int
    outlook: Literal["within", "beyond", "uncertain"]


class CertificationSequence(Record):
    """Finalists certified in this order until one failed. passed: how many; failed: the one that ended it."""

    order: tuple[str, ...]
    passed: int
    failed: str | None


class SearchSummary(Record):
    """looked: variants that got a quick look; untried: that got none; finalists: measured in full."""

    seconds: float
    looked: int
    untried: int
    finalists: int
    attempts: tuple[Attempts, ...] = ()
    sequence: CertificationSequence | None = None


class Upgrade(Record):
    """One build with the same settings in two versions of a runtime. pair: its `one` runs in the newer."""

    backend: str
    older: str
    newer: str
    pair: VariantPair


class RunInfo(Record):
    """`run.json`: everything that was the same for all trials of a run.

    certification_images: photos held out to certify the winner; uncertified: why there are none;
    leak: because validation photos are for calibration or training too. separation: how that was looked for,
    and what was found; None in older runs. notes: sentences on the data, and in older runs on the advice and
    the search. outputs: of the network. targets: of the workspace; the winner is of the first. remarks: of
    the sanity look, grave ones first.
    noise_floor: difference of a second copy of the baseline, a fraction; None before it is known.
    environments: of every round of timing, those of the final last.
    timing_end: why the timing ended, by stage; timing_ended: the same in words, in older runs.
    pairs: of the finalists but the baseline, how each two compared in the final rounds.
    upgrades: of the variants that differ in the version of their runtime alone, each with the one installed.
    timings: seconds by stage, in the order they began; None where it did not end, and in older runs.
    reference: of a gate's run, what its baseline is; None where that is the plain export.
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
    runtimes: Annotated[dict[str, Runtime], BeforeValidator(_still_there)]
    synthetic: bool = False
    certification_images: int = 0
    uncertified: NoneHeldOut | str | None = None
    leak: bool = False
    separation: Separation | None = None
    notes: tuple[str, ...] = ()
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = ("server",)
    outputs: OutputKind = "logits"
    remarks: tuple[Remark, ...] = ()
    advice: AdviceScore | None = None
    search: SearchSummary | None = None
    noise_floor: float | None = None
    conditions: Conditions | None = None
    timings: dict[Stage, float] | None = None
    pairs: tuple[VariantPair, ...] = ()
    upgrades: tuple[Upgrade, ...] = ()
    environments: tuple[Environment, ...] = ()
    repeated_rounds: int = 0
    timing_ended: str | None = None
    timing_end: dict[str, TimingEnd] | None = None
    reference: str | None = None

    @property
    def leak_of(self) -> str:
        """Where a leak is: the use of the photos that are among those of validation."""
        shared = self.uncertified
        return "training" if isinstance(shared, SharedPhotos) and shared.part == "train" else "calibration"
