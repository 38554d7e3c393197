"""Which rows of a comparison are shown, and in which order. What is decided stays as it is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from workbench.results.verdict import Comparison, Row

Only = Literal["pareto"]
Order = Literal["speed", "accuracy", "size", "memory", "p50"]
# The best is the smallest; None comes last.
BEST: Mapping[Order, Callable[[Row], float | None]] = {
    "speed": lambda row: None if row.speedup is None else -row.speedup,
    "accuracy": lambda row: row.drop,
    "size": lambda row: row.size_bytes,
    "memory": lambda row: row.peak_memory_bytes,
    "p50": lambda row: row.p50_ms,
}


def arranged(comparison: Comparison, *, only: Only | None = None, order: Order | None = None) -> Comparison:
    """only: the Pareto front and the winner. order: best first; else in the order they were tried."""
    rows = [row for row in comparison.rows if only is None or row.pareto or row.winner]
    if order is not None:
        best = BEST[order]

        def rank(row: Row) -> tuple[bool, float]:
            value = best(row)
            return value is None, value or 0.0

        rows.sort(key=rank)
    return replace(comparison, rows=tuple(rows))
