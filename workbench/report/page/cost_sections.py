"""What a variant costs besides time, where the time of a photo goes, and what ran in which precision."""

from collections.abc import Callable
from typing import Any

from workbench.report import cells
from workbench.report.contents import contents
from workbench.report.page import charts
from workbench.report.page.blocks import Cell, Chart, DataTable, PageBlock, PageSection, lines, table
from workbench.report.page.run_data import RunData
from workbench.results.records import TrialResult

Cost = Callable[[TrialResult], float | None]
# Heading and value, in the unit of the heading.
COSTS: dict[str, Cost] = {
    "file, MB": lambda trial: _in(trial.size_bytes, 1e6),
    "peak memory, MB": lambda trial: _in(trial.peak_memory_bytes, 1e6),
    "steady memory, MB": lambda trial: _in(trial.steady_memory_bytes, 1e6),
    "cold start, ms": lambda trial: _in(trial.cold_start_s, 1e-3),
    "load, ms": lambda trial: _in(trial.load_s, 1e-3),
}


def _in(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def costs(run: RunData) -> PageSection:
    return PageSection("costs", "Size, memory and start", (*_cost_table(run), *_more_grids(run)))


def _cost_table(run: RunData) -> list[PageBlock]:
    """A bar in each cell, as long as its share of the column's largest value."""
    rows = cells.measured(run.comparison.rows)
    trials = [trial for row in rows if (trial := run.trials.get(row.variant)) is not None]
    known = {name: [cost(trial) for trial in trials] for name, cost in COSTS.items()}
    known = {name: values for name, values in known.items() if any(values)}
    if not known:
        return []
    largest = {name: max(value or 0 for value in values) for name, values in known.items()}
    body = tuple(
        (
            Cell(trial.variant, target=run.card_id(trial.variant)),
            *(_bar(values[number], largest[name]) for name, values in known.items()),
        )
        for number, trial in enumerate(trials)
    )
    caption = "Memory is above that of a process without a runtime; a cold start is from process to answer"
    marked = frozenset(n for n, trial in enumerate(trials) if trial.variant == run.comparison.winner)
    return [DataTable(caption, ("variant", *known), body, marked)]


def _bar(value: float | None, largest: float) -> Cell:
    return Cell(cells.rounded(value), share=(value or 0) / largest if largest else None)


def _more_grids(run: RunData) -> list[PageBlock]:
    """What stands below the main table: the GPU's own figures, where there are some."""
    return [
        _grid(grid, run) for grid in contents(run.comparison, "speed", verbose=True, audit=False).grids[1:]
    ]


def paths(run: RunData) -> PageSection:
    """From the bytes of a photo to its class: of the winner, or another with such times."""
    title = "The path of a photo"
    names = [run.comparison.winner, *run.examined, *run.trials]
    found = [trial for name in names if name and (trial := run.trials.get(name)) and trial.whole_path]
    if not found:
        return PageSection("paths", title, ())
    measured = found[0].whole_path
    values: list[dict[str, Any]] = []
    for path in measured:
        parts = (path.decode_ns, path.preprocess_ns, path.infer_ns, path.rest_ns)
        stages = zip(("decode", "preprocess", "inference", "rest"), parts, strict=True)
        values += [
            {"photo": path.photo, "stage": stage, "order": order, "ms": part / 1e6}
            for order, (stage, part) in enumerate(stages)
        ]
    figures = table(
        "Medians in ms",
        ("photo", "decode", "preprocess", "inference", "rest"),
        [
            (path.photo, *(cells.rounded(values[4 * number + part]["ms"]) for part in range(4)))
            for number, path in enumerate(measured)
        ],
    )
    chart = Chart(f"From file to class, {found[0].variant}", charts.stages(values, len(measured)), figures)
    return PageSection("paths", title, (*lines(f"Of {found[0].variant}, as the server does it."), chart))


def audit(run: RunData) -> PageSection:
    """In which precision the multiplications really ran."""
    shown = contents(run.comparison, "audit", verbose=True, audit=True)
    ran = [section.lines for section in shown.sections if section.title == "What really ran"]
    blocks = [_grid(shown.grids[0], run)] if shown.grids[0].rows else []
    return PageSection(
        "audit", "What ran in which precision", (*blocks, *lines(*(line for part in ran for line in part)))
    )


def _grid(grid: cells.Grid, run: RunData) -> DataTable:
    at = grid.headings.index("variant")
    body = tuple(
        tuple(
            Cell(text, target=run.card_id(text) if column == at else None) for column, text in enumerate(row)
        )
        for row in grid.rows
    )
    marked = frozenset(number for number, row in enumerate(grid.rows) if row[0] == cells.WINNER)
    caption = ". ".join(text for text in (grid.title, grid.note) if text)
    return DataTable(caption, grid.headings, body, marked, texts=at + 1)
