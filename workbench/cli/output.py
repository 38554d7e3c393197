"""What commands print on stdout."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.cli.options import AnswerFormat, TableFormat
from workbench.errors import WorkbenchError
from workbench.system.packages import require

if TYPE_CHECKING:
    from workbench.report.vega import ChartDrawer
    from workbench.results.folder import RunFolder
    from workbench.results.verdict import Comparison

ColumnSet = Literal["speed", "audit"]
PACKAGES = {"csv": ("pandas",), "markdown": ("pandas", "tabulate"), "parquet": ("pandas", "pyarrow")}


def print_answer(answer: object, text: str, form: AnswerFormat | TableFormat) -> None:
    """Print `answer` as JSON where that is the format, else `text`."""
    print(json.dumps(answer, indent=2) if form == "json" else text)


def terminal_width() -> int:
    """Columns that a table on stdout may take: those of the terminal, 100 at most and where there is none."""
    from workbench.report.words import WIDTH

    return min(shutil.get_terminal_size().columns, WIDTH) if sys.stdout.isatty() else WIDTH


def check_output(form: AnswerFormat | TableFormat, output: Path | None) -> None:
    """Raise WorkbenchError where a comparison could not be shown or written, before it is measured."""
    check_file("--output", output)
    if output is None and form == "parquet" and sys.stdout.isatty():
        hint = "name a file with --output, or use a pipe"
        raise WorkbenchError("--format parquet: a terminal cannot show it", hint=hint)
    if form == "html":
        from workbench.report import page

        require(*page.PACKAGES, extra="report")
    require(*PACKAGES.get(form, ()))


def check_file(option: str, path: Path | None) -> None:
    """Raise WorkbenchError where no file can be made there; folders that are missing are made with it."""
    if path is None:
        return
    if path.is_dir():
        raise WorkbenchError(f"{option}: {path} is a folder", hint="name a file in it")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise WorkbenchError(f"{option}: {path} cannot be written: {there} is no folder")


def print_comparisons(
    comparisons: "Sequence[Comparison]",
    form: TableFormat,
    *,
    folders: "Sequence[RunFolder]",
    columns: ColumnSet = "speed",
    verbose: bool = False,
    output: Path | None = None,
) -> int:
    """Print comparisons, or write them to the file `output`, which `check_output` has found usable.

    folders: of the runs; the HTML page shows more of what they hold.
    Returns 0 where each of them names a winner that may be published, else 1.
    """
    from workbench import report
    from workbench.system.files import write_atomic

    terminal = sys.stdout.isatty()
    if form == "html":
        from workbench.report import page

        html = page.render(comparisons, folders)
        sys.stdout.write(html) if output is None else write_atomic(output, html.encode())
    elif output is not None:
        write_atomic(output, report.render_bytes(form, comparisons, columns=columns, verbose=verbose))
    elif form != "parquet":
        width = shutil.get_terminal_size().columns if terminal else report.WIDTH
        text = report.render(form, comparisons, color=terminal, columns=columns, verbose=verbose, width=width)
        sys.stdout.write(text)
    else:
        sys.stdout.buffer.write(report.render_bytes(form, comparisons))
    return exit_code(comparisons)


def exit_code(comparisons: "Sequence[Comparison]") -> int:
    """0 where each of them names a winner that may be published, else 1."""
    return int(not all(found.winner and found.certified and not found.nothing_else for found in comparisons))


def print_plots(comparisons: "Sequence[Comparison]") -> None:
    from workbench.report import plot

    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns if terminal else 80, 100)
    for comparison in comparisons:
        print(plot.render(comparison, color=terminal, width=width))


def write_report(comparison: "Comparison", folder: "RunFolder", drawer: "ChartDrawer | None" = None) -> None:
    """Leave `report.html` in the folder of a run; where packages for it are missing, say which on stderr.

    drawer: as in `page.write`.
    """
    from workbench.report import page

    if (absent := page.missing()) is None:
        page.write(comparison, folder, drawer)
    else:
        print(f"no report.html was written: {absent}", file=sys.stderr)
