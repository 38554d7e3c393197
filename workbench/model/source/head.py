"""The classification head among the weights of a checkpoint, found without its network."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from workbench.model.source.contents import CheckpointContents, StoredTensor
from workbench.model.source.fit import BESIDE

# What timm, torchvision and transformers call it. A number before it makes it a part of a repeated block.
NAMED = re.compile(r"^([a-z_]\w*\.)*(fc|heads?|classifier|classif|last_linear|linear|logits)(\.\w+)*$", re.I)
POOLER = re.compile(r"pool", re.I)  # the matrix at the end of a transformer without a head


class Head(NamedTuple):
    """weight: its full name in the file. outputs: one a class."""

    weight: str
    outputs: int


def head_of(contents: CheckpointContents) -> Head | None:
    """The head of the largest group, by its place or its name; None where no layer is recognised as one."""
    tensors: Sequence[StoredTensor] = max(contents.groups().values(), key=len)
    if not any(stored.tensor.ndim >= 2 for stored in tensors):  # each layer is a group of its own
        tensors = contents.tensors
    return _at_the_end(tensors) or _named(tensors) or _named(contents.tensors)


def _at_the_end(tensors: Sequence[StoredTensor]) -> Head | None:
    """The matrix of the last layer. A file that is sorted by name tells it of numbered layers alone."""
    network = [stored for stored in tensors if not BESIDE.search(stored.name)]
    names = [stored.name for stored in network]
    if not names or (names == sorted(names) and not names[0][0].isdigit()):
        return None
    own = list(takewhile(lambda stored: _layer(stored) == _layer(network[-1]), reversed(network)))
    matrix = next((stored for stored in own if stored.tensor.ndim == 2), None)
    return _head(matrix) if matrix and not POOLER.search(matrix.full) else None


def _named(tensors: Sequence[StoredTensor]) -> Head | None:
    """The last of the least deep matrices, or convolutions of one pixel, with the name of a head."""
    found = [stored for stored in tensors if NAMED.match(_layer(stored)) and _is_dense(stored)]
    return _head(min(reversed(found), key=lambda stored: stored.full.count("."))) if found else None


def _is_dense(stored: StoredTensor) -> bool:
    return stored.tensor.ndim == 2 or tuple(stored.tensor.shape[2:]) == (1, 1)


def _layer(stored: StoredTensor) -> str:
    return stored.full.rpartition(".")[0]


def _head(stored: StoredTensor) -> Head:
    return Head(stored.full, stored.tensor.shape[0])
