"""Read a checkpoint file: its kind, tensors and plain values. Code in it is never run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from workbench.errors import WorkbenchError, first_line, some
from workbench.model.source.info import Kind, Layout

if TYPE_CHECKING:
    import torch


SAFETENSORS = ".safetensors"
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")
# Lightning, DistributedDataParallel, a common habit, torch.compile.
PREFIXES = ("model.", "module.", "net.", "_orig_mod.")


class Weights(NamedTuple):
    """A state dict, and the rest of the checkpoint around it."""

    layout: Layout
    tensors: Mapping[str, "torch.Tensor"]
    extras: Mapping[str, object]


def kind_of(path: Path | None) -> Kind:
    """The kind of a model's file by its content, of `.onnx` by its name.

    None: no checkpoint, its factory alone. Raises WorkbenchError for an unknown kind.
    """
    if path is None:
        return "factory"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise WorkbenchError(
                f"model.checkpoint: {path} is a folder without config.json",
                hint="give a checkpoint file, or a folder that transformers' `save_pretrained` wrote",
            )
        return "transformers"
    if not path.is_file():
        raise missing(path)
    if path.suffix.lower() == ".onnx":
        return "onnx"
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"\x80"):
        return "state-dict"  # a pickle: the layout of torch before 1.6
    if path.suffix.lower() == SAFETENSORS and head.endswith(b"{"):
        return "state-dict"
    if not head.startswith(b"PK"):
        what = "is empty" if not head else "is not a PyTorch checkpoint"
        raise WorkbenchError(
            f"model.checkpoint: {path} {what}",
            hint="give a .ckpt, .pt or .safetensors with a state dict, a TorchScript file, a torch.export "
            "program, an .onnx file or a transformers folder",
        )
    return _kind_of_zip(path)


def _kind_of_zip(path: Path) -> Kind:
    names = _zip_names(path)
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        return "state-dict"
    if any("/data/aotinductor/" in name for name in names):
        raise WorkbenchError(
            f"model.checkpoint: {path} is compiled for one machine (AOTInductor)",
            hint="give what it was compiled from: the program, or the state dict with its factory",
        )
    if any(name.endswith("/archive_format") for name in names):
        return "torch-export"
    raise WorkbenchError(f"model.checkpoint: {path} is a zip file, but no PyTorch checkpoint")


def missing(path: Path) -> WorkbenchError:
    hint = "correct `model.checkpoint` in krishi.yaml"
    return WorkbenchError(f"model.checkpoint: {path} does not exist", hint=hint)


def _damaged(path: Path, why: str) -> WorkbenchError:
    return WorkbenchError(
        f"model.checkpoint: {path} is truncated or damaged: {why}",
        hint="copy or download it again, and compare its size with the original",
    )


def _zip_names(path: Path) -> list[str]:
    """The entries of a zip file whose checksums hold; torch itself does not compare them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise _damaged(path, f"the checksum of {bad} does not match")
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise _damaged(path, str(error)) from error


def load_torchscript(path: Path) -> "torch.jit.ScriptModule":
    """Read a TorchScript file. Raises WorkbenchError where torch cannot."""
    import torch

    with warnings.catch_warnings():
        # Deprecated, and still the only reader of these files.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
        try:
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call,no-any-return]
        except (RuntimeError, ValueError) as error:
            raise WorkbenchError(
                f"model.checkpoint: torch cannot read {path}: {first_line(error)}"
            ) from error


def load_weights(path: Path) -> Weights:
    """Read the tensors and plain values of a checkpoint, never code (`weights_only=True`)."""
    import torch

    if path.suffix.lower() == SAFETENSORS:
        return Weights("plain", _load_safetensors(path), {})
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (name := re.search(r"GLOBAL (\S+) was not an allowed global", str(error))) is not None:
            raise WorkbenchError(
                f"model.checkpoint: {path} holds a pickled `{name[1]}`: refused, because to load it would be "
                "to run code stored in the file",
                hint="where you trust the file, load it and save its weights alone: "
                "`torch.save(model.state_dict(), 'weights.pt')`; or export it to ONNX and give that",
            ) from error
        raise _damaged(path, "its pickle cannot be read") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, first_line(error)) from error
    return _weights_of(loaded, path)


def _load_safetensors(path: Path) -> Mapping[str, "torch.Tensor"]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WorkbenchError(
            f"model.checkpoint: reading {path} needs `safetensors`, which is not installed",
            hint="pip install safetensors",
        ) from error
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, first_line(error)) from error


def _weights_of(loaded: object, path: Path) -> Weights:
    if isinstance(loaded, Mapping):
        for key in WEIGHT_KEYS:
            if _is_state_dict(inner := loaded.get(key)):
                layout: Layout = "lightning" if "pytorch-lightning_version" in loaded else "plain"
                return Weights(layout, inner, {k: v for k, v in loaded.items() if k != key})
        if _is_state_dict(loaded):
            return Weights("plain", loaded, {})
        found = f"a dict with the keys {some([str(key) for key in loaded])}"
    else:
        found = f"a {type(loaded).__name__}"
    raise WorkbenchError(
        f"model.checkpoint: {path} holds {found}, and no state dict",
        hint="expected parameter names with tensors, alone or under `state_dict`",
    )


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, "torch.Tensor"]]:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in value.items())
    )


def fill(
    model: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"], path: Path, *, factory: str
) -> None:
    """Load the weights, with the prefixes of their names removed where that fits the network.

    Raises WorkbenchError listing the missing and unexpected ones and those of another shape.
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
            f"the weights of {path} do not fit the network of `{factory}`\n{listed}",
            hint="check `model.factory` and `model.factory_args`: the network must be the trained one",
        )
    model.load_state_dict(best)
