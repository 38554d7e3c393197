"""How a raw value reads in a cell. Values are rounded here and nowhere before."""

from collections.abc import Sequence
from typing import Literal

from workbench.errors import plural
from workbench.measure.records import AT_RISK
from workbench.measure.stats import Interval
from workbench.report.words import signed
from workbench.results.records import RunInfo
from workbench.results.verdict import Row

ABSENT = "–"
Columns = Literal["speed", "audit"]


def megabytes(size_bytes: int | None) -> str:
    return (
        ABSENT
        if size_bytes is None
        else f"{size_bytes / 1e6:.2f}"
        if size_bytes < 1e8
        else f"{size_bytes / 1e6:.0f}"
    )


def percent(fraction: float | None) -> str:
    return ABSENT if fraction is None else f"{100 * fraction:.2f}"


def milliseconds(value_ms: float | None) -> str:
    return ABSENT if value_ms is None else f"{value_ms:.2f}" if value_ms < 100 else f"{value_ms:.0f}"


def with_interval(value: float | None, interval: Interval | None, scale: float = 1.0) -> str:
    """`2.09 [2.05, 2.13]`; the value alone where there is no interval."""
    if value is None:
        return ABSENT
    text = _two_places(scale * value)
    if interval is None:
        return text
    return f"{text} [{_two_places(scale * interval[0])}, {_two_places(scale * interval[1])}]"


def _two_places(value: float) -> str:
    """Two decimals; none from 100 on, where they would say nothing and take room."""
    return signed(value, 0 if abs(value) >= 100 else 2)


def mark(row: Row) -> str:
    # What was pruned before it was timed was not too slow: its reason stands below the table.
    if row.status == "pruned" and row.p50_ms is not None:
        return "×"
    return "▶" if row.winner else "•" if row.pareto else ""


HEADINGS = (
    "",
    "variant",
    "MB",
    "top-1 %",
    "drop, points [95 %]",
    "p50 ms",
    "p99 ms",
    "speed-up [95 %]",
    "RAM MB",
)
AUDIT_HEADINGS = (
    "",
    "variant",
    "stored",
    "computed",
    "INT8 %",
    "half %",
    "FP32 %",
    "casts",
    "Q/DQ",
)
LEGEND = "▶ winner   • on the Pareto front of accuracy, speed and size   × slower: dropped early"


def measured(rows: Sequence[Row]) -> list[Row]:
    """Those with figures; a search drops some after a quick look."""
    return [row for row in rows if row.status in ("ok", "pruned") and row.size_bytes is not None]


def photos(info: RunInfo) -> str:
    """`1,200 validation photos (600 for selection, 600 held out)`."""
    held_out, text = info.certification_images, plural(info.validation_images, "validation photo")
    selection = info.validation_images - held_out
    return f"{text} ({selection:,} for selection, {held_out:,} held out)" if held_out else text


def machine(info: RunInfo) -> str:
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    return f"{info.machine.cpu}, {plural(info.machine.cores, 'core')}; noise floor of speed-ups {floor}"


def cells(row: Row) -> tuple[str, ...]:
    """The cells of one row, under HEADINGS."""
    return (
        mark(row),
        row.variant,
        megabytes(row.size_bytes),
        percent(row.top1),
        with_interval(row.drop, row.drop_ci, 100),
        milliseconds(row.p50_ms),
        milliseconds(row.p99_ms),
        with_interval(row.speedup, row.speedup_ci),
        ABSENT if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}",
    )


def audit_cells(row: Row) -> tuple[str, ...]:
    """The cells of one row, under AUDIT_HEADINGS."""
    shares = (row.int8_share, row.half_share, row.fp32_share)
    counts = (row.casts, row.unfused_qdq)
    return (
        mark(row),
        row.variant,
        row.precision or ABSENT,
        row.computes or ABSENT,
        *(ABSENT if share is None else f"{100 * share:.0f}" for share in shares),
        *(ABSENT if count is None else str(count) for count in counts),
    )


def columns_of(columns: Columns, row: Row) -> tuple[str, ...]:
    return cells(row) if columns == "speed" else audit_cells(row)


def headings_of(columns: Columns) -> tuple[str, ...]:
    return HEADINGS if columns == "speed" else AUDIT_HEADINGS


def audit_lines(rows: Sequence[Row]) -> list[str]:
    """The verdict on each variant, as a sentence; variants of one verdict share a line."""
    named: dict[str, list[str]] = {}
    for row in rows:
        if row.audit:
            validated = f"; {_exact_on(row.validated)}" if row.validated else ""
            named.setdefault(f"{row.audit}{validated}", []).append(row.variant)
    return [f"{', '.join(names)}: {verdict}" for verdict, names in named.items()]


def _exact_on(validated: str) -> str:
    exact = f"INT8 sums are exact on {validated.replace('; ', ', ')}"
    return exact if AT_RISK in validated else f"{exact}, not on {AT_RISK}"
