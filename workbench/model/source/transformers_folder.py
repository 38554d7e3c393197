"""A `transformers` image classifier as `save_pretrained` wrote it: config.json, weights, and the settings
of its image processor. Both JSON files are read without the library; only `load` imports it."""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, first_line, some
from workbench.model.export.torch_exporters import NETWORK_ERRORS
from workbench.model.source.info import SourceInfo, checked_info
from workbench.model.source.transformers_processor import PROCESSOR, square
from workbench.model.source.transformers_processor import read as read_processor
from workbench.system.files import refuse_lfs_pointer, sha256_file
from workbench.system.packages import unusable

if TYPE_CHECKING:
    import torch


CONFIG = "config.json"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
PLACEHOLDER = re.compile(r"LABEL_\d+")


def describe(folder: Path) -> SourceInfo:
    """The facts in the two JSON files of a folder. Raises WorkbenchError where it holds no classifier of RGB
    photos, or no weights."""
    config = _read(folder / CONFIG)
    _check(folder, config)
    files = weight_files(folder)
    for file in files:
        refuse_lfs_pointer(file, "model.checkpoint")
    if not files:
        raise WorkbenchError(
            f"model.checkpoint: {folder} has no weights", hint=f"expected one of {' or '.join(WEIGHTS)}"
        )
    stated: dict[str, object]
    notes: list[str] = []
    if (path := folder / PROCESSOR).is_file():
        stated, notes = read_processor(_read(path), f"{path}")
        stated_in: str | None = PROCESSOR
    else:
        stated = {"crop": square(config.get("image_size"), f"{folder / CONFIG}: image_size")}
        stated_in = CONFIG if stated["crop"] else None
    names = _labels(config, folder)
    known = {
        "kind": "transformers",
        "class_names": None if all(PLACEHOLDER.fullmatch(name) for name in names) else names,
        "num_classes": len(names),
        "preprocess": stated,
        "network": _network(config),
        "stated_in": stated_in,
        "notes": tuple(notes),
    }
    return checked_info(known, folder)


def is_classifier(folder: Path) -> bool:
    """Whether config.json names an image classifier; no other file is read."""
    try:
        return _network(_read(folder / CONFIG)) is not None
    except WorkbenchError:
        return False


def digests(folder: Path) -> list[tuple[str, str]]:
    """(name, sha256) of the files that make the network and its preprocessing."""
    settings = [folder / name for name in (CONFIG, PROCESSOR)]
    files = [*settings, *weight_files(folder), *folder.glob("*.index.json")]
    return sorted((path.name, sha256_file(path)) for path in files if path.is_file())


def load(folder: Path) -> "torch.nn.Module":
    """The network in float32, whose forward returns the logits alone.

    No code of the folder runs, and no file is fetched. Raises WorkbenchError where transformers is not
    installed or cannot read the folder, or where weights of the network are missing.
    """
    import torch

    describe(folder)  # the library would fill a network of another kind with random weights
    try:
        import transformers

        loader = transformers.AutoModelForImageClassification
    except (ImportError, RuntimeError) as error:
        raise unusable("transformers", error) from error
    options = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    with _translated_errors(folder), _silence_library():
        network, report = loader.from_pretrained(folder, dtype=torch.float32, **options)
    if missing := sorted(report["missing_keys"]):
        raise WorkbenchError(
            f"model.checkpoint: {folder} lacks {len(missing)} of the network's weights: {some(missing)}",
            hint="transformers would make them up: save the trained classifier with `save_pretrained`",
        )
    return _wrap_logits(network.float()).eval()


@contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    """Raise the errors of the library, and of safetensors below it, as WorkbenchError."""
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        raise WorkbenchError(
            f"model.checkpoint: {folder} holds pickled code among its weights: refused",
            hint="save the network with `save_pretrained`, which writes model.safetensors",
        ) from error
    except (ImportError, OSError, *NETWORK_ERRORS, SafetensorError) as error:
        raise WorkbenchError(
            f"model.checkpoint: transformers cannot read {folder}: {first_line(error)}",
            hint="load it in a Python shell with `AutoModelForImageClassification.from_pretrained`",
        ) from error


def _wrap_logits(network: "torch.nn.Module") -> "torch.nn.Module":
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(pixel_values=images, return_dict=True).logits
            return logits

    return Classifier()


@contextmanager
def _silence_library() -> Iterator[None]:
    """Silence the library's progress bars and remarks; problems are raised by `load`."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkbenchError(f"model.checkpoint: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, not UTF-8
        raise WorkbenchError(f"model.checkpoint: {path} is not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise WorkbenchError(f"model.checkpoint: {path} is not a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    return [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]


def _network(config: Mapping[str, Any]) -> str | None:
    """The class of the network, where it is an image classifier."""
    match config.get("architectures"):
        case [str(name), *_] if "ForImageClassification" in name:
            return name
    return None


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise WorkbenchError for any model but an image classifier of RGB photos."""
    where = f"model.checkpoint: {folder / CONFIG}"
    if _network(config) is None:
        named = config.get("architectures") or "no network of transformers"
        timm = config.get("architecture") if named == "no network of transformers" else None
        raise WorkbenchError(
            f"{where} describes {named}, not an image classifier",
            hint=f"a folder of timm's: give its weights, and `model.factory: timm:{timm}`"
            if timm
            else "expected `architectures` to name a `...ForImageClassification`",
        )
    if (folder / "adapter_config.json").is_file():
        raise WorkbenchError(
            f"model.checkpoint: {folder} holds a PEFT adapter, not a whole network",
            hint="merge it with `merge_and_unload()` and save the result with `save_pretrained`",
        )
    if "quantization_config" in config:
        raise WorkbenchError(
            f"{where} says that its weights are quantised already",
            hint="give the float network: recipes quantise it, and measure what that costs",
        )
    if (problem := config.get("problem_type")) not in (None, "single_label_classification"):
        raise WorkbenchError(f"{where}: problem_type is `{problem}`: only single-label classifiers are taken")
    vision = config.get("vision_config")
    channels = config.get("num_channels", vision.get("num_channels") if isinstance(vision, dict) else None)
    if channels not in (None, 3):
        raise WorkbenchError(
            f"{where}: num_channels is {channels}: photos are given to the network as RGB, 3 channels",
            hint="wrap the network in a factory whose forward takes (N, 3, height, width)",
        )
    square(config.get("image_size"), f"{where}: image_size")


def _labels(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The class names in order; placeholders where the file has none."""
    labels = config.get("id2label")
    if labels is None:  # transformers leaves its default out: two classes
        count = config.get("num_labels", 2)
        return tuple(f"LABEL_{index}" for index in range(count if isinstance(count, int) else 0))
    if isinstance(labels, dict) and set(labels) == {str(index) for index in range(len(labels))}:
        names = tuple(labels[str(index)] for index in range(len(labels)))
        if all(isinstance(name, str) for name in names):
            return names
    raise WorkbenchError(
        f"model.checkpoint: {folder / CONFIG}: id2label must map 0, 1, ... to the names of the classes"
    )
