"""The comparison as a table for a terminal of 100 columns."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.report import cells, gpu, verdict
from workbench.report.words import WIDTH, wrapped
from workbench.results.verdict import Comparison

if TYPE_CHECKING:
    from rich.console import Console

NAME_COLUMN = cells.HEADINGS.index("variant")
VARIANT_WIDTH = 26  # at most; less where the numbers need the room
VARIANT_WIDTH_MIN = 12


def render(
    comparisons: Sequence[Comparison],
    *,
    color: bool = False,
    columns: cells.Columns = "speed",
    verbose: bool = False,
    width: int = WIDTH,
) -> str:
    """One table a run, with what it means below. color: write terminal escape codes.

    width: of the terminal, in columns; the table itself takes up to 100.
    """
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=WIDTH, force_terminal=color, no_color=not color, highlight=False)
    for comparison in comparisons:
        _one(console, comparison, columns, verbose=verbose, width=min(width, WIDTH))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _one(
    console: "Console", comparison: Comparison, columns: cells.Columns, *, verbose: bool, width: int
) -> None:
    from rich.text import Text

    info = comparison.info

    def say(text: str, style: str = "") -> None:
        for line in wrapped(text, "", width=width):
            console.print(Text(line), style=style)

    say(f"{info.name}, run {info.run_id}: {cells.photos(info)}", "bold")
    say(cells.machine(info))
    if (line := gpu.machine_line(info)) is not None:
        say(line)
    if info.synthetic:
        say("the photos of the bundled sample are synthetic: its accuracy says nothing about fields")
    headings = cells.headings_of(columns)
    measured = cells.measured(comparison.rows)
    styles = ["bold green" if row.winner else "" for row in measured]
    _table(console, headings, [cells.columns_of(columns, row) for row in measured], styles)
    console.print(cells.LEGEND, style="dim")
    for grid in gpu.grids(comparison) if columns == "speed" else []:
        console.print(Text(grid.title))
        _table(console, grid.headings, grid.rows, [""] * len(grid.rows))
        if grid.note is not None:
            console.print(Text(grid.note), style="dim")
    for audit in cells.audit_lines(measured) if columns == "audit" else []:
        say(audit)
    console.print()
    for section in verdict.sections(comparison, verbose=verbose):
        console.print(Text(section.title), style="bold")
        for line in section.lines:
            for text in [_cut(line, width - 2)] if section.brief else wrapped(line, "", width=width - 2):
                console.print(Text(f"  {text}"))
    if not verbose:
        say(
            "more: `compare --verbose`, `compare --variant NAME`, report.html in the folder of the run", "dim"
        )
    console.print()


def _cut(text: str, width: int) -> str:
    """As much of a line as fits."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 2].rstrip()} …"


def _table(
    console: "Console", headings: Sequence[str], lines: Sequence[Sequence[str]], styles: Sequence[str]
) -> None:
    """styles: of each line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index <= 1 else "right", no_wrap=True)
    width = _variant_width(headings, lines)
    for style, (mark, name, *rest) in zip(styles, lines, strict=True):
        table.add_row(*(Text(cell) for cell in (mark, _folded(name, width), *rest)), style=style)
    console.print(table)


def _variant_width(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    """What the other columns, one blank after each, leave for the names."""
    others = [
        max(map(len, column))
        for index, column in enumerate(zip(headings, *lines, strict=True))
        if index != NAME_COLUMN
    ]
    return max(VARIANT_WIDTH_MIN, min(VARIANT_WIDTH, WIDTH - sum(others) - len(others)))


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
