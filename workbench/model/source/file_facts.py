"""What a model's file holds, found without its network: for `krishi-bench inspect`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.source import transformers_folder
from workbench.model.source.checkpoint_file import kind_of, load_contents, load_torchscript
from workbench.model.source.contents import CheckpointContents, StoredTensor
from workbench.model.source.fit import guess_classes, role
from workbench.model.source.info import Kind, Layout, checked_info
from workbench.model.source.stated_preprocess import stated_preprocess
from workbench.photos.contract import StatedPreprocess
from workbench.system.records import Record

if TYPE_CHECKING:
    import torch


SHOWN = 3  # tensors of a group
ALIKE = 3  # groups whose places differ in numbers alone; more are counted as one


class WeightGroup(Record):
    """Tensors that lie together. shapes: of a few of them, in order. role: what the name says they are."""

    place: str
    tensors: int
    parameters: int
    shapes: dict[str, tuple[int, ...]]
    role: str | None = None


class FileFacts(Record):
    """What a file holds. num_classes: stated, or the size of the last layer of the largest group.

    settings: the names of hyper-parameters. others: what else lies at the top. stand_ins: the names of what
    was not run. notes: what krishi-bench cannot use. timm: the network that timm names.
    """

    file: str
    kind: Kind
    layout: Layout | None = None
    groups: tuple[WeightGroup, ...] = ()
    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None
    preprocess: StatedPreprocess = StatedPreprocess()
    network: str | None = None
    timm: str | None = None
    settings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def examine(path: Path) -> FileFacts:
    """Read a file, of a program of torch.export its kind alone. Raises WorkbenchError."""
    match kind := kind_of(path):
        case "onnx":
            return _onnx(path)
        case "torchscript":
            group = _group("", load_torchscript(path).state_dict().items())
            return FileFacts(file=path.name, kind=kind, groups=(group,))
        case "transformers":
            return _folder(path)
        case "torch-export":
            return FileFacts(file=path.name, kind=kind, notes=("reading it may run code stored in it",))
        case _:
            return _checkpoint(path, load_contents(path))


def _checkpoint(path: Path, contents: CheckpointContents) -> FileFacts:
    stats, config = contents.mapping("preprocessing_stats"), contents.mapping("model_config")
    notes: tuple[str, ...] = ()
    known: dict[str, object] = {}
    try:
        info = checked_info(
            {
                "kind": "state-dict",
                "class_names": contents.class_names(None),
                "preprocess": stated_preprocess(stats, config, path),
            },
            path,
        )
        known = {"class_names": info.class_names, "preprocess": info.preprocess}
    except WorkbenchError as error:
        notes = (error.message,)
    root = contents.root if isinstance(contents.root, Mapping) else {}
    weights = {tensor.full for tensor in contents.tensors} | {
        group.split(".")[0] for group in contents.groups()
    }
    arch = root.get("arch")
    settings = contents.mapping("hyper_parameters", "hparams", "args", "cfg", "config")
    return FileFacts(
        file=path.name,
        kind="state-dict",
        layout="lightning" if contents.lightning else "plain",
        groups=_groups(contents),
        num_classes=contents.num_classes() or guess_classes(contents),
        timm=arch if isinstance(arch, str) else None,
        settings=tuple(map(str, settings)),
        others=tuple(str(key) for key in root if str(key) not in weights),
        stand_ins=contents.stand_ins,
        notes=notes,
        **known,
    )


def _groups(contents: CheckpointContents) -> tuple[WeightGroup, ...]:
    """The groups, an EMA or a teacher inside of one apart; those that differ in a number alone, as an
    optimizer's states do, as one."""
    stored: dict[str, list[StoredTensor]] = {}
    for tensor in contents.tensors:
        branch = tensor.name.split(".")[0]
        apart = f"{tensor.group}.{branch}".lstrip(".") if role(branch) else tensor.group
        stored.setdefault(apart, []).append(tensor)
    merged: dict[str, list[str]] = {}
    for place in stored:
        merged.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", place), []).append(place)
    found = []
    for pattern, places in merged.items():
        alike = [(pattern, places)] if len(places) > ALIKE else [(place, [place]) for place in places]
        found += [
            _group(name, [(one.name, one.tensor) for place in those for one in stored[place]])
            for name, those in alike
        ]
    return tuple(found)


def _group(place: str, tensors: Iterable[tuple[str, "torch.Tensor"]]) -> WeightGroup:
    pairs = list(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in pairs}
    first = list(shapes)[: SHOWN - 1]
    last = [name for name in shapes if name not in first][-1:]
    return WeightGroup(
        place=place,
        tensors=len(pairs),
        parameters=sum(tensor.numel() for _, tensor in pairs),
        shapes={name: shapes[name] for name in (*first, *last)},
        role=role(place),
    )


def _onnx(path: Path) -> FileFacts:
    from math import prod

    from workbench.model.graph.onnx_file import describe, load

    facts, weights = describe(path), load(path).graph.initializer
    shapes = {weight.name: tuple(weight.dims) for weight in weights}
    group = WeightGroup(
        place="",
        tensors=len(weights),
        parameters=sum(prod(weight.dims) for weight in weights),
        shapes=dict(list(shapes.items())[:SHOWN]),
    )
    height, width = facts.input_shape[2:]
    side = StatedPreprocess(crop=height or None) if height == width else StatedPreprocess()
    return FileFacts(file=path.name, kind="onnx", groups=(group,), num_classes=facts.classes, preprocess=side)


def _folder(path: Path) -> FileFacts:
    info = transformers_folder.describe(path)
    groups = [
        group.model_copy(update={"place": file.name})
        for file in transformers_folder.weight_files(path)
        for group in _groups(load_contents(file))
    ]
    return FileFacts(
        file=path.name,
        kind="transformers",
        groups=tuple(groups),
        class_names=info.class_names,
        num_classes=info.num_classes,
        preprocess=info.preprocess,
        network=info.network,
        notes=info.notes,
    )
