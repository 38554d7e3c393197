"""Translate the settings of a `transformers` image processor (preprocessor_config.json) into ours.

Each class of processor reads some of them in its own way; these are the rules of transformers 5.
"""

import json
from collections.abc import Mapping
from typing import Any

from workbench.errors import WorkbenchError
from workbench.model.source.info import folded, interpolation

PROCESSOR = "preprocessor_config.json"
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic")  # by Pillow's numbers, which the file holds
WARP_FROM = 384  # pixels: from this size on, ConvNext's processor resizes without cropping
WARPED = (
    f"{PROCESSOR} squeezes photos into a square; here the shorter side is resized and the centre cut out, "
    "the aspect ratio kept"
)
UNCUT = f"{PROCESSOR} keeps the whole photo; here its centre square is cut out"


def read(stats: Mapping[str, Any], where: str) -> tuple[dict[str, object], list[str]]:
    """The settings as fields of a StatedPreprocess, and a sentence on each that ours cannot follow exactly.
    Raises WorkbenchError."""
    resize, crop, notes = _sides(stats, where)
    mean, std = _mean_std(stats, where)
    resample = stats.get("resample")
    if isinstance(resample, int):
        resample = FILTERS[resample] if 0 <= resample < len(FILTERS) else f"Pillow's filter {resample}"
    sides = {"resize": resize, "crop": crop}
    return {**sides, "interpolation": interpolation(resample, where), "mean": mean, "std": std}, notes


def _mean_std(stats: Mapping[str, Any], where: str) -> tuple[object, object]:
    """mean and std in units of [0, 1]. Without normalisation or rescaling they undo ours."""
    rescales, processor = stats.get("do_rescale") is not False, _processor(stats)
    scale = stats.get("rescale_factor", 1 / 255) if rescales else 1.0
    mean, std = stats.get("image_mean"), stats.get("image_std")
    again = bool(stats.get("include_top", processor.startswith("EfficientNet")))
    normalizes = stats.get("do_normalize")
    if normalizes is False or (normalizes is None and processor.startswith("MobileViT")):
        mean, std = (0.0, 0.0, 0.0), std if again else (1.0, 1.0, 1.0)
    elif again and isinstance(std, list) and all(isinstance(value, int | float) for value in std):
        # EfficientNet's processor divides by std twice, as in the training of its weights.
        std = [value**2 for value in std]
    return folded(scale, mean, std, where, offset=1.0 if rescales and stats.get("rescale_offset") else 0.0)


def _processor(stats: Mapping[str, Any]) -> str:
    return str(stats.get("image_processor_type") or stats.get("feature_extractor_type") or "")


def _sides(stats: Mapping[str, Any], where: str) -> tuple[int | None, int | None, list[str]]:
    """(resize, crop, notes), following the classes of transformers that read `size` in their own way."""
    size, by_shorter = _size(stats, where)
    cuts = bool(stats.get("do_center_crop", "crop_size" in stats))
    cut = square(stats.get("crop_size"), f"{where}: crop_size") if cuts else None
    processor = _processor(stats)
    if size is None:
        return None, cut, []
    if processor.startswith("ConvNext"):
        if size >= WARP_FROM:
            return size, size, [WARPED]
        return int(size / _fraction(stats.get("crop_pct", 224 / 256), where)), size, []
    if processor.startswith("PoolFormer"):
        return int(size / _fraction(stats.get("crop_pct", 0.9), where)), cut or size, []
    if processor.startswith(("Levit", "LeViT")) and by_shorter:
        return int(256 / 224 * size), cut or size, []
    if not by_shorter:
        return size, cut or size, [WARPED]
    return size, cut or size, [] if cut else [UNCUT]


def _size(stats: Mapping[str, Any], where: str) -> tuple[int | None, bool]:
    """Pixels that photos are resized to, and whether that is their shorter side: it is not where height and
    width are both given. A bare number is the shorter side where the centre is cut out afterwards."""
    size = stats.get("size")
    if size is None or stats.get("do_resize") is False:
        return None, True
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return square(size["shortest_edge"], f"{where}: size"), True
    shorter = isinstance(size, int) and (
        bool(stats.get("do_center_crop")) or _processor(stats).startswith(("Levit", "LeViT"))
    )
    return square(size, f"{where}: size"), shorter


def square(value: object, where: str) -> int | None:
    """The side of a square given as a number, as [height, width] or as their dict."""
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    sides = value if isinstance(value, list) else [value, value]
    pixels = [side for side in sides if isinstance(side, int) and not isinstance(side, bool) and side > 0]
    if len(sides) != 2 or len(pixels) != 2:
        raise WorkbenchError(
            f"{where} is {json.dumps(value)}, which we cannot read",
            hint="take it out of the file and give `preprocess.resize` and `preprocess.crop` in krishi.yaml",
        )
    if pixels[0] != pixels[1]:
        raise WorkbenchError(
            f"{where} is {pixels[0]} x {pixels[1]} (height x width): photos are cut to a square",
            hint="train the network on square photos, or wrap it in a factory that takes them",
        )
    return pixels[0]


def _fraction(value: object, where: str) -> float:
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise WorkbenchError(f"{where}: crop_pct is {value}; expected a fraction of 1")
    return float(value)
