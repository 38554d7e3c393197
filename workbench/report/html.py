"""The comparison as one self-contained HTML page: no scripts, nothing fetched."""

from collections.abc import Sequence
from html import escape

from workbench.compare import Comparison
from workbench.report import cells

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr.winner { font-weight: 600; background: #2a82; }
.note { color: #888; }
"""


def render(comparisons: Sequence[Comparison]) -> str:
    sections = "".join(_one(comparison) for comparison in comparisons)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>krishi-bench</title>'
        f"<style>{STYLE}</style><body>{sections}</body></html>\n"
    )


def _one(comparison: Comparison) -> str:
    info = comparison.info
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    heading = f"<h1>{escape(info.name)}, run {escape(info.run_id)}</h1>"
    facts = (
        f"<p class=note>{cells.photos(info)}"
        f"{' (synthetic)' if info.synthetic else ''}; "
        f"{escape(info.machine.cpu)}, {info.machine.cores} cores; noise floor of speed-ups {floor}</p>"
    )
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in cells.HEADINGS) + "</tr>"
    body = "".join(
        f"<tr{' class=winner' if row.winner else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells.cells(row))
        + "</tr>"
        for row in cells.measured(comparison.rows)
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in comparison.reasons)
    absent = "".join(
        f"<li>{row.status} <code>{escape(row.variant)}</code>: {escape(row.reason or '')}</li>"
        for row in comparison.rows
        if row.status != "ok"
    )
    audits = "".join(
        f"<li>{escape(line)}</li>" for line in cells.audit_lines(cells.measured(comparison.rows))
    )
    audited = f"<h2>What really ran</h2><ul>{audits}</ul>" if audits else ""
    legend = f"<p class=note>{cells.LEGEND}</p>"
    return f"{heading}{facts}<table>{head}{body}</table>{legend}<ul>{reasons}{absent}</ul>{audited}"
