"""The masks of the sample's lesions, and the heat maps of its student judged by them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode_for
from workbench.workspace.sample import CHECKPOINT
from workbench.workspace.sample.leaves import CLASS_NAMES, photo, photo_seed
from workbench.workspace.sample.lesions import lesions

CONTRACT = Preprocess(resize=144, crop=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NEAR = 15  # pixels
SEEDS = [photo_seed("val", number) for number in range(4)]


def test_a_healthy_leaf_has_no_lesions_and_a_sick_one_has_some() -> None:
    for name in CLASS_NAMES:
        masks = [lesions(name, seed) for seed in SEEDS]
        assert any(mask.any() for mask in masks) != name.endswith("Healthy")
        assert all(mask.mean() < 0.6 for mask in masks)


def test_the_lesions_lie_where_the_photo_shows_them() -> None:
    """Common rust is redder than the leaf around it, whatever the light."""
    for seed in SEEDS:
        pixels = np.asarray(Image.open(io.BytesIO(photo("Corn_Common_Rust", seed)))).astype(float)
        mask = lesions("Corn_Common_Rust", seed)
        assert mask.shape == pixels.shape[:2]
        around = grown(mask, 4) & ~grown(mask, 1)
        redness = pixels[..., 0] - pixels[..., 1]
        assert redness[mask].mean() > redness[around].mean() + 3


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    from PIL import ImageFilter

    image = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(image) > 0


def test_the_hottest_point_of_a_class_activation_map_lies_by_a_lesion(tmp_path: Path) -> None:
    """The pointing game in small; benchmarks/pointing_game.py plays all of it."""
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from tests.builders import exported
    from workbench.backends.common import open_cpu
    from workbench.backends.heat_map import class_heat, split_maps
    from workbench.model.graph.class_maps import with_class_maps
    from workbench.photos.heat_picture import spread_heat
    from workbench.photos.preprocess import batch_of, crop_pixels
    from workbench.workspace.sample.student import create_model

    loaded = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)["state_dict"]
    student = create_model(num_classes=len(CLASS_NAMES))
    student.load_state_dict({key.removeprefix("model."): value for key, value in loaded.items()})
    made = with_class_maps(
        onnx.load(exported(student, tmp_path / "student.onnx", 128)), np.zeros((1, 3, 128, 128), np.float32)
    )
    session = open_cpu(made.model)
    hits = []
    for label, name in enumerate(CLASS_NAMES):
        for seed in SEEDS if not name.endswith("Healthy") else []:
            decoded = decode_for(photo(name, seed), CONTRACT)
            batch = batch_of(crop_pixels(decoded, CONTRACT)[None], CONTRACT, raw=False)
            (outputs,) = session.run(None, {session.get_inputs()[0].name: batch})
            answers, maps = split_maps(outputs, len(CLASS_NAMES), made.grid, made.step)
            np.testing.assert_allclose(maps.mean((2, 3)), answers, atol=1e-3)
            if answers.argmax() == label and (mask := lesions(name, seed)).any():
                spread = spread_heat(class_heat(maps[0], label), decoded.size, CONTRACT, decoded.size)
                hits.append(grown(mask, NEAR).reshape(-1)[spread.argmax()])
    assert len(hits) > 30
    assert np.mean(hits) >= 0.7
