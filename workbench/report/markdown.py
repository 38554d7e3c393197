"""The comparison as a Markdown table, for pull requests and model cards."""

from collections.abc import Sequence

from workbench.report import cells, gpu
from workbench.results.frames import require
from workbench.results.verdict import Comparison


def render(comparisons: Sequence[Comparison], *, columns: cells.Columns = "speed") -> str:
    return "\n".join(_one(comparison, columns) for comparison in comparisons)


def _one(comparison: Comparison, columns: cells.Columns) -> str:
    info, headings = comparison.info, cells.headings_of(columns)
    measured = cells.measured(comparison.rows)
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    lines = [
        f"**{info.name}**, run `{info.run_id}`, {cells.photos(info)}"
        + (" (synthetic)" if info.synthetic else "")
        + f"; {info.machine.cpu}, {info.machine.cores} cores; noise floor {floor}",
        *(["", _plain(line)] if (line := gpu.machine_line(info)) is not None else []),
        "",
        _table(headings, [cells.columns_of(columns, row) for row in measured]),
        "",
        cells.LEGEND,
        "",
        *_on_gpu(comparison, columns),
        *(
            f"- {status} {', '.join(map(_code, variants))}: {_plain(reason)}"
            for status, variants, reason in cells.absent(comparison.rows)
        ),
        *(f"- {_plain(verdict)}" for verdict in (cells.audit_lines(measured) if columns == "audit" else [])),
        *(f"- {_plain(reason)}" for reason in comparison.reasons),
    ]
    return "\n".join(lines) + "\n"


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
