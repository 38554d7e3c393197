"""What the conditions of a gate are judged by, from what its run measured."""

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.measure.accuracy import accuracy
from workbench.measure.pairs import pair_of, turns_of
from workbench.measure.records import BASELINE, FINAL, TWIN, Latency
from workbench.measure.tails import tail_log_ratios
from workbench.results.gate import Drop, Exact, FailCondition, Kind, Observation, Ratios
from workbench.results.records import TrialResult
from workbench.run.check_variant import MEMORY_CALLS, Context
from workbench.system.files import load_arrays, read_plain
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

START_ROUNDS = 8  # of fresh launches, for starts and memory
TAIL = 0.95


@dataclass(frozen=True, slots=True)
class FreshStart:
    """One launch, while no other of ours computed. load_s: from the file to a session."""

    load_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a gate's run measured. variants: of the candidates. reference: the trial of the baseline.

    calls: the columns of the hot calls, empty where nothing was timed. starts: of each, the reference's too.
    """

    context: Context
    variants: Mapping[str, Variant]
    reference: TrialResult
    calls: "Mapping[str, NDArray[Any]]" = field(default_factory=dict)
    starts: Mapping[str, Sequence[FreshStart]] = field(default_factory=dict)

    @property
    def batch_sizes(self) -> dict[str, int]:
        sizes = {name: runtime.batch for name, runtime in self.context.runtimes.items()}
        return {**sizes, TWIN: sizes[BASELINE]}


class Figures(NamedTuple):
    """See `Observation`."""

    evidence: Ratios | Drop | Exact | None
    before: float | None
    after: float | None
    reason: str | None = None


def starts_of(context: Context, names: Collection[str]) -> dict[str, list[FreshStart]]:
    """Launches of each in rounds, one at a time, in an order that changes. Raises ChildError."""
    rng, found = random.Random(0), {name: list[FreshStart]() for name in names}
    for number in range(START_ROUNDS):
        context.report(Progress("starts and memory", number, START_ROUNDS))
        for name in rng.sample(list(names), len(names)):
            with context.worker(name) as worker:
                worker.ready()
                worker.burst(MEMORY_CALLS)
                peak_bytes = worker.memory().peak_bytes - context.empty_worker.peak_bytes
                found[name].append(FreshStart(worker.describe().load_s, max(1, peak_bytes)))
    return found


def observe(seen: Seen, trial: TrialResult, condition: FailCondition) -> Observation:
    figures = OBSERVE[condition.kind](seen, trial)
    return Observation(trial.variant, condition, *figures)


def twins_of(seen: Seen) -> dict[Kind, Ratios]:
    """How far the second copy of the reference came out from it, where it was timed."""
    if not seen.calls:
        return {}
    turns = turns_of(seen.calls, seen.batch_sizes).get(FINAL, [])
    found: dict[Kind, tuple[float, ...]] = {
        "latency": pair_of(turns, TWIN, BASELINE, FINAL).log_ratios,
        "p95": _tails(seen, TWIN),
    }
    return {kind: Ratios(values) for kind, values in found.items() if values}


def _accuracy(seen: Seen, trial: TrialResult) -> Figures:
    context = seen.context
    rows = _rows(context, seen.variants[trial.variant])
    mine, its = (_logits(context, name)[rows] for name in (trial.variant, BASELINE))
    truth, alone = [context.job.photos.labels[row] for row in rows], context.parts.independent(rows)
    counts = accuracy(mine, its, truth, context.info.outputs, alone)
    before = (counts.correct + counts.losses - counts.gains) / counts.images
    same = trial.same_answers is not None or _same_file(seen, trial)
    return Figures(Exact(0.0) if same else Drop(counts.paired), before, counts.top1)


def _rows(context: Context, variant: Variant) -> list[int]:
    """All photos: no candidate is chosen by them. Of a variant whose steps chose by some, the others."""
    chose = any("validation" in step.READS for step in variant.steps)
    held_out = context.parts.certification
    return list(held_out if chose and held_out else range(len(context.job.photos)))


def _logits(context: Context, variant: str) -> "NDArray[np.float32]":
    path = context.folder.predictions(variant)
    (logits,) = load_arrays(path, read_plain(path), "logits")
    return logits


def _same_file(seen: Seen, trial: TrialResult) -> bool:
    """Whether the very same file runs in the same way on the same pixels."""
    runtimes, contracts = seen.context.runtimes, seen.context.contracts
    return (
        trial.artifact_digest == seen.reference.artifact_digest
        and runtimes[trial.variant] == runtimes[BASELINE]
        and contracts.get(trial.variant) == contracts.get(BASELINE)
    )


def _latency(seen: Seen, trial: TrialResult) -> Figures:
    ratios = trial.latency.round_log_ratios if trial.latency else ()
    before, after = (_per_photo(each.latency, "p50_ns") for each in (seen.reference, trial))
    return _figures(ratios, before, after, "it was not timed beside the reference")


def _p95(seen: Seen, trial: TrialResult) -> Figures:
    before, after = (_per_photo(each.latency, "p95_ns") for each in (seen.reference, trial))
    return _figures(_tails(seen, trial.variant), before, after, "too few calls a round for a 95th percentile")


def _tails(seen: Seen, variant: str) -> tuple[float, ...]:
    return tail_log_ratios(seen.calls, variant, BASELINE, TAIL, seen.batch_sizes, FINAL)


def _per_photo(latency: Latency | None, name: str) -> float | None:
    time_ns: float | None = getattr(latency, name, None)
    return None if latency is None or time_ns is None else time_ns / latency.batch_size


def _throughput(seen: Seen, trial: TrialResult) -> Figures:
    worse = tuple(-ratio for ratio in trial.saturated_log_ratios)
    why = "it was not measured with every processor busy"
    return _figures(worse, seen.reference.saturated_ips, trial.saturated_ips, why)


def _size(seen: Seen, trial: TrialResult) -> Figures:
    before, after = seen.reference.size_bytes or 0, trial.size_bytes or 0
    return Figures(Exact(math.log(after / before)), before, after)


def _memory(seen: Seen, trial: TrialResult) -> Figures:
    return _started(seen, trial, lambda start: start.peak_memory_bytes)


def _load(seen: Seen, trial: TrialResult) -> Figures:
    return _started(seen, trial, lambda start: start.load_s)


def _started(seen: Seen, trial: TrialResult, read: Callable[[FreshStart], float]) -> Figures:
    before, after = ([read(start) for start in seen.starts[name]] for name in (BASELINE, trial.variant))
    ratios = tuple(math.log(mine / its) for its, mine in zip(before, after, strict=True))
    return Figures(Ratios(ratios), median(before), median(after))


def _figures(ratios: tuple[float, ...], before: float | None, after: float | None, why: str) -> Figures:
    return Figures(Ratios(ratios), before, after) if ratios else Figures(None, before, after, why)


OBSERVE: Mapping[Kind, Callable[[Seen, TrialResult], Figures]] = {
    "accuracy": _accuracy,
    "latency": _latency,
    "p95": _p95,
    "throughput": _throughput,
    "size": _size,
    "memory": _memory,
    "load": _load,
}
