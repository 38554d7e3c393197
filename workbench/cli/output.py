"""What commands print on stdout."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from workbench.cli.options import AnswerFormat, TableFormat

if TYPE_CHECKING:
    from workbench.results.verdict import Comparison

ColumnSet = Literal["speed", "audit"]


def print_answer(answer: object, text: str, form: AnswerFormat | TableFormat) -> None:
    """Print `answer` as JSON where that is the format, else `text`."""
    print(json.dumps(answer, indent=2) if form == "json" else text)


def print_comparisons(
    comparisons: "Sequence[Comparison]", form: TableFormat, columns: ColumnSet = "speed"
) -> int:
    """Print comparisons; returns 0 where each of them names a winner that may be published, else 1."""
    from workbench.report import render

    sys.stdout.write(render(form, comparisons, color=sys.stdout.isatty(), columns=columns))
    return int(not all(found.winner and found.certified and not found.nothing_else for found in comparisons))
