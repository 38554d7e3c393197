"""Facts that a model source states: its classes, and the preprocessing of its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import PositiveInt, TypeAdapter, ValidationError

from workbench.errors import WorkbenchError, plural
from workbench.photos.contract import Interpolation, StatedPreprocess, Triple, joined
from workbench.system.records import Record, problems_of

Kind = Literal["state-dict", "torchscript", "torch-export", "onnx", "transformers", "factory"]
Layout = Literal["lightning", "plain"]

NAMES: dict[Kind, str] = {
    "state-dict": "state dict",
    "torchscript": "TorchScript file",
    "torch-export": "torch.export program",
    "onnx": "ONNX file",
    "transformers": "transformers folder",
    "factory": "network as its factory returns it",
}


class SourceInfo(Record):
    """Facts that a source states; None for those that it does not.

    network: the name of its architecture. stated_in: the file or library that states the preprocessing; None:
    the checkpoint itself. weights: which of the file's were taken, and what else is in it. notes: differences
    between the source's own preprocessing and ours, as sentences.
    """

    kind: Kind
    layout: Layout | None = None
    class_names: tuple[str, ...] | None = None
    num_classes: PositiveInt | None = None
    preprocess: StatedPreprocess = StatedPreprocess()
    network: str | None = None
    stated_in: str | None = None
    weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """One line: `transformers folder (ViT...): 38 classes, named; crop 224, mean ..., from ...`."""
        what = "Lightning checkpoint" if self.layout == "lightning" else NAMES[self.kind]
        count = self.num_classes or (self.class_names and len(self.class_names))
        named = "named" if self.class_names else "without names"
        classes = f"{plural(count, 'class')}, {named}" if count else "says nothing of its classes"
        stated = self.preprocess.words() or "says nothing of its preprocessing"
        origin = f", from {self.stated_in}" if self.stated_in and self.preprocess.words() else ""
        network = f" ({self.network})" if self.network else ""
        return "; ".join([f"{what}{network}: {classes}", f"{stated}{origin}", *self.weights])


def checked_info(known: Mapping[str, object], where: object) -> SourceInfo:
    """Validate the facts of a file. Raises WorkbenchError naming every part of the wrong type."""
    try:
        return SourceInfo.model_validate(known)
    except ValidationError as error:
        problems = "; ".join(problems_of(error))
        raise WorkbenchError(f"{where} describes its model in a way we cannot use: {problems}") from error


def folded(
    scale: object, mean: object, std: object, where: str, *, offset: float = 0.0
) -> tuple[list[float] | None, list[float] | None]:
    """mean and std in units of [0, 1], for pixels multiplied by `scale` and lowered by `offset` first.

    (255 s u - offset - mean)/std with u in [0, 1] is (u - (mean + offset)/(255 s)) / (std/(255 s)).
    Raises WorkbenchError where they are no numbers, or scale or std is not above 0.
    """
    try:
        factor = 255 * TypeAdapter(float).validate_python(scale)
        means, stds = (TypeAdapter(Triple | None).validate_python(value) for value in (mean, std))
    except ValidationError as error:
        raise WorkbenchError(f"{where}: mean and std must be three numbers, scale a number") from error
    if factor <= 0 or (stds is not None and min(stds) <= 0):
        raise WorkbenchError(f"{where}: scale and std must be above 0")
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    return means and [(x + offset) / factor for x in means], stds and [x / factor for x in stds]


def interpolation(value: object, where: str) -> str | None:
    """A filter's name, also as `InterpolationMode.BILINEAR`. Raises WorkbenchError for an unknown one."""
    if value is None:
        return None
    name = str(value).rpartition(".")[2].lower()
    if name not in get_args(Interpolation):
        raise WorkbenchError(
            f"{where}.interpolation is `{value}`; known are {', '.join(get_args(Interpolation))}",
            hint="set `preprocess.interpolation` in krishi.yaml and leave it out of the checkpoint",
        )
    return name


def onnx_info(path: Path) -> SourceInfo:
    """The classes and the input's size that an ONNX file states."""
    from workbench.model.graph.onnx_source import describe_source

    facts = describe_source(path)
    height, width = facts.input_shape[2:]
    fixed = joined((height or width, width or height))
    stated = StatedPreprocess(crop=fixed or None)
    return SourceInfo(kind="onnx", num_classes=facts.classes, preprocess=stated)
