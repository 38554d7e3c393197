"""Where a model comes from: a checkpoint and the user's code, as a `torch.nn.Module`, or an ONNX file.

Everything but `source_digest` loads torch, and `load_model` runs the user's code: call them in a child
process (`workbench.isolate`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, PositiveInt, TypeAdapter, ValidationError

from workbench.errors import WorkbenchError
from workbench.factory import build, code_digests, parts
from workbench.files import digest_of, sha256_file
from workbench.images import Interpolation, Scale, Side, Triple
from workbench.weights import Kind, Layout, Weights, kind_of, load_torchscript, load_weights, missing, some

if TYPE_CHECKING:
    import torch

# Lightning, DistributedDataParallel, a common habit, torch.compile.
PREFIXES = ("model.", "module.", "net.", "_orig_mod.")


class ModelSource(BaseModel):
    """The `model` section of krishi.yaml, with absolute paths.

    factory: `file.py:callable` or `package.module:callable`; builds the network that a state dict fits.
    class_names: a JSON list, or a text file with one name per line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    factory: str | None = None
    factory_args: dict[str, JsonValue] = {}
    class_names: Path | None = None


class StatedPreprocess(BaseModel):
    """The parts of an `images.Preprocess` that a source states, in the same units; None for the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Side | None = None
    crop: Side | None = None
    interpolation: Interpolation | None = None
    mean: Triple | None = None
    std: tuple[Scale, Scale, Scale] | None = None


class SourceInfo(BaseModel):
    """What a source says about itself; None where it says nothing. num_classes: logits per image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    layout: Layout | None = None
    class_names: tuple[str, ...] | None = None
    num_classes: PositiveInt | None = None
    preprocess: StatedPreprocess = StatedPreprocess()


def inspect(source: ModelSource) -> SourceInfo:
    """Read what the source says about its classes and its preprocessing, without running any of its code.

    Raises WorkbenchError where the checkpoint cannot be used: absent, damaged, holding code, a state dict
    without a factory, or contradicting its class names.
    """
    kind = kind_of(source.checkpoint)
    match kind:
        case "onnx":
            info = _onnx_info(source.checkpoint)
        case "torchscript":
            load_torchscript(source.checkpoint)
            info = SourceInfo(kind=kind)
        case "state-dict":
            weights = load_weights(source.checkpoint)
            _factory(source)
            info = _checkpoint_info(source.checkpoint, weights)
    return info.model_copy(update={"class_names": _class_names(source, info)})


def load_model(source: ModelSource, class_count: int | None) -> "torch.nn.Module":
    """The network with its weights, on the CPU, in float32, in eval mode.

    class_count: passed to a factory with a `num_classes` parameter when `factory_args` is empty and the
    checkpoint does not say. Half-precision weights are copied into the float32 network: the values stay,
    the rounding they once took does too. Raises WorkbenchError, also for whatever the factory raises.
    """
    kind = kind_of(source.checkpoint)
    if kind == "onnx":
        raise WorkbenchError(
            f"{source.checkpoint} is an ONNX file: there is no torch network in it",
            hint="use it with the onnxruntime backend, or give the checkpoint it was exported from",
        )
    if kind == "torchscript":
        return load_torchscript(source.checkpoint).float().eval()
    weights = load_weights(source.checkpoint)
    model = build(_factory(source), source.factory_args, _num_classes(weights.extras) or class_count).float()
    _fill(model, weights.tensors, source)
    return model.eval()


def source_digest(source: ModelSource) -> str:
    """sha256 of all that decides what `load_model` returns; light, torch is not loaded.

    The factory's own `.py` files count, and those beside it and one folder below: it may import them.
    """
    if not source.checkpoint.is_file():
        raise missing(source.checkpoint)
    names = source.class_names
    if names is not None and not names.is_file():
        raise WorkbenchError(f"model.class_names: {names} does not exist")
    return digest_of(
        [
            sha256_file(source.checkpoint),
            None if names is None else sha256_file(names),
            source.factory,
            source.factory_args,
            [] if source.factory is None else code_digests(source.factory),
        ]
    )


def _factory(source: ModelSource) -> str:
    if source.factory is None:
        raise WorkbenchError(
            f"model.checkpoint: {source.checkpoint} is a state dict: weights without a network",
            hint="name the function that builds it as `model.factory: file.py:callable` in krishi.yaml",
        )
    parts(source.factory)
    return source.factory


def _onnx_info(path: Path) -> SourceInfo:
    from workbench.onnx_info import describe

    facts = describe(path)
    height, width = facts.input_shape[2:]
    stated = StatedPreprocess(crop=height if height and height == width else None)
    return SourceInfo(kind="onnx", num_classes=facts.classes, preprocess=stated)


def _checkpoint_info(path: Path, weights: Weights) -> SourceInfo:
    """Read `class_names`, `preprocessing_stats` and `model_config` where the checkpoint has them."""
    stats, config = _mapping(weights.extras, "preprocessing_stats"), _mapping(weights.extras, "model_config")
    where = f"{path}: preprocessing_stats"
    color = stats.get("color", "RGB")
    if str(color).upper() != "RGB":
        raise WorkbenchError(
            f"{where}.color is {color}: photos are given to the network as RGB",
            hint="swap the channels in the network's forward, or those of its first convolution's weights",
        )
    height, width = config.get("input_height"), config.get("input_width")
    mean, std = _folded(stats, where)
    stated = {
        "resize": stats.get("resize_shorter_side"),
        "crop": stats.get("center_crop") or (height if height == width else None),
        "interpolation": _interpolation(stats.get("interpolation"), where),
        "mean": mean,
        "std": std,
    }
    known = {
        "kind": "state-dict",
        "layout": weights.layout,
        "class_names": weights.extras.get("class_names"),
        "num_classes": _num_classes(weights.extras),
        "preprocess": stated,
    }
    try:
        return SourceInfo.model_validate(known)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        )
        raise WorkbenchError(f"{path} describes its model in a way we cannot use: {problems}") from error


def _folded(stats: Mapping[str, object], where: str) -> tuple[Triple | None, Triple | None]:
    """mean and std in units of [0, 1], whatever factor (`scale`) the pixels are multiplied by first.

    (255 s u - mean)/std with u in [0, 1] is (u - mean/(255 s)) / (std/(255 s)).
    """
    try:
        scale = TypeAdapter(float).validate_python(stats.get("scale", 1 / 255))
        mean, std = (TypeAdapter(Triple | None).validate_python(stats.get(key)) for key in ("mean", "std"))
    except ValidationError as error:
        raise WorkbenchError(f"{where}: mean and std must be three numbers, scale a number") from error
    if scale <= 0 or (std is not None and min(std) <= 0):
        raise WorkbenchError(f"{where}: scale and std must be above 0")
    factor = 255 * scale
    if abs(factor - 1) < 1e-6:
        return mean, std
    return _divided(mean, factor), _divided(std, factor)


def _divided(triple: Triple | None, factor: float) -> Triple | None:
    return None if triple is None else (triple[0] / factor, triple[1] / factor, triple[2] / factor)


def _interpolation(value: object, where: str) -> str | None:
    if value is None:
        return None
    name = str(value).rpartition(".")[2].lower()  # also `InterpolationMode.BILINEAR`
    if name not in get_args(Interpolation):
        raise WorkbenchError(
            f"{where}.interpolation is `{value}`; known are {', '.join(get_args(Interpolation))}",
            hint="set `preprocess.interpolation` in krishi.yaml and leave it out of the checkpoint",
        )
    return name


def _mapping(extras: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = extras.get(key)
    return value if isinstance(value, Mapping) else {}


def _num_classes(extras: Mapping[str, object]) -> int | None:
    for key in ("model_config", "hyper_parameters"):
        count = _mapping(extras, key).get("num_classes")
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    names = extras.get("class_names")
    return len(names) if isinstance(names, list | tuple) else None


def _class_names(source: ModelSource, info: SourceInfo) -> tuple[str, ...] | None:
    """The names from the file, else from the checkpoint. Raises WorkbenchError for a wrong number of them."""
    if source.class_names is None:
        names, where = info.class_names, f"class_names in {source.checkpoint}"
    else:
        names, where = read_class_names(source.class_names), f"model.class_names: {source.class_names}"
    if names is None:
        return None
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise WorkbenchError(f"{where} lists {some(repeated)} more than once")
    wanted = info.num_classes or (info.class_names and len(info.class_names))
    if wanted and wanted != len(names):
        raise WorkbenchError(
            f"{where} has {len(names)} names, but {source.checkpoint.name} has {wanted} classes",
            hint="list every class once, in the order of the network's outputs",
        )
    return names


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names from a JSON list, or from a text file with one per line. Raises WorkbenchError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WorkbenchError(f"model.class_names: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"model.class_names: {path} is not UTF-8 text") from error
    if text.lstrip().startswith(("[", "{")):
        try:
            names = TypeAdapter(tuple[str, ...]).validate_python(json.loads(text))
        except (json.JSONDecodeError, ValidationError) as error:
            raise WorkbenchError(
                f"model.class_names: {path} is not a JSON list of names",
                hint='write ["first class", "second class"], in the order of the network\'s outputs',
            ) from error
    else:
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise WorkbenchError(f"model.class_names: {path} holds no names")
    return names


def _fill(model: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"], source: ModelSource) -> None:
    """Load the weights under the first reading of their names that fits exactly.

    Raises WorkbenchError listing what is missing, unexpected or of another shape: none of it is ignored.
    """
    own = model.state_dict()
    readings = [dict(tensors)]
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in readings[-1])), None):
        readings.append({key.removeprefix(prefix): value for key, value in readings[-1].items()})
    best = min(readings, key=lambda reading: len(own.keys() ^ reading.keys()))
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in best.items()
        if key in own and own[key].shape != value.shape
    ]
    problems = {
        "missing": [key for key in own if key not in best],
        "unexpected": [key for key in best if key not in own],
        "of another shape": shapes,
    }
    if any(problems.values()):
        listed = "\n".join(f"  {len(keys)} {what}: {some(keys)}" for what, keys in problems.items() if keys)
        raise WorkbenchError(
            f"the weights of {source.checkpoint} do not fit the network of `{source.factory}`\n{listed}",
            hint="check `model.factory` and `model.factory_args`: the network must be the trained one",
        )
    model.load_state_dict(best)
