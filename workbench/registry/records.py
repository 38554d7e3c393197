"""The two records a model's folder has beside its versions.

<registry>/<name>/aliases.json      names such as `production` that point at a version, and all their moves
<registry>/<name>/collected.json    the versions that garbage collection took away: their numbers stay given,
                                    so it is written before the version goes
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from workbench.system.records import Record, Sha256, read_record, write_record

ALIASES_NAME = "aliases.json"
COLLECTED_NAME = "collected.json"


class AliasMove(Record):
    """One move of an alias. steps_back: entries a rollback undid; 0 for a promotion."""

    version: str
    manifest_sha256: Sha256
    at: datetime
    reason: str
    steps_back: NonNegativeInt = 0


class Alias(Record):
    """What an alias points at. generation: counts its moves; history: all of them, the current one last."""

    version: str
    manifest_sha256: Sha256
    generation: PositiveInt
    history: tuple[AliasMove, ...]

    @model_validator(mode="after")
    def _history_ends_here(self) -> "Alias":
        last = self.history[-1] if self.history else None
        if last is None or (last.version, last.manifest_sha256) != (self.version, self.manifest_sha256):
            raise ValueError(f"the history does not end with {self.version}")
        return self

    @property
    def trail(self) -> tuple[AliasMove, ...]:
        """The promotions that no rollback has undone, oldest first; the last is the current one."""
        trail: list[AliasMove] = []
        for move in self.history:
            if move.steps_back:
                del trail[-move.steps_back :]
            else:
                trail.append(move)
        return tuple(trail)


class AliasFile(Record):
    schema_version: Literal[1] = 1
    aliases: dict[str, Alias]


class RetiredVersion(Record):
    """at: when; manifest_sha256: what it was, None where its manifest could not be read."""

    at: datetime
    manifest_sha256: Sha256 | None

    def __str__(self) -> str:
        return f"was collected by `krishi-bench gc` on {self.at:%Y-%m-%d}"


class RetiredFile(Record):
    schema_version: Literal[1] = 1
    versions: dict[str, RetiredVersion]


def read_aliases(folder: Path) -> dict[str, Alias]:
    """Of the model in `folder`; empty where it has none. Raises WorkbenchError where they cannot be read."""
    path = folder / ALIASES_NAME
    return read_record(path, AliasFile, what="list of aliases").aliases if os.path.lexists(path) else {}


def write_aliases(folder: Path, aliases: dict[str, Alias]) -> None:
    write_record(folder / ALIASES_NAME, AliasFile(aliases=aliases))


def read_retired(folder: Path) -> dict[str, RetiredVersion]:
    """By version; empty where none was taken away. Raises WorkbenchError where they cannot be read."""
    path = folder / COLLECTED_NAME
    return read_record(path, RetiredFile, what="list of versions").versions if os.path.lexists(path) else {}


def write_retired(folder: Path, versions: dict[str, RetiredVersion]) -> None:
    write_record(folder / COLLECTED_NAME, RetiredFile(versions=versions))
