"""Preprocess a photo into the input of a network. The evaluation and the server share this code, so that the
measured preprocessing is the served one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.errors import WorkbenchError
from workbench.photos.contract import MAX_PIXELS, Batch, ImageError, Interpolation, Photo, Preprocess, sides
from workbench.photos.geometry import crop_start, resized_size
from workbench.photos.torch_resize import resize_as_torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom


def crop_pixels(photo: "Photo | Image.Image", contract: Preprocess) -> "NDArray[np.uint8]":
    """The (height, width, 3) uint8 pixels the network will see, before normalisation, in its channel order.

    photo: from `decode_for`, or an image in full size. Raises ImageError for a photo so narrow that resizing
    would take gigabytes.
    """
    import numpy as np

    if not isinstance(photo, Photo):
        photo = Photo(photo, photo.size, (0, 0, *photo.size))
    # Computed from the size of the whole photo, so that decoding at a fraction does not move the crop.
    size = resized_size(*photo.size, contract)
    high, wide = sides(contract.resize)
    if size[0] * size[1] > max(MAX_PIXELS, high * wide):
        raise ImageError(
            "too-large",
            f"the image has {photo.size[0]} x {photo.size[1]} pixels: with the shorter side at {min(size)}, "
            f"it would have {size[0]} x {size[1]}, more than {MAX_PIXELS / 1e6:g} megapixels",
        )
    (height, width), (across, down) = contract.size, size
    left, top = crop_start(across, width, contract), crop_start(down, height, contract)
    box = max(left, 0), max(top, 0), min(left + width, across), min(top + height, down)
    pixels = np.asarray(_resize(photo, size, box, contract))
    if pixels.shape[:2] != contract.size:
        padded = np.full((height, width, 3), contract.fill, np.uint8)
        padded[box[1] - top : box[3] - top, box[0] - left : box[2] - left] = pixels
        pixels = padded
    return pixels if contract.channels == "RGB" else np.ascontiguousarray(pixels[..., ::-1])


def _resize(photo: Photo, size: tuple[int, int], box: Box, contract: Preprocess) -> "Image.Image":
    """The part in `box` of the photo at `size`, (width, height)."""
    import numpy as np
    from PIL import Image

    name = contract.interpolation
    if size == photo.image.size:
        return photo.image.crop(box)
    if contract.library == "opencv":
        return Image.fromarray(_resize_opencv(photo.image, size, name)).crop(box)
    if contract.library == "torch" and contract.antialias:
        pixels = np.asarray(photo.image)
        return Image.fromarray(resize_as_torch(pixels, size, box, photo.box, cubic=name == "bicubic"))
    if contract.antialias or name == "nearest":
        return photo.image.resize(size, Image.Resampling[name.upper()], box=photo.box).crop(box)
    return Image.fromarray(_resize_unfiltered(photo.image, size, box, cubic=name == "bicubic"))


def require_library(contract: Preprocess) -> None:
    """Raise WorkbenchError where the library that resizes is not installed."""
    if contract.library == "opencv":
        _opencv()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        hint = "pip install 'krishi-bench[opencv]', or opencv-python-headless"
        raise WorkbenchError(
            f"preprocess.library: opencv resizes photos with `cv2`, which cannot be imported: {error}",
            hint=hint,
        ) from error
    return cv2


def _resize_opencv(image: "Image.Image", size: tuple[int, int], name: Interpolation) -> "NDArray[np.uint8]":
    import numpy as np

    cv2 = _opencv()
    filters = {"bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS4"}
    flag = getattr(cv2, f"INTER_{filters.get(name, name.upper())}")
    resized: NDArray[np.uint8] = cv2.resize(np.asarray(image), size, interpolation=flag)
    return resized


def _resize_unfiltered(
    image: "Image.Image", size: tuple[int, int], box: Box, *, cubic: bool
) -> "NDArray[np.uint8]":
    """As torch's `interpolate` with align_corners=False and antialias=False: each pixel from its 2 x 2 or
    4 x 4 nearest ones, those at the border repeated."""
    import numpy as np

    values: NDArray[Any] = np.asarray(image)
    for axis, count, start, stop in ((1, size[0], box[0], box[2]), (0, size[1], box[1], box[3])):
        last = values.shape[axis] - 1
        # In single precision, like torch's: of values that end in a half many would be rounded otherwise.
        step, half = np.float32(values.shape[axis] / count), np.float32(0.5)
        at = (np.arange(start, stop, dtype=np.float32) + half) * step - half
        first = np.floor(at)
        weights = _taps((at - first).reshape((1, -1, 1) if axis else (-1, 1, 1)), cubic=cubic)
        rows = first.astype(int)
        parts = [weight * np.take(values, np.clip(rows + k, 0, last), axis) for k, weight in weights]
        values = np.add.reduce(parts)
    rounded: NDArray[np.uint8] = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _taps(t: "NDArray[np.float32]", *, cubic: bool) -> "list[tuple[int, NDArray[np.float32]]]":
    """(offset, weights) of the pixels that are mixed. t: distance from the pixel at offset 0, in [0, 1)."""
    if not cubic:
        return [(0, 1 - t), (1, t)]
    a = -0.75  # torch's and OpenCV's; Pillow's is -0.5

    def near(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]


def normalize(pixels: "NDArray[np.uint8]", contract: Preprocess) -> "NDArray[np.float32]":
    """Normalise (N, H, W, 3) uint8 pixels into the (N, 3, H, W) float32 batch the network takes."""
    import numpy as np

    # (x rescale - mean)/std, as one multiply-add per value in float32.
    batch = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(contract.mean, contract.std, strict=True)):
        plane = batch[:, channel]
        plane[...] = pixels[..., channel]
        plane *= np.float32(1.0 / (contract.white * std))
        plane += np.float32(-mean / std)
    return batch


def batch_of(pixels: "NDArray[np.uint8]", contract: Preprocess, *, raw: bool) -> Batch:
    """The batch that the network takes: (N, H, W, 3) uint8 pixels where it is `raw`, else normalised."""
    import numpy as np

    return np.ascontiguousarray(pixels) if raw else normalize(pixels, contract)


def pixels_of(data: bytes, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (height, width, 3) uint8 pixels of a photo's bytes. Raises ImageError."""
    from workbench.photos.decode import decode_for

    return crop_pixels(decode_for(data, contract), contract)


def preprocess(data: bytes, contract: Preprocess, *, raw: bool = False) -> Batch:
    """A photo's bytes as a batch of one (see `batch_of`). Raises ImageError."""
    return batch_of(pixels_of(data, contract)[None], contract, raw=raw)


def read_pixels(path: Path, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (height, width, 3) uint8 pixels of a photo on disk. Raises ImageError."""
    return pixels_of(path.read_bytes(), contract)
