"""Translate the settings of a `transformers` image processor (preprocessor_config.json) into ours.

Each class of processor reads some of them in its own way; these are the rules of transformers 5.
"""

import json
from collections.abc import Mapping
from typing import Any

from workbench.errors import WorkbenchError
from workbench.model.source.info import folded, interpolation
from workbench.photos.contract import joined

PROCESSOR = "preprocessor_config.json"
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
WARP_FROM = 384  # pixels: from this size on, ConvNext's processor resizes without cropping

# What a file may leave out, by the beginning of the class's name: whether a `size` that is one number is the
# shorter side, whether the centre is cut out, and the filter.
DEFAULTS = {
    "Beit": (False, False, 3),
    "Bit": (True, True, 3),
    "CLIP": (True, True, 3),
    "ConvNext": (True, False, 3),
    "DeiT": (False, True, 3),
    "EfficientNet": (False, False, 3),
    "Levit": (True, True, 3),
    "LeViT": (True, True, 3),
    "MobileNetV": (True, True, 2),
    "MobileViT": (True, True, 3),
    "PoolFormer": (True, True, 3),
    "Pvt": (False, False, 3),
    "Segformer": (False, False, 2),
    "Siglip": (True, False, 3),
    "ViT": (False, False, 2),
}
# What others do besides.
OTHERS = {
    "Donut": "turns and shrinks photos",
    "ImageGPT": "turns colours into the numbers of a palette",
    "Perceiver": "cuts photos before it resizes them",
    "PPLCNet": "has rules of its own",
    "Siglip2": "cuts photos into patches of any number",
    "TextNet": "rounds sizes to multiples of 32",
}


class _Unlike(Exception):
    """Something that no fields of ours can say. The message completes `the processor ...`."""


def read(stats: Mapping[str, Any], where: str) -> tuple[dict[str, object], list[str]]:
    """The settings as fields of a StatedPreprocess, and a sentence on what ours cannot follow, which is then
    not stated. Raises WorkbenchError."""
    mean, std = _mean_std(stats, where)
    resample = _given(stats, "resample", _default(stats)[2])
    if isinstance(resample, int):
        resample = FILTERS[resample] if 0 <= resample < len(FILTERS) else f"Pillow's filter {resample}"
    known = {"interpolation": interpolation(resample, where), "mean": mean, "std": std}
    if _given(stats, "do_flip_channel_order", _processor(stats).startswith("MobileViT")):
        known["channels"] = "BGR"
    try:
        return {**known, **_geometry(stats, where)}, []
    except _Unlike as problem:
        remedy = "give `preprocess.resize` and `preprocess.crop` in krishi.yaml"
        return known, [f"{PROCESSOR} {problem}, which is not followed: {remedy}"]


def _given(stats: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting; null is as good as absent."""
    value = stats.get(name)
    return default if value is None else value


def _default(stats: Mapping[str, Any]) -> tuple[bool, bool, int | None]:
    processor = _processor(stats)
    known = (values for name, values in DEFAULTS.items() if processor.startswith(name))
    return next(known, (bool(stats.get("do_center_crop")), "crop_size" in stats, None))


def _mean_std(stats: Mapping[str, Any], where: str) -> tuple[object, object]:
    """mean and std in units of [0, 1]. Without normalisation or rescaling they undo ours."""
    rescales, processor = stats.get("do_rescale") is not False, _processor(stats)
    scale = _given(stats, "rescale_factor", 1 / 255) if rescales else 1.0
    mean, std = stats.get("image_mean"), stats.get("image_std")
    again = bool(stats.get("include_top", processor.startswith("EfficientNet")))
    normalizes = stats.get("do_normalize")
    if normalizes is False or processor.startswith("MobileViT"):  # which never does, whatever is set
        mean, std = (0.0, 0.0, 0.0), std if again else (1.0, 1.0, 1.0)
    elif again and isinstance(std, list) and all(isinstance(value, int | float) for value in std):
        # EfficientNet's processor divides by std twice, as in the training of its weights.
        std = [value**2 for value in std]
    return folded(scale, mean, std, where, offset=1.0 if rescales and stats.get("rescale_offset") else 0.0)


def _processor(stats: Mapping[str, Any]) -> str:
    return str(stats.get("image_processor_type") or stats.get("feature_extractor_type") or "")


def _geometry(stats: Mapping[str, Any], where: str) -> dict[str, object]:
    """resize, crop and how, following the classes that read `size` in their own way."""
    processor = _processor(stats)
    if reason := next((reason for name, reason in OTHERS.items() if processor.startswith(name)), None):
        raise _Unlike(reason)
    if stats.get("do_pad"):
        raise _Unlike("pads photos after their normalisation")
    if stats.get("do_resize") is False:
        raise _Unlike("keeps each photo's own size (do_resize: false)")
    shorter, size = _size(stats, where)
    cuts = _given(stats, "do_center_crop", _default(stats)[1])
    crop = both(stats.get("crop_size"), f"{where}: crop_size") if cuts else None
    if shorter and processor.startswith("ConvNext"):
        if shorter >= WARP_FROM:
            size, shorter = (shorter, shorter), None
        else:
            crop = crop or (shorter, shorter)
            shorter = int(shorter / _fraction(_given(stats, "crop_pct", 224 / 256), where))
    elif processor.startswith("PoolFormer"):
        fraction = _fraction(_given(stats, "crop_pct", 0.9), where)
        if size and size[0] == size[1]:
            shorter, size = size[0], None
        shorter = int(shorter / fraction) if shorter else None
        size = (int(size[0] / fraction), int(size[1] / fraction)) if size else None
    elif shorter and processor.startswith(("Levit", "LeViT")):
        shorter = int(256 / 224 * shorter)
    if shorter and not crop and not cuts:
        raise _Unlike("keeps the whole photo, whatever its shape (do_center_crop: false)")
    crop, target = crop or size, size or (shorter and (shorter, shorter))
    padded = crop and target and any(cut > side for cut, side in zip(crop, target, strict=True))
    return {
        "resize": shorter or size,
        "crop": crop and joined(crop),
        "fill": 0 if padded else None,
        "rounding": "transformers" if target else None,
    }


def _size(stats: Mapping[str, Any], where: str) -> tuple[int | None, tuple[int, int] | None]:
    """The shorter side that photos are resized to, or the (height, width) they are squeezed into."""
    size = stats.get("size")
    if isinstance(size, dict) and set(size) != {"height", "width"}:
        if set(size) != {"shortest_edge"}:
            raise _Unlike(f"sets size to {json.dumps(size)}")
        size, shorter = size["shortest_edge"], True
    else:
        shorter = isinstance(size, int) and _default(stats)[0]
    sides = both(size, f"{where}: size")
    return (sides[0], None) if shorter and sides else (None, sides)


def both(value: object, where: str) -> tuple[int, int] | None:
    """(height, width), given as the side of a square, as [height, width] or as their dict."""
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    height, width = value if isinstance(value, list) and len(value) == 2 else (value, value)
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return height, width
    raise WorkbenchError(
        f"{where} is {json.dumps(value)}, which we cannot read",
        hint="take it out of the file and give `preprocess.resize` and `preprocess.crop` in krishi.yaml",
    )


def square(value: object, where: str) -> int | tuple[int, int] | None:
    """As `both`; one number where both are the same."""
    sides = both(value, where)
    return sides and joined(sides)


def _fraction(value: object, where: str) -> float:
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise WorkbenchError(f"{where}: crop_pct is {value}; expected a fraction of 1")
    return float(value)
