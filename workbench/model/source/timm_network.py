"""`model.factory: timm:<name>`: a network of the timm library, for the user's own state dict."""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import JsonValue

from workbench.errors import WorkbenchError, did_you_mean, first_line, summary
from workbench.model.export.torch_exporters import RGB_HINT
from workbench.model.source.info import checked_info
from workbench.photos.contract import StatedPreprocess, merged, sides
from workbench.system.packages import unusable

if TYPE_CHECKING:
    import torch


PREFIX = "timm:"
STATED_IN = "timm's configuration of it"


def name_of(factory: str | None) -> str | None:
    """The name after `timm:`; None for any other factory. Raises WorkbenchError for one that timm fetches."""
    if factory is None or not factory.startswith(PREFIX):
        return None
    name = factory.removeprefix(PREFIX)
    if not name or ":" in name or "/" in name:
        raise WorkbenchError(
            f"model.factory: `{factory}` is not the name of a network",
            hint="write it as `timm.list_models()` shows it, such as `timm:mobilenetv3_small_100`; nothing "
            "is fetched from a hub",
        )
    return name


def build(name: str, args: Mapping[str, JsonValue], num_classes: int | None) -> "torch.nn.Module":
    """Build the network, untrained. num_classes: used where `args` has none. Raises WorkbenchError."""
    timm = _timm(name)
    # `pretrained` of a training's settings: the checkpoint's weights take the place of those.
    given = {**({} if num_classes is None else {"num_classes": num_classes}), **args, "pretrained": False}
    try:
        network: torch.nn.Module = timm.create_model(name, **given)
    except Exception as error:  # its constructors may raise anything for wrong arguments
        raise WorkbenchError(
            f"model.factory: timm cannot build `{name}`: {summary(error)}",
            hint="check `model.factory_args`: they are passed to `timm.create_model`",
        ) from error
    return network


def preprocess(name: str, args: Mapping[str, JsonValue]) -> StatedPreprocess:
    """The preprocessing of timm's evaluation of this network, as its `transforms_imagenet_eval` makes it.
    Raises WorkbenchError."""
    timm = _timm(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that this network does not have
        raise WorkbenchError(f"model.factory: timm: {first_line(error)}") from error
    if config is None:
        return StatedPreprocess()
    channels, *size = config.input_size
    if (channels := args.get("in_chans", channels)) != 3:
        takes = f"{channels} channel{'s' * (channels != 1)}"
        raise WorkbenchError(
            f"model.factory: `{PREFIX}{name}` takes photos of {takes}; they are given as 3, RGB",
            hint=RGB_HINT,
        )
    stated = {**_geometry(size, config.crop_pct, config.crop_mode, config.mean), "mean": config.mean}
    known = {**stated, "std": config.std, "interpolation": config.interpolation}
    return checked_info({"kind": "state-dict", "preprocess": known}, f"timm's `{name}`").preprocess


def _geometry(size: Sequence[int], crop_pct: float, mode: str, mean: Sequence[float]) -> dict[str, object]:
    """size: (height, width) of the input. mode: `center`, `squash` or `border`."""
    height, width = (math.floor(side / crop_pct) for side in size)
    square = size[0] == size[1]
    sides: dict[str, object] = {"resize": (height, width), "crop": size[0] if square else size}
    match mode:
        case "squash":
            return {**sides, "resize_mode": "squeeze", "rounding": "torchvision"}
        case "border":
            fill = [round(255 * value) for value in mean]
            return {**sides, "resize_mode": "longer", "fill": fill, "rounding": "timm"}
        case _ if height == width:
            padded = {"fill": 0} if height < size[0] else {}
            return {**sides, **padded, "resize": height}
        case _:
            # Resized as timm does it; its crop is torchvision's, which is placed alike.
            return {**sides, "resize_mode": "shorter", "rounding": "timm"}


def completed(stated: StatedPreprocess, default: StatedPreprocess) -> StatedPreprocess:
    """The stated parts, with timm's defaults for the others; a missing size in timm's proportion."""
    known = {name: getattr(stated, name) for name in stated.model_dump(exclude_none=True)}
    if "resize" in known:
        if isinstance(stated.resize, int) and default.crop and not stated.resize_mode:
            (height, width), side = sides(default.crop), stated.resize
            known.setdefault(
                "crop", min(side, height) if height == width else (min(side, height), min(side, width))
            )
    elif stated.crop and default.resize and default.crop:
        pairs = zip(sides(stated.crop), sides(default.resize), sides(default.crop), strict=True)
        high, wide = (math.floor(side * resize / crop) for side, resize, crop in pairs)
        whole = isinstance(default.resize, int) and high == wide
        known |= {"resize": high if whole else (high, wide), "resize_mode": default.resize_mode or "shorter"}
        known |= {name: getattr(default, name) for name in ("fill", "rounding")}
    return StatedPreprocess(**merged(known, default))


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        hint = "often a torchvision made for another torch: install the one that belongs to yours"
        raise unusable("timm", error, hint=hint) from error
    if not timm.is_model(name):
        raise WorkbenchError(
            f"model.factory: timm has no network `{name}`",
            hint=did_you_mean(name, timm.list_models()) or "`timm.list_models()` shows their names",
        )
    module: ModuleType = timm
    return module
