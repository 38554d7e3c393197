"""A made-up run of 40 variants on 2,000 photos, with everything that the report can show."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import run_info, trial
from tests.serving import noise
from workbench.measure import samples
from workbench.measure.accuracy import accuracy
from workbench.measure.latency import Measured, Sample
from workbench.measure.records import RACE, WholePath
from workbench.photos.overlap import Overlap, PhotoPair, Separation
from workbench.results.folder import RunFolder
from workbench.results.records import PhotoFiles, TrialResult
from workbench.system.files import write_arrays

VARIANTS, PHOTOS, CLASSES, FILES = 40, 2000, 12, 8
EVIL = "<script>alert('x')</script>"
WORST = "int8[weight=quint8]"
NAMES = (EVIL, "leaf \"rust\" & 'scab'", *(f"class {number}" for number in range(2, CLASSES)))
PATH = WholePath(photo="12 megapixels", bytes=1, decode_ns=5e6, preprocess_ns=2e6, infer_ns=1e6, rest_ns=1e5)


def logits_of(labels: np.ndarray[Any, Any], wrong: int, seed: int) -> np.ndarray[Any, Any]:
    """Sure answers; the first `wrong` photos are taken for the next class."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(PHOTOS, CLASSES)).astype(np.float32)
    answers = labels.copy()
    answers[:wrong] = (answers[:wrong] + 1) % CLASSES
    logits[np.arange(PHOTOS), answers] += 14
    return logits


def write_photos(folder: Path) -> PhotoFiles:
    """Eight files, each for many photos."""
    made = []
    for number in range(FILES):
        buffer = io.BytesIO()
        noise(number, 320, 240).save(buffer, "JPEG")
        path = folder / f"{EVIL.replace('/', '')}-{number}.jpg"
        path.write_bytes(buffer.getvalue())
        made.append((str(path), hashlib.sha256(buffer.getvalue()).hexdigest()))
    paths, digests = zip(*(made[row % FILES] for row in range(PHOTOS)), strict=True)
    return PhotoFiles(paths=paths, sha256=digests)


def shared(files: PhotoFiles) -> Separation:
    """Photos of the training among those of validation: thirty alike, of which the first are kept."""

    def pair(number: int) -> PhotoPair:
        photo, other = files.paths[number % FILES], files.paths[(number + 1) % FILES]
        digests = (
            files.sha256[number % FILES],
            "0" * 64 if number == 1 else files.sha256[(number + 1) % FILES],
        )
        return PhotoPair(
            photo=photo, photo_sha256=digests[0], other=other, other_sha256=digests[1], bits=number or None,
            turn="turned" if number else "",
        )  # fmt: skip

    train = Overlap(part="train", photos=5000, same=1, alike=29, pairs=tuple(map(pair, range(24))))
    return Separation(parts=(train, Overlap(part="calibration", photos=200)), alike=4)


def trials_of(labels: np.ndarray[Any, Any], folder: RunFolder) -> list[TrialResult]:
    baseline = logits_of(labels, 5, 0)
    found = []
    for number in range(VARIANTS):
        name = "baseline" if number == 0 else WORST if number == 1 else f"fp32[threads={number}]"
        logits = logits_of(labels, 5 + 60 * (number == 1), number)
        write_arrays(folder.predictions(name), logits=logits)
        more: dict[str, Any] = {"whole_path": (PATH,)} if number == 2 else {}
        made = trial(name, speedup=1 + number / 20, size_mb=8 / (1 + number), **more)
        counts = accuracy(logits, baseline, labels.tolist())
        found.append(made.model_copy(update={"accuracy": counts, "cold_start_s": 0.1 * (number + 1)}))
    return found


def large_run(results: Path) -> RunFolder:
    """The folder of the run, below `results`."""
    folder = RunFolder(results / "20260102-030405")
    for name in ("predictions", "logs", "recipes"):
        (folder.path / name).mkdir(parents=True)
    labels = np.arange(PHOTOS) * CLASSES // PHOTOS
    write_arrays(folder.path / "validation.npz", labels=labels, certifies=np.zeros(PHOTOS, bool))
    files = write_photos(results)
    info = run_info(class_names=NAMES, validation_images=PHOTOS, workspace=EVIL, separation=shared(files))
    folder.save_info(info)
    found = trials_of(labels, folder)
    for each in found:
        folder.append(each)
    folder.save_photos(files)
    folder.recipe(WORST).write_text(f"name: int8\ndescription: {EVIL}\n")
    timed = [
        Sample(each.variant, launch, 0, 0, 0, call, 1_000_000 + 1000 * call + launch)
        for each in found
        for launch in range(6)
        for call in range(6)
    ]
    samples.save({RACE: Measured(samples=timed)}, folder.path / "latency.parquet")
    return folder
