"""The data of a gate: conditions on candidates against a reference, and the rule that decides each.

An outcome is a region: within the margin to either side (SAME), beyond it on the bad side (SLOWER, WORSE) or
on the good side (FASTER, BETTER). It is given where the whole interval lies in that region, and is AMBIGUOUS
where the interval reaches over a margin. The intervals hold for all conditions and candidates of a gate
together at 95 % (Holm), so a gate whose candidates are all within their margins fails in at most 1 of 40.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from workbench.errors import WorkbenchError, did_you_mean, plural
from workbench.measure import launches
from workbench.measure.pairs import holm
from workbench.measure.stats import CONFIDENCE, Interval, PairedDrop
from workbench.results.records import Budget
from workbench.results.remarks import Remark
from workbench.system.records import Record

FILE = "gate.json"  # in the folder of a gate's run
Kind = Literal["accuracy", "latency", "p95", "throughput", "size", "memory", "load"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TIMED: frozenset[Kind] = frozenset({"latency", "p95"})  # in turns with the reference and its second copy
STARTED: frozenset[Kind] = frozenset({"memory", "load"})  # of fresh launches
GateOutcome = Literal["SAME", "FASTER", "SLOWER", "BETTER", "WORSE", "AMBIGUOUS"]
OF_SPEED: frozenset[Kind] = frozenset({"latency", "p95", "throughput", "load"})
REGRESSIONS: frozenset[GateOutcome] = frozenset({"SLOWER", "WORSE"})
UNTRUSTED = "two copies of the reference differ by more than the margin here"
SURE: frozenset[GateOutcome] = frozenset({"SLOWER", "FASTER"})
PATTERN = re.compile(r"(?P<kind>[a-z0-9_-]+)\s*(?:>\s*(?P<percent>[0-9]+(?:\.[0-9]+)?)\s*%)?", re.IGNORECASE)
ROUNDING = 1e-9  # of logarithms: 10 % more is not more than 10 %
EXAMPLE = "accuracy, p95>5%, size>10%"


class FailCondition(Record):
    """A candidate fails where it is surely worse than the reference by more than `margin`, a fraction of 1.

    Of accuracy, points of top-1; of all others, a share of the reference's figure.
    """

    kind: Kind
    margin: float

    @property
    def text(self) -> str:
        return f"{self.kind}>{100 * self.margin:g}%"

    @property
    def bound(self) -> float:
        """The margin as evidence is measured: a drop, or the logarithm of a ratio."""
        match self.kind:
            case "accuracy":
                return self.margin
            case "throughput":
                return -math.log1p(-self.margin)
            case _:
                return math.log1p(self.margin)


def parse_conditions(text: str, budget: Budget) -> tuple[FailCondition, ...]:
    """`accuracy, p95>5%, size>10%`. Accuracy alone takes the budget's `max_accuracy_drop`.

    Raises WorkbenchError for the first that cannot be read.
    """
    found: dict[Kind, FailCondition] = {}
    for part in (part.strip() for part in text.split(",")):
        condition = _parse(part, budget)
        if condition.kind in found:
            raise _unreadable(part, f"`{condition.kind}` is there twice", "give one margin for each")
        found[condition.kind] = condition
    return tuple(found.values())


def _parse(part: str, budget: Budget) -> FailCondition:
    if (matched := PATTERN.fullmatch(part)) is None:
        raise _unreadable(part, f"`{part}` is not a condition", f"write them as `{EXAMPLE}`")
    kind = next((kind for kind in KINDS if kind == matched["kind"].lower()), None)
    if kind is None:
        near = did_you_mean(matched["kind"], KINDS) or f"there are {', '.join(KINDS)}"
        hint = "the median is `latency`" if matched["kind"].lower() in ("p50", "median") else near
        raise _unreadable(part, f"`{matched['kind']}` is not measured", hint)
    if matched["percent"] is None:
        if kind != "accuracy":
            hint = f"say how much worse is too much: `{kind}>5%`"
            raise _unreadable(part, f"`{part}` has no margin", hint)
        return FailCondition(kind=kind, margin=budget.max_accuracy_drop)
    margin = float(matched["percent"]) / 100
    if kind in ("accuracy", "throughput") and margin >= 1:
        raise _unreadable(part, f"`{part}` can never fail", "give less than 100 %")
    return FailCondition(kind=kind, margin=margin)


def _unreadable(part: str, what: str, hint: str) -> WorkbenchError:
    return WorkbenchError(f"--fail-on: {what if part else 'a condition is empty'}", hint=hint)


@dataclass(frozen=True, slots=True)
class Ratios:
    """log(candidate / reference) of each round of fresh launches; above 0 the candidate is worse."""

    values: tuple[float, ...]

    @property
    def estimate(self) -> float:
        return launches.centre(self.values)

    def p(self, bound: float) -> float:
        """Two-sided, of the truth being within the bound to either side; agrees with `interval`."""
        if abs(self.estimate) <= bound:
            return 1.0
        edge = math.copysign(bound, self.estimate)
        return launches.p_value([value - edge for value in self.values])

    def interval(self, confidence: float) -> Interval | None:
        return launches.interval(self.values, confidence)


@dataclass(frozen=True, slots=True)
class Drop:
    """The paired drop of top-1."""

    counts: PairedDrop

    @property
    def estimate(self) -> float:
        return self.counts.drop

    def p(self, bound: float) -> float:
        return self.counts.p_within(bound)

    def interval(self, confidence: float) -> Interval:
        return self.counts.interval(confidence)


@dataclass(frozen=True, slots=True)
class Exact:
    """What is known without an error: the logarithm of a ratio of sizes, or a drop of 0."""

    estimate: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What one condition is judged by. before, after: the reference's figure and the candidate's.

    evidence: None where it was not measured, for the `reason`.
    """

    candidate: str
    condition: FailCondition
    evidence: Ratios | Drop | Exact | None
    before: float | None = None
    after: float | None = None
    reason: str | None = None


class Finding(Record):
    """The outcome of one condition for one candidate.

    before, after: of the reference and of the candidate: top-1 as a fraction, nanoseconds, bytes, photos a
    second, seconds to load. change: from one to the other, a fraction of `before`; of accuracy, of 1.
    interval: of the change, at `confidence`; None where the number has no error, or too few rounds. p:
    adjusted (Holm), of the truth being within the margin.
    may_be_worse: a regression beyond the margin cannot be excluded. log_ratios: of the rounds, above 0 worse.
    reason: why it is ambiguous, where the interval alone does not say it.
    """

    candidate: str
    condition: FailCondition
    outcome: GateOutcome
    before: float | None
    after: float | None
    change: float | None
    interval: Interval | None = None
    confidence: float | None = None
    p: float | None = None
    may_be_worse: bool = False
    log_ratios: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def regression(self) -> bool:
        return self.outcome in REGRESSIONS


def judge(observations: Sequence[Observation], twins: Mapping[Kind, Ratios]) -> tuple[Finding, ...]:
    """The outcomes, with intervals that hold for all of them together.

    twins: of the second copy of the reference. Where even that lies surely beyond a margin, the machine
    cannot tell such a difference from none, and no time is called faster or slower.
    """
    tested = [o for o in observations if isinstance(o.evidence, Ratios | Drop)]
    adjusted = holm(
        [o.evidence.p(o.condition.bound) for o in tested if isinstance(o.evidence, Ratios | Drop)]
    )
    known = {id(o): pair for o, pair in zip(tested, adjusted, strict=True)}
    return tuple(_finding(o, *known.get(id(o), (None, None)), twins=twins) for o in observations)


def _finding(
    seen: Observation, p: float | None, confidence: float | None, *, twins: Mapping[Kind, Ratios]
) -> Finding:
    kind, bound, evidence = seen.condition.kind, seen.condition.bound, seen.evidence
    bounds: Interval | None = None
    ratios: tuple[float, ...] = ()
    reason = seen.reason
    match evidence:
        case Exact():
            bounds = (evidence.estimate, evidence.estimate)
        case Ratios() | Drop() if confidence is not None:
            bounds = evidence.interval(confidence)
            ratios = evidence.values if isinstance(evidence, Ratios) else ()
            if bounds is None:
                reason = f"{plural(len(ratios), 'round')}: an interval takes {launches.LEAST}"
    outcome, twin = region(kind, bounds, bound), twins.get(kind)
    if twin is not None and {outcome, region(kind, twin.interval(CONFIDENCE), bound)} <= SURE:
        outcome, reason = "AMBIGUOUS", UNTRUSTED
    known = None if isinstance(evidence, Exact) else bounds
    return Finding(
        candidate=seen.candidate,
        condition=seen.condition,
        outcome=outcome,
        before=seen.before,
        after=seen.after,
        change=None if evidence is None else _shown(kind, evidence.estimate),
        interval=known and _ordered([_shown(kind, end) for end in known]),
        confidence=confidence if known else None,
        p=p,
        may_be_worse=bounds is None or bounds[1] > bound,
        log_ratios=ratios,
        reason=reason if outcome == "AMBIGUOUS" else None,
    )


def region(kind: Kind, bounds: Interval | None, bound: float) -> GateOutcome:
    """The region that holds the whole interval. bounds: of how much worse; bound: of the margin."""
    if bounds is None:
        return "AMBIGUOUS"
    low, high = bounds
    bound += ROUNDING
    if low > bound:
        return "SLOWER" if kind in OF_SPEED else "WORSE"
    if high < -bound:
        return "FASTER" if kind in OF_SPEED else "BETTER"
    return "SAME" if -bound <= low and high <= bound else "AMBIGUOUS"


def _shown(kind: Kind, worse: float) -> float:
    """As people read it: how the candidate's figure differs from the reference's."""
    if kind == "accuracy":
        return -worse
    return math.expm1(-worse if kind == "throughput" else worse)


def _ordered(ends: Sequence[float]) -> Interval:
    return min(ends), max(ends)


class Absence(Record):
    """A candidate that could not be measured, and why."""

    candidate: str
    status: Literal["skipped", "failed"]
    reason: str


class TwinReading(Record):
    """How far the second copy of the reference came out from the reference, with its 95 % interval."""

    change: float
    interval: Interval | None


class GateReport(Record):
    """`gate.json`. run: the folder's path. reference: what the candidates are measured against.

    images: photos of the accuracy, at most; rounds: of timing. twin: None where nothing was timed.
    strict: what may be a regression fails too.
    """

    schema_version: Literal[1] = 1
    name: str
    run: str
    created_at: datetime
    machine: str
    reference: str
    candidates: tuple[str, ...]
    findings: tuple[Finding, ...]
    absent: tuple[Absence, ...] = ()
    images: int
    rounds: int = 0
    twin: TwinReading | None = None
    remarks: tuple[Remark, ...] = ()
    strict: bool = False

    def fails(self, finding: Finding) -> bool:
        doubtful = finding.outcome == "AMBIGUOUS" and finding.may_be_worse
        return finding.regression or (self.strict and doubtful)

    @property
    def exit_code(self) -> int:
        """1 for a regression; else 2 where a candidate could not be built or run, or none was measured."""
        if any(self.fails(finding) for finding in self.findings):
            return 1
        unknown = not self.findings or any(absence.status == "failed" for absence in self.absent)
        return 2 if unknown else 0
