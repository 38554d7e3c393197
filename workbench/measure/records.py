"""The records of one variant's measurements; part of `trials.jsonl` and `run.json`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from workbench.backends import Engine
from workbench.measure.stats import Interval, PairedDrop
from workbench.photos.overlap import OtherPart
from workbench.system.records import Record

BASELINE = "baseline"
# Why no more rounds were timed: all were made, the time budget was spent; in older runs, every interval was
# narrow enough.
TimingEnd = Literal["rounds", "narrow", "budget", "baseline_failed"]


class TooFewToSplit(Record):
    """No validation photos are held out: of so few, a half could at best bound a drop by `drop_upper`."""

    kind: Literal["too_few_to_split"] = "too_few_to_split"
    images: int
    drop_upper: float


class SharedPhotos(Record):
    """No validation photos are held out: `images` of them are for calibration or training too.

    paths: the first few. alike: those among them that look the same as one there, in another file.
    """

    kind: Literal["shared_photos"] = "shared_photos"
    images: int
    paths: tuple[str, ...]
    part: OtherPart = "calibration"
    alike: int = 0


NoneHeldOut = Annotated[TooFewToSplit | SharedPhotos, Field(discriminator="kind")]


class Parity(Record):
    """Distance of the variant's logits from the source model's in FP32, on all validation photos.

    max_rel: largest absolute difference over the largest absolute logit of the reference.
    kl: mean Kullback-Leibler divergence of the variant's probabilities from the reference's, in nats.
    """

    images: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    kl: float = 0.0


class SameAnswers(Record):
    """The variant computes the baseline's function: on every photo the same class, and no logit further off.

    max_rel: the largest difference of a logit, and `bound` what rounding explains, over the largest logit.
    """

    images: int
    max_rel: float
    bound: float


class Accuracy(Record):
    """Counts on one part of the validation photos; rates and intervals are derived on read.

    correct_top5: None where there are no more than five classes.
    losses, gains: photos the baseline gets right and the variant wrong, and the reverse.
    class_...: the same per class, in the order of the class names.
    ece: expected calibration error of the softmax confidence (15 bins), a fraction of 1.
    independent: photos that these count as, near-duplicates together as one; None where none are alike, and
    in older runs.
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
    independent: float | None = None

    @property
    def paired(self) -> PairedDrop:
        """What is lost against the baseline."""
        return PairedDrop(self.losses, self.gains, self.images, self.independent)

    @property
    def top1(self) -> float:
        return self.correct / self.images

    @property
    def absent_classes(self) -> tuple[int, ...]:
        """Labels without a photo: nothing is known of them, and `macro_f1` leaves them out."""
        return tuple(label for label, images in enumerate(self.class_images) if not images)

    def macro_scope(self) -> str:
        """` over 3 of 4 classes`, where some have no photo."""
        seen = len(self.class_images) - len(self.absent_classes)
        return f" over {seen} of {len(self.class_images)} classes" if self.absent_classes else ""


class GpuConditions(Record):
    """What decides the speed of a GPU; None: unknown. default_power_w: the limit that it was made with."""

    REMOVED: ClassVar = dict.fromkeys(("max_sm_mhz", "max_memory_mhz", "persistence"))

    name: str
    driver: str
    memory_bytes: int | None
    power_limit_w: float | None
    default_power_w: float | None
    mig: bool | None


class Conditions(Record):
    """What decides the speed of a processor and can be read once; "unknown" where it cannot, never "ok".

    affinity: processors this process may use. quota: processors' worth of time a container may use.
    gpu: None where none was measured on.
    """

    affinity: tuple[int, ...]
    quota: float | None
    governor: str
    turbo: str
    gpu: GpuConditions | None = None


class GpuState(Record):
    """The GPU while something was timed, read a few times a second; None where NVML has no answer.

    sm_mhz, memory_mhz: the lowest and the highest clock. celsius: the highest. watts: the mean.
    throttled: NVML's reasons for lowered clocks, idling aside. others: foreign processes on the GPU.
    """

    sm_mhz: tuple[int, int] | None
    memory_mhz: tuple[int, int] | None
    celsius: int | None
    watts: float | None
    throttled: tuple[str, ...] | None
    others: int | None


class GpuThroughput(Record):
    """Photos a second. with_copies: host memory to host memory, as a server calls it. on_device: without the
    copies; None where the runtime has no such call."""

    batch: int
    with_copies: float
    on_device: float | None


class GpuUse(Record):
    """A variant's use of the GPU, in calls of one photo but for throughput.

    device_p50_ns: of the call without the copies. device_how: by what that was taken. memory_bytes: held by
    the measuring process; whole_gpu: NVML has it not by process, so it is what the GPU's use grew by.
    joules: per photo, at the largest batch of `throughput`, of the whole GPU.
    """

    device_p50_ns: float | None = None
    device_how: str | None = None
    memory_bytes: int | None = None
    whole_gpu: bool = False
    joules: float | None = None
    throughput: tuple[GpuThroughput, ...] = ()
    state: GpuState | None = None
    engine: Engine | None = None


class Environment(Record):
    """The machine during one round of timing; None where it cannot be read.

    steal: share of the processors' time that the hypervisor gave to others. pressure: share of the time that
    some process waited for a processor. spin_s: the slower of a fixed loop's durations before and after.
    preemptions: how often a session lost its processor. disturbed: why the round should be repeated.
    """

    REMOVED: ClassVar = {"runnable": None}

    seconds: float
    steal: float | None
    pressure: float | None
    spin_s: float
    disturbed: str | None
    preemptions: int = 0
    gpu: GpuState | None = None


class Latency(Record):
    """One session, one batch at a time. The raw samples are in `latency.parquet`.

    p90_ns: None with fewer than 29 samples. p95_ns, p99_ns: None where the rounds give no interval for them.
    p95_ns_ci, p99_ns_ci: their two-sided 95 % intervals over rounds; None in older runs.
    cold_p50_ns: median of the first call after other sessions had the processor; all others are hot.
    round_log_ratios: per round of fresh launches, log(variant time / baseline time) of one photo, paired;
    the baseline's is the mean of its two copies', in older runs the first one's.
    settled: every launch reached a steady state in its warm-up.
    confirmed: timed in the final rounds, which are published.
    """

    # Upper bounds that took the calls as independent.
    REMOVED: ClassVar = dict.fromkeys(("p95_upper_ns", "p99_upper_ns"))

    batch_size: int
    samples: int
    mean_ns: float
    p50_ns: float
    p90_ns: float | None
    p95_ns: float | None
    p99_ns: float | None
    p95_ns_ci: Interval | None = None
    p99_ns_ci: Interval | None = None
    cold_p50_ns: float
    round_log_ratios: tuple[float, ...]
    settled: bool
    confirmed: bool = False


class WholePath(Record):
    """From the bytes of a photo to its class, as the server does it: medians. rest: softmax and top-1."""

    photo: str
    bytes: int
    decode_ns: float
    preprocess_ns: float
    infer_ns: float
    rest_ns: float


EXACT_ANYWAY = ("x86 with VNNI", "ARM with dot product")
AT_RISK = "x86 with AVX2 without VNNI"


class Saturation(Record):
    """The effect of 16-bit pair sums, emulated on photos.

    layers_at_risk: nodes in which a sum saturated. logit_error: largest change of a logit, as a fraction of
    the largest logit. top1_changed: of `photos`. validated: the kinds of CPU on which nothing changes.
    """

    REMOVED: ClassVar = {"worst_share": None}

    layers_at_risk: tuple[str, ...]
    logit_error: float
    top1_changed: NonNegativeInt
    photos: NonNegativeInt
    validated: tuple[str, ...]


def twin_of(baseline: str) -> str:
    """The name of its second copy."""
    return f"{baseline} (again)"


TWIN = twin_of(BASELINE)
RACE, FINAL = "race", "final"  # the sessions of latency.parquet
