"""`manifest.json`: what a bundle says about itself."""

import json
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.recorded import RecordedRuntime
from workbench.errors import WorkbenchError
from workbench.registry.batch_gain import Batching
from workbench.registry.semver import is_version
from workbench.results.records import Recorded, TrialResult
from workbench.system.machine import Machine

MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.npz"
CARD_NAME = "MODEL_CARD.md"
SCHEMA_VERSION = 1

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def check_name(text: str, what: str) -> str:
    """`text` itself, where it can be the name of a model or an alias. Raises WorkbenchError."""
    if NAME_PATTERN.fullmatch(text) is None:
        raise WorkbenchError(
            f"`{text[:64]}` is not a name for {what}",
            hint="use lower-case letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first",
        )
    return text


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain(path: str) -> str:
    # Read on another system, `a\b` and `C:x` are paths too.
    if path in ("", ".", "..", MANIFEST_NAME) or not path.isprintable() or set(path) & set("/\\:"):
        raise ValueError(f"`{path}` is not a plain file name")
    return path


class FileEntry(_Record):
    """A file of a bundle. path: its name; bundles have no folders inside."""

    path: str
    size_bytes: NonNegativeInt
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _is_plain(cls, path: str) -> str:
        return _plain(path)


class Golden(_Record):
    """`file`: an .npz with `pixels` (n, crop, crop, 3) uint8 and `logits` (n, classes) float32.

    A server must give these logits within `atol` (absolute) and the same top-1 classes.
    """

    file: str
    images: PositiveInt
    atol: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]


class Provenance(_Record):
    """Where a model came from. forced: why it was published against the tool's advice, else None.

    synthetic: it was measured on the bundled sample's drawn photos, not on real ones.
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


class Draft(_Record):
    """A manifest before its files are counted."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    created_at: datetime
    artifact: ArtifactInfo
    runtime: RecordedRuntime
    class_names: tuple[str, ...]
    preprocess: Recorded
    golden: Golden
    measured: TrialResult
    machine: Machine
    provenance: Provenance
    batching: Batching | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Draft":
        if NAME_PATTERN.fullmatch(self.name) is None:
            raise ValueError(f"`{self.name}` is not a name for a model")
        if not is_version(self.version):
            raise ValueError(f"`{self.version}` is not a version number")
        for file in (self.artifact.file, *[other.file for other in self.artifact.companions]):
            _plain(file)
        if len(self.class_names) != self.artifact.classes:
            raise ValueError(
                f"{len(self.class_names)} class names for a model of {self.artifact.classes} classes"
            )
        return self


class Manifest(Draft):
    """`manifest.json` of a bundle. `files` lists every other file of the folder, sorted by path."""

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_fit(self) -> "Manifest":
        paths = [entry.path for entry in self.files]
        if paths != sorted(paths):
            raise ValueError("files are not sorted by path")
        # On some file systems two names that differ only in case are one file.
        if doubled := [path for path, n in Counter(path.casefold() for path in paths).items() if n > 1]:
            raise ValueError(f"files has `{doubled[0]}` twice")
        recorded = [(self.artifact.file, self.artifact.sha256, self.artifact.size_bytes)]
        recorded += [(other.file, other.sha256, other.size_bytes) for other in self.artifact.companions]
        for file, sha256, size_bytes in recorded:
            entry = self.entry(file)
            if (entry.sha256, entry.size_bytes) != (sha256, size_bytes):
                raise ValueError(f"files and artifact disagree about `{file}`")
        self.entry(self.golden.file)
        return self

    def entry(self, path: str) -> FileEntry:
        """Raises ValueError where `files` has no such path."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise ValueError(f"files does not list `{path}`")


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """path: for messages. Raises WorkbenchError naming every field that is wrong."""
    check_schema(data, path, SCHEMA_VERSION)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise WorkbenchError(f"{path} is not a valid manifest\n  {describe(error)}") from error


def check_schema(data: bytes, path: Path, known: int) -> None:
    """Raises WorkbenchError where `data` is not JSON of the schema version we know."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise WorkbenchError(f"{path} is not JSON: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != known:
        raise WorkbenchError(
            f"{path} has schema_version {found}; this krishi-bench reads {known}",
            hint="read it with the version of krishi-bench that wrote it, or a newer one",
        )


def describe(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        lines.append(f"{where.lstrip('.')}: {problem['msg']}" if where else problem["msg"])
    return "\n  ".join(lines)
