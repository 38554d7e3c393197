"""The comparison as JSON, for scripts. The keys are stable; docs/compare-json.md describes them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from workbench.results.reasons import Verdict
from workbench.results.remarks import Remark
from workbench.results.verdict import Comparison, Row
from workbench.system.records import Record


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


class OneRunAnswer(RunAnswer):
    """What it prints for one run."""

    schema_version: Literal[1] = 1


class SeveralRunsAnswer(Record):
    """What it prints for several runs."""

    schema_version: Literal[1] = 1
    runs: tuple[RunAnswer, ...]


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
        }
        for comparison in comparisons
    ]
    if len(answers) == 1:
        return OneRunAnswer.model_validate(answers[0]).model_dump_json(indent=2) + "\n"
    return SeveralRunsAnswer.model_validate({"runs": answers}).model_dump_json(indent=2) + "\n"
