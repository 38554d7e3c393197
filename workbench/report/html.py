"""The comparison as one self-contained HTML page: no scripts, nothing fetched."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from workbench.report import cells, gpu, verdict
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
    sections = "".join(_one(comparison) for comparison in comparisons)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>krishi-bench</title>'
        f"<style>{STYLE}</style><body>{sections}</body></html>\n"
    )


def _one(comparison: Comparison) -> str:
    info = comparison.info
    heading = f"<h1>{escape(info.name)}, run {escape(info.run_id)}</h1>"
    facts = (
        f"<p class=note>{cells.photos(info)}"
        f"{' (synthetic)' if info.synthetic else ''}; "
        f"{escape(cells.machine(info))}"
        f"{'' if (line := gpu.machine_line(info)) is None else f'<br>{escape(line)}'}</p>"
    )
    measured = cells.measured(comparison.rows)
    table = _table(cells.HEADINGS, [cells.cells(row) for row in measured], [row.winner for row in measured])
    audits = "".join(f"<li>{escape(line)}</li>" for line in cells.audit_lines(measured))
    audited = f"<h2>What really ran</h2><ul>{audits}</ul>" if audits else ""
    legend = f"<p class=note>{cells.LEGEND}</p>"
    return f"{heading}{facts}{table}{legend}{_sections(comparison)}{_on_gpu(comparison)}{audited}"


def _sections(comparison: Comparison) -> str:
    return "".join(
        f"<h2>{section.title}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in section.lines)}</ul>"
        for section in verdict.sections(comparison, verbose=True)
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], winners: Sequence[bool]) -> str:
    """winners: whether each line is the winner's."""
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in headings) + "</tr>"
    body = "".join(
        f"<tr{' class=winner' if winner else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in line)
        + "</tr>"
        for line, winner in zip(lines, winners, strict=True)
    )
    return f"<table>{head}{body}</table>"


def _on_gpu(comparison: Comparison) -> str:
    parts = []
    for grid in gpu.grids(comparison):
        table = _table(grid.headings, grid.rows, [False] * len(grid.rows))
        note = f"<p class=note>{escape(grid.note)}</p>" if grid.note is not None else ""
        parts.append(f"<h2>{escape(grid.title)}</h2>{table}{note}")
    return "".join(parts)
