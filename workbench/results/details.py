"""Everything a run knows of one variant, for people and for scripts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.measure.per_class import ClassChange, Confusion, class_changes, new_confusions
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.files import load_arrays, read_plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Details:
    """changes, confusions: against the baseline, on the photos that chose and on all of them."""

    info: RunInfo
    trial: TrialResult
    changes: tuple[ClassChange, ...]
    confusions: tuple[Confusion, ...]
    baseline_ece: float | None = None


def details(folder: RunFolder, info: RunInfo, trial: TrialResult) -> Details:
    """What the run recorded of a trial, with the classes it loses on; older runs recorded no labels."""
    labels_path = folder.path / "validation.npz"
    if trial.accuracy is None or not labels_path.exists():
        return Details(info, trial, (), ())
    (labels,) = load_arrays(labels_path, read_plain(labels_path), "labels")
    confusions = new_confusions(
        _logits(folder, trial.variant), _logits(folder, BASELINE), labels.tolist(), info.class_names
    )
    changes = class_changes(trial.accuracy, info.class_names)
    ece = [t.accuracy.ece for t in folder.trials() if t.variant == BASELINE and t.accuracy]
    return Details(info, trial, tuple(changes), tuple(confusions), *ece[:1])


def _logits(folder: RunFolder, variant: str) -> "NDArray[np.float32]":
    path = folder.predictions(variant)
    (logits,) = load_arrays(path, read_plain(path), "logits")
    return logits
