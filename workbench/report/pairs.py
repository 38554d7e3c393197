"""Every pair of variants, fastest first: which is faster, and by how much."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from workbench.measure.pairs import Difference
from workbench.report.cells import ABSENT
from workbench.report.words import in_percent

HEADINGS = ("faster", "slower", "by [95 %]", "p", "rounds", "session")
NOTE = "p and intervals hold for all pairs together (Holm); p below 0.05: the two differ"


def as_json(found: Sequence[Difference]) -> str:
    return json.dumps({"schema_version": 1, "pairs": [asdict(each) for each in found]}, indent=2) + "\n"


def text(found: Sequence[Difference]) -> str:
    rows = [HEADINGS, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), NOTE, ""])


def _row(found: Difference) -> tuple[str, ...]:
    p = ABSENT if found.p is None else "<0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return (
        found.faster,
        found.slower,
        in_percent(found.ratio, found.interval),
        p,
        str(found.rounds),
        found.session,
    )


def as_csv(found: Sequence[Difference]) -> str:
    """With an interval in two columns."""
    target = io.StringIO()
    names = ("faster", "slower", "session", "rounds", "ratio", "ratio_low", "ratio_high", "p")
    writer = csv.DictWriter(target, names, lineterminator="\n")
    writer.writeheader()
    for difference in found:
        row = asdict(difference)
        row["ratio_low"], row["ratio_high"] = row.pop("interval") or (None, None)
        writer.writerow(row)
    return target.getvalue()
