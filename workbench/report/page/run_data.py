"""What a page shows of one run, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.backends.softmax import probabilities_of
from workbench.errors import WorkbenchError
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import Comparison
from workbench.system.files import load_arrays, read_plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMINED = 3  # variants whose answers are shown photo by photo


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of the baseline first, then of the variants examined, on all validation photos.

    labels: (n,) class indices. probabilities: (n, classes) each.
    """

    labels: "NDArray[np.int64]"
    probabilities: "Mapping[str, NDArray[np.float64]]"

    def answers(self, variant: str) -> "NDArray[np.int64]":
        found: NDArray[np.int64] = self.probabilities[variant].argmax(axis=1)
        return found


@dataclass(frozen=True)
class RunData:
    """number: of the run on its page, from 1; part of the ids there."""

    comparison: Comparison
    folder: RunFolder
    number: int = 1

    @property
    def info(self) -> RunInfo:
        return self.comparison.info

    @cached_property
    def trials(self) -> dict[str, TrialResult]:
        return {trial.variant: trial for trial in self.folder.trials()}

    @cached_property
    def examined(self) -> list[str]:
        """The winner, then those that change answers: of the Pareto front first, fastest first."""
        measured = [r for r in self.comparison.rows if r.variant != BASELINE and r.top1 is not None]
        found = [row for row in measured if row.winner or self._changes(row.variant)] or measured
        found.sort(key=lambda row: (not row.winner, not row.pareto, -(row.speedup or 0)))
        return [row.variant for row in found][:EXAMINED]

    def _changes(self, variant: str) -> bool:
        """Whether it gets other selection photos right than the baseline."""
        trial = self.trials.get(variant)
        return bool(trial and trial.accuracy and trial.accuracy.losses + trial.accuracy.gains)

    @cached_property
    def predictions(self) -> Predictions | None:
        """None where the run kept no labels or no predictions, as older ones, or examined no variant."""
        path = self.folder.path / "validation.npz"
        names = [BASELINE, *self.examined]
        if len(names) == 1 or not all(p.is_file() for p in (path, *map(self.folder.predictions, names))):
            return None
        labels = load_arrays(path, read_plain(path), "labels")[0]
        return Predictions(labels, {name: self._probabilities(name, len(labels)) for name in names})

    def _probabilities(self, variant: str, photos: int) -> "NDArray[np.float64]":
        path = self.folder.predictions(variant)
        logits = load_arrays(path, read_plain(path), "logits")[0]
        if logits.shape != (photos, len(self.info.class_names)):
            raise WorkbenchError(f"{path} is of other photos or classes than {self.folder.path}/run.json")
        return probabilities_of(logits, self.info.outputs)

    def card_id(self, variant: str) -> str | None:
        """The id of the variant's card; None where there is none."""
        names = [row.variant for row in self.comparison.rows]
        return f"run{self.number}-variant{names.index(variant) + 1}" if variant in names else None
