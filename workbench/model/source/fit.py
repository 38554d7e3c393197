"""Fit the tensors of a checkpoint to a network, whatever their names begin with and are wrapped in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, plural, some
from workbench.model.source.contents import CheckpointContents, StoredTensor
from workbench.model.source.folded_weights import fold

if TYPE_CHECKING:
    import torch


# Names that DataParallel, torch.compile, FSDP and activation checkpointing put into a key.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# What counters and profilers leave in a state dict, and tables that a network computes itself.
BOOKKEEPING = {
    "n_averaged", "num_batches_tracked", "total_ops", "total_params", "relative_position_index", "attn_mask",
    "position_ids", "_extra_state",
}  # fmt: skip
# Parts of a training beside the network, by a word of their names.
BESIDE = re.compile(
    r"loss|criter|objective|metric|(^|_)acc|confmat|(^|_)f1|auroc|teacher|(^|_)ema|(^|_)aux|class_weight|pos_weight"
)
EMA, TEACHER = re.compile(r"(^|[._])(ema|swa)|_ema|averag|shadow", re.I), re.compile(r"teacher", re.I)
BEST_FIRST = ("state_dict", "model_state_dict", "model")
SHARDED = (
    "its weights are in shards (DTensor): save `get_model_state_dict(model, options=StateDictOptions("
    "full_state_dict=True))`"
)
QUANTISED = "its weights are quantised already: save those in floating point, recipes quantise them"
# By a part of the keys that the network lacks: what to do before saving again.
REMEDIES = {
    r"parametrizations\.": "call `torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')` and "
    "save again",
    r"(_orig|_mask)\b": "call `torch.nn.utils.prune.remove(module, 'weight')` for each pruned module and "
    "save again",
    r"\.zero_point\b": QUANTISED,
    r"lora_": "merge its adapters into the network and save again: `model.merge_and_unload()` of peft",
    r"_flat_param": "its weights are flattened by FSDP: gather them and save again, with "
    "`StateDictType.FULL_STATE_DICT`",
}
MOST_READINGS = 40  # of the tensors as a network's

Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Fit:
    """One reading of a checkpoint's tensors as a network's.

    place: the dotted place that was taken, as the file spells it; "" for the whole file. first: the full name
    of its first tensor. weights: by the network's names. heads: those that lie elsewhere. aside: tensors that
    lie with them and are not the network's.
    """

    place: str
    first: str
    weights: Tensors
    heads: tuple[StoredTensor, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    aside: tuple[StoredTensor, ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def problems(self) -> dict[str, tuple[str, ...]]:
        """Those that are, the fewest first."""
        found = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        return {what: found[what] for what in sorted(found, key=lambda what: len(found[what])) if found[what]}


def role(place: str) -> str | None:
    """What the name of a place says of the weights there, where it is not the student itself."""
    return "an EMA" if EMA.search(place) else "a teacher" if TEACHER.search(place) else None


def fits_of(contents: CheckpointContents, network: "torch.nn.Module", within: str | None) -> list[Fit]:
    """Every reading that fits the network, best first; where none does, the one that comes closest.

    within: the dotted place of the weights that were chosen. Raises WorkbenchError where nothing lies there.
    """
    own = {name: value for name, value in network.state_dict().items() if hasattr(value, "shape")}
    stored = _unwrapped(contents, WRAPPERS - {part for name in own for part in name.split(".")}, within)
    optional = _optional(network, own)
    counts = _counts(stored, own, _homes([name for name in own if name not in optional]))
    ranked = sorted(counts, key=lambda pair: (-counts[pair], *_rank(pair[0]), -len(pair[1])))
    likely = [pair for pair in ranked[:MOST_READINGS] if 2 * counts[pair] > counts[ranked[0]]]
    readings = [_read(stored, own, optional, *pair) for pair in likely or [("", "")]]
    fitting = {reading.first: reading for reading in reversed(readings) if reading.fits}
    if not fitting:
        return [min(readings, key=lambda reading: sum(map(len, reading.problems().values())))]
    return sorted(fitting.values(), key=readings.index)


def _unwrapped(
    contents: CheckpointContents, wrappers: set[str], within: str | None
) -> dict[str, StoredTensor]:
    """The tensors by their full names without wrappers."""
    stored: dict[str, StoredTensor] = {}
    for tensor in contents.tensors:
        if within is None or f"{tensor.full}.".startswith(f"{within}."):
            name = ".".join(part for part in tensor.full.split(".") if part not in wrappers)
            stored[tensor.full if name in stored else name] = tensor
    if not stored:
        raise WorkbenchError(
            f"model.weights: the checkpoint has none at `{within}`",
            hint=f"it has some at {some(_large(contents) or ['the top of the file'])}",
        )
    return stored


def _homes(needed: Sequence[str]) -> list[str]:
    """`model.net.`, `model.` and "": the beginnings that all of a network's names share."""
    first = [name.split(".")[:-1] for name in needed]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*first, strict=False))]
    return ["".join(f"{part}." for part in shared[:count]) for count in range(len(shared), -1, -1)]


def _optional(network: "torch.nn.Module", own: Tensors) -> set[str]:
    """Names of values that change no logit, or that the network computes itself: a file may lack them."""
    from torch.nn.modules.loss import _Loss

    losses = {name for name, part in network.named_modules() if isinstance(part, _Loss)}
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return {
        name
        for name, value in own.items()
        if name.rpartition(".")[0] in losses
        or (name not in parameters and not value.is_floating_point() and not value.is_complex())
    }


def _counts(
    stored: Mapping[str, StoredTensor], own: Tensors, homes: Sequence[str]
) -> dict[tuple[str, str], int]:
    """How many tensors fit, twice where the shape does too, by their prefix and their home in the network."""
    counts: dict[tuple[str, str], int] = {}
    for name, tensor in stored.items():
        parts = name.split(".")
        for cut in range(len(parts)):
            rest = ".".join(parts[cut:])
            for home in homes:
                if (mine := own.get(home + rest)) is not None:
                    prefix = "".join(f"{part}." for part in parts[:cut])
                    key = (prefix, home)
                    counts[key] = counts.get(key, 0) + (2 if mine.shape == tensor.tensor.shape else 1)
    return counts


def _rank(prefix: str) -> tuple[int, int]:
    """The network's own weights before an EMA's or a teacher's, the usual names before others."""
    first = prefix.split(".")[0]
    return (role(prefix) is not None, BEST_FIRST.index(first) if first in BEST_FIRST else len(BEST_FIRST))


def _read(
    stored: Mapping[str, StoredTensor], own: Tensors, optional: set[str], prefix: str, home: str
) -> Fit:
    below = {
        home + name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)
    }
    heads = _heads(stored, prefix, [name for name in own if name not in below and name not in optional])
    below |= heads
    made, parts = fold({name: tensor.tensor for name, tensor in below.items()}, own)
    weights = {name: tensor.tensor for name, tensor in below.items() if name in own} | made
    misshapen = {name: text for name in weights if (text := _mismatch(name, weights[name], own[name]))}
    weights = {name: value for name, value in weights.items() if name not in optional & misshapen.keys()}
    classes = {value.shape[0] for value in weights.values() if value.ndim == 2}
    used = [name for name in below if name in own or name in parts]
    extra = [name for name in below if name not in own and name not in parts]
    missing = _missing(own, weights, optional)
    unexpected = [
        name
        for name in extra
        if not _keeps_count(name) and (missing or not _is_beside(name, below, own, classes))
    ]
    taken = {below[name].full for name in (*used, *unexpected)}
    groups = {below[name].group for name in used}
    return Fit(
        place=_place(below[used[0]], prefix, stored) if used else "",
        first=below[used[0]].full if used else "",
        weights=weights,
        heads=tuple(heads.values()),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        misshapen=tuple(text for name, text in misshapen.items() if name not in optional),
        aside=tuple(
            tensor
            for tensor in stored.values()
            if tensor.group in groups and tensor.full not in taken and not _keeps_count(tensor.name)
        ),
    )


def _missing(own: Tensors, weights: Tensors, optional: set[str]) -> list[str]:
    """Names of the network's values that are neither given nor tied to one that is."""
    tied = {own[name].data_ptr() for name in weights if own[name].numel()}
    return [
        name
        for name, value in own.items()
        if name not in weights and name not in optional and value.data_ptr() not in tied
    ]


def _heads(
    stored: Mapping[str, StoredTensor], prefix: str, lacking: Sequence[str]
) -> dict[str, StoredTensor]:
    """What lies beside the prefix and the network lacks: `head.fc.weight` is `fc.weight` where the rest lies
    in `backbone.`. Nothing where one of them is not there, or there twice."""
    place = prefix.rstrip(".").rpartition(".")[0]
    tails: dict[str, list[StoredTensor]] = {}
    for name, tensor in stored.items():
        parts = name.split(".")
        if lacking and prefix and name.startswith(place) and not name.startswith(prefix) and not role(name):
            for cut in range(1, len(parts)):
                tails.setdefault(".".join(parts[cut:]), []).append(tensor)
    found = {name: tails.get(name, []) for name in lacking}
    return (
        {name: one[0] for name, one in found.items()} if all(len(one) == 1 for one in found.values()) else {}
    )


def _place(chosen: StoredTensor, prefix: str, stored: Mapping[str, StoredTensor]) -> str:
    """The prefix as the file spells it, with the wrappers in it."""
    name = next(name for name, tensor in stored.items() if tensor is chosen)
    rest = name.removeprefix(prefix).split(".")
    parts = chosen.full.split(".")
    cut = len(parts)
    while rest and cut:
        cut -= 1
        if parts[cut] == rest[-1]:
            rest.pop()
    return ".".join(parts[:cut])


def _is_beside(name: str, below: Mapping[str, StoredTensor], own: Tensors, classes: set[int]) -> bool:
    """Whether a tensor that the network lacks belongs to the training alone, and can be left aside."""
    parts = name.split(".")
    known = next((n for n in range(len(parts)) if not any(_starts(mine, parts[: n + 1]) for mine in own)), -1)
    if known < 0:
        return False
    siblings = {_stem(mine.split(".")[known]) for mine in own if _starts(mine, parts[:known])}
    if _stem(parts[known]) in siblings or not _stem(parts[known]):  # a layer that the network lacks
        return False
    tensor, branch = below[name].tensor, [other for other in below if _starts(other, parts[: known + 1])]
    ends = parts[known + 1 :] in ([], ["weight"])
    weighs_classes = len(branch) == 1 and ends and tensor.ndim == 1 and tensor.numel() in classes
    return weighs_classes or BESIDE.search(parts[known].lower()) is not None


def _starts(name: str, parts: Sequence[str]) -> bool:
    return not parts or f"{name}.".startswith(".".join(parts) + ".")


def _keeps_count(name: str) -> bool:
    return name.rpartition(".")[2] in BOOKKEEPING


def _stem(name: str) -> str:
    return name.rstrip("0123456789")


def _mismatch(name: str, given: "torch.Tensor", own: "torch.Tensor") -> str | None:
    sizes = f"{name} {tuple(given.shape)} for {tuple(own.shape)}"
    if given.shape != own.shape:
        return sizes + (", transposed" if given.ndim > 1 and given.shape == own.shape[::-1] else "")
    if given.is_meta:
        return f"{sizes}, without values (saved from the device `meta`)"
    whole = not given.is_floating_point() and not given.is_quantized
    if own.is_floating_point() and (whole or given.is_complex()):
        return f"{sizes}, as {str(given.dtype).removeprefix('torch.')}"
    return None


def fill(network: "torch.nn.Module", fit: Fit) -> None:
    """Load the weights of a fit; what the file need not have stays as the network made it."""
    own = network.state_dict()
    pointers = {own[name].data_ptr(): name for name in fit.weights}
    given = {name: _dense(value) for name, value in fit.weights.items()}
    for name, value in own.items():
        if name not in given:
            tied = pointers.get(value.data_ptr()) if hasattr(value, "data_ptr") and value.numel() else None
            given[name] = given[tied] if tied else value
    network.load_state_dict(given)


def _dense(tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def class_count_of(fit: Fit, network: "torch.nn.Module") -> int | None:
    """The classes of the file where it differs from the network in the size of its last layers alone."""
    own = network.state_dict()
    pairs = [(value.shape, own[name].shape) for name, value in fit.weights.items()]
    sizes = {given[:1] + mine[:1] for given, mine in pairs if given != mine}
    alike = all(given[1:] == mine[1:] for given, mine in pairs)
    if fit.missing or fit.unexpected or not alike or len(sizes) != 1:
        return None
    return int(next(iter(sizes))[0])


def last_rows(network: "torch.nn.Module") -> int | None:
    """The outputs of the network's last matrix."""
    return next((value.shape[0] for value in reversed(list(network.parameters())) if value.ndim >= 2), None)


def guess_classes(contents: CheckpointContents) -> int | None:
    """The outputs of the last matrix of the largest group: right or not, a network of that size tells."""
    largest = max(contents.groups().values(), key=len)
    nested = not any(tensor.tensor.ndim >= 2 for tensor in largest)
    tensors = {tensor.full: tensor.tensor for tensor in (contents.tensors if nested else largest)}
    name = next((name for name in reversed(tensors) if tensors[name].ndim >= 2), None)
    if name is None:
        return None
    bias = tensors.get(f"{name.rpartition('.')[0]}.bias")
    return bias.numel() if bias is not None else tensors[name].shape[0]


def refuse(fit: Fit, contents: CheckpointContents, where: str, factory: str) -> WorkbenchError:
    """The error about weights that do not fit: what differs, the fewest first, and what to do."""
    listed = "\n".join(f"  {len(keys)} {what}: {some(keys)}" for what, keys in fit.problems().items())
    groups = _large(contents)
    odd = " ".join(fit.unexpected)
    hint = next((remedy for part, remedy in REMEDIES.items() if re.search(part, odd)), None)
    if contents.sharded:
        hint = SHARDED
    elif hint is None and any(", as " in text for text in fit.misshapen):
        hint = QUANTISED
    elif hint is None:
        hint = "check `model.factory` and `model.factory_args`: the network must be the trained one"
        more = f"; `model.weights` in krishi.yaml chooses among {some(groups)}" if len(groups) > 1 else ""
        hint += more
    return WorkbenchError(
        f"the weights of {where} do not fit the network of `{factory}`\n{listed}", hint=hint
    )


def sentences(fits: Sequence[Fit], contents: CheckpointContents, chosen: str | None) -> tuple[str, ...]:
    """What was taken of a file, what was left aside, and what else is there, for the line about the model."""
    fit, others = fits[0], fits[1:]
    places = [other.place for other in others]
    aside = [
        tensor for tensor in fit.aside if not tensor.full.startswith(tuple(f"{place}." for place in places))
    ]
    parts = []
    if aside or others or fit.heads or chosen is not None:
        place = _with_role(fit.place) if fit.place else "the whole file"
        heads = f" and {some([tensor.full for tensor in fit.heads])}" if fit.heads else ""
        parts.append(f"weights taken from {place}{heads}")
    if others:
        named = some([_with_role(place) for place in places], quote="")
        parts.append(
            f"{plural(len(fits), 'set')} of weights fit, {named} too: "
            f"`model.weights: {places[0]}` in krishi.yaml takes another, as `export --weights` does"
        )
    if aside:
        parts.append(f"left aside {some(_branches(aside))}")
    for group in contents.groups():
        known = (fit.place, *places)
        if (found := role(group)) and not any(f"{place}.".startswith(f"{group}.") for place in known):
            parts.append(f"{found} is in the file: `{group}`")
    if contents.stand_ins:
        own_first = sorted(contents.stand_ins, key=lambda name: name.startswith("torch."))
        parts.append(f"read without running {some(own_first)}")
    return tuple(parts)


def _with_role(place: str) -> str:
    return f"`{place}`" + (f" ({found})" if (found := role(place)) else "")


def _large(contents: CheckpointContents) -> list[str]:
    """The groups that are at least half as large as the largest, without an optimizer's many."""
    groups = contents.groups()
    most = max(map(len, groups.values()))
    return [group for group in groups if group and len(groups[group]) > 1 and 2 * len(groups[group]) >= most]


def _branches(tensors: Sequence[StoredTensor]) -> list[str]:
    """`teacher.* (122 tensors)` for what begins alike, the name of one that stands alone."""
    branches: dict[str, list[str]] = {}
    for tensor in tensors:
        branches.setdefault(tensor.name.split(".")[0], []).append(tensor.name)
    return [
        names[0] if len(names) == 1 else f"{first}.* ({len(names)} tensors)"
        for first, names in branches.items()
    ]
