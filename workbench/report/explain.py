"""What a recipe does, in words."""

from dataclasses import asdict

from workbench.errors import plural
from workbench.report.words import listed, wrapped
from workbench.run.advice.explain import Explanation

SHOWN = 8  # variants listed by name; more are counted


def text(found: Explanation) -> str:
    """The explanation for a terminal of 100 columns."""
    lines = wrapped(f"{found.recipe}: {found.description}" if found.description else found.recipe, "")
    lines += wrapped(f"{plural(len(found.variants), 'variant')}: {listed(found.variants, most=SHOWN)}", "")
    for axis in found.axes:
        lines += wrapped(f"varies {axis}", "  ")
    if found.needs:
        lines += wrapped(f"needs {', '.join(found.needs)}", "")
    if found.unmet is not None:
        lines += wrapped(f"skipped here: {found.unmet}", "")
    described_before = ""  # a setting with several values is described once
    for part in found.parts:
        values = f": {', '.join(part.values)}" if part.values else ""
        lines += ["", *wrapped(part.title + values, "")]
        for label, statement in asdict(part.note).items():
            if statement and (label != "does" or part.title != described_before):
                lines += wrapped(statement, " " * 10, f"  {label:<8}")
        described_before = part.title
    return "\n".join(lines) + "\n"
