"""One model's comparison as it grows: who takes part, with which artifact, and what was found of it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers_table import Maker, Row

from workbench.backends import OrtRuntime, Runtime
from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.measure.records import BASELINE
from workbench.measure.split import Parts, shared_photos, split
from workbench.model.export.settings import Export
from workbench.photos.dataset import Images
from workbench.run.build import build
from workbench.run.check_variant import BASELINE_EXPORTS
from workbench.run.prepare import Prepared, prepare
from workbench.system.child import ChildError, call
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import load

FP32, OURS = "onnxruntime FP32", "krishi-bench tune"
BUILD_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What is measured: an artifact, how it is opened and the photos through its own preprocessing."""

    name: str
    maker: Maker
    artifact: Artifact
    runtime: Runtime
    images: Images
    make_s: float | None = None
    variant: str = ""

    @property
    def runs_on(self) -> str:
        which = f"{self.variant}: " if self.variant else ""
        many = "" if self.runtime.intra_threads == 1 else f", {self.runtime.intra_threads} threads"
        batch = "" if self.runtime.batch == 1 else f", batches of {self.runtime.batch}"
        return f"{which}{self.runtime.backend}{many}{batch}, {self.images.contract.crop} px"


@dataclass(slots=True)
class Arena:
    """One model's comparison as it grows."""

    prepared: Prepared
    parts: Parts
    folder: Path
    entries: dict[str, Entry]
    rows: dict[str, Row]

    @property
    def max_drop(self) -> float:
        return self.prepared.workspace.budget.max_accuracy_drop

    def fail(self, name: str, maker: Maker, error: WorkbenchError) -> None:
        say(f"  {name}: {error.message}")
        self.entries.pop(name, None)
        before = self.rows.get(name, Row(name=name, maker=maker))
        self.rows[name] = before.model_copy(update={"reason": error.message})


def opened(folder: Path, work: Path) -> Arena:
    """The workspace with its photos decoded, its parts and its FP32 ONNX file."""
    prepared = prepare(load(folder / "krishi.yaml"), tell, calibrate=True)
    job = prepared.job
    if job.calibration is None:
        raise WorkbenchError(f"{folder}: data.calibration is missing: nobody can quantise statically without")
    parts = split(
        prepared.validation,
        prepared.groups,
        shared_photos(prepared.separation),
        max_drop=prepared.workspace.budget.max_accuracy_drop,
    )
    arena = Arena(prepared, parts, work.resolve() / prepared.workspace.name, {}, {})
    arena.folder.mkdir(parents=True, exist_ok=True)
    arena.entries[FP32] = Entry(FP32, "baseline", baseline(arena), OrtRuntime(), job.photos)
    return arena


def baseline(arena: Arena) -> Artifact:
    """The plain FP32 export that every run of krishi-bench measures against."""
    exports = (Export(),) if arena.prepared.source_kind == "onnx" else BASELINE_EXPORTS
    problem = WorkbenchError("no exporter")
    for export in exports:
        variant = Variant(BASELINE, BASELINE, "plain FP32", export, (), OrtRuntime())
        try:
            return call(
                build, arena.prepared.job, variant,
                log=arena.folder / "baseline.txt", timeout_s=BUILD_TIMEOUT_S, label="the export",
            )[1]  # fmt: skip
        except ChildError as error:
            problem = error
    raise problem


def calibration_file(arena: Arena) -> Path:
    """The calibration photos as everybody gets them: (n, 3, H, W) float32, through our preprocessing."""
    images = arena.prepared.job.calibration
    assert images is not None
    path = arena.folder / f"calibration-{images.digest[:12]}.npy"
    if not path.exists():
        np.save(path, np.concatenate(list(images.batches(64))))
    return path


def tell(progress: Progress) -> None:
    """Only what a long wait is about; the rest is said by step."""
    if progress.total == 0:
        say(f"  {progress.stage} {progress.what}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
