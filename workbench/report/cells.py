"""How a raw value reads in a cell. Values are rounded here and nowhere before."""

from collections.abc import Sequence
from typing import Literal

from workbench.measure.stats import Interval
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
    # Adding zero turns -0.0 into 0.0.
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 2) + 0.0:.2f}"


def mark(row: Row) -> str:
    if row.status == "pruned":
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
LEGEND = "▶ winner   • on the Pareto front of accuracy, speed and size   × dropped: cannot be the fastest"


def measured(rows: Sequence[Row]) -> list[Row]:
    """Those with figures; a search drops some after a quick look."""
    return [row for row in rows if row.status in ("ok", "pruned") and row.size_bytes is not None]


def absent(rows: Sequence[Row]) -> list[tuple[str, list[str], str]]:
    """What did not end `ok`: status, the variants, and the reason that they share."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status != "ok":
            found.setdefault((row.status, row.reason or ""), []).append(row.variant)
    return [(status, variants, reason) for (status, reason), variants in found.items()]


def photos(info: RunInfo) -> str:
    """`1200 validation photos (600 choose, 600 certify)`."""
    certify, text = info.certification_images, f"{info.validation_images} validation photos"
    return f"{text} ({info.validation_images - certify} choose, {certify} certify)" if certify else text


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
            validated = f"; {row.validated}" if row.validated else ""
            named.setdefault(f"{row.audit}{validated}", []).append(row.variant)
    return [f"{', '.join(names)}: {verdict}" for verdict, names in named.items()]
