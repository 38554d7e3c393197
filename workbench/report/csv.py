"""The comparison as CSV: the keys of the JSON, intervals in two columns each."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from workbench.compare import Comparison, Row

INTERVALS = ("drop_ci", "speedup_ci")


def render(comparisons: Sequence[Comparison]) -> str:
    """Rows of all runs, led by the run's name. What was not measured is empty."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["run", *(column for name in _names() for column in _columns(name))])
    for comparison in comparisons:
        for row in comparison.rows:
            writer.writerow([comparison.info.run_id, *_values(row)])
    return target.getvalue()


def _names() -> list[str]:
    return [field.name for field in fields(Row)]


def _columns(name: str) -> list[str]:
    return [f"{name}_low", f"{name}_high"] if name in INTERVALS else [name]


def _values(row: Row) -> list[object]:
    values = asdict(row)
    return [
        item
        for name in _names()
        for item in ((values[name] or (None, None)) if name in INTERVALS else [values[name]])
    ]
