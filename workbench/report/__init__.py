"""What a comparison looks like: one module per format. None of them measures or decides."""

from collections.abc import Sequence
from typing import Literal, assert_never

from workbench.report import csv, html, json, markdown, table
from workbench.report.cells import Columns
from workbench.report.words import WIDTH
from workbench.results.verdict import Comparison

__all__ = ["Columns", "Format", "render"]

Format = Literal["table", "markdown", "csv", "json", "html"]


def render(
    form: Format,
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
