"""The input contract: what is done to a photo before a network sees it, and the limits of a photo."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from workbench.system.records import Record

if TYPE_CHECKING:
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


class Preprocess(Record):
    """The input contract: resize the shorter side, crop the centre, scale to [0, 1], normalise.

    resize: pixels of the shorter side, aspect ratio kept; Pillow's antialiased filters.
    crop: side in pixels of the square cut from the centre; what the network sees.
    mean, std: per channel (R, G, B), in units of [0, 1].
    decode: scaled: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter side stays at least
    twice `resize` (never for `nearest`); full: at its own size. Bundles and results from before there was a
    choice are full; whoever reads them has to say so (see `results.records.Recorded`).
    """

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


class StatedPreprocess(Record):
    """The parts of a `Preprocess` that a source states, in the same units; None for the others."""

    resize: Side | None = None
    crop: Side | None = None
    interpolation: Interpolation | None = None
    mean: Triple | None = None
    std: tuple[Scale, Scale, Scale] | None = None

    def words(self) -> str:
        """`resize 256, crop 224, bilinear, mean 0.485 0.456 0.406, ...`: what is stated and no more."""
        parts = [
            self.resize and f"resize {self.resize}",
            self.crop and f"crop {self.crop}",
            self.interpolation,
            self.mean and f"mean {' '.join(f'{value:.4g}' for value in self.mean)}",
            self.std and f"std {' '.join(f'{value:.4g}' for value in self.std)}",
        ]
        return ", ".join(part for part in parts if part)
