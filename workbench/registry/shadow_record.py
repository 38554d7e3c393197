"""The result of a shadow run: `shadow-report` writes it, `promote --require-shadow` reads it.

<results>/shadow/<name>-<shadow version>-vs-<version>.json
"""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from workbench.errors import Refused, WorkbenchError, plural
from workbench.measure.stats import wilson
from workbench.registry.bundle import Bundle
from workbench.registry.manifest import check_name
from workbench.registry.semver import parse
from workbench.system.records import Record, Sha256, read_record, write_record

FOLDER = "shadow"


class ShadowResult(Record):
    """The candidate `shadow_version`, of this manifest's sha256, beside the `version` that answered.

    requests: those that the candidate was given, also where it raised. agree: those of the same top-1 class.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    shadow_version: str
    shadow_digest: Sha256
    requests: PositiveInt
    agree: NonNegativeInt
    at: datetime

    @model_validator(mode="after")
    def _counts_fit(self) -> "ShadowResult":
        if self.agree > self.requests:
            raise ValueError(f"agree is {self.agree}, more than the {plural(self.requests, 'request')}")
        return self

    @property
    def agreement(self) -> tuple[float, float, float]:
        """The fraction that agrees, and the ends of its 95 % Wilson interval."""
        return self.agree / self.requests, *wilson(self.agree, self.requests)


@dataclass(frozen=True, slots=True)
class Demand:
    """The shadow result that a promotion needs. at_least: of the interval's lower end, a fraction of 1."""

    results: Path
    at_least: float

    def check(self, name: str, version: str, digest: str, *, served: str) -> None:
        """Raises Refused where `version` was not compared with `served`, or agreed too seldom."""
        result = find(self.results, name, version, served)
        shadow = f"`krishi-bench serve --shadow {version}`, then `krishi-bench shadow-report`"
        if result is None:
            raise Refused(f"no shadow result compares {name} {version} with {served}", hint=shadow)
        if result.shadow_digest != digest:
            raise Refused(f"the shadow result of {name} {version} is of another model", hint=shadow)
        share, low, high = result.agreement
        if low < self.at_least:
            raise Refused(
                f"{name} {version} agreed with {served} on {result.agree} of "
                f"{plural(result.requests, 'request')}, "
                f"{100 * share:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}): "
                f"at least {100 * self.at_least:g} % is demanded of the lower end",
                hint="shadow it for longer if too few requests are the reason, or demand less",
            )


def path_of(results: Path, name: str, version: str, served: str) -> Path:
    """version: the candidate. served: the version it was compared with."""
    parse(version)
    parse(served)
    return results / FOLDER / f"{check_name(name, 'a model')}-{version}-vs-{served}.json"


def write(results: Path, result: ShadowResult) -> Path:
    """Write a result over an older one of the same two versions; return the file."""
    path = path_of(results, result.name, result.shadow_version, result.version)
    write_record(path, result)
    return path


def find(results: Path, name: str, version: str, served: str) -> ShadowResult | None:
    """The result of the candidate `version` beside `served`, if any. Raises WorkbenchError."""
    path = path_of(results, name, version, served)
    if not os.path.lexists(path):
        return None
    result = read_record(path, ShadowResult, what="shadow result")
    if (result.name, result.shadow_version, result.version) != (name, version, served):
        raise WorkbenchError(f"{path} compares other versions: it was moved", hint="delete it")
    return result


def check_shadow(shadow: Demand, name: str, alias: str, same: Bundle | None, *, served: str | None) -> None:
    """Raise Refused where no shadow has shown that the model may take the alias, or too few answers agreed.

    same: the published version of the model to promote; served: the version that the alias points at.
    """
    if served is None:
        raise Refused(
            f"`{alias}` of {name} does not exist yet, so there is nothing to compare with in its shadow",
            hint="promote the first version without --require-shadow",
        )
    if same is None:
        raise Refused(
            f"this model is not published yet, so no server can have run it in the shadow of {served}",
            hint="publish it under another alias (`krishi-bench promote --alias candidate`), then "
            "`krishi-bench serve --shadow X.Y.Z` and `krishi-bench shadow-report`",
        )
    if same.version != served:
        shadow.check(name, same.version, same.digest, served=served)
