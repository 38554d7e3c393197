"""The comparison as CSV: the keys of the JSON, intervals in two columns each, of the GPU single figures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from workbench.results.verdict import Comparison, Row

INTERVALS = ("drop_ci", "speedup_ci")
GPU_FIGURES = ("device_p50_ns", "memory_bytes", "joules")  # of `gpu`, which holds tables too


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
    if name == "gpu":
        return [f"gpu_{figure}" for figure in GPU_FIGURES]
    return [f"{name}_low", f"{name}_high"] if name in INTERVALS else [name]


def _values(row: Row) -> list[object]:
    return [value for name in _names() for value in _value(row, name)]


def _value(row: Row, name: str) -> Sequence[object]:
    if name == "gpu":
        return [getattr(row.gpu, figure) if row.gpu else None for figure in GPU_FIGURES]
    value: object = getattr(row, name)
    if name in INTERVALS:
        return value if isinstance(value, tuple) else (None, None)
    return [value]
