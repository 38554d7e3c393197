"""What a comparison looks like: one module per format. None of them measures or decides.

`page` makes the HTML report, from the run's folder too.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

from workbench.report import json, markdown, table
from workbench.report.cells import Columns
from workbench.report.words import WIDTH
from workbench.results.frames import comparison_frame
from workbench.results.verdict import Comparison

__all__ = ["WIDTH", "Columns", "Format", "TextFormat", "render", "render_bytes"]

TextFormat = Literal["table", "markdown", "csv", "json"]
Format = Literal["table", "markdown", "csv", "json", "parquet"]


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
            return str(comparison_frame(comparisons).to_csv(index=False, lineterminator="\n"))
        case "json":
            return json.render(comparisons)
        case _:
            assert_never(form)


def render_bytes(
    form: Format, comparisons: Sequence[Comparison], *, columns: Columns = "speed", verbose: bool = False
) -> bytes:
    """The comparisons as a file holds them: text in UTF-8, or Parquet with the types of the columns."""
    if form == "parquet":
        return bytes(comparison_frame(comparisons).to_parquet(index=False))
    return render(form, comparisons, columns=columns, verbose=verbose).encode()
