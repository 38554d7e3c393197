"""A `torch.export` program (.pt2). Reading one may run code stored in it: only for files the user trusts."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, first_line, plural, summary
from workbench.model.export.torch_exporters import NETWORK_ERRORS
from workbench.model.source.info import SourceInfo, checked_info

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


LARGEST_BATCH = 64  # photos; a program must take at least so many at once
PROBE_SIDE = 224  # pixels, for a program that leaves height and width free
EXPORT_HINT = (
    "export it again in eval mode with a free batch size: torch.export.export(model.eval(), "
    "(torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: torch.export.Dim('batch')},))"
)
# Operators that differ in training, and the argument that switches them.
DROPOUTS = {"aten.dropout.default": 2, "aten.native_dropout.default": 2}
TRAINING_ARGUMENT = {"aten.batch_norm.default": 5, **DROPOUTS}


def describe(path: Path) -> SourceInfo:
    """The classes and the input size that the program fixes. Raises WorkbenchError where it is no
    classifier of RGB photos."""
    images, logits = _check(_read(path), path)
    side = images.shape[2] if isinstance(images.shape[2], int) else None
    classes = logits.shape[1] if isinstance(logits.shape[1], int) else None
    return checked_info({"kind": "torch-export", "num_classes": classes, "preprocess": {"crop": side}}, path)


def load(path: Path) -> "torch.nn.Module":
    """The program as a module in float32, on the CPU. Raises WorkbenchError."""
    import torch

    program = _read(path)
    images, _ = _check(program, path)
    if any(tensor.device.type != "cpu" for tensor in program.state_dict.values()):
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, "cpu")
    network = _fix_mode(program.module().float())
    if images.dtype != torch.float32:
        _probe(network, images, path)
    return network


def _fix_mode(program: "torch.nn.Module") -> "torch.nn.Module":
    """Wrap a program so that `eval()` works: its mode is part of its graph, and setting it would raise."""
    import torch

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program
            for module in self.modules():
                module.training = False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.program(images)
            return logits

        def train(self, mode: bool = True) -> "Program":  # noqa: ARG002
            return self

    return Program()


def _read(path: Path) -> "ExportedProgram":
    import torch

    try:
        with path.open("rb") as file:  # a path would have to end in .pt2
            program: ExportedProgram = torch.export.load(file)
    except (*NETWORK_ERRORS, OSError, EOFError, ImportError, pickle.UnpicklingError) as error:
        raise WorkbenchError(
            f"model.checkpoint: torch cannot read the program {path}: {summary(error)}",
            hint="export it again with the torch installed here",
        ) from error
    return program


def _check(program: "ExportedProgram", path: Path) -> tuple[Any, Any]:
    """The (fake) tensors that go in and come out. Raises WorkbenchError."""
    import torch

    nodes = {node.name: node for node in program.graph.nodes}
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise WorkbenchError(
            f"model.checkpoint: {path} has {plural(len(inputs), 'input')} and "
            f"{plural(len(outputs), 'output')}: a classifier has one of each",
            hint="export a module whose forward takes the photos and gives the logits alone",
        )
    images, logits = (nodes[str(name)].meta.get("val") for name in (inputs[0], outputs[0]))
    if not (isinstance(images, torch.Tensor) and images.ndim == 4 and images.is_floating_point()):
        raise WorkbenchError(
            f"model.checkpoint: {path} takes {_shown(images)}: photos go in as float (N, 3, height, width)"
        )
    if not (isinstance(logits, torch.Tensor) and logits.ndim == 2):
        raise WorkbenchError(
            f"model.checkpoint: {path} gives {_shown(logits)}: a classifier gives (N, classes)"
        )
    _check_shape(program, images, path)
    places = [(node.args, TRAINING_ARGUMENT.get(str(node.target))) for node in program.graph.nodes]
    if any(place is not None and args[place : place + 1] == (True,) for args, place in places):
        raise WorkbenchError(
            f"model.checkpoint: {path} was exported in training mode: its answers depend on chance or on the "
            "other photos of a batch",
            hint=EXPORT_HINT,
        )
    return images, logits


def _check_shape(program: "ExportedProgram", images: Any, path: Path) -> None:
    batch, channels, height, width = images.shape
    if isinstance(channels, int) and channels != 3:
        raise WorkbenchError(
            f"model.checkpoint: {path} takes {plural(channels, 'channel')}: photos are RGB, 3 channels"
        )
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise WorkbenchError(
            f"model.checkpoint: {path} takes photos of {height} x {width} (height x width): photos are cut "
            "to a square",
            hint="export it with a square input",
        )
    if isinstance(batch, int):
        raise WorkbenchError(
            f"model.checkpoint: {path} was exported for batches of {batch} and takes no other",
            hint=EXPORT_HINT,
        )
    limits = program.range_constraints.get(batch.node.expr)
    if limits is not None and not (limits.lower <= 1 and limits.upper >= LARGEST_BATCH):
        raise WorkbenchError(
            f"model.checkpoint: {path} was exported for batches of {limits.lower} to {limits.upper}; "
            f"expected 1 to {LARGEST_BATCH} at least",
            hint=EXPORT_HINT,
        )


def _probe(network: "torch.nn.Module", images: Any, path: Path) -> None:
    """Run a program once: one of half precision, now with float32 weights, must not cast back to half."""
    import torch

    height, width = (side if isinstance(side, int) else PROBE_SIDE for side in images.shape[2:])
    try:
        with torch.inference_mode():
            made = network(torch.zeros(2, 3, height, width)).dtype
    except NETWORK_ERRORS as error:
        made = first_line(error)
    if made != torch.float32:
        raise WorkbenchError(
            f"model.checkpoint: {path} computes in {images.dtype} and cannot be turned to float32: {made}",
            hint="export the network in float32 (`model.float()`): the recipes make it smaller",
        )


def _shown(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
