"""Preprocess a photo into the input of a network. The evaluation and the server share this code, so that the
measured preprocessing is the served one."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.photos.contract import MAX_PIXELS, Batch, ImageError, Photo, Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


def crop_pixels(photo: "Photo | Image.Image", contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels the network will see, before normalisation.

    photo: from `decode_for`, or an image in full size. Raises ImageError for a photo so narrow that resizing
    would take gigabytes.
    """
    import numpy as np
    from PIL import Image

    if not isinstance(photo, Photo):
        photo = Photo(photo, photo.size, (0, 0, *photo.size))
    image, (width, height) = photo.image, photo.size
    scale = contract.resize / min(width, height)
    size = (max(contract.resize, round(width * scale)), max(contract.resize, round(height * scale)))
    if size[0] * size[1] > max(MAX_PIXELS, contract.resize**2):
        raise ImageError(
            "too-large",
            f"the image has {width} x {height} pixels: with the shorter side at {contract.resize}, it would "
            f"have {size[0]} x {size[1]}, more than {MAX_PIXELS / 1e6:g} megapixels",
        )
    if size != image.size:
        # Computed from the size of the whole photo, so that decoding at a fraction does not move the crop.
        image = image.resize(size, Image.Resampling[contract.interpolation.upper()], box=photo.box)
    left, top = (size[0] - contract.crop) // 2, (size[1] - contract.crop) // 2
    return np.asarray(image.crop((left, top, left + contract.crop, top + contract.crop)))


def normalize(pixels: "NDArray[np.uint8]", contract: Preprocess) -> "NDArray[np.float32]":
    """Normalise (N, H, W, 3) uint8 pixels into the (N, 3, H, W) float32 batch the network takes."""
    import numpy as np

    # x/255, then (x - mean)/std, as one multiply-add per value in float32.
    batch = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(contract.mean, contract.std, strict=True)):
        plane = batch[:, channel]
        plane[...] = pixels[..., channel]
        plane *= np.float32(1.0 / (255.0 * std))
        plane += np.float32(-mean / std)
    return batch


def batch_of(pixels: "NDArray[np.uint8]", contract: Preprocess, *, raw: bool) -> Batch:
    """The batch that the network takes: (N, H, W, 3) uint8 pixels where it is `raw`, else normalised."""
    import numpy as np

    return np.ascontiguousarray(pixels) if raw else normalize(pixels, contract)


def pixels_of(data: bytes, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels of a photo's bytes. Raises ImageError."""
    from workbench.photos.decode import decode_for

    return crop_pixels(decode_for(data, contract), contract)


def preprocess(data: bytes, contract: Preprocess, *, raw: bool = False) -> Batch:
    """A photo's bytes as a batch of one (see `batch_of`). Raises ImageError."""
    return batch_of(pixels_of(data, contract)[None], contract, raw=raw)


def read_pixels(path: Path, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels of a photo on disk. Raises ImageError."""
    return pixels_of(path.read_bytes(), contract)
