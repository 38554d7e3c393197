"""The comparison as a Markdown table, for pull requests and model cards."""

from collections.abc import Sequence

from workbench.report import cells, gpu, verdict
from workbench.results.frames import require
from workbench.results.verdict import Comparison


def render(
    comparisons: Sequence[Comparison], *, columns: cells.Columns = "speed", verbose: bool = False
) -> str:
    return "\n".join(_one(comparison, columns, verbose=verbose) for comparison in comparisons)


def _one(comparison: Comparison, columns: cells.Columns, *, verbose: bool) -> str:
    info, headings = comparison.info, cells.headings_of(columns)
    measured = cells.measured(comparison.rows)
    lines = [
        f"**{info.name}**, run `{info.run_id}`, {cells.photos(info)}"
        + (" (synthetic)" if info.synthetic else "")
        + f"; {cells.machine(info)}",
        *(["", _plain(line)] if (line := gpu.machine_line(info)) is not None else []),
        "",
        _table(headings, [cells.columns_of(columns, row) for row in measured]),
        "",
        cells.LEGEND,
        "",
        *_on_gpu(comparison, columns),
        *(f"- {_plain(audit)}" for audit in (cells.audit_lines(measured) if columns == "audit" else [])),
        *_sections(comparison, verbose=verbose),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _sections(comparison: Comparison, *, verbose: bool) -> list[str]:
    lines = []
    for section in verdict.sections(comparison, verbose=verbose):
        lines += [f"**{section.title}**", "", *(f"- {_plain(line)}" for line in section.lines), ""]
    return lines


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    require("pandas", "tabulate")
    import pandas as pd

    rows = [[cell.replace("|", "\\|") for cell in (mark, _code(name), *rest)] for mark, name, *rest in lines]
    alignment = ("left", "left", *["right"] * (len(headings) - 2))
    table = pd.DataFrame(rows, columns=list(headings), dtype="string")
    return str(table.to_markdown(index=False, colalign=alignment, disable_numparse=True))


def _on_gpu(comparison: Comparison, columns: cells.Columns) -> list[str]:
    lines = []
    for grid in gpu.grids(comparison) if columns == "speed" else []:
        note = [_plain(grid.note).replace("*", "\\*"), ""] if grid.note is not None else []
        lines += [grid.title, "", _table(grid.headings, grid.rows), "", *note]
    return lines


def _code(text: str) -> str:
    return f"`{text}`"


def _plain(text: str) -> str:
    """Prose from elsewhere: `<class ...>` would be taken for HTML, and not shown."""
    return text.replace("<", "\\<")
