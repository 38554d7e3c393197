"""The bundled sample: its photographs, its folder, its checkpoint."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import preprocess
from workbench.workspace.sample import CHECKPOINT, ensure_sample, sample_folder
from workbench.workspace.sample.leaves import CLASS_NAMES, photo, photo_seed

ROOT = Path(__file__).parents[2]


def photos_in(folder: Path) -> list[str]:
    """Names of the photos below a folder, as `split/class/nnn.jpg`."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def sha256s(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg")}


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="reading the checkpoint needs torch")
    loaded: dict[str, Any] = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    return loaded


def trained(checkpoint: dict[str, Any]) -> Any:
    """The student with the checkpoint's weights, ready to infer."""
    from workbench.workspace.sample.student import create_model

    weights = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    model = create_model(num_classes=12)
    model.load_state_dict(weights)
    return model.eval()


def test_the_bytes_depend_on_the_class_and_the_seed_alone() -> None:
    assert photo("Apple_Scab", 5) == photo("Apple_Scab", 5)
    assert len({photo("Tomato_Healthy", 5), photo("Tomato_Healthy", 6), photo("Potato_Healthy", 5)}) == 3


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_class_gives_a_jpeg_with_a_shorter_side_of_192_pixels(name: str) -> None:
    with Image.open(io.BytesIO(photo(name, 1))) as picture:
        assert (picture.format, picture.mode, min(picture.size)) == ("JPEG", "RGB", 192)


def test_class_names_are_sorted_because_their_index_is_the_label() -> None:
    assert list(CLASS_NAMES) == sorted(set(CLASS_NAMES))
    assert len(CLASS_NAMES) == 12


def test_a_split_cannot_run_into_the_seeds_of_the_next() -> None:
    assert photo_seed("train", 999_999) < photo_seed("calib", 0) < photo_seed("val", 0)
    with pytest.raises(ValueError, match="at most 1,000,000"):
        photo_seed("train", 1_000_000)


def test_the_sample_has_every_class_in_both_splits_no_photo_twice_and_nothing_else(tmp_path: Path) -> None:
    folder = ensure_sample(tmp_path, calib_per_class=1, val_per_class=2)
    expected = [f"calib/{name}/000.jpg" for name in CLASS_NAMES]
    expected += [f"val/{name}/{index}.jpg" for name in CLASS_NAMES for index in ("000", "001")]
    assert photos_in(folder / "data") == expected
    assert len(sha256s(folder)) == len(expected), "a photo is there twice"
    assert sum(path.is_file() for path in folder.rglob("*")) == len(expected)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_second_call_draws_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first, again = (
        ensure_sample(tmp_path, lambda *call: calls.append(call), calib_per_class=1, val_per_class=1)
        for _ in range(2)
    )
    assert calls == [(done, 24) for done in range(1, 25)]
    assert again == first


def test_other_counts_are_another_folder(tmp_path: Path) -> None:
    assert sample_folder(tmp_path, 1, 1) != sample_folder(tmp_path, 1, 2)


def test_an_interrupted_drawing_leaves_no_folder(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_sample(tmp_path, interrupt, calib_per_class=1, val_per_class=1)
    assert list(tmp_path.iterdir()) == []


def test_the_slower_of_two_processes_takes_the_folder_of_the_faster(tmp_path: Path) -> None:
    faster: list[Path] = []

    def overtake(done: int, total: int) -> None:
        if done == 10:
            faster.append(ensure_sample(tmp_path, calib_per_class=1, val_per_class=1))

    slower = ensure_sample(tmp_path, overtake, calib_per_class=1, val_per_class=1)
    assert [slower] == faster == list(tmp_path.iterdir())


def test_the_photos_go_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path))
    assert ensure_sample(calib_per_class=1, val_per_class=1).parent == tmp_path


def test_importing_the_sample_loads_nothing_heavy() -> None:
    code = "import sys, workbench.workspace.sample; print({'numpy', 'PIL', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_the_checkpoint_is_small_enough_to_ship() -> None:
    assert CHECKPOINT.stat().st_size < 2_000_000


def test_the_checkpoint_says_how_to_build_and_feed_its_model(checkpoint: dict[str, Any]) -> None:
    lightning = {"pytorch-lightning_version", "epoch", "global_step", "state_dict", "hyper_parameters"}
    lightning |= {"loops", "callbacks", "optimizer_states", "lr_schedulers"}
    assert checkpoint.keys() == lightning | {"class_names", "model_config", "preprocessing_stats"}
    assert checkpoint["class_names"] == list(CLASS_NAMES)
    assert checkpoint["model_config"] == {
        "architecture": "krishi-student",
        "factory": "student.py:create_model",
        "num_classes": 12,
        "input_channels": 3,
        "input_height": 128,
        "input_width": 128,
    }
    assert checkpoint["preprocessing_stats"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize_shorter_side": 144,
        "center_crop": 128,
        "interpolation": "bilinear",
        "color": "RGB",
        "scale": 1 / 255,
    }


def test_the_factory_takes_every_weight_of_the_checkpoint_and_any_image_size(
    checkpoint: dict[str, Any],
) -> None:
    import torch

    assert all(key.startswith("model.") for key in checkpoint["state_dict"])
    model = trained(checkpoint)
    assert model(torch.zeros(2, 3, 128, 128)).shape == (2, 12)
    assert model(torch.zeros(1, 3, 96, 160)).shape == (1, 12)


def test_the_student_recognises_most_photos_but_not_all(checkpoint: dict[str, Any]) -> None:
    import torch

    stats = checkpoint["preprocessing_stats"]
    contract = Preprocess(
        resize=stats["resize_shorter_side"], crop=stats["center_crop"], mean=stats["mean"], std=stats["std"]
    )
    model = trained(checkpoint)
    pairs = [(label, index) for label in range(12) for index in range(5)]
    photos = [photo(CLASS_NAMES[label], photo_seed("val", index)) for label, index in pairs]
    batch = [preprocess(data, contract) for data in photos]
    with torch.inference_mode():
        guesses = model(torch.from_numpy(np.concatenate(batch))).argmax(1).tolist()
    right = sum(guess == label for guess, (label, _) in zip(guesses, pairs, strict=True))
    assert 52 <= right < 60
