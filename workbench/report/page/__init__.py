"""The report of runs as one HTML page: charts, photos and tables in one file, nothing fetched.

A section is a function from a run to a `PageSection`; SECTIONS is their order, FLEET_SECTIONS that of a
fleet's run.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from workbench.errors import plural
from workbench.fleet.records import FleetFolder
from workbench.report import machines
from workbench.report.page import (
    answer_sections,
    cost_sections,
    device_sections,
    field_section,
    fleet_sections,
    origin_sections,
    separation_section,
    speed_sections,
)
from workbench.report.page.blocks import Cell, DataTable, PageSection
from workbench.report.page.fleet_data import FleetData
from workbench.report.page.layout import layout
from workbench.report.page.run_data import RunData
from workbench.report.vega import ChartDrawer
from workbench.report.words import times
from workbench.results.folder import RunFolder
from workbench.results.history import compare_folder
from workbench.results.reasons import Winner
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic
from workbench.system.packages import missing_package, require

PACKAGES = ("altair", "vl_convert", "jinja2", "pyarrow")
FILE = "report.html"
DEVICE_PAGES = 20  # of a fleet's devices, that are made without being asked for
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
FLEET_SECTIONS: tuple[Callable[[FleetData], PageSection], ...] = (
    fleet_sections.decision,
    fleet_sections.matrix,
    fleet_sections.speedups,
    fleet_sections.disagreement,
    fleet_sections.spread,
    fleet_sections.searches,
    device_sections.devices,
    device_sections.versions,
    device_sections.unmeasured,
    fleet_sections.variants,
    fleet_sections.repeat,
)


def missing() -> str | None:
    """What to install before a report can be made; None where nothing is missing."""
    return next((text for module in PACKAGES if (text := missing_package(module, extra="report"))), None)


def write(comparison: Comparison, folder: RunFolder, drawer: ChartDrawer | None = None) -> Path:
    """Leave the page of a run as `report.html` in its folder. Raises WorkbenchError.

    drawer: draws its charts; one is started for it by default.
    """
    path = folder.path / FILE
    write_atomic(path, render([comparison], [folder], drawer).encode())
    return path


def render(
    comparisons: Sequence[Comparison], folders: Sequence[RunFolder], drawer: ChartDrawer | None = None
) -> str:
    """One page of these runs, with what the folder of each holds. drawer: as in `write`.

    Raises WorkbenchError where a folder cannot be read, or a package is missing.
    """
    require(*PACKAGES, extra="report")
    with nullcontext(drawer) if drawer else ChartDrawer() as charts:
        return _page(comparisons, folders, charts)


def render_fleet(folder: FleetFolder, beside: Path) -> str:
    """One page of a fleet's run. beside: the folder that it will lie in, from where it links to the devices'
    own pages, as far as there are some.

    Raises WorkbenchError where the folder cannot be read, or a package is missing.
    """
    require(*PACKAGES, extra="report")
    with ChartDrawer() as drawer:
        return _fleet_page(folder, beside, drawer)


def write_fleet(folder: FleetFolder, target: Path | None = None) -> Path:
    """Leave the pages of the first devices in their folders, and the fleet's in its own or as `target`.

    Raises WorkbenchError.
    """
    require(*PACKAGES, extra="report")
    status = folder.status()
    done = [name for name, outcome in status.outcomes.items() if outcome.state == "done"]
    path = target or folder.path / FILE
    with ChartDrawer() as drawer:
        for device in map(folder.device, done[:DEVICE_PAGES]):
            page = _page([compare_folder(device)], [device], drawer)
            write_atomic(device.path / FILE, page.encode())
        write_atomic(path, _fleet_page(folder, path.absolute().parent, drawer).encode())
    return path


def _page(comparisons: Sequence[Comparison], folders: Sequence[RunFolder], drawer: ChartDrawer) -> str:
    pairs = enumerate(zip(comparisons, folders, strict=True), start=1)
    runs = [RunData(comparison, folder, number) for number, (comparison, folder) in pairs]
    overview = [table for table in (_overview(runs), _differences(runs)) if table is not None]
    return layout(_title(runs), [(run, [make(run) for make in SECTIONS]) for run in runs], drawer, overview)


def _fleet_page(folder: FleetFolder, beside: Path, drawer: ChartDrawer) -> str:
    data = FleetData(folder, beside)
    title = f"{data.info.name}, run {data.info.run_id} of a fleet"
    return layout(title, [(data, [make(data) for make in FLEET_SECTIONS])], drawer)


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
