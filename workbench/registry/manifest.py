"""`manifest.json`: the record of a bundle."""

import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from workbench.backends import Runtime
from workbench.backends.abstention import Abstention
from workbench.backends.artifact import ArtifactInfo, Companion
from workbench.backends.softmax import OutputKind
from workbench.errors import WorkbenchError, plural
from workbench.photos.overlap import Separation
from workbench.registry.batch_gain import Batching
from workbench.registry.explanation import ExplanationMethod
from workbench.registry.semver import is_version
from workbench.results.records import Recorded, TrialResult
from workbench.results.remarks import Remark
from workbench.system.machine import Machine
from workbench.system.records import Record, Sha256, parse_record

MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.npz"
CARD_NAME = "MODEL_CARD.md"

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ALIAS_PATTERN = re.compile(rf"{NAME_PATTERN.pattern}(@{NAME_PATTERN.pattern})?")


def check_name(text: str, what: str) -> str:
    """Return `text`. Raises WorkbenchError where it cannot be the name of a model or an alias."""
    if NAME_PATTERN.fullmatch(text) is None:
        raise WorkbenchError(
            f"`{text[:64]}` is not a name for {what}",
            hint="use lower-case letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first",
        )
    return text


def check_alias(text: str) -> str:
    """Return `text`. Raises WorkbenchError where it is no alias, nor one of a class (`production@pi5`)."""
    if ALIAS_PATTERN.fullmatch(text) is None:
        name, _, device_class = text.partition("@")
        check_name(name, "an alias")
        check_name(device_class, "a class of devices")
    return text


def _plain(path: str) -> str:
    # On another system `a\b` and `C:x` are paths too.
    if path in ("", ".", "..", MANIFEST_NAME) or not path.isprintable() or set(path) & set("/\\:"):
        raise ValueError(f"`{path}` is not a plain file name")
    return path


class FileEntry(Record):
    """A file of a bundle. path: its name, as bundles have no folders inside."""

    path: Annotated[str, AfterValidator(_plain)]
    size_bytes: NonNegativeInt
    sha256: Sha256


class Golden(Record):
    """Images whose logits a server must give within `atol` (absolute), with the same top-1 classes.

    file: an .npz with `pixels` (n, height, width, 3) uint8 and `logits` (n, classes) float32.
    """

    file: str
    images: PositiveInt
    atol: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]


class Provenance(Record):
    """forced: why it was published against the tool's advice. synthetic: measured on the sample's photos.

    separation: what the validation photos share with those of training and calibration; None of older runs.
    """

    run_id: str
    variant: str
    variant_digest: str
    checkpoint_digest: str
    validation_digest: str
    calibration_digest: str | None
    libraries: dict[str, str]
    forced: str | None
    synthetic: bool = False
    separation: Separation | None = None


class MeasuredOn(Record):
    """A device that a version was measured on, as its fleet names it. run_id: of its results."""

    device_class: str
    device: str
    run_id: str
    machine: Machine
    libraries: dict[str, str]


class Draft(Record):
    """A manifest without its list of files. outputs: what the network gives. remarks: of the run on it.

    explanation: how answers are explained, where that was asked for at promotion; else by occlusion.
    measured_on: the devices of the class that it was published for; none where it is for all machines.
    abstention: when an answer is uncertain; None where that was not asked for, and in older bundles.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    created_at: datetime
    artifact: ArtifactInfo
    runtime: Runtime
    class_names: tuple[str, ...]
    preprocess: Recorded
    outputs: OutputKind = "logits"
    golden: Golden
    measured: TrialResult
    machine: Machine
    provenance: Provenance
    batching: Batching | None = None
    explanation: ExplanationMethod | None = None
    remarks: tuple[Remark, ...] = ()
    measured_on: tuple[MeasuredOn, ...] = ()
    abstention: Abstention | None = None

    def _map_files(self) -> tuple[str, ...]:
        return self.explanation.maps.files if self.explanation and self.explanation.maps else ()

    @model_validator(mode="after")
    def _consistent(self) -> "Draft":
        if NAME_PATTERN.fullmatch(self.name) is None:
            raise ValueError(f"`{self.name}` is not a name for a model")
        if not is_version(self.version):
            raise ValueError(f"`{self.version}` is not a version number")
        for file in (
            self.artifact.file,
            *[other.file for other in self.artifact.companions],
            *self._map_files(),
        ):
            _plain(file)
        if (names := len(self.class_names)) != (classes := self.artifact.classes):
            raise ValueError(f"{plural(names, 'class name')} for a model of {plural(classes, 'class')}")
        return self


class Manifest(Draft):
    """`manifest.json` of a bundle. files: every other file of the folder, sorted by path."""

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_fit(self) -> "Manifest":
        paths = [entry.path for entry in self.files]
        if paths != sorted(paths):
            raise ValueError("files are not sorted by path")
        # On some file systems two names that differ only in case are one file.
        if doubled := [path for path, n in Counter(path.casefold() for path in paths).items() if n > 1]:
            raise ValueError(f"files has `{doubled[0]}` twice")
        built: tuple[ArtifactInfo | Companion, ...] = (self.artifact, *self.artifact.companions)
        for recorded in built:
            entry = self.entry(recorded.file)
            if (entry.sha256, entry.size_bytes) != (recorded.sha256, recorded.size_bytes):
                raise ValueError(f"files and artifact disagree about `{recorded.file}`")
        self.entry(self.golden.file)
        for file in self._map_files():
            self.entry(file)
        return self

    def entry(self, path: str) -> FileEntry:
        """Raises ValueError where `files` has no such path."""
        if (found := next((entry for entry in self.files if entry.path == path), None)) is None:
            raise ValueError(f"files does not list `{path}`")
        return found


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """path: for messages. Raises WorkbenchError with every field that is wrong."""
    return parse_record(data, path, Manifest, what="manifest")
