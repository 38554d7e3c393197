"""The preprocessing that a checkpoint states: `preprocessing_stats`, and the size in `model_config`."""

from collections.abc import Mapping
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.model.source.contents import CheckpointContents
from workbench.model.source.info import folded, interpolation

SETTINGS = ("hyper_parameters", "hparams", "args", "cfg", "config")


def stated_preprocess(
    stats: Mapping[str, object], config: Mapping[str, object], path: Path
) -> dict[str, object]:
    """The fields of a StatedPreprocess, None where neither states one. Raises WorkbenchError.

    stats: `resize_shorter_side`, `center_crop`, or `image_size`, which photos are squeezed to ([h, w], or one
    side); `interpolation`, `color`, `scale`, `mean`, `std`. config: `input_height`, `input_width`.
    """
    where = f"{path}: preprocessing_stats"
    shorter, size = stats.get("resize_shorter_side"), _size(stats.get("image_size"))
    squeezed = [size, size] if isinstance(size, int) else size
    height, width = config.get("input_height"), config.get("input_width")
    given = (height if height == width else [height, width]) if height and width else None
    mean, std = folded(stats.get("scale", 1 / 255), _flat(stats.get("mean")), _flat(stats.get("std")), where)
    return {
        "resize": shorter or squeezed,
        "crop": stats.get("center_crop") or size or given,
        "interpolation": interpolation(stats.get("interpolation"), where),
        # As this layout documents it: the crop begins at the difference // 2.
        "rounding": "albumentations" if shorter else None,
        "channels": "BGR" if color_of(stats, path) == "BGR" else None,
        "mean": mean,
        "std": std,
    }


def stated_in(contents: CheckpointContents) -> tuple[dict[str, object], dict[str, object]]:
    """`preprocessing_stats` and `model_config`; of what these leave open, a `mean` and a `std` of three
    numbers and an `image_size`, the input's, that lie flat in the settings of the training."""
    stats, config = contents.mapping("preprocessing_stats"), contents.mapping("model_config")
    settings = contents.mapping(*SETTINGS)
    flat = {name: _flat(settings.get(name)) for name in ("mean", "std")}
    if not {"mean", "std"} & stats.keys() and all(map(_is_triple, flat.values())):
        stats |= flat
    if not {"image_size", "center_crop"} & stats.keys() and not config.get("input_height"):
        size = _size(settings.get("image_size"))
        match [size, size] if isinstance(size, int) else size:
            case [int(height), int(width)]:
                config |= {"input_height": height, "input_width": width}
    return stats, config


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(x, int | float) for x in value)
    )


def color_of(stats: Mapping[str, object], path: Path) -> str:
    """RGB or BGR. Raises WorkbenchError for another order, which nothing in krishi.yaml can give."""
    color = str(stats.get("color", "RGB")).upper()
    if color not in ("RGB", "BGR"):
        raise WorkbenchError(
            f"{path}: preprocessing_stats.color is {stats['color']}: photos go in as RGB or BGR",
            hint="convert them in the network's forward",
        )
    return color


def _size(value: object) -> object:
    """One side or [height, width], also of `{height: h, width: w}`, [3, h, w], [h, w, 3], 128.0 and "128";
    what is none of these as it is."""
    if isinstance(value, Mapping) and {"height", "width"} <= value.keys():
        value = [value["height"], value["width"]]
    if not isinstance(value, list | tuple):
        return _whole(value)
    if len(value) == 3 and 3 in (value[0], value[2]):
        value = value[1:] if value[0] == 3 else value[:2]
    return [_whole(side) for side in value]


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _flat(value: object) -> object:
    """An array of (3, 1, 1), as it is subtracted from photos, as a list."""
    import numpy as np

    return np.ravel(np.asarray(value)).tolist() if getattr(value, "ndim", 0) > 1 else value
