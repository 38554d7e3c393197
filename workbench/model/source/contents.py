"""What a checkpoint file holds: its tensors in groups, and the facts that stand beside them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.model.source.class_names import NAME_LISTS, NAME_TABLES, listed, ordered
from workbench.model.source.inert_pickle import InertObject

if TYPE_CHECKING:
    import torch


DEEPEST = 24  # levels of a file that are looked at for tensors
FACTS_DEEPEST = 4  # levels that are looked at for class names and the like
MOST_CHILDREN, MOST_PARTS = 100_000, 5_000  # of one mapping; mappings within a group
MOST_PLACES = 8  # of one group, so that a small file cannot name a large one without end
SHARDED = ("DTensor", "ShardedTensor", "TensorMeta", "Replicate", "Shard")


class StoredTensor(NamedTuple):
    """group: the dotted place of the mapping it lies in; name: below that."""

    group: str
    name: str
    tensor: "torch.Tensor"

    @property
    def full(self) -> str:
        return f"{self.group}.{self.name}" if self.group else self.name


@dataclass(frozen=True)
class CheckpointContents:
    """A checkpoint that was read. root: without code. stand_ins: the names of what was replaced."""

    root: object
    stand_ins: tuple[str, ...] = ()
    tensors: tuple[StoredTensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", tuple(_tensors(self.root)))

    @property
    def lightning(self) -> bool:
        return isinstance(self.root, Mapping) and "pytorch-lightning_version" in self.root

    @property
    def sharded(self) -> bool:
        return any(name.rpartition(".")[2] in SHARDED for name in self.stand_ins)

    def groups(self) -> dict[str, list[StoredTensor]]:
        """The tensors by the mapping they lie in."""
        found: dict[str, list[StoredTensor]] = {}
        for tensor in self.tensors:
            found.setdefault(tensor.group, []).append(tensor)
        return found

    def mapping(self, *names: str) -> dict[str, object]:
        """The mapping with one of these names that lies least deep; an empty one where there is none."""
        for key, value in _facts(self.root):
            if key in names and isinstance(value, Mapping) and value:
                return {str(_text(inner)): _plain(part) for inner, part in value.items()}
        return {}

    def num_classes(self) -> int | None:
        """The number that the settings of the training state."""
        homes = ("model_config", "hyper_parameters")
        values = (value for key, value in _facts(self.mapping(*homes)) if key == "num_classes")
        return next(
            (value for value in values if isinstance(value, int) and not isinstance(value, bool)), None
        )

    def class_names(self, count: int | None) -> object:
        """The class names in order, whatever they are called and however they are listed; None without any.

        A `class_names` beside the weights is returned as it is; others must be `count`, where that is known.
        """
        if isinstance(self.root, Mapping) and self.root.get("class_names") is not None:
            names = _plain(self.root["class_names"])
            return listed(_items(names)) or names
        for key, value in _facts(self.root):
            read = listed if key in NAME_LISTS else ordered if key in NAME_TABLES else None
            names = read(_items(value)) if read else None
            if names and count in (None, len(names)):
                return names
        return None

    def unread_names(self) -> list[str]:
        """The keys of tables of class names whose numbers are not those from 0 to the last."""
        return [
            str(key)
            for key, value in _facts(self.root)
            if key in NAME_TABLES and isinstance(value, Mapping) and ordered(_items(value)) is None
        ]


def _tensors(root: object) -> Iterator[StoredTensor]:
    """Every tensor below `root`, in the order of the file. What lies there twice is named twice where it is a
    group, such as an EMA that is the weights' own mapping, and once elsewhere."""
    waiting: list[tuple[tuple[str, ...], int | None, object]] = [((), None, root)]
    seen: set[tuple[tuple[str, ...] | None, int]] = set()  # by the group that it lies in; None outside of one
    places: Counter[int] = Counter()  # of groups
    while waiting:
        path, top, value = waiting.pop()  # top: how much of the path is the group's; None outside of one
        if (tensor := _as_tensor(value)) is not None:
            cut = max(0, len(path) - 1) if top is None else top
            yield StoredTensor(".".join(path[:cut]), ".".join(path[cut:]) or "tensor", tensor)
            continue
        group = len(path) if top is None and _is_group(value) else top
        key = (None if group is None else path[:group], id(value))
        places[id(value)] += top is None and group is not None
        if len(path) < DEEPEST and key not in seen and places[id(value)] <= MOST_PLACES:
            seen.add(key)
            waiting += reversed([((*path, str(key)), group, child) for key, child in _children(value)])


def _is_group(value: object) -> bool:
    """Whether a value is a pickled network, or holds tensors, with nothing else but mappings of them."""
    if isinstance(value, InertObject) and "_modules" in value:
        return True
    if not isinstance(value, Mapping) or all(_as_tensor(child) is None for child in value.values()):
        return False
    waiting, steps = [value], 0
    while waiting and (steps := steps + 1) < MOST_PARTS:
        for child in islice(waiting.pop().values(), MOST_CHILDREN):
            if isinstance(child, Mapping) and not isinstance(child, InertObject):
                waiting.append(child)
            elif _as_tensor(child) is None:
                return False
    return not waiting


def _children(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, InertObject) and "_modules" in value:  # a whole network that was pickled
        passing = value.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers", "_modules"):
            inner = value.get(part)
            if isinstance(inner, Mapping):
                yield from ((key, child) for key, child in inner.items() if key not in passing)
    elif isinstance(value, Mapping):
        yield from islice(((_text(key), child) for key, child in value.items()), MOST_CHILDREN)
    elif isinstance(value, list | tuple):
        yield from islice(enumerate(value), MOST_CHILDREN)


def _as_tensor(value: object) -> "torch.Tensor | None":
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    return None


def _facts(root: object) -> Iterator[tuple[object, object]]:
    """(key, value) of the mappings at the top and those below, level by level. No tensors."""
    level: list[object] = [root]
    seen: set[int] = set()
    for _ in range(FACTS_DEEPEST):
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                pairs = [(_text(key), _plain(child)) for key, child in islice(value.items(), MOST_CHILDREN)]
                yield from pairs
                below += [child for _, child in pairs]
        level = below


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _plain(value: Any) -> Any:
    """A value without OmegaConf's shell, which keeps it under `_content` or `_val`; an array as a list."""
    for _ in range(2):
        if isinstance(value, InertObject):
            value = value.get("_content", value.get("_val", value))
    if isinstance(value, list | tuple):
        return [_plain(part) if isinstance(part, InertObject) else _text(part) for part in value]
    short = (
        getattr(value, "ndim", 0) == 1
        and len(value) <= MOST_CHILDREN
        and not getattr(value, "is_meta", False)
    )
    return value.tolist() if short and hasattr(value, "tolist") else value


def _items(value: object) -> object:
    """A mapping with plain keys and values; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    return {_text(key): _plain(child) for key, child in value.items()}
