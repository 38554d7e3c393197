"""How a raw value reads in a cell, and the columns of a comparison. Values are rounded only here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from workbench.backends import Target, targets_of
from workbench.measure.stats import Interval
from workbench.report.words import signed
from workbench.results.records import RunInfo
from workbench.results.verdict import Row

ABSENT = "–"
WINNER = "▶"
SAME_ANSWERS = "same answers"
LEGEND = f"{WINNER} winner   • on the Pareto front of accuracy, speed and size   × slower: dropped early"
Columns = Literal["speed", "audit"]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: in each row the mark, the variant's name, and its figures."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""


def rounded(value: float | None, unit: float = 1.0) -> str:
    """Two decimals; none from 100 on, where they would say nothing and take room."""
    return ABSENT if value is None else signed(value / unit, 0 if abs(value / unit) >= 100 else 2)


def whole(value: float | None, unit: float = 1.0) -> str:
    return ABSENT if value is None else f"{value / unit:.0f}"


def percent(fraction: float | None) -> str:
    return ABSENT if fraction is None else f"{100 * fraction:.2f}"


def with_interval(value: float | None, interval: Interval | None, unit: float = 1.0) -> str:
    """`2.09 [2.05, 2.13]`; the value alone where there is no interval."""
    if value is None or interval is None:
        return rounded(value, unit)
    return f"{rounded(value, unit)} [{rounded(interval[0], unit)}, {rounded(interval[1], unit)}]"


def drop(row: Row) -> str:
    return SAME_ANSWERS if row.same_answers else with_interval(row.drop, row.drop_ci, 0.01)


def mark(row: Row) -> str:
    # What was pruned before it was timed was not too slow: its reason stands below the table.
    if row.status == "pruned" and row.p50_ms is not None:
        return "×"
    return WINNER if row.winner else "•" if row.pareto else ""


COLUMNS: Mapping[Columns, Mapping[str, Callable[[Row], str]]] = {
    "speed": {
        "": mark,
        "variant": lambda row: row.variant,
        "MB": lambda row: rounded(row.size_bytes, 1e6),
        "top-1 %": lambda row: percent(row.top1),
        "drop, points [95 %]": drop,
        "p50 ms": lambda row: rounded(row.p50_ms),
        # p99 takes several times the calls: `compare --variant` has it where there are enough.
        "p95 ms": lambda row: rounded(row.p95_ms),
        "speed-up [95 %]": lambda row: with_interval(row.speedup, row.speedup_ci),
        "RAM MB": lambda row: whole(row.peak_memory_bytes, 1e6),
    },
    "audit": {
        "": mark,
        "variant": lambda row: row.variant,
        "stored": lambda row: row.precision or ABSENT,
        "computed": lambda row: row.computes or ABSENT,
        "INT8 %": lambda row: whole(row.int8_share, 0.01),
        "half %": lambda row: whole(row.half_share, 0.01),
        "FP32 %": lambda row: whole(row.fp32_share, 0.01),
        "casts": lambda row: whole(row.casts),
        "Q/DQ": lambda row: whole(row.unfused_qdq),
    },
}


def grid(
    rows: Sequence[Row],
    columns: Columns,
    targets: Sequence[Target] = (),
    choices: Mapping[Target, str] = MappingProxyType({}),
) -> Grid:
    """targets: of the workspace; several have a column each. choices: the variant for each."""
    several = targets if len(targets) > 1 else ()
    standing: dict[str, Callable[[Row], str]] = {
        target: partial(_standing, target, choices.get(target)) for target in several
    }
    shown = {**COLUMNS[columns], **standing}
    return Grid(tuple(shown), tuple(tuple(cell(row) for cell in shown.values()) for row in rows), note=LEGEND)


def _standing(target: Target, choice: str | None, row: Row) -> str:
    """Whether it is the choice for a target; a blank where it may be published for it."""
    return WINNER if row.variant == choice else "" if target in targets_of(row.backend) else ABSENT


def measured(rows: Sequence[Row]) -> list[Row]:
    """Those with figures; a search drops some after a quick look."""
    return [row for row in rows if row.status in ("ok", "pruned") and row.size_bytes is not None]


def largest_drop(info: RunInfo) -> float:
    """The largest drop that a plot shows, in points: what loses more stands at its edge."""
    return max(5.0, 500 * info.budget.max_accuracy_drop)
