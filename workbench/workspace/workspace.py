"""The workspace: which model, on which data, within which budget (`krishi.yaml`)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.model.source.model_source import ModelSource
from workbench.photos.contract import Decode, StatedPreprocess
from workbench.results.records import Budget
from workbench.system.folders import cache_folder
from workbench.system.records import Record, dotted
from workbench.workspace import yamlfile
from workbench.workspace.sample import sample_folder

FILE_NAME = "krishi.yaml"
KIND = "workspace"
SAMPLE_NAME = "leaf-sample"


class DataSection(Record):
    """Folders of class folders, or CSV files of path,label. They must not share photos."""

    calibration: Path | None = None
    validation: Path


class WorkspacePreprocess(StatedPreprocess):
    """What a source may state of the preprocessing, and how photos are decoded, which none does."""

    decode: Decode | None = None


class WorkspaceFile(Record):
    """`krishi.yaml`. Paths are relative to the file.

    preprocess: what the checkpoint does not say, or says wrongly; each key given here wins.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)] | None = None
    model: ModelSource
    data: DataSection
    preprocess: WorkspacePreprocess = WorkspacePreprocess()
    budget: Budget = Budget()
    registry: Path = Path("registry")
    results: Path = Path("results")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace with every path absolute. `file` is None for the bundled sample.

    synthetic: the photos are generated, which every report must say.
    """

    name: str
    root: Path
    file: Path | None
    model: ModelSource
    calibration: Path | None
    validation: Path
    preprocess: WorkspacePreprocess
    budget: Budget
    registry: Path
    results: Path
    synthetic: bool = False


def find(given: Path | None, start: Path) -> Workspace:
    """The workspace named on the command line, else the nearest `krishi.yaml` from `start` upwards, else
    the bundled sample, whose results and registry then live under `start`.

    given: a folder holding `krishi.yaml`, or such a file. Raises WorkbenchError.
    """
    if given is not None:
        return load(given / FILE_NAME if given.is_dir() else given)
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return load(folder / FILE_NAME)
    return sample(start)


def load(path: Path) -> Workspace:
    """Read `krishi.yaml` and make sure that what it names is there."""
    document = yamlfile.read(path, kind=KIND)
    content = yamlfile.validated(WorkspaceFile, document.data, document, kind=KIND)
    root = path.resolve().parent

    def there(place: tuple[str, ...], value: Path) -> Path:
        absolute = root / value
        if not absolute.exists():
            raise WorkbenchError(
                f"{document.where(place)}: {dotted(place)}: {absolute} does not exist",
                hint="paths are relative to the folder of krishi.yaml",
            )
        return absolute

    model = content.model.model_copy(
        update={
            "checkpoint": content.model.checkpoint
            and there(("model", "checkpoint"), content.model.checkpoint),
            "import_from": root / (content.model.import_from or ""),
            "factory": _absolute_factory(content.model.factory, there),
            "class_names": content.model.class_names
            and there(("model", "class_names"), content.model.class_names),
        }
    )
    calibration = content.data.calibration
    _check_apart(document, root, content)
    return Workspace(
        name=content.name or _slug(root.name),
        root=root,
        file=path.resolve(),
        model=model,
        calibration=calibration and there(("data", "calibration"), calibration),
        validation=there(("data", "validation"), content.data.validation),
        preprocess=content.preprocess,
        budget=content.budget,
        registry=root / content.registry,
        results=root / content.results,
    )


def _check_apart(document: yamlfile.Document, root: Path, content: WorkspaceFile) -> None:
    """What is written must not land among the photos, nor results in the registry."""
    written = {"registry": root / content.registry, "results": root / content.results}
    data = {"data.validation": root / content.data.validation}
    if content.data.calibration is not None:
        data["data.calibration"] = root / content.data.calibration
    for key, folder in written.items():
        others = {**data, **{name: path for name, path in written.items() if name != key}}
        for name, other in others.items():
            if folder.resolve().is_relative_to(other.resolve()):
                raise WorkbenchError(
                    f"{document.where((key,))}: {key}: {folder} lies in `{name}`",
                    hint="choose a folder of its own",
                )


def sample(start: Path) -> Workspace:
    """The bundled workspace: a small student trained on generated leaf photographs.

    The photos are not there before `workbench.workspace.sample.ensure_sample` drew them.
    """
    here = Path(__file__).parent / "sample"
    data = sample_folder(cache_folder()) / "data"
    return Workspace(
        name=SAMPLE_NAME,
        root=start,
        file=None,
        model=ModelSource(
            checkpoint=here / "student.ckpt", factory=f"{here / 'student.py'}:create_model", factory_args={}
        ),
        calibration=data / "calib",
        validation=data / "val",
        preprocess=WorkspacePreprocess(),
        budget=Budget(),
        registry=start / "registry",
        results=start / "results",
        synthetic=True,
    )


def _absolute_factory(factory: str | None, there: Callable[[tuple[str, ...], Path], Path]) -> str | None:
    if factory is None or not factory.partition(":")[0].endswith(".py"):
        return factory
    file, _, callable_name = factory.partition(":")
    return f"{there(('model', 'factory'), Path(file))}:{callable_name}"


def _slug(name: str) -> str:
    """A folder's name as a model's: ASCII letters, digits, `.`, `_` and `-`."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")
    return slug[:60] or "model"
