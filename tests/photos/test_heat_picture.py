"""A heat map is drawn where the photo shows what was hot, however the photo was cropped."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.serving import encoded
from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode_for
from workbench.photos.geometry import crop_area
from workbench.photos.heat_picture import HEAT_SIDE, OVERLAY_SIDE, heat_png, overlay_png, spread_heat
from workbench.photos.preprocess import crop_pixels

MEAN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CONTRACTS = {
    "centre": Preprocess(resize=36, crop=32, **MEAN),
    "squeezed": Preprocess(resize=(32, 48), crop=None, **MEAN),
    "padded": Preprocess(resize=32, crop=32, resize_mode="longer", **MEAN),
    "padded after": Preprocess(resize=24, crop=32, fill=(9, 9, 9), **MEAN),
}
SIZES = [(200, 120), (120, 200), (64, 64), (30, 20)]
SPOT = np.array([250, 240, 20])


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_the_network_sees_at_a_place_is_in_the_photo_at_that_place(
    name: str, size: tuple[int, int]
) -> None:
    """A spot is found in the pixels of the network; the heat of its cell is on the spot of the photo."""
    contract, (width, height) = CONTRACTS[name], size
    for x, y in ((0.5, 0.5), (0.35, 0.6), (0.66, 0.4)):
        canvas = np.full((height, width, 3), 30, np.uint8)
        left, top, side = int(x * width), int(y * height), max(3, min(size) // 10)
        canvas[top : top + side, left : left + side] = SPOT
        photo = decode_for(encoded(Image.fromarray(canvas), "PNG"), contract)
        seen = crop_pixels(photo, contract).astype(float).sum(axis=2)
        heat = (seen == seen.max()).astype(np.float32)
        spread = spread_heat(heat, photo.size, contract, photo.size)
        rows, columns = np.nonzero(spread > 0.9 * spread.max())
        middle = np.array([rows.mean(), columns.mean()])
        cell = max(1.5, *(edge / 32 for edge in size))
        assert np.abs(middle - (top + side / 2 - 0.5, left + side / 2 - 0.5)).max() <= cell


def test_nothing_is_hot_beyond_what_the_network_saw() -> None:
    contract = CONTRACTS["centre"]
    left, top, right, bottom = crop_area(200, 120, contract)
    assert (right - left, bottom - top) == pytest.approx((32 * 120 / 36,) * 2, rel=0.01)
    spread = spread_heat(np.ones((2, 3), np.float32), (200, 120), contract, (200, 120))
    inside = np.zeros((120, 200), bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    assert (spread[inside] == 1).mean() > 0.99
    assert (spread[~inside] == 0).mean() > 0.99


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image


def test_the_picture_has_the_shape_of_the_upright_photo_and_is_clear_where_nothing_is_hot() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    contract = CONTRACTS["centre"]
    data = encoded(Image.new("RGB", (1600, 1200), (40, 120, 40)), exif=exif)
    photo = decode_for(data, contract)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    layer = opened(heat_png(heat, photo, contract))
    assert (layer.mode, layer.size) == ("RGBA", (HEAT_SIDE * 3 // 4, HEAT_SIDE))
    alpha = np.asarray(layer)[..., 3]
    assert alpha.max() > 150 and alpha[:20].max() == 0 and alpha[-40:].max() == 0
    overlay = opened(overlay_png(heat, photo, contract))
    assert (overlay.mode, overlay.size) == ("RGB", (OVERLAY_SIDE * 3 // 4, OVERLAY_SIDE))
    colours = np.asarray(overlay).astype(int)
    assert np.ptp(colours[-60:], axis=2).max() == 0, "grey where nothing is hot"
    assert np.ptp(colours, axis=2).max() > 100


def test_a_small_photo_is_not_enlarged() -> None:
    photo = decode_for(encoded(Image.new("RGB", (30, 20)), "PNG"), CONTRACTS["centre"])
    assert opened(heat_png(np.ones((1, 1), np.float32), photo, CONTRACTS["centre"])).size == (30, 20)
