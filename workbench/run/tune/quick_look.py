"""A quick look at a variant: is it fast, and does it still answer as the baseline does? Seconds, not minutes.

A look decides only where the search goes on. What is published is measured by a run like any other.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from workbench.backends import OrtRuntime, backend_of
from workbench.backends.audit import Delegation
from workbench.measure.records import BASELINE
from workbench.measure.stats import PairedDrop
from workbench.measure.worker import Worker
from workbench.results.records import Budget
from workbench.run.build import packages_of
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context, same_as_baseline
from workbench.system import machine
from workbench.system.child import ChildError
from workbench.system.files import digest_of, write_atomic
from workbench.system.packages import versions
from workbench.system.records import Record
from workbench.workspace.recipe import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


EVALUATE_S = 3.0  # of a look, spent on photos
FEWEST_PHOTOS = 96
TURNS = 8
BURST_S = 0.03  # of one turn of one session
LIKELY = 0.6  # to be certified: what a search goes on from
CODE = "look-3"  # raised when looks are taken in another way


class QuickLook(Record):
    """What a look saw, beside the baseline.

    log_ratio: log(its time / the baseline's time) of one photo, the median of alternating turns.
    images, losses, gains: of the photos that choose, as in `measure.records.Accuracy`.
    seconds: that the look took, the build aside. same: it computes the baseline's function. delegation: of
    the runtimes of devices.
    """

    log_ratio: float
    images: int
    losses: int
    gains: int
    size_bytes: int
    memory_bytes: int
    seconds: float
    same: bool = False
    delegation: Delegation | None = None

    @property
    def speedup(self) -> float:
        return math.exp(-self.log_ratio)

    @property
    def drop(self) -> PairedDrop:
        return PairedDrop(self.losses, self.gains, self.images)

    def within(self, budget: Budget, photos: int) -> bool:
        """Does it lose no more than the budget here, and is it likely to be certified on `photos` others?"""
        return self.drop.drop <= budget.max_accuracy_drop and self.promise(budget, photos) >= LIKELY

    def promise(self, budget: Budget, photos: int) -> float:
        """The probability that `photos` others certify it: see `promise`."""
        return 1.0 if self.same else promise(self.drop, budget, photos)

    def hopeless(self, budget: Budget) -> bool:
        """Does it lose more than the budget by more than chance could explain?"""
        deviation = math.sqrt(self.losses + self.gains) / self.images
        return self.drop.drop - 2 * deviation > budget.max_accuracy_drop


def promise(seen: PairedDrop, budget: Budget, photos: int) -> float:
    """The probability that `photos` other photos would certify a drop, as far as those seen can tell.

    Certified is a drop 1.645 of its standard deviations below the budget. What was seen is pulled towards no
    drop at all, as Bayes' rule demands of a normal prior of half the budget's width: the best of many
    candidates owes some of its lead to luck. A pseudo-count of one lost and one gained photo keeps a sample
    without any from being sure.
    """
    rate = (seen.losses + seen.gains + 2) / seen.total
    here, there = rate / seen.total, rate / photos  # variances of a drop on either sample
    trust = prior / (prior + here) if (prior := (budget.max_accuracy_drop / 2) ** 2) else 0.0
    margin = budget.max_accuracy_drop - NormalDist().inv_cdf(0.95) * math.sqrt(there) - trust * seen.drop
    return NormalDist().cdf(margin / math.sqrt(trust * here + there))


@dataclass(slots=True)
class Looker:
    """Takes looks, beside a baseline that stays open. They are remembered: a search can be resumed."""

    context: Context
    _baseline: Worker | None = None
    _seconds: float = 0.0

    def look(self, variant: Variant, built: Built) -> QuickLook:
        """Raises WorkbenchError where the variant cannot be opened or run."""
        path = self._path(variant, built)
        try:
            return QuickLook.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            pass  # not looked at yet
        started = time.monotonic()
        try:
            log_ratio, memory_bytes, delegation, rows, logits = self._measured(variant, built)
        except ChildError:
            self.close()  # it may be the baseline that died: the next look opens another
            raise
        losses, gains = self._compared(logits, rows)
        look = QuickLook(
            log_ratio=log_ratio,
            images=len(rows),
            losses=losses,
            gains=gains,
            size_bytes=built.artifact.info.total_bytes,
            memory_bytes=memory_bytes,
            seconds=time.monotonic() - started,
            same=same_as_baseline(self.context, variant, built.artifact, logits, rows) is not None,
            delegation=delegation,
        )
        write_atomic(path, look.model_dump_json().encode())
        return look

    def _measured(
        self, variant: Variant, built: Built
    ) -> "tuple[float, int, Delegation | None, list[int], NDArray[np.float32]]":
        """Log ratio to the baseline's time, peak memory, what a device's delegate runs, and the logits on
        these rows. Raises ChildError."""
        baseline = self._opened()
        cpus = machine.available_cpus()[-variant.runtime.intra_threads :]
        photos, log = self.context.job_of(variant.name).photos, self.context.folder.log(variant.name)
        with Worker(built.artifact, variant.runtime, photos, log=log, cpus=cpus) as worker:
            worker.ready()
            warm = worker.warm_up()
            log_ratio, typical_s = _alternate(baseline, worker, self._seconds, warm.typical_ns / 1e9)
            peak_bytes, rows = worker.memory().peak_bytes, self._rows(typical_s)
            delegation = worker.audit().delegation if variant.runtime.TARGETS - {"server"} else None
            return log_ratio, peak_bytes, delegation, rows, worker.evaluate(lambda *_: None, rows)

    def _opened(self) -> Worker:
        if self._baseline is None:
            self._baseline = self.context.worker(BASELINE, machine.available_cpus()[-1:])
            self._baseline.ready()
            self._seconds = self._baseline.warm_up().typical_ns / 1e9
        return self._baseline

    def _rows(self, typical_s: float) -> list[int]:
        """As many of the photos that choose as fit in the time, evenly spread over the classes."""
        chosen = self.context.parts.selection
        count = min(len(chosen), max(FEWEST_PHOTOS, int(EVALUATE_S / typical_s)))
        return [chosen[index * len(chosen) // count] for index in range(count)]

    def _compared(self, logits: "NDArray[np.float32]", rows: Sequence[int]) -> tuple[int, int]:
        import numpy as np

        reference = self.context.logits[BASELINE][rows]
        labels = np.asarray(self.context.job.photos.labels)[rows]
        before, after = reference.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
        return int((before & ~after).sum()), int((after & ~before).sum())

    def _path(self, variant: Variant, built: Built) -> Path:
        job, runtime = self.context.job_of(variant.name), variant.runtime
        key = digest_of(
            [
                CODE,
                built.artifact.digest,
                runtime.model_dump(mode="json"),
                versions(*backend_of(OrtRuntime()).PACKAGES),
                packages_of(backend_of(runtime).PACKAGES, runtime.environment()),
                job.photos.digest,
                self.context.parts.selection,
                # A file that leaves its size free is the same at every crop, its time and answers are not.
                [self.context.built[BASELINE].artifact.digest, self.context.job.photos.digest],
                machine.collect().fingerprint,
            ]
        )
        return job.cache / "looks" / f"{key}.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        if self._baseline is not None:
            self._baseline.__exit__(None, None, None)
            self._baseline = None


def _alternate(baseline: Worker, worker: Worker, baseline_s: float, typical_s: float) -> tuple[float, float]:
    """The median log ratio of alternating bursts, and the worker's typical seconds of a call.
    The first call of a burst meets the caches that the other left and is not counted."""
    calls = [max(3, min(50, round(BURST_S / seconds))) for seconds in (baseline_s, typical_s)]
    ratios, times = [], []
    for turn in range(TURNS):
        pair = [(baseline, calls[0]), (worker, calls[1])]
        if turn % 2:
            pair.reverse()
        bursts = {id(session): median(session.burst(count)[1:]) for session, count in pair}
        ratios.append(math.log(bursts[id(worker)] / bursts[id(baseline)]))
        times.append(bursts[id(worker)] / 1e9)
    return median(ratios), median(times)
