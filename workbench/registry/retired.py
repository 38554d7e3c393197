"""The versions that garbage collection took away: their numbers stay given.

<registry>/<name>/collected.json    written before the version goes, so that no number ever names two models
"""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.errors import WorkbenchError
from workbench.registry.manifest import Sha256, check_schema, describe
from workbench.system.files import read_plain, write_atomic

COLLECTED_NAME = "collected.json"
SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Collected(_Record):
    """at: when; manifest_sha256: what it was, None where its manifest could not be read."""

    at: datetime
    manifest_sha256: Sha256 | None

    def __str__(self) -> str:
        return f"was collected by `krishi-bench gc` on {self.at:%Y-%m-%d}"


class CollectedFile(_Record):
    schema_version: Literal[1] = 1
    versions: dict[str, Collected] = {}


def read_collected(path: Path) -> dict[str, Collected]:
    """By version; empty where there is no such file. Raises WorkbenchError where it cannot be used."""
    if not path.is_symlink() and not path.exists():
        return {}
    data = read_plain(path)
    check_schema(data, path, SCHEMA_VERSION)
    try:
        return CollectedFile.model_validate_json(data).versions
    except ValidationError as error:
        raise WorkbenchError(f"{path} is not a valid list of versions\n  {describe(error)}") from error


def write_collected(path: Path, versions: dict[str, Collected]) -> None:
    """Replace the file as a whole."""
    write_atomic(path, CollectedFile(versions=versions).model_dump_json(indent=2).encode() + b"\n")
