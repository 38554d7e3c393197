"""From the bytes of a photo to the numbers a network reads. The one implementation: both the
evaluation and the server call it, so that what was measured is what is served.

numpy and Pillow are imported inside the functions: reading a recipe must not pay for them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.photos.contract import MAX_PIXELS, Batch, ImageError, Photo, Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


def crop_pixels(photo: "Photo | Image.Image", contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels the network will see, before normalisation.

    photo: of `decode_for`, or an image in full size. Raises ImageError where it is so narrow that resizing
    it would take gigabytes.
    """
    import numpy as np
    from PIL import Image

    if not isinstance(photo, Photo):
        photo = Photo(photo, photo.size, (0, 0, *photo.size))
    image, (width, height) = photo.image, photo.size
    scale = contract.resize / min(width, height)
    size = (
        (contract.resize, max(contract.resize, round(height * scale)))
        if width <= height
        else (max(contract.resize, round(width * scale)), contract.resize)
    )
    if size[0] * size[1] > max(MAX_PIXELS, contract.resize**2):
        raise ImageError(
            "too-large",
            f"the image has {width} x {height} pixels: with the shorter side at {contract.resize}, it would "
            f"have {size[0]} x {size[1]}, more than {MAX_PIXELS / 1e6:g} megapixels",
        )
    if size != image.size:
        # By the size of the whole photo, so that one decoded smaller lies where it would lie.
        image = image.resize(size, Image.Resampling[contract.interpolation.upper()], box=photo.box)
    left, top = (size[0] - contract.crop) // 2, (size[1] - contract.crop) // 2
    return np.asarray(image.crop((left, top, left + contract.crop, top + contract.crop)))


def normalize(pixels: "NDArray[np.uint8]", contract: Preprocess) -> "NDArray[np.float32]":
    """(N, H, W, 3) uint8 pixels to the (N, 3, H, W) float32 batch the network takes."""
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
    """What the network takes: (N, H, W, 3) pixels as they are where it is `raw`, else normalised."""
    import numpy as np

    return np.ascontiguousarray(pixels) if raw else normalize(pixels, contract)


def pixels_of(data: bytes, contract: Preprocess) -> "NDArray[np.uint8]":
    """Photo bytes to the (crop, crop, 3) uint8 pixels the network will see. Raises ImageError."""
    from workbench.photos.decode import decode_for

    return crop_pixels(decode_for(data, contract), contract)


def preprocess(data: bytes, contract: Preprocess, *, raw: bool = False) -> Batch:
    """Photo bytes to a batch of one (see `batch_of`). Raises ImageError."""
    return batch_of(pixels_of(data, contract)[None], contract, raw=raw)


def read_pixels(path: Path, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels of a photo on disk. Raises ImageError."""
    return pixels_of(path.read_bytes(), contract)
