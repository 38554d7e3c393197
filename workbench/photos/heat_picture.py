"""A heat map as a picture in the coordinates of the photo that was sent, upright."""

import io
from typing import TYPE_CHECKING

from workbench.photos.contract import Photo, Preprocess
from workbench.photos.geometry import crop_area

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

HEAT_SIDE, OVERLAY_SIDE = 256, 640  # pixels of the longer side, at most
OPACITY = 0.8  # where most spoke for the class
# Red over green leaves would be hard to tell for many: yellow to dark red is light to dark as well.
COLOURS = ((0.0, (255, 237, 120)), (0.5, (250, 130, 40)), (1.0, (180, 0, 60)))


def heat_png(heat: "NDArray[np.float32]", photo: Photo, contract: Preprocess) -> bytes:
    """A transparent PNG to lay over the photo: it has its shape, and at most HEAT_SIDE pixels a side."""
    return _png(_heat_image(heat, photo.size, contract, _fitted(photo.size, HEAT_SIDE)))


def overlay_png(heat: "NDArray[np.float32]", photo: Photo, contract: Preprocess) -> bytes:
    """The photo in grey with the heat map on it, as a PNG of at most OVERLAY_SIDE pixels a side."""
    from PIL import Image

    size = _fitted(photo.size, OVERLAY_SIDE)
    grey = photo.image.resize(size, Image.Resampling.BILINEAR, box=photo.box).convert("L").convert("RGBA")
    grey.alpha_composite(_heat_image(heat, photo.size, contract, size))
    return _png(grey.convert("RGB"))


def spread_heat(
    heat: "NDArray[np.float32]", photo: tuple[int, int], contract: Preprocess, size: tuple[int, int]
) -> "NDArray[np.float64]":
    """The heat at each pixel of a picture of the whole photo: (height, width), 0 beyond what the network saw.

    photo, size: (width, height) of the photo and of the picture. Between centres of cells it is interpolated.
    """
    import numpy as np

    left, top, right, bottom = crop_area(*photo, contract)
    inside, values = [], heat.astype(np.float64)
    for axis, start, stop in ((1, left, right), (0, top, bottom)):
        side, whole = size[1 - axis], photo[1 - axis]
        # The share of the crop that lies before the pixel's middle.
        along = ((np.arange(side) + 0.5) * whole / side - start) / (stop - start)
        at = along * heat.shape[axis] - 0.5
        values = _interpolated(values, axis, at)
        inside.append((along >= 0) & (along <= 1))
    spread: NDArray[np.float64] = values * np.outer(inside[1], inside[0])
    return spread


def _interpolated(
    values: "NDArray[np.float64]", axis: int, at: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    import numpy as np

    return np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), axis, values)


def _heat_image(
    heat: "NDArray[np.float32]", photo: tuple[int, int], contract: Preprocess, size: tuple[int, int]
) -> "Image.Image":
    import numpy as np
    from PIL import Image

    spread = spread_heat(heat, photo, contract, size)
    stops, colours = [stop for stop, _ in COLOURS], np.asarray([colour for _, colour in COLOURS])
    bands = [np.interp(spread, stops, colours[:, band]) for band in range(3)]
    rgba = np.stack([*bands, 255 * OPACITY * spread], axis=2)
    return Image.fromarray(np.rint(rgba).astype(np.uint8), "RGBA")


def _fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _png(image: "Image.Image") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)  # half the time of 6, and a fifth larger
    return file.getvalue()
