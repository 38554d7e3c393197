"""What a comparison looks like: one module per format. None of them measures or decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, assert_never

from workbench.report import csv, html, json, markdown, parquet, table
from workbench.report.cells import Columns
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic

__all__ = ["Columns", "FileFormat", "Format", "render", "render_bytes", "write"]

Format = Literal["table", "markdown", "csv", "json", "html"]
FileFormat = Format | Literal["parquet"]


def render(
    form: Format, comparisons: Sequence[Comparison], *, color: bool = False, columns: Columns = "speed"
) -> str:
    """The comparisons as text. color: terminal escape codes, in a table.

    columns: of a table or Markdown; the other formats hold them all.
    """
    match form:
        case "table":
            return table.render(comparisons, color=color, columns=columns)
        case "markdown":
            return markdown.render(comparisons, columns=columns)
        case "csv":
            return csv.render(comparisons)
        case "json":
            return json.render(comparisons)
        case "html":
            return html.render(comparisons)
        case _:
            assert_never(form)


def render_bytes(form: FileFormat, comparisons: Sequence[Comparison], *, columns: Columns = "speed") -> bytes:
    """The comparisons as a file holds them: text in UTF-8, or Parquet."""
    if form == "parquet":
        return parquet.render(comparisons)
    return render(form, comparisons, columns=columns).encode()


def write(
    form: FileFormat, comparisons: Sequence[Comparison], path: Path, *, columns: Columns = "speed"
) -> None:
    """Write the comparisons to a file, whole or not at all. Raises WorkbenchError."""
    write_atomic(path, render_bytes(form, comparisons, columns=columns))
