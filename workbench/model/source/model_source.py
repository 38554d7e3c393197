"""Load a model from its source as a `torch.nn.Module`: a checkpoint with the user's code, a program, or a
folder of `transformers`. An ONNX file is a source without one.

`inspect` and `load_model` load torch, and `load_model` runs the user's code: call them in a child process
(`workbench.system.child`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from workbench.errors import FieldProblem, WorkbenchError, plural, some
from workbench.model.export.torch_exporters import TWO_LOGITS
from workbench.model.source import timm_network, torch_export, transformers_folder
from workbench.model.source.checkpoint_file import kind_of, load_contents, load_torchscript, missing
from workbench.model.source.class_names import read_class_names
from workbench.model.source.contents import CheckpointContents
from workbench.model.source.fit import (
    Fit,
    class_count_of,
    fill,
    fits_of,
    guess_classes,
    last_rows,
    refuse,
    sentences,
)
from workbench.model.source.info import SourceInfo, checked_info, onnx_info
from workbench.model.source.stated_preprocess import color_of, stated_in, stated_preprocess
from workbench.model.source.user_factory import CODE, DATA, build, digests, parts
from workbench.system.files import digest_of, sha256_file
from workbench.system.records import Record

if TYPE_CHECKING:
    import torch


def _file_of_names(given: object) -> object:
    if isinstance(given, list | dict):
        hint = "write the names to a file, one per line, and give its path: `class_names: labels.txt`"
        raise FieldProblem("this must be a file, not the names themselves", hint=hint)
    return given


class ModelSource(Record):
    """The `model` section of krishi.yaml: the trained network. Paths are absolute once it is loaded."""

    checkpoint: Path | None = Field(
        None,
        description="A Lightning checkpoint, state dict, TorchScript, `.pt2` or `.onnx` file, or a folder "
        "that transformers' `save_pretrained` wrote; left out where the factory returns the trained network.",
    )
    factory: str | None = Field(
        None,
        description="`file.py:callable`, `package.module:callable` or `timm:name`: builds the network that a "
        "state dict fits.",
    )
    factory_args: dict[str, JsonValue] = Field(
        {},
        description="Keyword arguments of the factory. A parameter `num_classes` that is not among them is "
        "given the number of classes; so is a factory that takes any keyword, as torchvision's do.",
    )
    weights: str | None = Field(
        None,
        description="The place of the weights in the checkpoint, such as `model_ema` or `ema.module`; by "
        "default the one that fits the network best. `krishi-bench inspect FILE` lists them.",
    )
    class_names: Annotated[Path | None, BeforeValidator(_file_of_names)] = Field(
        None,
        description="A file with the names in the order of the network's outputs: one per line, JSON, YAML "
        "or CSV, as a list or numbered from 0; by default the names that the checkpoint states.",
    )
    trust_code: bool = Field(
        False,
        description="The checkpoint may run code stored in it; reading a `.pt2` file of torch.export can.",
    )
    import_from: Path | None = Field(
        None,
        description="Folder where `package.module` of the factory is searched first; by default that of "
        "`krishi.yaml`.",
    )

    @model_validator(mode="after")
    def _has_network(self) -> "ModelSource":
        if self.checkpoint is None and self.factory is None:
            raise ValueError("give a `checkpoint`, or a `factory` that returns the trained network")
        return self

    def name(self) -> str:
        """For messages: the checkpoint's file name, else the factory."""
        return self.checkpoint.name if self.checkpoint else f"{self.factory}"


def inspect(source: ModelSource) -> SourceInfo:
    """Read the classes and the preprocessing that the source states, and fit its weights to the network.

    It runs the factory, and of the checkpoint nothing but a program with `trust_code`. Raises WorkbenchError
    where the source cannot be used: absent, damaged, a state dict without a factory that it fits, a network
    for other than RGB photos or for one class, or contradicting its class names.
    """
    info = _describe(source)
    if info.num_classes == 1:
        raise WorkbenchError(
            f"{source.name()} has 1 class: a classifier tells at least 2 apart",
            hint=TWO_LOGITS,
        )
    return info.model_copy(update={"class_names": _class_names(source, info)})


def _describe(source: ModelSource) -> SourceInfo:
    path = source.checkpoint
    if path is None:
        return _factory_info(source)
    match kind := kind_of(path):
        case "onnx":
            return onnx_info(path)
        case "torchscript":
            load_torchscript(path)
            return SourceInfo(kind=kind)
        case "torch-export":
            return torch_export.describe(_require_trust(source, path))
        case "transformers":
            return transformers_folder.describe(path)
        case _:
            factory, contents = _factory(source), load_contents(path)
            info, name = _checkpoint_info(source, path, contents), timm_network.name_of(factory)
            return info if name is None else _add_timm(info, name, source.factory_args)


def load_model(source: ModelSource, class_count: int | None) -> "torch.nn.Module":
    """The network with its weights, on the CPU, in float32, in eval mode.

    class_count: passed to a factory with a `num_classes` parameter that `factory_args` lacks, where the
    checkpoint states no number; its weights have the last word. Raises WorkbenchError, also for any
    error of the factory.
    """
    return load_with_words(source, class_count)[0]


def load_with_words(
    source: ModelSource, class_count: int | None
) -> "tuple[torch.nn.Module, tuple[str, ...]]":
    """As `load_model`, with sentences on which of a checkpoint's weights were taken, where it had others."""
    path = source.checkpoint
    if path is not None and kind_of(path) == "state-dict":
        contents = load_contents(path)
        fitted = _fit(source, path, contents, class_count)
        fill(fitted.network, fitted.fits[0])
        return fitted.network, sentences(fitted.fits, contents, source.weights)
    return _load_whole(source, path, class_count), ()


def _load_whole(source: ModelSource, path: Path | None, class_count: int | None) -> "torch.nn.Module":
    """A network that no state dict fills."""
    if path is None:
        _factory_info(source)
        return _build_network(source, class_count)
    match kind_of(path):
        case "onnx":
            raise WorkbenchError(
                f"{path} is an ONNX file: there is no torch network in it",
                hint="use it with the onnxruntime backend, or give the checkpoint it was exported from",
            )
        case "torchscript":
            return load_torchscript(path).float().eval()
        case "torch-export":
            return torch_export.load(_require_trust(source, path))
        case _:
            return transformers_folder.load(path)


class _Fitted(NamedTuple):
    """network: not filled yet. fits: the best first. classes: the number that the weights show."""

    network: "torch.nn.Module"
    fits: list[Fit]
    classes: int | None


def _fit(source: ModelSource, path: Path, contents: CheckpointContents, class_count: int | None) -> _Fitted:
    """Build the network for the classes of the weights. Raises WorkbenchError where they do not fit it."""
    names = contents.class_names(None)
    stated = contents.num_classes() or (len(names) if isinstance(names, list) else None)
    count = stated or class_count or guess_classes(contents)
    network = _build_network(source, count)
    fits = fits_of(contents, network, source.weights)
    shown = class_count_of(fits[0], network)
    if shown is not None and shown != count:
        rebuilt = _build_network(source, shown)
        again = fits_of(contents, rebuilt, source.weights)
        if again[0].fits:
            return _Fitted(rebuilt, again, shown)
    if not fits[0].fits:
        error = refuse(fits[0], contents, f"{path}", f"{source.factory}")
        if shown is not None:
            number = f"the file is of {plural(shown, 'class')}: give the factory that number, as in training"
            error = WorkbenchError(error.message, hint=f"{number}, by `model.factory_args` in krishi.yaml")
        raise error
    return _Fitted(network, fits, count if stated or last_rows(network) == count else None)


def _build_network(source: ModelSource, num_classes: int | None) -> "torch.nn.Module":
    factory = _factory(source)
    if (name := timm_network.name_of(factory)) is not None:
        return timm_network.build(name, source.factory_args, num_classes).float().eval()
    return build(factory, source.factory_args, num_classes, source.import_from).float().eval()


def source_digest(source: ModelSource) -> str:
    """sha256 of all files and settings that decide the result of `load_model`; torch is not loaded.

    It covers the code in the factory's folder and one folder below, which it may import, and the weights
    there where the factory loads its own; not files that it fetches from elsewhere.
    """
    path, names = source.checkpoint, source.class_names
    if path is not None and not path.exists():
        raise missing(path)
    if names is not None and not names.is_file():
        raise WorkbenchError(f"model.class_names: {names} does not exist")
    if path is not None and path.is_dir():
        kind_of(path)  # raises for a folder that is not of transformers
    factory = None if timm_network.name_of(source.factory) else source.factory
    return digest_of(
        [
            path and _file_digests(path),
            names and sha256_file(names),
            source.factory,
            source.factory_args,
            digests(factory, source.import_from, CODE) if factory else [],
            digests(factory, source.import_from, DATA) if factory and path is None else [],
            *([source.weights] if source.weights else []),  # so that digests from before it stay
        ]
    )


def _file_digests(path: Path) -> object:
    """Of all files of a checkpoint."""
    from workbench.model.graph.onnx_source import digest_parts

    if path.is_dir():
        return transformers_folder.digests(path)
    return digest_parts(path) if path.suffix.lower() == ".onnx" else sha256_file(path)


def _require_trust(source: ModelSource, path: Path) -> Path:
    if not source.trust_code:
        raise WorkbenchError(
            f"model.checkpoint: {path} is a torch.export program, and reading one may run code stored in it",
            hint="where you trust the file, set `model.trust_code: true` in krishi.yaml; or give the state "
            "dict with its factory, or an ONNX file",
        )
    return path


def _factory_info(source: ModelSource) -> SourceInfo:
    """The facts of a factory without a checkpoint: none before it runs."""
    factory = _factory(source)
    if timm_network.name_of(factory) is not None:
        raise WorkbenchError(
            f"model.checkpoint: `{factory}` without one has random weights",
            hint="give the state dict of the trained network as `model.checkpoint`",
        )
    return SourceInfo(kind="factory")


def _add_timm(info: SourceInfo, name: str, args: Mapping[str, JsonValue]) -> SourceInfo:
    """Add timm's facts of its network where the checkpoint states none; `img_size` of its arguments, which
    built it, is the input's size."""
    own, size = info.preprocess, args.get("img_size")
    if size and not own.crop and not own.resize:
        own = own.model_copy(update={"crop": tuple(size) if isinstance(size, list) else size})
    stated = timm_network.completed(own, timm_network.preprocess(name, args))
    origin = info.stated_in if stated == info.preprocess else timm_network.STATED_IN
    return info.model_copy(update={"network": name, "preprocess": stated, "stated_in": origin})


def _factory(source: ModelSource) -> str:
    if source.factory is None:
        raise WorkbenchError(
            f"model.checkpoint: {source.checkpoint} is a state dict: weights without a network",
            hint="name the function that builds it as `model.factory: file.py:callable` in krishi.yaml",
        )
    if timm_network.name_of(source.factory) is None:
        parts(source.factory)
    return source.factory


def _checkpoint_info(source: ModelSource, path: Path, contents: CheckpointContents) -> SourceInfo:
    """Read `class_names`, `preprocessing_stats` and `model_config` where the checkpoint has them."""
    fitted = _fit(source, path, contents, None)
    stats, config = stated_in(contents)
    names = contents.class_names(fitted.classes)
    known = {
        "kind": "state-dict",
        "layout": "lightning" if contents.lightning else "plain",
        "class_names": names,
        "num_classes": fitted.classes or contents.num_classes(),
        "weights": sentences(fitted.fits, contents, source.weights),
    }
    info = checked_info(known, path)
    color_of(stats, path)
    try:
        return checked_info(known | {"preprocess": stated_preprocess(stats, config, path)}, path)
    except WorkbenchError as error:  # krishi.yaml may say all of it
        return info.model_copy(update={"notes": (error.message,)})


def _class_names(source: ModelSource, info: SourceInfo) -> tuple[str, ...] | None:
    """The names from the file, else from the checkpoint. Raises WorkbenchError for a wrong number of them."""
    if source.class_names is None:
        names, where = info.class_names, f"class_names in {source.name()}"
    else:
        names, where = read_class_names(source.class_names), f"model.class_names: {source.class_names}"
    if names is None:
        return None
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise WorkbenchError(
            f"{where} lists {some(repeated)} more than once",
            hint="give every class a name of its own: a list of them as `model.class_names` in krishi.yaml",
        )
    if not all(name.strip() for name in names):
        raise WorkbenchError(
            f"{where} has a name without a letter", hint="give every class a name of its own"
        )
    if len(names) < 2:
        raise WorkbenchError(
            f"{where} lists {plural(len(names), 'class')}: a classifier tells at least 2 apart",
            hint="write one name per line, or a JSON list",
        )
    wanted = info.num_classes or (info.class_names and len(info.class_names))
    if wanted and wanted != len(names):
        raise WorkbenchError(
            f"{where} has {plural(len(names), 'name')}, but {source.name()} has {plural(wanted, 'class')}",
            hint="list every class once, in the order of the network's outputs",
        )
    return names
