"""The comparison as a table for a terminal of 100 columns."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.report import cells, machines
from workbench.report.contents import contents
from workbench.report.words import WIDTH, wrapped
from workbench.results.verdict import Comparison

if TYPE_CHECKING:
    from rich.console import Console

MORE = "more: `compare --verbose`, `compare --variant NAME`, {}"
VARIANT_WIDTH = 26  # at most; less where the numbers need the room
VARIANT_WIDTH_MIN = 12
LEAST_NEEDED = ("RAM MB", "p95 ms", "p50 ms", "top-1 %")  # left out first where all columns do not fit


def render(
    comparisons: Sequence[Comparison],
    *,
    color: bool = False,
    columns: cells.Columns = "speed",
    verbose: bool = False,
    width: int = WIDTH,
) -> str:
    """One table a run, with what it means below. color: write terminal escape codes.

    width: of the terminal, in columns; up to 100 are used.
    """
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=WIDTH, force_terminal=color, no_color=not color, highlight=False)
    for grid in machines.grids(comparisons):
        _grid(console, grid, min(width, WIDTH))
        console.print()
    for comparison in comparisons:
        _one(console, comparison, columns, verbose=verbose, width=min(width, WIDTH))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _page(run_id: str) -> str:
    """Where the run's page is; none is written unasked for a device of a fleet, whose run is in another's."""
    return f"`report {run_id}`" if "/" in run_id else "report.html in the folder of the run"


def _one(
    console: "Console", comparison: Comparison, columns: cells.Columns, *, verbose: bool, width: int
) -> None:
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        for line in wrapped(text, "", width=width):
            console.print(Text(line), style=style)

    info = comparison.info
    shown = contents(comparison, columns, verbose=verbose, audit=columns == "audit")
    say(f"{info.name}, run {info.run_id}: {shown.facts[0]}", "bold")
    for fact in shown.facts[1:]:
        say(fact)
    for grid in shown.grids:
        _grid(console, grid, width)
    console.print()
    for section in shown.sections:
        console.print(Text(section.title), style="bold")
        for line in section.lines:
            for text in [_cut(line, width - 2)] if section.brief else wrapped(line, "", width=width - 2):
                console.print(Text(f"  {text}"))
    if not verbose:
        say(MORE.format(_page(info.run_id)), "dim")
    console.print()


def _cut(text: str, width: int) -> str:
    """As much of a line as fits."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 2].rstrip()} …"


def _grid(console: "Console", grid: cells.Grid, width: int) -> None:
    from rich.text import Text

    if grid.title:
        console.print(Text(grid.title))
    left_out = _left_out(grid, width)
    _table(console, _without(grid, left_out), width)
    if left_out:
        console.print(Text(f"no room for {', '.join(left_out)}: `--format csv` has all"), style="dim")
    if grid.note:
        console.print(Text(grid.note), style="dim")


def _left_out(grid: cells.Grid, width: int) -> list[str]:
    """The headings of the columns that do not fit beside the others, the least needed ones."""
    needless = [heading for heading in LEAST_NEEDED if heading in grid.headings]
    for count in range(len(needless)):
        if _room(_without(grid, needless[:count]), width) >= VARIANT_WIDTH_MIN:
            return needless[:count]
    return needless


def _without(grid: cells.Grid, headings: Sequence[str]) -> cells.Grid:
    kept = [index for index, heading in enumerate(grid.headings) if heading not in headings]
    rows = tuple(tuple(row[index] for index in kept) for row in grid.rows)
    return replace(grid, headings=tuple(grid.headings[index] for index in kept), rows=rows)


def _table(console: "Console", grid: cells.Grid, width: int) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for index, heading in enumerate(grid.headings):
        table.add_column(heading, justify="left" if index <= 1 else "right", no_wrap=True)
    names = max(VARIANT_WIDTH_MIN, min(VARIANT_WIDTH, _room(grid, width)))
    for mark, name, *figures in grid.rows:
        style = "bold green" if mark == cells.WINNER else ""
        table.add_row(*(Text(cell) for cell in (mark, _folded(name, names), *figures)), style=style)
    console.print(table)


def _room(grid: cells.Grid, width: int) -> int:
    """What the other columns, one blank after each, leave for the names."""
    _mark, _name, *figures = zip(grid.headings, *grid.rows, strict=True)
    others = [1, *(max(map(len, column)) for column in figures)]
    return width - sum(others) - len(others)


def _folded(variant: str, width: int) -> str:
    """A long name on several lines, broken where its parts begin, or anywhere within a part too long."""
    if len(variant) <= width:
        return variant
    lines = [""]
    for part in variant.replace("[", "\n[").replace(",", ",\n").split("\n"):
        if lines[-1].strip() and len(lines[-1]) + len(part) > width:
            lines.append(" ")
        lines[-1] += part
        while len(lines[-1]) > width:
            lines[-1:] = [lines[-1][:width], " " + lines[-1][width:]]
    return "\n".join(lines)
