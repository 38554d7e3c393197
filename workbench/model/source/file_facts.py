"""What a model's file holds, found without its network: for `krishi-bench inspect`."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.errors import WorkbenchError, plural
from workbench.model.source import transformers_folder
from workbench.model.source.checkpoint_file import kind_of, load_contents, load_torchscript
from workbench.model.source.contents import CheckpointContents, StoredTensor
from workbench.model.source.fit import BOOKKEEPING, QUANTISED, role
from workbench.model.source.head import Head, head_of
from workbench.model.source.info import Layout, SourceInfo, checked_info, onnx_info
from workbench.model.source.stated_preprocess import SETTINGS, stated_in, stated_preprocess
from workbench.system.records import Record

if TYPE_CHECKING:
    import onnx
    import torch


SHOWN = 3  # tensors of a group
Outputs = Literal["probabilities", "log_probabilities", "sigmoid"]
LAST: dict[str, Outputs] = {
    "Softmax": "probabilities",
    "LogSoftmax": "log_probabilities",
    "Sigmoid": "sigmoid",
}
PASSING = {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "QuantizeLinear", "DequantizeLinear"}
ALIKE = 3  # groups whose places differ in numbers alone; more are counted as one


class WeightGroup(Record):
    """Tensors that lie together. shapes: of a few of them, in order. role: what the name says they are."""

    place: str
    tensors: int
    parameters: int
    shapes: dict[str, tuple[int, ...]]
    role: str | None = None


class FileFacts(Record):
    """What a file holds. info: what it states of its model; the number of classes is that of the outputs of
    its classification head, where one is recognised.

    settings: the names of hyper-parameters. others: what else lies at the top. stand_ins: the names of what
    was not run. timm: the network that timm names. outputs: what an ONNX file's last layer makes of logits.
    training: its layers that compute as in training.
    """

    file: str
    info: SourceInfo
    groups: tuple[WeightGroup, ...] = ()
    timm: str | None = None
    settings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    outputs: Outputs | None = None
    training: tuple[str, ...] = ()


def examine(path: Path) -> FileFacts:
    """Read a file, of a program of torch.export its kind alone. Raises WorkbenchError."""
    match kind := kind_of(path):
        case "onnx":
            return _onnx(path)
        case "torchscript":
            group = _group("", load_torchscript(path).state_dict().items())
            return FileFacts(file=path.name, info=SourceInfo(kind=kind), groups=(group,))
        case "transformers":
            files = transformers_folder.weight_files(path)
            info = transformers_folder.describe(path)
            stored = [(file.name, load_contents(file)) for file in files]
            found = [(name, group) for name, contents in stored for group in _groups(contents)]
            groups = tuple(group.model_copy(update={"place": name}) for name, group in found)
            heads = [head for _, contents in stored if (head := head_of(contents))]
            return FileFacts(file=path.name, info=_compare_head(info, heads[-1:]), groups=groups)
        case "torch-export":
            return FileFacts(file=path.name, info=SourceInfo(kind=kind))
        case _:
            return _checkpoint(path, load_contents(path))


def _checkpoint(path: Path, contents: CheckpointContents) -> FileFacts:
    stats, config = stated_in(contents)
    layout: Layout = "lightning" if contents.lightning else "plain"
    quantised = any("_packed_params" in stored.full for stored in contents.tensors)
    head = None if quantised else head_of(contents)
    names, count = contents.class_names(None), head.outputs if head else contents.num_classes()
    notes = ([QUANTISED] if quantised else []) + ([] if names else _unread_names(contents))
    known: dict[str, object] = {"kind": "state-dict", "layout": layout, "num_classes": count, "notes": notes}
    try:
        stated = {
            "class_names": names,
            "preprocess": stated_preprocess(stats, config, path),
        }
        info = checked_info(known | stated, path)
    except WorkbenchError as error:
        info = checked_info(known | {"notes": (error.message, *notes)}, path)
    root = contents.root if isinstance(contents.root, Mapping) else {}
    weights = {tensor.full for tensor in contents.tensors} | {
        place.split(".")[0] for place in contents.groups()
    }
    arch = root.get("arch")
    return FileFacts(
        file=path.name,
        info=info if quantised else _compare_head(info, [head] if head else []),
        groups=_groups(contents),
        timm=arch if isinstance(arch, str) else None,
        settings=tuple(contents.mapping(*SETTINGS)),
        others=tuple(str(key) for key in root if str(key) not in weights),
        stand_ins=contents.stand_ins,
    )


def _unread_names(contents: CheckpointContents) -> list[str]:
    """A note on each list or table of classes that cannot be read."""
    return [
        f"`{key}` is no table of names and numbers from 0, and is not read" for key in contents.unread_names()
    ]


def _compare_head(info: SourceInfo, heads: Sequence[Head]) -> SourceInfo:
    """Add what a run would refuse: another number of names than of outputs, and weights without a head."""
    named = len(info.class_names) if info.class_names else info.num_classes
    if (not heads and info.kind == "transformers") or not named:
        note = (
            "none of its layers is recognised as a classification head: a run needs the whole trained network"
        )
    elif heads and heads[0].outputs != named:
        note = (
            f"it states {plural(named, 'class')}, but `{heads[0].weight}` has "
            f"{plural(heads[0].outputs, 'output')}: a run refuses that"
        )
    else:
        return info
    return info.model_copy(update={"notes": (*info.notes, note)})


def _groups(contents: CheckpointContents) -> tuple[WeightGroup, ...]:
    """The groups, an EMA or a teacher inside of one apart; those that differ in a number alone, as an
    optimizer's states do, as one."""
    stored: dict[str, list[StoredTensor]] = {}
    for tensor in contents.tensors:
        branch = tensor.name.split(".")[0]
        apart = (
            f"{tensor.group}.{branch}".lstrip(".")
            if role(branch) and branch not in BOOKKEEPING
            else tensor.group
        )
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
    from workbench.model.graph.onnx_file import open_model
    from workbench.model.graph.training_mode import training_layers

    model = open_model(path)
    graph = model.graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    size = sum(map(math.prod, shapes.values()))
    first = dict(list(shapes.items())[:SHOWN])
    return FileFacts(
        file=path.name,
        info=onnx_info(path),
        groups=(WeightGroup(place="", tensors=len(shapes), parameters=size, shapes=first),),
        outputs=_outputs(graph),
        training=training_layers(model),
    )


def _outputs(graph: "onnx.GraphProto") -> Outputs | None:
    """What the last layer makes of logits; None where it gives them as they are."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in PASSING:
        node = makers.get(node.input[0])
    return None if node is None else LAST.get(node.op_type)
