"""Export a torch network to a file for a runtime: ONNX with the requested opset, or torch's formats."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends.artifact import ArtifactInfo, Format, Precision
from workbench.backends.base import Hint
from workbench.backends.common import filled
from workbench.backends.torch.cuda import tensor_float
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import Unsuited, WorkbenchError, first_line
from workbench.model.export.comparison import (
    BRANCHES,
    TOLERANCE,
    compare,
    refuse_branches,
    steady_logits,
    torch_logits,
)
from workbench.model.export.settings import Export, Exporter, choices, failure, other_exporter
from workbench.model.export.torch_exporters import (
    chatter_on_stderr,
    write_onnx,
    write_package,
    write_program,
)
from workbench.model.graph.onnx_file import OnnxFacts, describe, load, logits_of
from workbench.model.graph.onnx_source import companions, describe_source, load_source, mend
from workbench.system.files import sha256_file
from workbench.system.machine import collect

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


Shape = tuple[int, int, int, int]
QUANTISED = 0.05  # likewise, of a network trained quantised: values between two levels may round either way
# bf16 keeps 8 bits, 0.4 % per rounding, tf32 and f16 three more; a deep network rounds many times. The
# tolerance tells a wrong program from a coarse one; the accuracy shows the cost of the coarseness.
COARSE: dict[Hint, float] = {"bf16": 0.1, "f16": 0.05, "tf32": 0.05}
STORED: dict[str, Precision] = {"bf16": "bf16", "f16": "fp16"}  # of a compiled package's frozen weights
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes; the weights must leave room for the graph


@dataclass(frozen=True, slots=True)
class ExportReport:
    """max_abs: the largest difference of a logit from torch's. max_rel: that over torch's largest logit.

    exporter: that wrote the file. passed_over: the exporter that `auto` tried before it, and why it failed;
    None where it took the first.
    """

    max_abs: float
    max_rel: float
    opset: int
    classes: int
    exporter: Exporter
    passed_over: str | None = None


def export_onnx(
    model: "torch.nn.Module", export: Export, target: Path, input_shape: Shape, samples: "NDArray[np.float32]"
) -> ExportReport:
    """Write one self-contained ONNX file and compare its logits with torch's, in onnxruntime on the CPU.

    input_shape: (N, C, H, W); N is the batch size where `export.dynamic_batch` is false.
    samples: (n, C, H, W) preprocessed photos, at least one.
    Exporter `auto` takes the first that works. Raises WorkbenchError, and leaves no file, where the file has
    another opset, where the exporter fails, or where the logits differ by more than TOLERANCE.
    """
    assert samples.shape[1:] == input_shape[1:]
    tried = choices(export, scripted=_scripted(model))
    _refuse_large(model)
    expected = steady_logits(model, samples)
    problems: list[str] = []
    for choice in tried:
        try:
            report = _export_by(model, choice, target, input_shape, samples, expected)
        except WorkbenchError as error:
            if len(tried) == 1:
                raise
            reason = error.message.removeprefix(failure(choice))
            problems.append(f"{choice.exporter}, opset {choice.opset}: {reason}")
        else:
            return dataclasses.replace(report, passed_over=problems[0] if problems else None)
    listed = "\n".join(f"  {problem}" for problem in problems)
    raise WorkbenchError(
        f"no exporter can take the network\n{listed}",
        hint="mend its forward for one of them, or give an `.onnx` file of it as `model.checkpoint`",
    )


def _scripted(model: "torch.nn.Module") -> bool:
    import torch

    return isinstance(model, torch.jit.ScriptModule)


def _export_by(
    model: "torch.nn.Module",
    export: Export,
    target: Path,
    input_shape: Shape,
    samples: "NDArray[np.float32]",
    expected: "NDArray[np.float32]",
) -> ExportReport:
    size = 2 if export.dynamic_batch else max(1, input_shape[0])  # the exporter would make 1 a constant
    with _removed_on_error(target):
        other = None if _scripted(model) else other_exporter(export)
        write_onnx(model, export, target, filled(samples[:size], size), hint=other)
        facts = _check_file(target, export, (0 if export.dynamic_batch else size, *input_shape[1:]))
        tolerance = QUANTISED if facts.precision == "int8" else TOLERANCE

        def run(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
            return logits_of(target, facts, batch)

        hint = f"{f'{other}; ' if other else ''}{BRANCHES}"
        max_abs, max_rel = compare(expected, samples, run, hint, tolerance)
        if export.exporter == "torchscript":
            refuse_branches(model, samples[:2], run, tolerance)
    return ExportReport(max_abs, max_rel, facts.opset, facts.classes, export.exporter)


def export_torch(
    model: "torch.nn.Module",
    target: Path,
    input_shape: Shape,
    samples: "NDArray[np.float32]",
    runtime: TorchRuntime,
) -> Format:
    """Write the network for the torch backend and compare its logits with torch's.

    A TorchScript module stays one; any other becomes a torch.export program with a free batch size.
    runtime.compile: write a package that is compiled ahead of time for its device, where the model stays,
    `batch` photos a call, `intra_threads` and `precision`; the other formats leave these to the session.
    samples, errors: as in `export_onnx`; Unsuited where the network cannot be compiled here.
    """
    import torch

    assert samples.shape[1:] == input_shape[1:]
    expected = steady_logits(model, samples)
    if runtime.compile:
        _compile(model, target, samples, expected, runtime)
        return "torch-aoti"
    with _removed_on_error(target), chatter_on_stderr():
        if isinstance(model, torch.jit.ScriptModule):
            written: Format = "torchscript"
            model.save(str(target))
        else:
            written = "torch-export"
            write_program(model, target, filled(samples[:2], 2))
        reopened = _open_torch(target, written)
        compare(expected, samples, lambda given: torch_logits(reopened, given))
    return written


def export_program(
    model: "torch.nn.Module", target: Path, input_shape: Shape, samples: "NDArray[np.float32]"
) -> ArtifactInfo:
    """Write a torch.export program of one photo a call, for converters, and compare its logits with torch's.

    samples, errors: as in `export_onnx`; Unsuited where the network comes as TorchScript.
    """
    if _scripted(model):
        raise Unsuited(
            "torch.export cannot read a TorchScript module, and the converters for phones begin from it",
            hint="give the checkpoint with `model.factory`",
        )
    assert samples.shape[1:] == input_shape[1:]
    expected = steady_logits(model, samples)
    with _removed_on_error(target), chatter_on_stderr():
        write_program(model, target, samples[:1], dynamic_batch=False)
        reopened = _open_torch(target, "torch-export")
        for row in range(len(samples)):
            photo = slice(row, row + 1)
            compare(expected[photo], samples[photo], lambda given: torch_logits(reopened, given))
    return torch_artifact_info(target, "torch-export", input_shape, batch=1)


def _compile(
    model: "torch.nn.Module",
    target: Path,
    samples: "NDArray[np.float32]",
    expected: "NDArray[np.float32]",
    runtime: TorchRuntime,
) -> None:
    if _scripted(model):
        raise Unsuited(
            "runtime.compile: a TorchScript module cannot be compiled ahead of time",
            hint="give the checkpoint with `model.factory`",
        )
    precision, threads, device = runtime.computes, runtime.intra_threads, runtime.device
    images = filled(samples[: runtime.batch], runtime.batch)
    rounding = tensor_float(precision == "tf32") if device == "cuda" else nullcontext()
    with _removed_on_error(target), chatter_on_stderr(), rounding:
        write_package(model, target, images, precision=precision, threads=threads, device=device)
        package, tolerance = _open_torch(target, "torch-aoti"), COARSE.get(precision, TOLERANCE)
        try:
            compare(expected, samples, lambda given: torch_logits(package, given), tolerance=tolerance)
        except WorkbenchError as error:
            if precision != "f16":
                raise
            raise WorkbenchError(
                f"runtime.precision: in f16, {error.message}", hint="f16 ends at 65504: try `bf16`"
            ) from error


def torch_artifact_info(path: Path, written: Format, input_shape: Shape, *, batch: int = 0) -> ArtifactInfo:
    """`artifact.json` of a finished torch file; classes are found by running it.

    batch: of the file; 0 where it is free, or a package says it.
    """
    import numpy as np

    model = _open_torch(path, written)
    classes = {
        torch_logits(model, np.zeros((n, *input_shape[1:]), np.float32)).shape[1]
        for n in ((batch,) if batch else (1, 3))
    }
    package = model if isinstance(model, Package) else None
    return ArtifactInfo(
        format=written,
        file=path.name,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        precision=STORED.get(package.precision, "fp32") if package else "fp32",
        input_shape=(package.batch if package else batch, *input_shape[1:]),
        classes=classes.pop(),
        bound_to=(package.bound_to or collect().processor) if package else None,
    )


def adopt_onnx(source: Path, export: Export | None, target: Path) -> OnnxFacts:
    """Copy an ONNX file that is a classifier as it is; weights in other files come into the one, and what
    ONNX writes otherwise is mended (see `onnx_source.mend`).

    Raises WorkbenchError where it is none (see `onnx_source.describe_source`), or contradicts a key that the
    recipe sets in `export`; defaults contradict nothing.
    """
    import onnx

    facts = describe_source(source)
    asked = {} if export is None else export.model_dump(exclude_unset=True)
    if asked.get("opset", facts.opset) != facts.opset:
        raise WorkbenchError(
            f"export.opset: the recipe asks for opset {asked['opset']}, {source.name} has {facts.opset}",
            hint="an ONNX file is taken as it is: leave `export` out, or give the torch checkpoint",
        )
    if asked.get("dynamic_batch", facts.dynamic_batch) != facts.dynamic_batch:
        has = "free" if facts.dynamic_batch else f"fixed at {facts.input_shape[0]}"
        raise WorkbenchError(f"export.dynamic_batch: the batch size of {source.name} is {has}")
    with _removed_on_error(target):
        model = load_source(source)
        if mend(model) or companions(source):
            onnx.save(model, target)
        else:
            target.write_bytes(source.read_bytes())
        try:
            onnx.checker.check_model(str(target))
        except onnx.checker.ValidationError as error:
            raise WorkbenchError(f"{source} is not valid ONNX: {first_line(error)}") from error
    return facts


@dataclass(frozen=True, slots=True)
class Package:
    """A compiled package for any number of photos of the host, `batch` at a time.

    bound_to: the machine that a package for a GPU was made for; None for one for the CPU.
    """

    forward: "Callable[[torch.Tensor], torch.Tensor]"
    batch: int
    precision: str
    device: str
    bound_to: str | None

    def __call__(self, images: "torch.Tensor") -> "torch.Tensor":
        import torch

        starts = range(0, len(images), self.batch)
        parts = [filled(images[start : start + self.batch].numpy(), self.batch) for start in starts]
        logits = [self.forward(torch.from_numpy(part).to(self.device)).cpu() for part in parts]
        return torch.cat(logits)[: len(images)]


def _open_torch(path: Path, written: Format) -> "torch.nn.Module | Package":
    import torch

    if written == "torchscript":
        from workbench.model.source.checkpoint_file import load_torchscript

        return load_torchscript(path)
    if written == "torch-aoti":
        from workbench.backends.torch.backend import open_package

        forward, facts = open_package(path.read_bytes(), 1, path.name)
        device, bound_to = facts.get("device", "cpu"), facts.get("bound_to")
        return Package(forward, int(facts["batch"]), facts["precision"], device, bound_to)
    with path.open("rb") as file:
        module: torch.nn.Module = torch.export.load(file).module()
    return module


def _check_file(path: Path, export: Export, wanted: Shape) -> OnnxFacts:
    """Raise WorkbenchError where the file is invalid or has another opset or input."""
    import onnx

    load(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WorkbenchError(
            f"exporter `{export.exporter}` wrote an invalid file: {first_line(error)}"
        ) from error
    facts = describe(path)
    if facts.opset != export.opset:
        raise WorkbenchError(
            f"export.opset: asked for opset {export.opset}, exporter `{export.exporter}` wrote {facts.opset}",
            hint=other_exporter(export),
        )
    if facts.input_shape != wanted:
        raise WorkbenchError(
            f"exporter `{export.exporter}` wrote an input of shape {facts.input_shape}, asked for {wanted} "
            "(0: free)",
            hint="its forward turns the batch size into a constant, as `len(x)` does and `x.shape[0]` "
            "does not: mend it, or set `export.dynamic_batch: false`",
        )
    return facts


def _refuse_large(model: "torch.nn.Module") -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > PROTOBUF_LIMIT:
        raise WorkbenchError(
            f"the network has {size / 1e9:.1f} GB of weights; one ONNX file holds at most 2 GB (protobuf)",
            hint="models are kept in one file so that they can be verified: choose a smaller network",
        )


@contextmanager
def _removed_on_error(target: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        target.unlink(missing_ok=True)
        raise
