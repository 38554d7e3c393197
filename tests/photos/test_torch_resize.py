"""Resizing as torch does it, beside torch."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from workbench.photos.contract import Photo, Preprocess, StatedPreprocess, merged
from workbench.photos.preprocess import crop_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (180, 240, 3), dtype=np.uint8)
KINDS = ("bilinear", "bicubic")


def contract(kind: str, **more: object) -> Preprocess:
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": kind, "library": "torch"}
    return Preprocess.model_validate({**plain, **more})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((180, 240), (96, 128)),
        ((180, 240), (200, 60)),
        ((33, 240), (33, 50)),
        ((180, 20), (40, 20)),
        ((7, 9), (61, 64)),
        ((180, 240), (5, 3)),
    ],
)
def test_every_value_is_torchs(kind: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    pixels = np.ascontiguousarray(NOISE[: shape[0], : shape[1]])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(tensor, size, mode=kind, antialias=True, align_corners=False)
    ours = crop_pixels(Image.fromarray(pixels), contract(kind, resize=size))
    assert np.array_equal(ours, theirs[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_is_cut_from_what_is_resized(kind: str) -> None:
    photo = Image.fromarray(NOISE)
    whole = crop_pixels(photo, contract(kind, resize=(60, 80), crop=(60, 80)))
    part = crop_pixels(photo, contract(kind, resize=(60, 80), crop=(32, 40)))
    assert np.array_equal(part, whole[14:46, 20:60])


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_decoded_at_a_fraction_stays_near_pillows(kind: str) -> None:
    # 241 x 181 pixels at half the size: the last column and row are half empty.
    half = Image.fromarray(NOISE).resize((121, 91))
    photo = Photo(half, (241, 181), (0.0, 0.0, 120.5, 90.5))
    torchs = crop_pixels(photo, contract(kind, resize=(40, 60)))
    pillows = crop_pixels(photo, contract(kind, resize=(40, 60), library="pillow"))
    assert np.abs(torchs.astype(int) - pillows).max() <= 3


def test_other_filters_are_refused() -> None:
    with pytest.raises(
        ValidationError, match="`library: torch` goes with `bilinear` and `bicubic`, not `lanczos`"
    ):
        contract("lanczos", resize=32, crop=32)


def test_a_processors_rounding_stays_where_torch_resizes() -> None:
    stated = StatedPreprocess(resize=256, crop=224, rounding="transformers")
    assert merged({"library": "torch"}, stated)["rounding"] == "transformers"
    assert "rounding" not in merged({"library": "opencv"}, stated)
    opencv = StatedPreprocess(resize=256, crop=224, library="opencv", antialias=False)
    assert merged({"library": "torch"}, opencv).keys() == {"resize", "crop", "library"}
