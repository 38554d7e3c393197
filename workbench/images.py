"""From the bytes of a photo to the numbers a network reads. The one implementation: both the
evaluation and the server call it, so that what was measured is what is served.

numpy and Pillow are imported inside the functions: reading a recipe must not pay for them.
"""

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

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]
Scale = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # below, photos overflow
Side = Annotated[int, Field(gt=0, le=4096, strict=True)]  # pixels


class Preprocess(BaseModel):
    """The input contract: resize the shorter side, crop the centre, scale to [0, 1], normalise.

    resize: pixels of the shorter side, aspect ratio kept; Pillow's antialiased filters.
    crop: side in pixels of the square cut from the centre; what the network sees.
    mean, std: per channel (R, G, B), in units of [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Side
    crop: Side
    interpolation: Interpolation = "bilinear"
    mean: Triple
    std: tuple[Scale, Scale, Scale]

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


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Photo bytes as an upright 8-bit RGB image.

    JPEG, PNG or WebP; the first frame of an animation; EXIF orientation applied; alpha dropped, as
    torchvision's default loader does; 16-bit grayscale scaled to 8 bits. The pixel limit is checked
    from the header, before anything is decoded. Raises ImageError.
    """
    import io
    import warnings

    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError("empty", "the image is empty (0 bytes)")
    with warnings.catch_warnings():
        # Our own limit, below, is stricter than the one Pillow warns at.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError("unsupported", "not a JPEG, PNG or WebP image") from None
        except Image.DecompressionBombError:
            raise ImageError(
                "too-large", f"the image has more than {max_pixels / 1e6:g} megapixels"
            ) from None
        except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
            raise ImageError("broken", f"the image cannot be read: {error}") from error
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too-large",
            f"the image has {image.width} x {image.height} pixels, more than {max_pixels / 1e6:g} megapixels",
        )
    try:
        image.load()
        return _as_rgb(_upright(image))
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, KeyError, ZeroDivisionError) as error:
        # Pillow's plugins and its EXIF reader raise all of these for damaged files.
        raise ImageError("broken", f"the image is damaged: {error}") from error


def _upright(image: "Image.Image") -> "Image.Image":
    """Turned as its EXIF orientation says.

    ImageOps.exif_transpose would also copy an upright photo, and rewrite the EXIF block, which fails in
    many ways (struct.error, TypeError, AttributeError) where a tag we have no use for is damaged.
    """
    from PIL.Image import Transpose

    turns: dict[object, Transpose] = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(0x0112))
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow clips 16-bit gray to 255 instead of scaling it: a normal photo would turn white.
        import numpy as np

        wide = np.asarray(image, dtype=np.int64).clip(0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_pixels(image: "Image.Image", contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels the network will see, before normalisation.

    Raises ImageError where the image is so narrow that resizing it would take gigabytes.
    """
    import numpy as np
    from PIL import Image

    width, height = image.size
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
        image = image.resize(size, Image.Resampling[contract.interpolation.upper()])
    left, top = (size[0] - contract.crop) // 2, (size[1] - contract.crop) // 2
    return np.asarray(image.crop((left, top, left + contract.crop, top + contract.crop)))


def normalize(pixels: "NDArray[np.uint8]", contract: Preprocess) -> "NDArray[np.float32]":
    """(N, H, W, 3) uint8 pixels to the (N, 3, H, W) float32 batch the network takes."""
    import numpy as np

    # x/255, then (x - mean)/std, as one multiply-add per value in float32.
    factor = 1.0 / (255.0 * np.asarray(contract.std))
    offset = -np.asarray(contract.mean) / np.asarray(contract.std)
    batch = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), dtype=np.float32)
    for channel in range(3):
        plane = batch[:, channel]
        np.multiply(pixels[..., channel], np.float32(factor[channel]), out=plane)
        plane += np.float32(offset[channel])
    return batch


def batch_of(pixels: "NDArray[np.uint8]", contract: Preprocess, *, raw: bool) -> Batch:
    """What the network takes: (N, H, W, 3) pixels as they are where it is `raw`, else normalised."""
    import numpy as np

    return np.ascontiguousarray(pixels) if raw else normalize(pixels, contract)


def preprocess(data: bytes, contract: Preprocess, *, raw: bool = False) -> Batch:
    """Photo bytes to a batch of one (see `batch_of`). Raises ImageError."""
    return batch_of(crop_pixels(decode(data), contract)[None], contract, raw=raw)


def read_pixels(path: Path, contract: Preprocess) -> "NDArray[np.uint8]":
    """The (crop, crop, 3) uint8 pixels of a photo on disk. Raises ImageError."""
    return crop_pixels(decode(path.read_bytes()), contract)
