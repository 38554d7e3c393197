"""Read a checkpoint file: its kind, tensors and plain values. Code in it is never run."""

import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, first_line, some, summary
from workbench.model.source.contents import CheckpointContents
from workbench.model.source.inert_pickle import read
from workbench.model.source.info import Kind
from workbench.photos.signatures import HEAD, kind_of_file
from workbench.system.files import refuse_lfs_pointer

if TYPE_CHECKING:
    import torch


PACKED = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".pt2"})  # models in an archive
OPTIMIZER = re.compile(r"(^|\.)state\.\d+$")  # where torch's optimizers keep what belongs to one parameter
KINDS = (
    "give a .ckpt, .pt or .safetensors with a state dict, a TorchScript file, a torch.export program, an "
    ".onnx file or a transformers folder"
)
INDEX = ".index.json"  # of a checkpoint in shards
SHARDS = (
    "put the config.json of `save_pretrained` beside the shards and give the folder; or join them to one "
    "file (`safetensors.torch.load_file` each, `save_file` all) and name its `model.factory`"
)
WEIGHTS = "expected names with tensors: `torch.save(model.state_dict(), 'weights.pt')` writes them"


def kind_of(path: Path | None) -> Kind:
    """The kind of a model's file by its content, of `.onnx` by its name.

    None: no checkpoint, its factory alone. Raises WorkbenchError for an unknown kind.
    """
    if path is None:
        return "factory"
    if path.is_dir():
        if not (path / "config.json").is_file():
            sharded = any(path.glob(f"*{INDEX}"))
            raise WorkbenchError(
                f"model.checkpoint: {path} is a folder without config.json",
                hint=SHARDS
                if sharded
                else "give a checkpoint file, or a folder that transformers' `save_pretrained` wrote",
            )
        return "transformers"
    if not path.is_file():
        raise missing(path)
    if path.name.endswith(INDEX):
        whole = (path.parent / "config.json").is_file()
        raise WorkbenchError(
            f"model.checkpoint: {path} lists the files of a checkpoint in shards, and holds no weights",
            hint=f"give the folder: `model.checkpoint: {path.parent}`" if whole else SHARDS,
        )
    refuse_lfs_pointer(path, "model.checkpoint")
    if path.suffix.lower() == ".onnx":
        return "onnx"
    with path.open("rb") as file:
        head = file.read(HEAD)
    # A pickle is the layout of torch before 1.6.
    if head.startswith(b"\x80") or _is_safetensors(path, head):
        return "state-dict"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    raise _no_model(path, head)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether it begins with the length of a JSON header, and that header, whatever its name."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def _no_model(path: Path, head: bytes) -> WorkbenchError:
    """The error for a file that is no model, by what its first bytes show."""
    if not head:
        return WorkbenchError(f"model.checkpoint: {path} is empty", hint=KINDS)
    kind = kind_of_file(head)
    but = "" if kind == "unknown file" else f" but {'an' if kind[0] in 'aeA' else 'a'} {kind}"
    hint = "unpack it, and give the file in it" if kind == "archive" else KINDS
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b":", b"B"):  # IR version; producer, graph or opset
        hint = "if it is an ONNX file, give it a name that ends in .onnx"
    return WorkbenchError(f"model.checkpoint: {path} is not a PyTorch checkpoint{but}", hint=hint)


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
    inside = [name for name in names if Path(name).suffix.lower() in PACKED]
    raise WorkbenchError(
        f"model.checkpoint: {path} is a zip file, but no PyTorch checkpoint",
        hint=f"unpack it, and give {some(inside)}" if inside else KINDS,
    )


def missing(path: Path) -> WorkbenchError:
    hint = "give the path of a model's file or folder; krishi.yaml has it as `model.checkpoint`"
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
                f"model.checkpoint: torch cannot read {path}: {first_line(error)}",
                hint="save it again, not optimised for a machine: `torch.jit.trace(model.eval(), photos)`",
            ) from error


def load_contents(path: Path) -> CheckpointContents:
    """Read the tensors and plain values of a checkpoint. Raises WorkbenchError where it holds no tensors."""
    try:
        with path.open("rb") as file:
            safetensors = _is_safetensors(path, file.read(HEAD))
        if safetensors:
            contents = CheckpointContents(_read_safetensors(path))
        else:
            contents = CheckpointContents(*read(path))
    except Exception as error:  # a damaged file, or one made to do so, may raise anything
        raise _damaged(path, summary(error)) from error
    if any(stored.tensor.ndim for stored in contents.tensors):
        if all(OPTIMIZER.search(stored.group) for stored in contents.tensors):
            raise WorkbenchError(
                f"model.checkpoint: {path} holds the state of an optimizer, and no weights", hint=WEIGHTS
            )
        return contents
    root = contents.root
    found = f"a {type(root).__name__}"
    if isinstance(root, Mapping) and root:
        found = f"a dict with the keys {some([str(key) for key in root])}"
    unread = f"; it names {some(contents.stand_ins)}, which is not run" if contents.stand_ins else ""
    raise WorkbenchError(
        f"model.checkpoint: {path} holds {found}, and no state dict{unread}",
        hint=WEIGHTS,
    )


def _read_safetensors(path: Path) -> dict[str, object]:
    """The tensors of a .safetensors file: the length of a JSON header, the header, the memory of all."""
    import torch

    types = {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {"BOOL": "bool", "BF16": "bfloat16"}
    types |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)} | {"C64": "complex64"}
    types |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
    types |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found: dict[str, object] = {"__metadata__": header.pop("__metadata__", {})}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        kind: torch.dtype = getattr(torch, types[entry["dtype"]])
        if (
            not 0 <= first <= end <= len(data) - start
            or end - first != math.prod(entry["shape"]) * kind.itemsize
        ):
            raise ValueError(f"{name} lies outside of the file")
        flat = (
            torch.frombuffer(data[start + first : start + end], dtype=kind) if end > first else torch.empty(0)
        )
        found[name] = flat.to(kind).reshape(entry["shape"])
    return found
