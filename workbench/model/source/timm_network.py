"""`model.factory: timm:<name>`: a network of the timm library, for the user's own state dict."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import JsonValue

from workbench.errors import WorkbenchError, first_line, summary
from workbench.model.source.info import checked_info
from workbench.photos.contract import StatedPreprocess
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
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        network: torch.nn.Module = timm.create_model(name, pretrained=False, **{**classes, **args})
    except Exception as error:  # its constructors may raise anything for wrong arguments
        raise WorkbenchError(
            f"model.factory: timm cannot build `{name}`: {summary(error)}",
            hint="check `model.factory_args`: they are passed to `timm.create_model`",
        ) from error
    return network


def preprocess(name: str) -> StatedPreprocess:
    """The preprocessing of timm's evaluation of this network. Raises WorkbenchError.

    resize is crop / crop_pct, rounded down, as timm's own evaluation transform has it.
    """
    timm = _timm(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that this network does not have
        raise WorkbenchError(f"model.factory: timm: {first_line(error)}") from error
    if config is None:
        return StatedPreprocess()
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        raise WorkbenchError(
            f"model.factory: `{PREFIX}{name}` takes {channels} x {height} x {width} (channels x height x "
            "width): photos are given as 3-channel squares"
        )
    sides = {"resize": math.floor(height / config.crop_pct), "crop": height}
    stated = {**sides, "interpolation": config.interpolation, "mean": config.mean, "std": config.std}
    return checked_info({"kind": "state-dict", "preprocess": stated}, f"timm's `{name}`").preprocess


def completed(stated: StatedPreprocess, default: StatedPreprocess) -> StatedPreprocess:
    """The stated parts, with timm's defaults for the others; a missing size in timm's proportion."""
    filled = {**default.model_dump(), **stated.model_dump(exclude_none=True)}
    if stated.crop and not stated.resize and default.crop and default.resize:
        filled["resize"] = math.floor(stated.crop * default.resize / default.crop)
    if stated.resize and not stated.crop and default.crop:
        filled["crop"] = min(stated.resize, default.crop)
    return StatedPreprocess(**filled)


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        hint = "often a torchvision made for another torch: install the one that belongs to yours"
        raise unusable("timm", error, hint=hint) from error
    if not timm.is_model(name):
        raise WorkbenchError(
            f"model.factory: timm has no network `{name}`", hint="`timm.list_models()` shows their names"
        )
    module: ModuleType = timm
    return module
