"""Interpret the preprocessing that a checkpoint states."""

from collections.abc import Mapping
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.model.source.info import folded, interpolation


def stated_preprocess(
    stats: Mapping[str, object], config: Mapping[str, object], path: Path
) -> dict[str, object]:
    """The fields of a StatedPreprocess, from `preprocessing_stats` and `model_config`.

    Raises WorkbenchError.
    """
    where = f"{path}: preprocessing_stats"
    color = stats.get("color", "RGB")
    if str(color).upper() != "RGB":
        raise WorkbenchError(
            f"{where}.color is {color}: photos are given to the network as RGB",
            hint="swap the channels in the network's forward, or those of its first convolution's weights",
        )
    height, width = config.get("input_height"), config.get("input_width")
    mean, std = folded(stats.get("scale", 1 / 255), stats.get("mean"), stats.get("std"), where)
    return {
        "resize": stats.get("resize_shorter_side"),
        "crop": stats.get("center_crop") or (height if height == width else None),
        "interpolation": interpolation(stats.get("interpolation"), where),
        "mean": mean,
        "std": std,
    }
