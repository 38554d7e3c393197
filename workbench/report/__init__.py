"""What a comparison looks like: one module per format. None of them measures or decides."""

from collections.abc import Sequence
from typing import Literal, assert_never

from workbench.compare import Comparison
from workbench.report import csv, html, json, markdown, table

Format = Literal["table", "markdown", "csv", "json", "html"]


def render(form: Format, comparisons: Sequence[Comparison], *, color: bool = False) -> str:
    """The comparisons as text. color: terminal escape codes, in a table."""
    match form:
        case "table":
            return table.render(comparisons, color=color)
        case "markdown":
            return markdown.render(comparisons)
        case "csv":
            return csv.render(comparisons)
        case "json":
            return json.render(comparisons)
        case "html":
            return html.render(comparisons)
        case _:
            assert_never(form)
