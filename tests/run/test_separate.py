"""Photos of the training, the calibration and the validation are held apart, on real files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import error_of
from workbench.errors import WorkbenchError
from workbench.measure.split import shared_photos
from workbench.photos import dataset
from workbench.photos.overlap import Separation
from workbench.run.prepare import separate
from workbench.system.progress import silent
from workbench.workspace.workspace import load

NAMES = ("rust", "scab")


def photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six photos of two classes to validate with, others to calibrate and to train with."""
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    for part, first, count in (("val", 0, 6), ("calib", 10, 4), ("train", 20, 8)):
        for number in range(count):
            path = tmp_path / part / NAMES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(first + number).save(path)
    return tmp_path


def separated(folder: Path, **data: object) -> tuple[tuple[int, ...], Separation]:
    (folder / "model.onnx").touch()
    given = {"validation": "val", "calibration": "calib", "train": "train", **data}
    (folder / "krishi.yaml").write_text(json.dumps({"model": {"checkpoint": "model.onnx"}, "data": given}))
    workspace = load(folder / "krishi.yaml")
    validation = dataset.scan(workspace.validation, NAMES, field="data.validation")
    calibration = dataset.scan(folder / "calib", NAMES, field="data.calibration", labelled=False)
    return separate(workspace, NAMES, validation, calibration, silent)


def test_parts_that_share_no_photo_are_recorded_as_such(folder: Path) -> None:
    groups, separation = separated(folder)
    assert groups == tuple(range(6))
    assert [(part.part, part.photos, part.images) for part in separation.parts] == [
        ("train", 8, 0), ("calibration", 4, 0),
    ]  # fmt: skip
    assert (separation.alike, separation.allowed, shared_photos(separation)) == (0, False, None)
    assert [part.part for part in separated(folder, train=None)[1].parts] == ["calibration"]


def test_copies_turned_small_and_compressed_are_found_in_every_part(folder: Path) -> None:
    turned = photo(0).transpose(Image.Transpose.ROTATE_90).resize((60, 80))
    turned.save(folder / "train" / "scab" / "IMG_1.jpg", quality=60)
    (folder / "calib" / "again.png").write_bytes((folder / "val" / "scab" / "1.png").read_bytes())
    photo(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "val" / "scab" / "mirrored.webp")
    groups, separation = separated(folder)
    train, calibration = separation.overlaps
    assert [(part.part, part.same, part.alike) for part in (train, calibration)] == [
        ("train", 0, 1), ("calibration", 1, 0),
    ]  # fmt: skip
    assert train.pairs[0].words() == "rust/0.png looks like scab/IMG_1.jpg, turned"
    assert calibration.pairs[0].words() == "scab/1.png is calib/again.png"
    # The mirrored photo stands in another class than its original; both are alike all the same.
    assert (len(set(groups)), separation.alike) == (6, 2)
    refused = shared_photos(separation)
    assert refused is not None and (refused.part, refused.images, refused.alike) == ("train", 1, 1)
    assert shared_photos(separated(folder, allow_overlap=True)[1]) is None


def test_training_photos_that_cannot_be_read_are_named(folder: Path) -> None:
    (folder / "train" / "rust" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    error = error_of(lambda: separated(folder))
    assert isinstance(error, WorkbenchError)
    assert error.message.startswith("data.train: 1 of 9 photos cannot be read")
    assert "broken.jpg" in error.message
    assert error.hint is not None and "accuracy" not in error.hint
