"""Merge, for inference, the branches of networks that were made for it: RepVGG, MobileOne, FastViT, LeViT, …

Such networks train with parallel branches and batch norms that one convolution can replace. The method that
does it has many names, and some mean other things elsewhere; so each is tried on a copy, which is kept where
its structure changed and its logits did not.
"""

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from workbench.backends.artifact import Merging
from workbench.errors import Unsuited, WorkbenchError, summary
from workbench.model.export.comparison import TOLERANCE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

METHODS = (
    "reparameterize",
    "reparametrize",
    "re_parameterize",
    "structural_reparam",
    "switch_to_deploy",
    "convert_to_deploy",
    "merge_kernel",
    "fuse",
    "deploy",
)

Merge = Callable[["torch.nn.Module"], "torch.nn.Module"]
Logits = Callable[["torch.nn.Module", "NDArray[np.float32]"], "NDArray[np.float32]"]
Written = TypeVar("Written")


def write_merged(
    model: "torch.nn.Module",
    samples: "NDArray[np.float32]",
    logits: Logits,
    write: Callable[["torch.nn.Module"], Written],
    *,
    merge: bool,
) -> tuple[Written, Merging | None]:
    """`write` the merged network, or the network itself where that fails, or without `merge`.

    samples: (n, C, H, W) photos that the logits are compared on. logits: raises WorkbenchError. Merging is
    None where there is nothing to merge.
    """
    network, merging = merge_branches(model, samples, logits) if merge else (model, None)
    if network is model:
        return write(model), merging
    try:
        return write(network), merging
    except Unsuited:
        raise
    except WorkbenchError as error:
        return write(model), _merging([], model, model, f"once they are, {error.message}")


def merge_branches(
    model: "torch.nn.Module", samples: "NDArray[np.float32]", logits: Logits
) -> tuple["torch.nn.Module", Merging | None]:
    """The network with its branches merged, as far as its logits stay the same; the network itself else."""
    best, methods, problems = model, list[str](), list[str]()
    tried: set[str] = set()
    while (found := next((m for m in _merges(best) if m[0] not in tried), None)) is not None:
        name, merge = found
        tried.add(name)
        try:
            candidate = merge(copy.deepcopy(best)).eval()
            if _structure(candidate) == _structure(best):
                continue
            difference = _difference(model, candidate, samples, logits)
        except Exception as error:  # the network's own code, of which nothing is known
            problems.append(f"`{name}`: {summary(error)}")
            continue
        if difference <= TOLERANCE:  # measured: 2e-6 (LeViT), 2e-4 (MobileOne)
            best = candidate
            methods.append(name)
        else:
            problems.append(f"`{name}` changes the logits by {difference:.2g} of the largest")
    if not methods and not problems:
        return model, None
    return best, _merging(methods, model, best, None if methods else "; ".join(problems))


def _merges(model: "torch.nn.Module") -> list[tuple[str, Merge]]:
    """The ways to merge the network, outer modules first: timm's own function, then each class's methods."""
    import torch

    if isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        return []  # what was traced kept no such methods
    found: dict[str, Merge] = {}
    kinds = dict.fromkeys(type(module) for module in model.modules())
    if any(kind.__module__.startswith("timm.") for kind in kinds):
        found["timm.utils.model.reparameterize_model"] = _merge_by_timm
    for kind in kinds:
        for method in METHODS:
            if not kind.__module__.startswith("torch.") and _takes_nothing(getattr(kind, method, None)):
                found[f"{kind.__name__}.{method}"] = _merge_by(kind, method)
    return list(found.items())


def _takes_nothing(method: object) -> bool:
    """Whether a method can be called without arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _merge_by_timm(model: "torch.nn.Module") -> "torch.nn.Module":
    from timm.utils.model import reparameterize_model

    network: torch.nn.Module = reparameterize_model(model, inplace=True)
    return network


def _merge_by(kind: type, method: str) -> Merge:
    """Call the method of every module of a class, and put the modules that it returns in their places."""

    def merge(model: "torch.nn.Module") -> "torch.nn.Module":
        import torch

        made: dict[int, torch.nn.Module] = {}
        modules = [module for module in model.modules() if type(module) is kind]
        with torch.no_grad():
            for module in modules:
                result = getattr(module, method)()
                made[id(module)] = result if isinstance(result, torch.nn.Module) else module
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):  # named_children() leaves repetitions out
                setattr(parent, name, made.get(id(child), child))
        return made.get(id(model), model)

    return merge


def _structure(model: "torch.nn.Module") -> list[object]:
    parts = [(name, type(module).__name__) for name, module in model.named_modules()]
    return [*parts, *((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())]


def _merging(
    methods: list[str], model: "torch.nn.Module", best: "torch.nn.Module", problem: str | None
) -> Merging:
    before, after = (sum(1 for _ in network.modules()) for network in (model, best))
    return Merging(methods=tuple(methods), before=before, after=after, problem=problem)


def _difference(
    model: "torch.nn.Module", candidate: "torch.nn.Module", samples: "NDArray[np.float32]", logits: Logits
) -> float:
    """The largest difference of a logit over the largest logit; on inverted photos too, where it has logits
    for them."""
    import numpy as np

    worst = 0.0
    for images in (samples, -samples):
        try:
            expected = logits(model, images)
        except WorkbenchError:
            if images is samples:
                raise
            continue
        got = logits(candidate, images)
        if got.shape != expected.shape:
            return float("inf")
        worst = max(worst, float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12)))
    return worst
