"""Aliases: names such as `production` that point at a version, and every move they made."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, model_validator

from workbench.errors import WorkbenchError
from workbench.registry.manifest import Sha256, check_schema, describe
from workbench.system.files import read_plain, write_atomic

ALIASES_NAME = "aliases.json"
SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pointed(_Record):
    """One move of an alias. steps_back: entries a rollback undid; 0 for a promotion."""

    version: str
    manifest_sha256: Sha256
    at: datetime
    reason: str
    steps_back: NonNegativeInt = 0


class Alias(_Record):
    """What an alias points at. generation: counts its moves; history: all of them, the current one last."""

    version: str
    manifest_sha256: Sha256
    generation: PositiveInt
    history: tuple[Pointed, ...]

    @model_validator(mode="after")
    def _history_ends_here(self) -> "Alias":
        last = self.history[-1] if self.history else None
        if last is None or (last.version, last.manifest_sha256) != (self.version, self.manifest_sha256):
            raise ValueError(f"the history does not end with {self.version}")
        return self

    @property
    def trail(self) -> tuple[Pointed, ...]:
        """The promotions that no rollback has undone, oldest first; the last is the current one."""
        trail: list[Pointed] = []
        for move in self.history:
            if move.steps_back:
                del trail[-move.steps_back :]
            else:
                trail.append(move)
        return tuple(trail)


class AliasFile(_Record):
    schema_version: Literal[1] = 1
    aliases: dict[str, Alias] = {}


def read_aliases(path: Path) -> dict[str, Alias]:
    """Empty where there is no such file. Raises WorkbenchError where it cannot be used."""
    if not path.is_symlink() and not path.exists():
        return {}
    data = read_plain(path)
    check_schema(data, path, SCHEMA_VERSION)
    try:
        return AliasFile.model_validate_json(data).aliases
    except ValidationError as error:
        raise WorkbenchError(f"{path} is not a valid list of aliases\n  {describe(error)}") from error


def write_aliases(path: Path, aliases: dict[str, Alias]) -> None:
    """Replace the file as a whole."""
    write_atomic(path, AliasFile(aliases=aliases).model_dump_json(indent=2).encode() + b"\n")
