"""`krishi-bench export`: one checkpoint to one ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workbench.backends.artifact import ExportRecord
from workbench.errors import WorkbenchError
from workbench.model.export.comparison import torch_logits
from workbench.model.export.export import ExportReport, Shape, export_onnx
from workbench.model.export.reparameterize import write_merged
from workbench.model.export.settings import Export, Exporter, check_opset
from workbench.model.source.checkpoint_file import kind_of
from workbench.model.source.model_source import ModelSource, load_with_words, source_digest
from workbench.photos.contract import ImageError
from workbench.photos.dataset import scan
from workbench.photos.preprocess import normalize, read_pixels
from workbench.run.prepare import inspect, resolve_contract
from workbench.system.child import call
from workbench.system.files import cache_folder, new_file
from workbench.system.progress import Progress, Report
from workbench.system.records import problems_of
from workbench.workspace.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


PROBES = 4  # inputs that torch's and ONNX's logits are compared on


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """factory, weights: None takes the workspace's."""

    checkpoint: Path
    output: Path
    input_shape: Shape
    opset: int
    exporter: Exporter = "auto"
    reparameterize: bool = True
    factory: str | None = None
    weights: str | None = None

    def settings(self) -> Export:
        """Raises WorkbenchError for an opset that the exporter does not write."""
        try:
            export = Export(exporter=self.exporter, opset=self.opset, reparameterize=self.reparameterize)
        except ValidationError as error:
            raise WorkbenchError(f"--opset-version {self.opset}: {'; '.join(problems_of(error))}") from error
        check_opset(export)
        return export


@dataclass(frozen=True, slots=True)
class Exported:
    """no_photos: why it was compared on random inputs; empty where it was not. weights: sentences on which of
    the checkpoint's were taken."""

    output: Path
    report: ExportReport
    record: ExportRecord
    size_bytes: int
    no_photos: str
    weights: tuple[str, ...] = ()


def export_checkpoint(workspace: Workspace, request: ExportRequest, report: Report) -> Exported:
    """Export in a process of its own; the output appears complete or not at all. Raises WorkbenchError."""
    _check_output(request.output, request.checkpoint, workspace)
    export = request.settings()
    report(Progress("exporting", 0, 1, f"exporter {export.exporter}, opset {export.opset}"))
    source = _source(workspace, request.checkpoint, request.factory)
    if request.weights is not None:
        if kind_of(request.checkpoint) != "state-dict":
            raise WorkbenchError(
                f"--weights {request.weights}: {request.checkpoint} is a whole network, and has one set",
                hint="leave `--weights` out",
            )
        source = source.model_copy(update={"weights": request.weights})
    probes, no_photos = _photos(workspace, source, request.input_shape)
    log = cache_folder() / "logs" / "export.txt"
    with new_file(request.output) as temporary:
        temporary.touch()  # where nothing can be written, an exporter would be blamed
        given = (source, export, temporary, request.input_shape, probes)
        made, record, weights = call(export_here, *given, log=log, timeout_s=1800.0, label="the export")
    return Exported(request.output, made, record, request.output.stat().st_size, no_photos, weights)


def _check_output(output: Path, checkpoint: Path, workspace: Workspace) -> None:
    """Raise WorkbenchError where the export would replace a file that it is made from."""
    if output.is_dir() or not output.name:
        hint = "name the file to write, such as model.onnx"
        raise WorkbenchError(f"--output: {output} is a folder", hint=hint)
    sources = (checkpoint, workspace.model.checkpoint, workspace.model.class_names, workspace.file)
    if output.resolve() in {source.resolve() for source in sources if source is not None}:
        hint = "choose another file"
        raise WorkbenchError(f"--output: {output} is what the export is made from", hint=hint)


def export_here(
    source: ModelSource,
    export: Export,
    target: Path,
    input_shape: Shape,
    probes: "NDArray[np.float32] | None",
) -> tuple[ExportReport, ExportRecord, tuple[str, ...]]:
    """The part of `export_checkpoint` that loads torch."""
    import numpy as np

    if probes is None:
        probes = np.random.default_rng(0).standard_normal((PROBES, *input_shape[1:]), dtype=np.float32)
    (model, weights), inputs = load_with_words(source, None), probes

    def write(network: "torch.nn.Module") -> ExportReport:
        return export_onnx(network, export, target, input_shape, inputs)

    report, merging = write_merged(model, inputs, torch_logits, write, merge=export.reparameterize)
    record = ExportRecord(exporter=report.exporter, passed_over=report.passed_over, merging=merging)
    return report, record, weights


def _source(workspace: Workspace, checkpoint: Path, factory: str | None) -> ModelSource:
    """The checkpoint with the given factory, else the workspace's; the sample's fits the sample only."""
    model = workspace.model
    if factory is not None:
        return ModelSource(checkpoint=checkpoint, factory=factory)
    if model.checkpoint is not None and checkpoint.resolve() == model.checkpoint.resolve():
        return model
    if not workspace.synthetic and model.factory is not None:
        return model.model_copy(update={"checkpoint": checkpoint})
    if kind_of(checkpoint) == "state-dict":
        raise WorkbenchError(
            f"{checkpoint} is a state dict: weights without a network",
            hint="name the function that builds it: `--factory file.py:callable`",
        )
    return ModelSource(checkpoint=checkpoint)


def _photos(
    workspace: Workspace, source: ModelSource, input_shape: Shape
) -> "tuple[NDArray[np.float32] | None, str]":
    """A few photos (n, 3, H, W), or why there are none."""
    import numpy as np

    if not workspace.validation.exists():
        return None, "there is no workspace with photos"
    if source != workspace.model:
        return None, f"the model of {workspace.file or 'the bundled sample'} is another one"
    contract = resolve_contract(workspace, inspect(source, source_digest(source), cache_folder()))
    if input_shape[1:] != (3, *contract.size):
        return None, f"the workspace's photos become {' x '.join(map(str, contract.size))} (height x width)"
    paths = scan(workspace.validation, (), field="data.validation", labelled=False).paths
    spread = [paths[index] for index in np.linspace(0, len(paths) - 1, PROBES).astype(int)]
    try:
        return normalize(np.stack([read_pixels(path, contract) for path in spread]), contract), ""
    except (ImageError, OSError) as error:
        raise WorkbenchError(f"data.validation: a photo cannot be read: {error}") from error
