"""The comparison as JSON, for scripts. The keys are stable; docs/compare-json.md describes them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from workbench.report.upgrades import UpgradeCost, costs
from workbench.results.differences import RunDifference, differences_of
from workbench.results.reasons import Verdict
from workbench.results.remarks import Remark
from workbench.results.verdict import Comparison, Row
from workbench.system.records import Record
from workbench.system.spans import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow(Row):
    """A row with the run it belongs to."""

    run: str


class RunAnswer(Record):
    """What `compare --format json` says of one run."""

    run: str
    verdict: Verdict
    remarks: tuple[Remark, ...]
    rows: tuple[RunRow, ...]
    timings: dict[Stage, float] | None = None
    upgrades: tuple[UpgradeCost, ...] = ()


class OneRunAnswer(RunAnswer):
    """What it prints for one run."""

    schema_version: Literal[1] = 1


class SeveralRunsAnswer(Record):
    """What it prints for several runs."""

    schema_version: Literal[1] = 1
    runs: tuple[RunAnswer, ...]
    differences: tuple[RunDifference, ...]


def schema() -> dict[str, Any]:
    """The JSON Schema of what `compare --format json` prints."""
    return TypeAdapter(OneRunAnswer | SeveralRunsAnswer).json_schema(mode="serialization")


def render(comparisons: Sequence[Comparison]) -> str:
    """One run's answer as it is, those of several runs as a list under `runs`."""
    answers = [
        {
            "run": comparison.info.run_id,
            "verdict": comparison.verdict,
            "remarks": comparison.info.remarks,
            "rows": [RunRow(**asdict(row), run=comparison.info.run_id) for row in comparison.rows],
            "timings": comparison.info.timings,
            "upgrades": costs(comparison.info),
        }
        for comparison in comparisons
    ]
    if len(answers) == 1:
        return OneRunAnswer.model_validate(answers[0]).model_dump_json(indent=2) + "\n"
    several = {"runs": answers, "differences": differences_of([found.info for found in comparisons])}
    return SeveralRunsAnswer.model_validate(several).model_dump_json(indent=2) + "\n"
