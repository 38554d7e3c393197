"""The preprocessing that a checkpoint states: `preprocessing_stats`, and the size in `model_config`."""

from collections.abc import Mapping
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.model.source.info import folded, interpolation


def stated_preprocess(
    stats: Mapping[str, object], config: Mapping[str, object], path: Path
) -> dict[str, object]:
    """The fields of a StatedPreprocess, None where neither states one. Raises WorkbenchError.

    stats: `resize_shorter_side`, `center_crop`, or `image_size`, which photos are squeezed to ([h, w], or one
    side); `interpolation`, `color`, `scale`, `mean`, `std`. config: `input_height`, `input_width`.
    """
    where = f"{path}: preprocessing_stats"
    color = str(stats.get("color", "RGB")).upper()
    if color not in ("RGB", "BGR"):
        raise WorkbenchError(
            f"{where}.color is {stats['color']}: photos are given to the network as RGB or BGR",
            hint="convert them in the network's forward",
        )
    shorter, size = stats.get("resize_shorter_side"), stats.get("image_size")
    squeezed = [size, size] if isinstance(size, int) else size
    height, width = config.get("input_height"), config.get("input_width")
    given = (height if height == width else [height, width]) if height and width else None
    mean, std = folded(stats.get("scale", 1 / 255), stats.get("mean"), stats.get("std"), where)
    return {
        "resize": shorter or squeezed,
        "crop": stats.get("center_crop") or size or given,
        "interpolation": interpolation(stats.get("interpolation"), where),
        # As this layout documents it: the crop begins at the difference // 2.
        "rounding": "albumentations" if shorter else None,
        "channels": "BGR" if color == "BGR" else None,
        "mean": mean,
        "std": std,
    }
