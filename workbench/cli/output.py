"""What commands print on stdout."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.cli.options import AnswerFormat, TableFormat
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.results.verdict import Comparison

ColumnSet = Literal["speed", "audit"]


def print_answer(answer: object, text: str, form: AnswerFormat | TableFormat) -> None:
    """Print `answer` as JSON where that is the format, else `text`."""
    print(json.dumps(answer, indent=2) if form == "json" else text)


def check_output(form: AnswerFormat | TableFormat, output: Path | None) -> None:
    """Raise WorkbenchError where a comparison could not be shown or written, before it is measured."""
    if output is not None and output.is_dir():
        raise WorkbenchError(f"--output: {output} is a folder", hint="name a file in it")
    if output is None and form == "parquet" and sys.stdout.isatty():
        hint = "name a file with --output, or use a pipe"
        raise WorkbenchError("--format parquet: a terminal cannot show it", hint=hint)


def print_comparisons(
    comparisons: "Sequence[Comparison]",
    form: TableFormat,
    *,
    columns: ColumnSet = "speed",
    verbose: bool = False,
    output: Path | None = None,
) -> int:
    """Print comparisons, or write them to the file `output`, which `check_output` has found usable.

    Returns 0 where each of them names a winner that may be published, else 1.
    """
    from workbench import report
    from workbench.system.files import write_atomic

    terminal = sys.stdout.isatty()
    if output is not None:
        write_atomic(output, report.render_bytes(form, comparisons, columns=columns, verbose=verbose))
    elif form != "parquet":
        width = shutil.get_terminal_size().columns if terminal else report.WIDTH
        text = report.render(form, comparisons, color=terminal, columns=columns, verbose=verbose, width=width)
        sys.stdout.write(text)
    else:
        sys.stdout.buffer.write(report.render_bytes(form, comparisons))
    return int(not all(found.winner and found.certified and not found.nothing_else for found in comparisons))
