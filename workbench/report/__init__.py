"""What a comparison looks like: one module per format. None of them measures or decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, assert_never

from workbench.report import csv, html, json, markdown, parquet, table
from workbench.report.cells import Columns
from workbench.report.words import WIDTH
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic

__all__ = ["WIDTH", "Columns", "Format", "TextFormat", "render", "render_bytes", "write"]

TextFormat = Literal["table", "markdown", "csv", "json", "html"]
Format = Literal["table", "markdown", "csv", "json", "html", "parquet"]


def render(
    form: TextFormat,
    comparisons: Sequence[Comparison],
    *,
    color: bool = False,
    columns: Columns = "speed",
    verbose: bool = False,
    width: int = WIDTH,
) -> str:
    """The comparisons as text. color: terminal escape codes, in a table; width: of the terminal.

    columns, verbose: of a table or Markdown; the other formats hold everything.
    """
    match form:
        case "table":
            return table.render(comparisons, color=color, columns=columns, verbose=verbose, width=width)
        case "markdown":
            return markdown.render(comparisons, columns=columns, verbose=verbose)
        case "csv":
            return csv.render(comparisons)
        case "json":
            return json.render(comparisons)
        case "html":
            return html.render(comparisons)
        case _:
            assert_never(form)


def render_bytes(
    form: Format, comparisons: Sequence[Comparison], *, columns: Columns = "speed", verbose: bool = False
) -> bytes:
    """The comparisons as a file holds them: text in UTF-8, or Parquet."""
    if form == "parquet":
        return parquet.render(comparisons)
    return render(form, comparisons, columns=columns, verbose=verbose).encode()


def write(
    form: Format,
    comparisons: Sequence[Comparison],
    path: Path,
    *,
    columns: Columns = "speed",
    verbose: bool = False,
) -> None:
    """Write the comparisons to a file, whole or not at all. Raises WorkbenchError."""
    write_atomic(path, render_bytes(form, comparisons, columns=columns, verbose=verbose))
