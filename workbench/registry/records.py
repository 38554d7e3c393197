"""The two records of a model's folder.

<registry>/<name>/aliases.json      names such as `production` that point at a version, and all their moves
<registry>/<name>/collected.json    the versions that garbage collection removed: their numbers stay taken
"""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from workbench.system.records import Record, Sha256

ALIASES_NAME = "aliases.json"
COLLECTED_NAME = "collected.json"


class AliasMove(Record):
    """A move of an alias. steps_back: moves that a rollback undid; 0 for a promotion."""

    version: str
    manifest_sha256: Sha256
    at: datetime
    reason: str
    steps_back: NonNegativeInt = 0


class Alias(Record):
    """The version that an alias points at. generation: count of its moves. history: moves, latest last."""

    version: str
    manifest_sha256: Sha256
    generation: PositiveInt
    history: tuple[AliasMove, ...]

    @model_validator(mode="after")
    def _history_ends_here(self) -> "Alias":
        ends = [(move.version, move.manifest_sha256) for move in self.history[-1:]]
        if ends != [(self.version, self.manifest_sha256)]:
            raise ValueError(f"the history does not end with {self.version}")
        return self

    @property
    def trail(self) -> tuple[AliasMove, ...]:
        """The promotions that no rollback has undone, the current one last."""
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
    """A version that was collected. manifest_sha256: None where its manifest could not be read."""

    at: datetime
    manifest_sha256: Sha256 | None

    def __str__(self) -> str:
        return f"was collected by `krishi-bench gc` on {self.at:%Y-%m-%d}"


class RetiredFile(Record):
    schema_version: Literal[1] = 1
    versions: dict[str, RetiredVersion]
