"""Photos as a field gives them: the same every time, worse with every severity, alike at any size."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import error_of
from tests.serving import noise
from workbench.photos.contract import Preprocess
from workbench.photos.stress import SEVERITIES, STRESSES, apply_stresses, find_stresses
from workbench.workspace.sample import leaves

CONTRACT = Preprocess(resize=96, crop=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LEAF = leaves.photo("Apple_Scab", leaves.photo_seed("val", 3))
BY_SIZE = [name for name, stress in STRESSES.items() if not stress.whole]


def pixels(image: Image.Image, side: int = 96) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX), np.float64)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_photo_is_stressed_alike_every_time_and_each_photo_in_its_own_way() -> None:
    other = leaves.photo("Apple_Scab", leaves.photo_seed("val", 4))
    for name in ("motion-blur", "colour-cast", "occlusion"):
        (first,), (again,) = (apply_stresses(LEAF, [name], 3, CONTRACT) for _ in range(2))
        assert first.image.tobytes() == again.image.tobytes()
    grey = [
        np.abs(pixels(apply_stresses(each, ["colour-cast"], 5, CONTRACT)[0].image)) for each in (LEAF, other)
    ]
    casts = [image.mean(axis=(0, 1)) / image.mean() for image in grey]
    assert np.abs(casts[0] - casts[1]).max() > 0.02


@pytest.mark.parametrize("name", BY_SIZE)
def test_every_severity_is_further_from_the_photo_than_the_one_before(name: str) -> None:
    clean = pixels(Image.open(io.BytesIO(LEAF)), 192)
    found = [pixels(apply_stresses(LEAF, [name], s, CONTRACT)[0].image, 192) for s in SEVERITIES]
    distances = [float(np.abs(each - clean).mean()) for each in found]
    assert distances == sorted(distances)
    assert distances[0] > 0.2
    assert distances[-1] > 1.5 * distances[0]


@pytest.mark.parametrize("name", BY_SIZE)
def test_a_severity_means_the_same_for_a_small_photo_and_a_large_one(name: str) -> None:
    large = Image.open(io.BytesIO(LEAF)).convert("RGB").resize((576, 576), Image.Resampling.BICUBIC)
    small = large.resize((192, 192), Image.Resampling.BOX)
    stress = STRESSES[name]
    apply, level = stress.apply, stress.levels[3]
    big, little = (pixels(apply(image, level, np.random.default_rng(1)), 64) for image in (large, small))
    effect = np.abs(little - pixels(small, 64)).mean()
    assert np.abs(big - little).mean() < max(0.25 * effect, 2.0)


def test_the_noise_of_dusk_is_that_of_the_photo_and_not_of_its_pixels() -> None:
    apply, level = STRESSES["dusk"].apply, STRESSES["dusk"].levels[4]
    deviations = [
        pixels(
            apply(Image.new("RGB", (side, side), (190,) * 3), level, np.random.default_rng(side)), 64
        ).std()
        for side in (128, 512)
    ]
    assert 0.5 < deviations[0] / deviations[1] < 2
    assert deviations[0] > 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_leaf_before_the_lens_covers_the_share_of_its_severity(severity: int) -> None:
    white = jpeg(Image.new("RGB", (240, 180), "white"))
    image = apply_stresses(white, ["occlusion"], severity, CONTRACT)[0].image
    middle = np.asarray(image.crop((30, 0, 210, 180)))
    share = (middle.min(axis=2) < 200).mean()
    assert share == pytest.approx(STRESSES["occlusion"].levels[severity - 1], abs=0.02)


def test_a_messenger_sends_at_most_1600_pixels_and_loses_more_with_every_step_of_quality() -> None:
    clean = noise(0, 120, 90)
    buffer = io.BytesIO()
    clean.save(buffer, "PNG")
    sent = [apply_stresses(buffer.getvalue(), ["messenger"], s, CONTRACT)[0].image for s in SEVERITIES]
    distances = [float(np.abs(pixels(each, 90) - pixels(clean, 90)).mean()) for each in sent]
    assert distances == sorted(distances)
    large = jpeg(Image.open(io.BytesIO(LEAF)).convert("RGB").resize((2000, 1500)))
    assert apply_stresses(large, ["messenger"], 1, CONTRACT)[0].size == (1600, 1200)
    assert apply_stresses(LEAF, ["messenger"], 1, CONTRACT)[0].size == Image.open(io.BytesIO(LEAF)).size


def test_a_large_photo_is_stressed_at_twice_the_input_and_keeps_its_size_on_paper() -> None:
    (photo,) = apply_stresses(jpeg(Image.new("RGB", (1000, 700), "green")), ["rotation"], 1, CONTRACT)
    assert photo.size == (1000, 700)
    assert photo.image.height == 192


def test_stresses_are_chosen_by_their_names_or_by_a_word_of_them() -> None:
    assert find_stresses(()) == tuple(STRESSES)
    assert find_stresses(("dusk", "blur")) == ("motion-blur", "focus-blur", "dusk")
    assert find_stresses(("rain", "messenger")) == ("rain-drops", "messenger")
    error = error_of(lambda: find_stresses(("dusck",)))
    assert (error.message, error.hint) == ("`dusck` is no stress", "did you mean `dusk`?")
    assert (error_of(lambda: find_stresses(("fog",))).hint or "").startswith("there are motion-blur, ")
