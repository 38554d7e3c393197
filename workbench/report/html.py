"""The comparison as one self-contained HTML page: no scripts, nothing fetched."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from workbench.report import machines
from workbench.report.cells import WINNER, Grid
from workbench.report.contents import contents
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr.winner { font-weight: 600; background: #2a82; }
.note { color: #888; }
"""


def write(comparison: Comparison, results: Path) -> None:
    """Leave the page as `report.html` in the run's folder under `results`."""
    write_atomic(results / comparison.info.run_id / "report.html", render([comparison]).encode())


def render(comparisons: Sequence[Comparison]) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>krishi-bench</title>'
        f"<style>{STYLE}</style><body>{''.join(map(_grid, machines.grids(comparisons)))}"
        f"{''.join(map(_one, comparisons))}</body></html>\n"
    )


def _one(comparison: Comparison) -> str:
    shown = contents(comparison, "speed", verbose=True, audit=True)
    heading = f"<h1>{escape(comparison.info.name)}, run {escape(comparison.info.run_id)}</h1>"
    facts = "<br>".join(escape(fact) for fact in shown.facts)
    grids = "".join(map(_grid, shown.grids))
    sections = "".join(
        f"{_title(section.title)}<ul>{_elements('li', section.lines)}</ul>" for section in shown.sections
    )
    return f"{heading}<p class=note>{facts}</p>{grids}{sections}"


def _grid(grid: Grid) -> str:
    return f"{_title(grid.title)}{_table(grid)}<p class=note>{escape(grid.note)}</p>"


def _title(text: str) -> str:
    return f"<h2>{escape(text)}</h2>" if text else ""


def _table(grid: Grid) -> str:
    rows = "".join(
        f"<tr{' class=winner' if row[0] == WINNER else ''}>{_elements('td', row)}</tr>" for row in grid.rows
    )
    return f"<table><tr>{_elements('th', grid.headings)}</tr>{rows}</table>"


def _elements(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
