"""The comparison as a table for a terminal of 100 columns."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.compare import Comparison
from workbench.report import cells

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
VARIANT_WIDTH = 26


def render(comparisons: Sequence[Comparison], *, color: bool = False) -> str:
    """One table a run, with what it means below. color: write terminal escape codes."""
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=WIDTH, force_terminal=color, no_color=not color, highlight=False)
    for comparison in comparisons:
        _one(console, comparison)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _one(console: "Console", comparison: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    info = comparison.info
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    console.print(f"{info.name}, run {info.run_id}: {info.validation_images} validation photos", style="bold")
    console.print(f"{info.machine.cpu}, {info.machine.cores} cores; noise floor of speed-ups {floor}")
    if info.synthetic:
        console.print(
            "the photos of the bundled sample are synthetic: its accuracy says nothing about fields"
        )
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for index, heading in enumerate(cells.HEADINGS):
        table.add_column(heading, justify="left" if index <= 1 else "right", no_wrap=True)
    for row in comparison.rows:
        if row.status == "ok":
            mark, name, *rest = cells.cells(row)
            style = "bold green" if row.winner else ""
            table.add_row(*(Text(cell) for cell in (mark, _folded(name), *rest)), style=style)
    console.print(table)
    console.print(cells.LEGEND, style="dim")
    for row in comparison.rows:
        if row.status != "ok":
            console.print(Text(f"{row.status} {row.variant}: {row.reason}"), style="yellow")
    for reason in comparison.reasons:
        console.print(Text(reason))
    console.print()


def _folded(variant: str) -> str:
    """A long name on several lines, broken where its parts begin."""
    if len(variant) <= VARIANT_WIDTH:
        return variant
    lines = [""]
    for part in variant.replace("[", "\n[").replace(",", ",\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > VARIANT_WIDTH:
            lines.append(" ")
        lines[-1] += part
    return "\n".join(lines)
