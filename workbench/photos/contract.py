"""The input contract: the preprocessing of a photo, and the limits of a photo."""

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
MAX_PIXELS = 50_000_000
MAX_SIDE = 12_000  # pixels

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Decode = Literal["scaled", "full"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]
Scale = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # below, photos overflow
Side = Annotated[int, Field(gt=0, le=4096, strict=True)]  # pixels


class Preprocess(Record):
    """The input contract: resize the shorter side, crop the centre, scale to [0, 1], normalise."""

    resize: Side = Field(
        description="Shorter side of the photo before the crop, in pixels; the aspect ratio stays."
    )
    crop: Side = Field(description="Side of the square cut from the centre, in pixels: the network's input.")
    interpolation: Interpolation = Field(
        "bilinear",
        description="Pillow's antialiased filter for resizing: `bilinear` unless the source states another, "
        "`bicubic`, `lanczos`, or `nearest`, which is not antialiased.",
    )
    mean: Triple = Field(description="Mean of each channel (R, G, B), in units of [0, 1].")
    std: tuple[Scale, Scale, Scale] = Field(
        description="Standard deviation of each channel (R, G, B), in units of [0, 1]."
    )
    # Bundles and results written before there was a choice are `full` (see `results.records.Recorded`).
    decode: Decode = Field(
        "scaled",
        description="`scaled`, the default: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its "
        "shorter side stays at least twice `resize`, never for `nearest`; `full`: at its own size.",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocess":
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) must not be larger than resize ({self.resize})")
        return self


_MEANING = {name: field.description for name, field in Preprocess.model_fields.items()}


class ImageError(ValueError):
    """The bytes are not a photo that is accepted. `kind` names the limit they exceed."""

    def __init__(self, kind: Literal["unsupported", "broken", "too-large", "empty"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Photo:
    """An upright photo, perhaps decoded at a fraction of its size.

    image: 8-bit RGB. size: (width, height) of the whole photo in pixels. box: (left, top, right, bottom) of
    it in pixels of `image`; where a side is no multiple of the fraction, it ends within one.
    """

    image: "Image.Image"
    size: tuple[int, int]
    box: tuple[float, float, float, float]


class StatedPreprocess(Record):
    """The parts of a `Preprocess` that a source states, in the same units; None for the others."""

    resize: Side | None = Field(None, description=_MEANING["resize"])
    crop: Side | None = Field(None, description=_MEANING["crop"])
    interpolation: Interpolation | None = Field(None, description=_MEANING["interpolation"])
    mean: Triple | None = Field(None, description=_MEANING["mean"])
    std: tuple[Scale, Scale, Scale] | None = Field(None, description=_MEANING["std"])

    def words(self) -> str:
        """`resize 256, crop 224, bilinear, mean 0.485 0.456 0.406, ...`: the stated parts."""
        parts = [
            self.resize and f"resize {self.resize}",
            self.crop and f"crop {self.crop}",
            self.interpolation,
            self.mean and f"mean {' '.join(f'{value:.4g}' for value in self.mean)}",
            self.std and f"std {' '.join(f'{value:.4g}' for value in self.std)}",
        ]
        return ", ".join(part for part in parts if part)
