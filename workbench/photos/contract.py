"""The input contract: the preprocessing of a photo, and the limits of a photo."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from workbench.system.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


Batch: TypeAlias = "NDArray[Any]"
"""(N, 3, H, W) float32, normalised; or (N, H, W, 3) uint8 pixels, for networks that normalise themselves."""

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_SIDE = 12_000  # pixels

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "area"]
ResizeMode = Literal["shorter", "longer", "squeeze"]
Library = Literal["pillow", "opencv", "torch"]
Rounding = Literal["torchvision", "transformers", "albumentations", "timm"]
Channels = Literal["RGB", "BGR"]
Decode = Literal["scaled", "full"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]
Scale = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # below, photos overflow
MAX_INPUT = 4096  # pixels of a side


def _sides(value: object) -> object:
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if any(type(side) is not int or not 0 < side <= MAX_INPUT for side in sides):
        raise ValueError(
            f"give one side or [height, width], in whole pixels from 1 to {MAX_INPUT}, not {value}"
        )
    return value


def _levels(value: object) -> object:
    levels = value if isinstance(value, list | tuple) and len(value) == 3 else [value] * 3
    if any(type(level) is not int or not 0 <= level <= 255 for level in levels):
        raise ValueError(f"give a level of grey or [red, green, blue], each from 0 to 255, not {value}")
    return tuple(levels)


def _quotient(value: object) -> object:
    """`1/255`, which YAML reads as text, as a number."""
    if not isinstance(value, str):
        return value
    try:
        over, _, under = value.partition("/")
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"give a number, or a fraction such as 1/255, not `{value}`") from None


Sides = Annotated[int | tuple[int, int], BeforeValidator(_sides)]
Colour = Annotated[tuple[int, int, int], BeforeValidator(_levels)]
Factor = Annotated[float, BeforeValidator(_quotient), Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class Preprocess(Record):
    """The input contract: resize, cut out the centre or pad, scale, normalise."""

    resize: Sides = Field(
        description="Shorter side of the photo in pixels (`resize_mode` may say another); the aspect ratio "
        "stays. `[height, width]`: the photo is squeezed into that shape."
    )
    resize_mode: ResizeMode = Field(
        "shorter",
        description="`shorter`: the shorter side becomes `resize`, or the photo covers `[height, width]`; "
        "`longer`: the longer side does, or the photo fits into `[height, width]`, and the rest is padded; "
        "`squeeze`: the aspect ratio is not kept. Default: `shorter`, for `[height, width]` `squeeze`.",
    )
    crop: Sides = Field(
        description="The network's input in pixels, cut from the centre: the side of a square, or "
        "`[height, width]`. `null`: nothing is cut, the input has the shape that `resize` gives."
    )
    fill: Colour | None = Field(
        None,
        description="Colour of the padding (R, G, B), or one level of grey, 0 to 255: where the crop is "
        "larger than the resized photo, which is in the middle. `longer` pads with black by default.",
    )
    interpolation: Interpolation = Field(
        "bilinear",
        description="Filter for resizing: `bilinear` unless the source states another, `bicubic`, `lanczos`, "
        "`nearest`, which takes single pixels; `box` and `hamming` of Pillow; `area` of OpenCV.",
    )
    antialias: bool = Field(
        True,
        description="Whether every pixel counts when a photo is made smaller, as in Pillow. `false`, for "
        "`bilinear` and `bicubic`: the nearest 2 x 2 or 4 x 4 ones, as torch has it on tensors, and OpenCV.",
    )
    library: Library = Field(
        "pillow",
        description="Library whose resizing is followed: `pillow` (also torchvision, timm, transformers), "
        "`torch` (torchvision on 8-bit tensors, and transformers where it uses that; takes longer), or "
        "`opencv` (also albumentations), which needs the extra `opencv`.",
    )
    rounding: Rounding = Field(
        "torchvision",
        description="Whose rounding of the resized size and of the crop's place is followed, a pixel more or "
        "less: `torchvision`, `transformers`, `timm` or `albumentations`, the default for OpenCV.",
    )
    channels: Channels = Field(
        "RGB", description="Order of the channels in training: `RGB`, or `BGR`, as OpenCV reads photos."
    )
    rescale: Factor = Field(
        1 / 255,
        description="Factor from a pixel's 0 to 255 to the units of `mean` and `std`: `1/255`, or `1` for "
        "networks trained on 0 to 255.",
    )
    mean: Triple = Field(description="Mean of each channel in the order of `channels`, after `rescale`.")
    std: tuple[Scale, Scale, Scale] = Field(
        description="Standard deviation of each channel in the order of `channels`, after `rescale`."
    )
    # Bundles and results written before there was a choice are `full` (see `results.records.Recorded`).
    decode: Decode = Field(
        "scaled",
        description="`scaled`, the default: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both "
        "sides stay at least twice what they are resized to; never for `nearest`, for OpenCV or without "
        "`antialias`. `full`: at its own size.",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill in the defaults that depend on other fields."""
        if not isinstance(given, dict):
            return given
        known, resize = dict(given), given.get("resize")
        both = isinstance(resize, list | tuple)
        known.setdefault("resize_mode", "squeeze" if both else "shorter")
        if known.get("crop") is None and "resize" in known:
            if known["resize_mode"] == "shorter" and not both:
                raise ValueError(
                    f"there is no crop, and with the shorter side at {resize} the other one is free: give "
                    "`crop`, `resize: [height, width]`, or `resize_mode: longer`"
                )
            known["crop"] = resize
        if known["resize_mode"] == "longer" and known.get("fill") is None:
            known["fill"] = (0, 0, 0)
        if known.get("library") == "opencv":
            known = {"antialias": False, "rounding": "albumentations", **known}
        return known

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocess":
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        larger = any(cut > side for cut, side in zip(self.size, sides(self.resize), strict=True))
        if larger and self.fill is None:
            crop, resize = (list(s) if isinstance(s, tuple) else s for s in (self.crop, self.resize))
            yield (
                f"crop ({crop}) must not be larger than resize ({resize}): enlarge `resize`, or give `fill`, "
                "the colour to pad with"
            )
        if self.fill is not None and not larger and self.resize_mode != "longer":
            yield "nothing is padded, so leave `fill` out; `resize_mode: longer` pads a photo to its crop"
        name = self.interpolation
        if self.library == "opencv":
            if name in ("box", "hamming"):
                yield f"interpolation `{name}` is Pillow's: leave `library: opencv` out, or take `area`"
            if self.antialias:
                yield "OpenCV has no `antialias`: leave it out, or take `interpolation: area`"
        elif name == "area":
            yield "interpolation `area` is OpenCV's: give `library: opencv`, or take `box`"
        elif self.library == "torch" and name not in ("bilinear", "bicubic"):
            yield f"`library: torch` goes with `bilinear` and `bicubic`, not `{name}`"
        elif not self.antialias and name not in ("bilinear", "bicubic", "nearest"):
            yield f"`antialias: false` goes with `bilinear` and `bicubic`, not `{name}`"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input, in pixels."""
        return sides(self.crop)

    @property
    def white(self) -> float:
        """Pixel value that `rescale` makes 1: 255.0, exactly, for 1/255."""
        return 1.0 / self.rescale


def sides(side: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width)."""
    return side if isinstance(side, tuple) else (side, side)


def joined(size: tuple[int, int]) -> int | tuple[int, int]:
    """The side of a square, else (height, width)."""
    return size[0] if size[0] == size[1] else size


def size_text(size: tuple[int, int]) -> str:
    """`224`, or `96x128`: height and width."""
    return "x".join(map(str, dict.fromkeys(size)))


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

    resize: Sides | None = Field(None, description=_MEANING["resize"])
    resize_mode: ResizeMode | None = Field(None, description=_MEANING["resize_mode"])
    crop: Sides | None = Field(None, description=_MEANING["crop"])
    fill: Colour | None = Field(None, description=_MEANING["fill"])
    interpolation: Interpolation | None = Field(None, description=_MEANING["interpolation"])
    antialias: bool | None = Field(None, description=_MEANING["antialias"])
    library: Library | None = Field(None, description=_MEANING["library"])
    rounding: Rounding | None = Field(None, description=_MEANING["rounding"])
    channels: Channels | None = Field(None, description=_MEANING["channels"])
    rescale: Factor | None = Field(None, description=_MEANING["rescale"])
    mean: Triple | None = Field(None, description=_MEANING["mean"])
    std: tuple[Scale, Scale, Scale] | None = Field(None, description=_MEANING["std"])

    def words(self) -> str:
        """`resize 256, crop 224, bilinear, mean 0.485 0.456 0.406, ...`: the stated parts."""
        parts = []
        for name, value in self.model_dump(exclude_none=True, exclude={"rounding"}).items():
            shown = " ".join(f"{part:.4g}" for part in value) if name in ("mean", "std", "fill") else value
            bare = name in ("interpolation", "library", "channels")
            parts.append(
                f"{shown}" if bare else f"{name} {list(shown) if isinstance(shown, tuple) else shown}"
            )
        return ", ".join(parts)


def merged(given: Mapping[str, Any], stated: Record) -> dict[str, Any]:
    """Fields of a `Preprocess`: `given` over what a source states.

    A `resize` or `library` that is given is taken with its own defaults, not with what belonged to the
    source's. The source's crop is kept for another shorter side alone.
    """
    shorter = isinstance(given.get("resize"), int) and given.get("resize_mode", "shorter") == "shorter"
    belonging = {
        "resize": {"resize_mode", "fill"} if shorter else {"resize_mode", "fill", "crop"},
        "library": {"antialias", "rounding"},
    }
    known = stated.model_dump(exclude_none=True)
    # torch's kernel is a way to do what Pillow does: sizes and crops stay where the source has them.
    if given.get("library") == "torch" and known.get("library") != "opencv":
        belonging.pop("library")
    replaced = {name for key, names in belonging.items() if key in given for name in names}
    return {**{name: value for name, value in known.items() if name not in replaced}, **given}
