"""A network of a few kilobytes as LiteRT files (tests/data/edge, made by its make.py), and its answers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.backends import LitertRuntime
from workbench.backends.artifact import Artifact
from workbench.photos.contract import Preprocess
from workbench.registry.bundle import Bundle

FOLDER = Path(__file__).parent / "data" / "edge"
SIDE, CLASSES = 16, 5
CLASS_NAMES = ("blight", "rust", "scab", "spot", "well")
CONTRACT = Preprocess(resize=20, crop=SIDE, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))
PHOTOS: NDArray[np.float32] = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE), np.float32)
RUN = "20260102-030405"
File = Literal["float", "int8", "int8-ends"]


def logits() -> NDArray[np.float32]:
    """(4, classes) of torch, for PHOTOS."""
    return np.asarray(json.loads((FOLDER / "logits.json").read_text()), np.float32)


def artifact(folder: Path, name: File = "float") -> Artifact:
    """One of the files, in a folder of its own. It takes ai-edge-litert to read it back."""
    from workbench.backends.litert.tflite import FILE, tflite_info

    shutil.copy(FOLDER / f"{name}.tflite", folder / FILE)
    return Artifact(folder, tflite_info(folder / FILE))


def published(root: Path, paths: Sequence[Path]) -> Bundle:
    """The float file as version 1.0.0 of `leaf` in `root/registry`, its run in `root/results`.

    paths: its validation photos.
    """
    from tests.builders import draft, run_info, trial
    from workbench.backends.litert import backend
    from workbench.photos.preprocess import pixels_of
    from workbench.registry.logits import logits_of
    from workbench.registry.manifest import Golden
    from workbench.registry.store import Registry
    from workbench.results.folder import RunFolder
    from workbench.results.records import PhotoFiles
    from workbench.system.files import sha256_file, write_arrays

    (root / "built").mkdir()
    built = artifact(root / "built")
    pixels = np.stack([pixels_of(path.read_bytes(), CONTRACT) for path in paths])
    with backend.session(built, LitertRuntime(threads=1)) as session:
        answers = logits_of(session.infer, CONTRACT, pixels, raw=False)
    run = RunFolder(root / "results" / RUN)
    (run.path / "predictions").mkdir(parents=True)
    run.save_info(run_info(run_id=RUN, preprocess=CONTRACT))
    run.save_photos(PhotoFiles(paths=tuple(map(str, paths)), sha256=tuple(map(sha256_file, paths))))
    write_arrays(run.golden(CONTRACT), pixels=pixels, indices=np.arange(len(paths)))
    write_arrays(run.predictions("litert"), logits=answers)

    def build(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(built.read())
        np.savez(folder / "golden.npz", pixels=pixels, logits=answers)

    made = draft(
        artifact=built.info,
        runtime=LitertRuntime(threads=1),
        class_names=CLASS_NAMES,
        preprocess=CONTRACT,
        golden=Golden(file="golden.npz", images=len(paths), atol=1e-3),
        measured=trial("litert", backend="litert"),
        provenance=draft().provenance.model_copy(update={"run_id": RUN, "variant": "litert"}),
    )
    return Registry(root / "registry").publish(made, build)
