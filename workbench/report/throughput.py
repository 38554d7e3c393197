"""Photos a second at saturation, where it was measured in turns with the baseline."""

from collections.abc import Sequence

from workbench.measure.launches import LEAST
from workbench.measure.records import BASELINE
from workbench.report.cells import ABSENT, Grid, mark, rounded, with_interval
from workbench.results.records import RunInfo
from workbench.results.verdict import Row


def grids(info: RunInfo, rows: Sequence[Row]) -> list[Grid]:
    """One table, or none where nothing is compared with the baseline."""
    shown = [row for row in rows if row.saturated_ratio is not None]
    if len(shown) < 2:
        return []
    alone = [row for row in shown if row.variant != BASELINE and _ratio(info, row) == ABSENT]
    return [
        Grid(
            title="Photos a second with every processor busy, as a server calls",
            headings=("", "variant", "batch", "calls at once", "photos/s", "to the baseline [95 %]"),
            rows=tuple(_cells(info, row) for row in shown),
            note=f"a ratio takes {LEAST} launches of each; there was time for fewer" if alone else "",
        )
    ]


def _cells(info: RunInfo, row: Row) -> tuple[str, ...]:
    runtime = info.runtimes.get(row.variant)
    return (
        mark(row),
        row.variant,
        ABSENT if runtime is None else str(runtime.batch),
        ABSENT if runtime is None else str(runtime.sessions),
        rounded(row.saturated_ips),
        _ratio(info, row),
    )


def _ratio(info: RunInfo, row: Row) -> str:
    """Without an interval only where it decided the winner."""
    if row.saturated_ratio_ci is None and row.variant != BASELINE and info.budget.objective != "throughput":
        return ABSENT
    return with_interval(row.saturated_ratio, row.saturated_ratio_ci)
