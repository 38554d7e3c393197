"""The masks of the sample's lesions, and the heat maps of its student judged by them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from workbench.backends.heat_map import class_heat
from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode_for
from workbench.photos.heat_picture import spread_heat
from workbench.photos.preprocess import batch_of, crop_pixels
from workbench.workspace.sample import CHECKPOINT
from workbench.workspace.sample.leaves import CLASS_NAMES, photo, photo_seed
from workbench.workspace.sample.lesions import lesions

CONTRACT = Preprocess(resize=144, crop=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NEAR = 15  # pixels
SEEDS = [photo_seed("val", number) for number in range(2)]


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
    image = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(image) > 0


def test_the_hottest_point_of_a_class_activation_map_lies_by_a_lesion() -> None:
    """The pointing game in small; benchmarks/pointing_game.py plays all of it, on the exported network."""
    torch = pytest.importorskip("torch")
    from workbench.workspace.sample.student import create_model

    loaded = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)["state_dict"]
    student = create_model(num_classes=len(CLASS_NAMES)).eval()
    student.load_state_dict({key.removeprefix("model."): value for key, value in loaded.items()})
    shown = [(name, seed) for name in CLASS_NAMES if not name.endswith("Healthy") for seed in SEEDS]
    photos = [decode_for(photo(*one), CONTRACT) for one in shown]
    batch = batch_of(np.stack([crop_pixels(one, CONTRACT) for one in photos]), CONTRACT, raw=False)
    with torch.inference_mode():
        features = student.features(torch.from_numpy(batch))
        maps = torch.einsum("ck,nkhw->nchw", student.classifier[1].weight, features).numpy()
        answers = student(torch.from_numpy(batch)).argmax(1).tolist()
    hits = []
    for (name, seed), decoded, of_classes, answer in zip(shown, photos, maps, answers, strict=True):
        if CLASS_NAMES[answer] == name and (mask := lesions(name, seed)).any():
            spread = spread_heat(class_heat(of_classes, answer), decoded.size, CONTRACT, decoded.size)
            hits.append(grown(mask, NEAR).reshape(-1)[spread.argmax()])
    assert len(hits) > 15
    assert np.mean(hits) >= 0.7
