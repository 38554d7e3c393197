"""The report of runs as one HTML page: charts, photos and tables in one file, nothing fetched.

A section is a function from a run to a `PageSection`; SECTIONS is their order.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import plural
from workbench.report import machines
from workbench.report.page import (
    answer_sections,
    cost_sections,
    field_section,
    origin_sections,
    separation_section,
    speed_sections,
    vega,
)
from workbench.report.page.blocks import Cell, Chart, DataTable, DrawnChart, PageBlock, PageSection
from workbench.report.page.run_data import RunData
from workbench.report.words import times
from workbench.results.folder import RunFolder
from workbench.results.reasons import Winner
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic
from workbench.system.packages import missing_package, require

PACKAGES = ("altair", "vl_convert", "jinja2", "pyarrow")
TEMPLATES = Path(__file__).with_name("templates")
FILE = "report.html"
SECTIONS: tuple[Callable[[RunData], PageSection], ...] = (
    speed_sections.decision,
    speed_sections.figures,
    speed_sections.speedups,
    speed_sections.latencies,
    cost_sections.costs,
    cost_sections.paths,
    cost_sections.audit,
    answer_sections.recalls,
    answer_sections.confusions,
    answer_sections.changed,
    answer_sections.reliability,
    field_section.robustness,
    separation_section.separation,
    origin_sections.machine,
    origin_sections.unmeasured,
    origin_sections.variants,
    origin_sections.repeat,
)


def missing() -> str | None:
    """What to install before a report can be made; None where nothing is missing."""
    return next((text for module in PACKAGES if (text := missing_package(module, extra="report"))), None)


def write(comparison: Comparison, folder: RunFolder) -> Path:
    """Leave the page of a run as `report.html` in its folder. Raises WorkbenchError."""
    path = folder.path / FILE
    write_atomic(path, render([comparison], [folder]).encode())
    return path


def render(comparisons: Sequence[Comparison], folders: Sequence[RunFolder]) -> str:
    """One page of these runs, with what the folder of each holds.

    Raises WorkbenchError where a folder cannot be read, or a package is missing.
    """
    require(*PACKAGES, extra="report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pairs = enumerate(zip(comparisons, folders, strict=True), start=1)
    runs = [RunData(comparison, folder, number) for number, (comparison, folder) in pairs]
    specs: dict[str, dict[str, Any]] = {}
    shown = [(run, [_drawn(run, section, specs) for section in _sections(run)]) for run in runs]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    script = vega.library() if specs else ""
    ours = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=_title(runs),
        runs=shown,
        overview=[table for table in (_overview(runs), _differences(runs)) if table is not None],
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script), Markup(ours)],
        hashes=[_hash(script), _hash(ours)],
        charts=Markup(vega.embedded(specs)),
    )


def _sections(run: RunData) -> list[PageSection]:
    return [section for make in SECTIONS if (section := make(run)).blocks]


def _drawn(run: RunData, section: PageSection, specs: dict[str, dict[str, Any]]) -> PageSection:
    """The section with its charts drawn; what draws them in a browser is added to `specs`."""
    blocks: list[PageBlock] = []
    for number, block in enumerate(section.blocks, start=1):
        if isinstance(block, Chart):
            name = f"run{run.number}-{section.key}-{number}"
            specs[name] = vega.live(block.spec)
            image, figures = vega.svg(block.spec, name), block.table
            blocks.append(DrawnChart(name, block.title, image, figures, block.picks, block.unfolded))
        else:
            blocks.append(block)
    return replace(section, blocks=tuple(blocks))


def _hash(script: str) -> str:
    """As a content security policy names a script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) == 1:
        return f"{runs[0].info.name}, run {runs[0].info.run_id}"
    return plural(len(runs), "run")


def _overview(runs: Sequence[RunData]) -> DataTable | None:
    """The runs beside each other, where there are several."""
    if len(runs) == 1:
        return None
    several = len({run.info.machine.fingerprint for run in runs}) > 1
    caption = "Of different machines: speed-ups compare, milliseconds do not" if several else "Runs"
    return DataTable(
        caption,
        ("run", "model", "machine", "photos", "winner", "speed-up"),
        tuple(
            (
                Cell(run.info.run_id, target=f"run{run.number}"),
                Cell(run.info.name),
                Cell(f"{run.info.machine.cpu}, {plural(run.info.machine.cores, 'core')}"),
                Cell(f"{run.info.validation_images:,}"),
                Cell(run.comparison.winner or "none"),
                Cell(_speed(run)),
            )
            for run in runs
        ),
        texts=6,
    )


def _differences(runs: Sequence[RunData]) -> DataTable | None:
    """What sets runs of different machines apart; None where they are of one."""
    if not (grids := machines.grids([run.comparison for run in runs])):
        return None
    different = grids[0]
    rows = tuple(tuple(Cell(text) for text in row[1:]) for row in different.rows)
    return DataTable("What differs", different.headings[1:], rows, texts=len(different.headings) - 1)


def _speed(run: RunData) -> str:
    winner = next((r for r in run.comparison.verdict.reasons if isinstance(r, Winner)), None)
    known = winner and winner.speedup
    return times(known, winner.speedup_ci) if winner and known else "–"
