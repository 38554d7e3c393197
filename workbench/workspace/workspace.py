"""The workspace: which model, on which data, within which budget (`krishi.yaml`)."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from workbench.backends import Target
from workbench.backends.abstention import RiskLimits
from workbench.errors import WorkbenchError
from workbench.model.source.model_source import ModelSource
from workbench.photos.contract import Decode, Preprocess, StatedPreprocess
from workbench.results.records import Budget
from workbench.system.files import cache_folder
from workbench.system.records import Record, dotted
from workbench.workspace import yamlfile
from workbench.workspace.sample import CHECKPOINT, STUDENT, sample_folder

FILE_NAME = "krishi.yaml"
KIND = "workspace"
SAMPLE_NAME = "leaf-sample"


def _once(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    if not targets or len(set(targets)) < len(targets):
        raise ValueError("a target is there twice" if targets else "name at least one target")
    return targets


class DataSection(Record):
    """The `data` section of krishi.yaml: sets of photos. Those of validation must not be in another."""

    calibration: Path | None = Field(
        None,
        description="Photos that INT8 ranges are found on: any folder of photos, or a CSV with the columns "
        "path,label. Steps `static_int8` and `nncf_int8` need it.",
    )
    validation: Path = Field(
        description="Photos that accuracy is measured on: a folder with one folder for each class, or a CSV "
        "with the columns path,label."
    )
    train: Path | None = Field(
        None,
        description="Photos that the network was trained on: any folder of photos, or a CSV. They are looked "
        "for among the validation photos, and used for nothing else.",
    )
    allow_overlap: bool = Field(
        False,
        description="Certify although validation photos are in `train` or `calibration` too, by content or "
        "by look. They stay listed in the results and in the manifest.",
    )


class WorkspacePreprocess(StatedPreprocess):
    """The `preprocess` section of krishi.yaml: keys that the checkpoint does not state, or states wrongly."""

    decode: Decode | None = Field(None, description=Preprocess.model_fields["decode"].description)


class WorkspaceFile(Record):
    """`krishi.yaml`: the model, its photos and the budget. Paths are relative to the file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)] | None = Field(
        None,
        description="Name of the model in the registry: lower-case letters, digits, `.`, `_` and `-`, 60 "
        "characters at most; by default the folder's name.",
    )
    model: ModelSource = Field(description="The trained network: section `model`.")
    data: DataSection = Field(description="The photos: section `data`.")
    preprocess: WorkspacePreprocess = Field(
        WorkspacePreprocess(),
        description="The preprocessing that the network was trained with: section `preprocess`. A key given "
        "here replaces what the checkpoint states.",
    )
    budget: Budget = Field(Budget(), description="Limits and objective of the winner: section `budget`.")
    abstain: RiskLimits = Field(
        RiskLimits(),
        description="How often an answer may be wrong that is not called uncertain: section `abstain`.",
    )
    targets: Annotated[tuple[Target, ...], AfterValidator(_once)] = Field(
        ("server",),
        description="What versions are made for, the most important first: `server`, `android`. Each has a "
        "winner of its own; `promote --target` publishes it.",
    )
    registry: Path = Field(Path("registry"), description="Folder of the published versions.")
    results: Path = Field(Path("results"), description="Folder of the runs.")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace with every path absolute. `file` is None for the bundled sample.

    train: the photos of the training; None where they are not named. allow_overlap: certify although they,
    or the calibration's, are among the validation photos.
    synthetic: the photos are generated; every report says so.
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
    abstain: RiskLimits = field(default_factory=RiskLimits)
    train: Path | None = None
    allow_overlap: bool = False
    targets: tuple[Target, ...] = ("server",)

    def photos(self) -> dict[str, Path]:
        """Where a user's own photos are, by their field; the sample's are none."""
        given = {
            "data.validation": self.validation,
            "data.calibration": self.calibration,
            "data.train": self.train,
        }
        return {field: path for field, path in given.items() if path is not None and not self.synthetic}


def find(given: Path | None, start: Path, *, inputs: bool = True) -> Workspace:
    """The given workspace, else the nearest `krishi.yaml` from `start` upwards, else the bundled sample, with
    its results and registry under `start`.

    given: a folder holding `krishi.yaml`, or such a file. inputs: as of `load`. Raises WorkbenchError.
    """
    if given is not None:
        return load(given / FILE_NAME if given.is_dir() else given, inputs=inputs)
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return load(folder / FILE_NAME, inputs=inputs)
    return sample(start)


def load(path: Path, *, inputs: bool = True) -> Workspace:
    """Read `krishi.yaml`. Raises WorkbenchError where a file or folder that it names does not exist.

    inputs: the model and the photos must be there; what reads results alone asks for neither.
    """
    document = yamlfile.read(path, kind=KIND)
    content = yamlfile.validated(WorkspaceFile, document.data, document, kind=KIND)
    root = path.resolve().parent
    content = _located(document, content, root)
    photos, existing = content.data, partial(_existing if inputs else _given, document)
    model = _absolute(content.model, root, existing)
    _check_apart(document, content)
    return Workspace(
        name=content.name or _slug(root.name),
        root=root,
        file=path.resolve(),
        model=model,
        calibration=photos.calibration and existing(("data", "calibration"), photos.calibration),
        validation=existing(("data", "validation"), photos.validation),
        preprocess=content.preprocess,
        budget=content.budget,
        registry=content.registry,
        results=content.results,
        abstain=content.abstain,
        train=photos.train and existing(("data", "train"), photos.train),
        allow_overlap=photos.allow_overlap,
        targets=content.targets,
    )


PATHS = {
    "model": ("checkpoint", "class_names", "import_from"),
    "data": ("calibration", "validation", "train"),
}


def _located(document: yamlfile.Document, content: WorkspaceFile, root: Path) -> WorkspaceFile:
    """The file with absolute paths. Raises WorkbenchError for those that mean nothing here."""

    def at(*place: str) -> Path | None:
        given = getattr(content if len(place) == 1 else getattr(content, place[0]), place[-1])
        return given and _path(document, place, root, given)

    sections = {
        section: getattr(content, section).model_copy(update={key: at(section, key) for key in keys})
        for section, keys in PATHS.items()
    }
    return content.model_copy(update={**sections, "registry": at("registry"), "results": at("results")})


def _path(document: yamlfile.Document, place: tuple[str, ...], root: Path, given: Path) -> Path:
    """A path of the file, `~` filled in. Raises WorkbenchError for a URL, a variable and a path of Windows
    that lead nowhere: nobody means to make a folder of that name."""
    path = root / _in_home(given)
    if "$" in str(given):
        hint = "variables are not filled in: write the path out, or begin it with `~`"
    elif re.match(r"[A-Za-z][\w+.-]*:[/\\]", str(given)) and not given.is_absolute():
        hint = "name a file or folder of this computer"
    elif "\\" in str(given) and os.sep == "/":
        hint = "write `/` between folders"
    else:
        return path
    if path.exists():
        return path
    raise WorkbenchError(f"{document.where(place)}: {dotted(place)}: {given} does not exist", hint=hint)


def _in_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: then it is a name
        return path


def _existing(document: yamlfile.Document, place: tuple[str, ...], path: Path) -> Path:
    """The path that the document gives at this place. Raises WorkbenchError where nothing is there."""
    if not path.exists():
        target = f" links to {path.readlink()}, which" if path.is_symlink() else ""
        raise WorkbenchError(
            f"{document.where(place)}: {dotted(place)}: {path}{target} does not exist",
            hint="paths are relative to the folder of krishi.yaml",
        )
    return path


def _given(_document: yamlfile.Document, _place: tuple[str, ...], path: Path) -> Path:
    return path


def _absolute(
    given: ModelSource, root: Path, existing: Callable[[tuple[str, ...], Path], Path]
) -> ModelSource:
    """The `model` section with absolute paths. Raises WorkbenchError where one does not exist."""
    file, _, function = (given.factory or "").partition(":")
    in_file = file.endswith(".py")
    names, checkpoint = given.class_names, given.checkpoint
    return given.model_copy(
        update={
            "checkpoint": checkpoint and existing(("model", "checkpoint"), checkpoint),
            "import_from": given.import_from or root,
            "factory": f"{existing(('model', 'factory'), root / _in_home(Path(file)))}:{function}"
            if in_file
            else given.factory,
            "class_names": names and existing(("model", "class_names"), names),
        }
    )


def _check_apart(document: yamlfile.Document, content: WorkspaceFile) -> None:
    """Raise WorkbenchError where the registry or the results are files, or lie among the photos or in each
    other."""
    written = {"registry": content.registry, "results": content.results}
    given = {name: getattr(content.data, name) for name in ("validation", "calibration", "train")}
    data = {f"data.{name}": path for name, path in given.items() if path is not None}
    for key, folder in written.items():
        if folder.is_file():
            raise WorkbenchError(
                f"{document.where((key,))}: {key}: {folder} is a file", hint="choose a folder of its own"
            )
        for name, other in {**data, **written}.items():
            if name != key and folder.resolve().is_relative_to(other.resolve()):
                raise WorkbenchError(
                    f"{document.where((key,))}: {key}: {folder} lies in `{name}`",
                    hint="choose a folder of its own",
                )


def sample(start: Path) -> Workspace:
    """The bundled workspace. `workbench.workspace.sample.ensure_sample` draws its photos."""
    data = sample_folder(cache_folder()) / "data"
    return Workspace(
        name=SAMPLE_NAME,
        root=start,
        file=None,
        model=ModelSource(checkpoint=CHECKPOINT, factory=f"{STUDENT}:create_model"),
        calibration=data / "calib",
        validation=data / "val",
        preprocess=WorkspacePreprocess(),
        budget=Budget(),
        registry=start / "registry",
        results=start / "results",
        synthetic=True,
    )


def _slug(name: str) -> str:
    """A folder's name as a model's: ASCII letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:60] or "model"
