"""The comparison as a Markdown table, for pull requests and model cards."""

from collections.abc import Sequence

from workbench.report import machines
from workbench.report.cells import Columns, Grid
from workbench.report.contents import contents
from workbench.results.verdict import Comparison
from workbench.system.packages import require


def render(comparisons: Sequence[Comparison], *, columns: Columns = "speed", verbose: bool = False) -> str:
    above = ["\n\n".join(_grid(grid)) + "\n" for grid in machines.grids(comparisons)]
    return "\n".join([*above, *(_one(comparison, columns, verbose=verbose) for comparison in comparisons)])


def _one(comparison: Comparison, columns: Columns, *, verbose: bool) -> str:
    info = comparison.info
    shown = contents(comparison, columns, verbose=verbose, audit=columns == "audit")
    blocks = [f"**{info.name}**, run `{info.run_id}`, {_plain('; '.join(shown.facts))}"]
    for grid in shown.grids:
        blocks += _grid(grid)
    for section in shown.sections:
        blocks += [f"**{section.title}**", "\n".join(f"- {_plain(line)}" for line in section.lines)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _grid(grid: Grid) -> list[str]:
    return [grid.title, _table(grid), _plain(grid.note).replace("*", "\\*")]


def _table(grid: Grid) -> str:
    require("pandas", "tabulate")
    import pandas as pd

    rows = [
        [cell.replace("|", "\\|") for cell in (mark, f"`{name}`", *rest)] for mark, name, *rest in grid.rows
    ]
    alignment = ("left", "left", *["right"] * (len(grid.headings) - 2))
    table = pd.DataFrame(rows, columns=list(grid.headings), dtype="string")
    return str(table.to_markdown(index=False, colalign=alignment, disable_numparse=True))


def _plain(text: str) -> str:
    """Prose from elsewhere: `<class ...>` would be taken for HTML, and not shown."""
    return text.replace("<", "\\<")
