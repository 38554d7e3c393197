"""Weights that pruning, weight norm or spectral norm keeps in parts, put together as the network does it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


Tensors = Mapping[str, "torch.Tensor"]


def fold(stored: Tensors, own: Tensors) -> tuple[dict[str, "torch.Tensor"], set[str]]:
    """The network's weights that `stored` has in parts alone, and the names of those parts."""
    made: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    for name in own:
        if name in stored:
            continue
        module, _, leaf = name.rpartition(".")
        dot = "." if module else ""
        for endings, put_together in WAYS.items():
            parts = [f"{module}{dot}{ending.format(leaf)}" for ending in endings]
            if all(part in stored and part not in own for part in parts):
                if (weight := put_together(*(stored[part] for part in parts))) is not None:
                    made[name] = weight
                    used |= set(parts)
                break
    return made, used


def _pruned(weight: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor | None":
    return weight * mask if weight.shape == mask.shape else None


def _weight_norm(size: "torch.Tensor", direction: "torch.Tensor") -> "torch.Tensor | None":
    """size * direction / |direction|, the norm over all dimensions but those that `size` has."""
    if size.ndim not in (0, direction.ndim):
        return None
    kept = [i for i, length in enumerate(size.shape) if length != 1]
    if any(size.shape[i] != direction.shape[i] for i in kept) or len(kept) > 1:
        return None
    over = [i for i in range(direction.ndim) if i not in (kept or ([0] if size.ndim else []))]
    return direction * (size / direction.square().sum(dim=over, keepdim=True).sqrt()) if over else None


def _spectral_norm(weight: "torch.Tensor", u: "torch.Tensor", v: "torch.Tensor") -> "torch.Tensor | None":
    """weight / (u W v), W the weight as a matrix whose rows are the dimension that is as long as `u`."""
    fitting = [
        i for i, length in enumerate(weight.shape) if length == len(u) and weight.numel() == len(u) * len(v)
    ]
    if not fitting:
        return None
    matrix = weight.movedim(fitting[0], 0).reshape(len(u), -1)
    return weight / (u @ matrix @ v)


# The names of the parts, of a weight called {}, and what the network computes from them in eval mode.
WAYS: dict[tuple[str, ...], Callable[..., "torch.Tensor | None"]] = {
    ("{}_orig", "{}_mask"): _pruned,
    ("{}_g", "{}_v"): _weight_norm,
    ("{}_orig", "{}_u", "{}_v"): _spectral_norm,
    ("parametrizations.{}.original0", "parametrizations.{}.original1"): _weight_norm,
    ("parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v"): _spectral_norm,
}
