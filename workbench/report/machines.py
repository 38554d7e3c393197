"""Runs of several machines side by side: what differs between them, and each variant's figures in each run.

No figure is taken from two of them: times of different machines say nothing of each other.
"""

from collections.abc import Sequence

from workbench.report.cells import ABSENT, Grid, mark, rounded, with_interval
from workbench.results.differences import differences_of
from workbench.results.verdict import Comparison, Row

NOTE = "each speed-up is over the baseline of its own run; times of different machines do not compare"
DIGEST = 12  # characters shown
ROOM = 70  # characters of a line that the runs share


def grids(comparisons: Sequence[Comparison]) -> tuple[Grid, ...]:
    """Nothing for runs of one machine."""
    if len({comparison.info.machine.fingerprint for comparison in comparisons}) < 2:
        return ()
    found = differences_of([comparison.info for comparison in comparisons])
    width = max(DIGEST, ROOM // len(comparisons))
    rows = tuple(
        ("", each.what, *(_shown(each.what, value, width) for value in each.values)) for each in found
    )
    headings = [f"{number}: {each.info.run_id}" for number, each in enumerate(comparisons, start=1)]
    return Grid(("", "what differs", *headings), rows), _side_by_side(comparisons)


def _shown(what: str, value: str | None, width: int) -> str:
    if value is None:
        return ABSENT
    if what.endswith("digest"):
        return value[:DIGEST]
    return value if len(value) <= width else f"{value[: width - 2]} …"


def _side_by_side(comparisons: Sequence[Comparison]) -> Grid:
    runs = [{row.variant: row for row in comparison.rows} for comparison in comparisons]
    variants = dict.fromkeys(name for rows in runs for name in rows)
    body = tuple(
        ("", variant, *(cell for rows in runs for cell in _cells(rows.get(variant)))) for variant in variants
    )
    headings = (heading for number in range(1, len(runs) + 1) for heading in (f"{number}: ms", "speed-up"))
    return Grid(("", "variant", *headings), body, note=NOTE)


def _cells(row: Row | None) -> tuple[str, str]:
    if row is None or row.p50_ms is None:
        return ABSENT, row.status if row and row.status != "ok" else ABSENT
    return f"{mark(row)} {rounded(row.p50_ms)}".strip(), with_interval(row.speedup, row.speedup_ci)
