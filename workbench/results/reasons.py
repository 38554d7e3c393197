"""Why a variant won, lost or was not measured: kinds with their numbers. The words are made in `report`.

Fractions are of 1, names carry the other units. `drop` is the top-1 accuracy lost against the baseline on the
same photos, `drop_upper` its one-sided 95 % bound, `limit` what the budget allows.
"""

from typing import Annotated, Literal

from pydantic import Field

from workbench.measure.early_stopping import LostRace
from workbench.measure.records import NoneHeldOut, TimingEnd, WholePath
from workbench.measure.stats import Interval
from workbench.system.records import Record

Objective = Literal["latency", "size", "memory", "throughput"]
Status = Literal["ok", "failed", "skipped", "pruned"]


# What a variant misses of the budget.


class DropShortfall(Record):
    kind: Literal["drop"] = "drop"
    drop: float
    limit: float


class PhotosShortfall(Record):
    """Too few photos to show that the drop is within the budget.

    images_needed: how many would do, if they were like these; None where the drop itself reaches the limit.
    """

    kind: Literal["too_few_photos"] = "too_few_photos"
    images: int
    drop: float
    drop_upper: float
    limit: float
    images_needed: int | None


class ClassShortfall(Record):
    """The class that loses most of its photos loses more than the budget allows."""

    kind: Literal["class_drop"] = "class_drop"
    class_name: str
    drop: float
    limit: float


class AbsentClassShortfall(Record):
    """Classes without a photo: nothing says what they lose, and the budget limits what any class may."""

    kind: Literal["absent_class"] = "absent_class"
    class_names: tuple[str, ...]
    limit: float


class SizeShortfall(Record):
    kind: Literal["size"] = "size"
    size_bytes: int
    limit_bytes: float


class LatencyShortfall(Record):
    kind: Literal["latency"] = "latency"
    p50_ns: float
    limit_ns: float


class MemoryShortfall(Record):
    kind: Literal["memory"] = "memory"
    peak_memory_bytes: int
    limit_bytes: float


class BatchShortfall(Record):
    kind: Literal["batch"] = "batch"
    batch_size: int


class UnmeasuredShortfall(Record):
    kind: Literal["unmeasured"] = "unmeasured"
    what: Literal["accuracy", "latency", "throughput"]


class LeakShortfall(Record):
    """Calibration and validation share photos, so that nothing can be certified. cause: None in old runs."""

    kind: Literal["leak"] = "leak"
    cause: NoneHeldOut | str | None


class FieldUnmeasuredShortfall(Record):
    """`budget.field` asks for these stresses at this severity, and they were not measured in the run."""

    kind: Literal["field_unmeasured"] = "field_unmeasured"
    run: str
    variant: str
    severity: int
    stresses: tuple[str, ...]


class FieldShortfall(Record):
    """Under this stress the drop is not certified. p: of one beyond the limit, adjusted for all stresses."""

    kind: Literal["field"] = "field"
    stress: str
    severity: int
    images: int
    drop: float
    drop_upper: float
    limit: float
    p: float


FieldShortfalls = FieldUnmeasuredShortfall | FieldShortfall
AccuracyShortfall = DropShortfall | PhotosShortfall | ClassShortfall | AbsentClassShortfall | LeakShortfall
CostShortfall = SizeShortfall | LatencyShortfall | MemoryShortfall | BatchShortfall
Missed = AccuracyShortfall | CostShortfall | UnmeasuredShortfall | FieldShortfalls
Shortfall = Annotated[Missed, Field(discriminator="kind")]


# Why a trial did not end `ok`.


class NotFinalist(Record):
    """A quick look was enough: others promised more. why: what made the tuner try it.

    speedup, drop, images: as the look saw them.
    """

    kind: Literal["not_finalist"] = "not_finalist"
    variant: str
    why: str
    speedup: float
    drop: float
    images: int


class NotCertifiedInTurn(Record):
    """A finalist that the tuner's fixed sequence of certifications did not pass.

    shortfalls: on the held-out photos; empty where it was not tested, because `after` had failed before it.
    """

    kind: Literal["not_certified_in_turn"] = "not_certified_in_turn"
    variant: str
    shortfalls: tuple[Shortfall, ...] = ()
    after: str | None = None


class OverBudget(Record):
    """It misses the budget. speedup: over the baseline; None where it was not timed."""

    kind: Literal["over_budget"] = "over_budget"
    variant: str
    shortfalls: tuple[Shortfall, ...]
    speedup: float | None = None


class OutOfTime(Record):
    """The search ended before its turn, or while it was built."""

    kind: Literal["out_of_time"] = "out_of_time"
    variant: str
    while_building: bool = False


class TooLarge(Record):
    """It is not timed: it does not fit into memory beside the baseline and its second copy.

    needs_bytes: of its process. beside_bytes: of those two. limit_bytes: what may be used at a time.
    """

    kind: Literal["too_large"] = "too_large"
    variant: str
    needs_bytes: int
    beside_bytes: int
    limit_bytes: int


class Skipped(Record):
    """It cannot run here, or is not for this model."""

    kind: Literal["skipped"] = "skipped"
    variant: str
    message: str
    hint: str | None = None


class Failed(Record):
    kind: Literal["failed"] = "failed"
    variant: str
    message: str
    hint: str | None = None
    while_timing: bool = False


class Pruned(Record):
    """Pruned in a run that recorded the reason as text only."""

    kind: Literal["pruned"] = "pruned"
    variant: str
    message: str


Unmeasured = NotFinalist | NotCertifiedInTurn | OutOfTime | TooLarge | Skipped | Failed | Pruned
Cause = Annotated[LostRace | OverBudget | Unmeasured, Field(discriminator="kind")]


# What the verdict on a run rests on.


class Winner(Record):
    """The variant chosen. speedup, drop and their bounds are None for the baseline; drop_upper also where
    the answers are the baseline's.

    images: photos it was chosen on. tolerance: costs closer than that fraction are the same.
    whole_path: from a photo's bytes to its class. saturated_ratio: photos a second over the baseline's.
    """

    kind: Literal["winner"] = "winner"
    variant: str
    objective: Objective
    speedup: float | None
    speedup_ci: Interval | None
    drop: float | None
    drop_upper: float | None
    images: int | None
    size_bytes: int | None
    tolerance: float
    whole_path: tuple[WholePath, ...] = ()
    saturated_ratio: float | None = None
    saturated_ratio_ci: Interval | None = None


class Ahead(Record):
    """The winner against the next best that fits the budget, by the turns that timed both.

    ratio: the time of `behind` over the winner's; below 1 where that one is faster and lost for its size.
    """

    kind: Literal["ahead"] = "ahead"
    variant: str
    behind: str
    ratio: float
    ratio_ci: Interval | None


class Outcome(Record):
    """baseline_wins: nothing that fits the budget is better than the plain FP32 export.

    nothing_fits: no variant does. cut_short: the run ended before anything was timed.
    """

    kind: Literal["baseline_wins", "nothing_fits", "cut_short"]


class CloseBehind(Record):
    """It fits the budget and is nearly as good. ratio: its cost by the objective over the winner's.

    tied: the two cannot be told apart, and the smaller and simpler one won.
    """

    kind: Literal["close_behind"] = "close_behind"
    variant: str
    ratio: float
    tied: bool
    speedup: float | None
    speedup_ci: Interval | None


class Certified(Record):
    """The winner keeps the budget on held-out photos. drop: None for the baseline, which is the reference."""

    kind: Literal["certified"] = "certified"
    variant: str
    images: int
    top1: float
    drop: float | None
    drop_upper: float | None
    limit: float
    mcnemar_p: float | None


class CertifiedTogether(Record):
    """With too few photos to hold any out, the winner keeps the budget on those that it was chosen on.

    confidence: of `drop_upper`, such that at 95 % no bound of the `candidates` is too low (Bonferroni).
    """

    kind: Literal["certified_together"] = "certified_together"
    variant: str
    images: int
    candidates: int
    confidence: float
    drop: float
    drop_upper: float
    limit: float


class CertifiedAsSame(Record):
    """The winner computes the baseline's function, so that it loses nothing, whatever the photos.

    max_rel, bound: see `SameAnswers`.
    """

    kind: Literal["same_answers"] = "same_answers"
    variant: str
    images: int
    max_rel: float
    bound: float


class NotCertified(Record):
    kind: Literal["not_certified"] = "not_certified"
    variant: str
    images: int
    shortfalls: tuple[Shortfall, ...]


class NoneCertifies(Record):
    """No photos were held out. cause: None where the run did not record why, text in older runs.

    drop_upper: the bound that holds for all `candidates` at once, beyond the budget; None without one.
    """

    kind: Literal["none_certifies"] = "none_certifies"
    variant: str
    cause: NoneHeldOut | str | None
    leak: bool
    candidates: int = 0
    drop_upper: float | None = None


Certification = Certified | CertifiedTogether | CertifiedAsSame | NotCertified | NoneCertifies


class FieldCheck(Record):
    """What `budget.field` asks of the winner. shortfalls: none where it is certified under every stress."""

    kind: Literal["field_check"] = "field_check"
    variant: str
    severity: int
    limit: float
    shortfalls: tuple[Shortfall, ...]


class NothingElse(Record):
    """Nothing besides the baseline was measured. counts: the other variants by how they ended."""

    kind: Literal["nothing_else"] = "nothing_else"
    counts: dict[Status, int]


class Undecided(Record):
    """Speeds whose 95 % interval is wider than `target` to either side.

    ended: why the timing ended, by stage; None in runs that did not record it so.
    """

    kind: Literal["undecided"] = "undecided"
    variants: tuple[str, ...]
    target: float
    ended: dict[str, TimingEnd] | None


Reason = Annotated[
    Winner | Ahead | Outcome | CloseBehind | Certification | FieldCheck | NothingElse | Undecided | Cause,
    Field(discriminator="kind"),
]


class Verdict(Record):
    """The decision on a run. winner: the variant chosen under the budget, or None where nothing fits it.

    certified: it keeps the budget on held-out photos too, or there were too few photos to hold any out.
    close_behind: the variants that fit the budget too and are nearly as good, best first.
    reasons: for the decision first, then of every variant that was not measured to the end.
    """

    winner: str | None
    certified: bool
    close_behind: tuple[str, ...]
    reasons: tuple[Reason, ...]
