"""From the bytes of a photo to the numbers a network reads. The one implementation: both the
evaluation and the server call it, so that what was measured is what is served.

numpy and Pillow are imported inside the functions: reading a recipe must not pay for them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Batch: TypeAlias = "NDArray[Any]"
"""(N, 3, H, W) float32, normalised; or (N, H, W, 3) uint8 pixels, for networks that normalise themselves."""

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_PIXELS = 50_000_000
MAX_SIDE = 12_000  # pixels

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Decode = Literal["scaled", "full"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]
Scale = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # below, photos overflow
Side = Annotated[int, Field(gt=0, le=4096, strict=True)]  # pixels


class Preprocess(BaseModel):
    """The input contract: resize the shorter side, crop the centre, scale to [0, 1], normalise.

    resize: pixels of the shorter side, aspect ratio kept; Pillow's antialiased filters.
    crop: side in pixels of the square cut from the centre; what the network sees.
    mean, std: per channel (R, G, B), in units of [0, 1].
    decode: scaled: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter side stays at least
    twice `resize` (never for `nearest`); full: at its own size. Bundles and results from before there was a
    choice are full; whoever reads them has to say so (see `results.Recorded`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Side
    crop: Side
    interpolation: Interpolation = "bilinear"
    mean: Triple
    std: tuple[Scale, Scale, Scale]
    decode: Decode = "scaled"

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocess":
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) must not be larger than resize ({self.resize})")
        return self


class ImageError(ValueError):
    """These bytes are not a photo we take. `kind` says which of our limits they met."""

    def __init__(self, kind: Literal["unsupported", "broken", "too-large", "empty"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Photo:
    """An upright photo, perhaps decoded at a fraction of its size.

    image: 8-bit RGB. size: (width, height) of the whole photo in pixels.
    box: (left, top, right, bottom) of the photo in pixels of `image`. Where a side is no multiple of the
    fraction, the photo ends within a pixel of `image`.
    """

    image: "Image.Image"
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Photo bytes as an upright 8-bit RGB image, in full size whatever a contract says.

    JPEG, PNG or WebP; the first frame of an animation; EXIF orientation applied; alpha dropped, as
    torchvision's default loader does; 16-bit grayscale scaled to 8 bits. The limits (`max_pixels`, MAX_SIDE,
    the number of scans of a JPEG) are checked before anything is decoded. Raises ImageError.
    """
    from workbench import photo

    return photo.decoded(data, max_pixels=max_pixels, least=None).image


def decode_for(data: bytes, contract: Preprocess) -> Photo:
    """Photo bytes as `crop_pixels` takes them: `decode`, but at a fraction of the size where the contract
    lets it (see `Preprocess.decode`). Raises ImageError."""
    from workbench import photo

    # A network trained with `nearest` knows single pixels, not means of several.
    scaled = contract.decode == "scaled" and contract.interpolation != "nearest"
    return photo.decoded(data, max_pixels=MAX_PIXELS, least=2 * contract.resize if scaled else None)


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
    return crop_pixels(decode_for(data, contract), contract)


def preprocess(data: bytes, contract: Preprocess, *, raw: bool = False) -> Batch:
    """Photo bytes to a batch of one (see `batch_of`). Raises ImageError."""
    return batch_of(pixels_of(data, contract)[None], contract, raw=raw)


def read_pixels(path: Path, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels of a photo on disk. Raises ImageError."""
    return pixels_of(path.read_bytes(), contract)
