"""The decision, accuracy against speed, speed-ups and latencies."""

from typing import Any

from workbench.errors import WorkbenchError
from workbench.report.cells import COLUMNS, LEGEND, largest_drop, measured, percent, rounded, with_interval
from workbench.report.contents import SYNTHETIC
from workbench.report.page import charts
from workbench.report.page.blocks import Cell, Chart, DataTable, PageSection, lines
from workbench.report.page.latency_values import RANKS, percentiles
from workbench.report.page.run_data import RunData
from workbench.report.verdict import sections
from workbench.results.verdict import Row


def decision(run: RunData) -> PageSection:
    """The verdict in its own words, what is close behind, and what must be mended before it is believed."""
    found = {section.title: section.lines for section in sections(run.comparison, verbose=False)}
    told = [*found.get("Winner", ()), *found.get("No winner", ())]
    warnings = found.get("Notes: mend these before anything else", ())
    close = [f"Close behind: {line}" for line in found.get("Close behind", ())]
    over = [f"Over the budget: {line}" for line in found.get("Over the budget", ())]
    photos = SYNTHETIC if run.info.synthetic else ""
    names = tuple(f"{row.variant}:" for row in run.comparison.rows)
    blocks = (
        *lines(*warnings, tone="warning"),
        *lines(" ".join(_sentence(line, names) for line in told), tone="lead"),
        *lines(*close, *over, photos),
    )
    return PageSection("decision", "The decision", blocks)


def _sentence(text: str, names: tuple[str, ...]) -> str:
    """With a full stop, and with a capital where no name of a variant begins it."""
    begun = text if text.startswith(names) else text[:1].upper() + text[1:]
    return f"{begun.removesuffix('.')}."


def figures(run: RunData) -> PageSection:
    """Accuracy against speed as a chart, and every figure of the table."""
    rows = measured(run.comparison.rows)
    shown = COLUMNS["speed"]
    marked = frozenset(number for number, row in enumerate(rows) if row.winner)
    cells = tuple(
        tuple(Cell(cell(row), target=run.card_id(row.variant) if name == "variant" else None)
        for name, cell in shown.items())
        for row in rows
    )  # fmt: skip
    table = DataTable(LEGEND, tuple(shown), cells, marked, texts=2)
    points = [point(run, row) for row in rows if row.speedup is not None and row.drop is not None]
    points.sort(key=lambda value: -charts.KINDS.index(value["kind"]))  # what matters is drawn last, on top
    if not points:
        return PageSection("figures", "Accuracy and speed", (table,) if rows else ())
    budget = 100 * run.info.budget.max_accuracy_drop
    deepest = largest_drop(run.info)
    beyond = [value["variant"] for value in points if value["drop"] > deepest]
    spec = charts.tradeoff([_within(value, deepest) for value in points], _front(points, deepest), budget)
    note = f"at the lower edge, as they lose more than {deepest:g} points: {', '.join(beyond)}"
    chart = Chart(
        "Accuracy drop against speed-up, with 95 % intervals", spec, table, picks=True, unfolded=True
    )
    return PageSection("figures", "Accuracy and speed", (chart, *lines(note if beyond else "")))


def point(run: RunData, row: Row) -> dict[str, Any]:
    """A variant in a chart: raw values, and the texts that appear when it is pointed at."""
    low, high = row.speedup_ci or (row.speedup, row.speedup)
    drop_low, drop_high = row.drop_ci or (row.drop, row.drop)
    return {
        "variant": row.variant,
        "card": run.card_id(row.variant),
        "kind": kind(row),
        "speedup": row.speedup,
        "low": low,
        "high": high,
        "drop": None if row.drop is None else 100 * row.drop,
        "drop_low": None if drop_low is None else 100 * drop_low,
        "drop_high": None if drop_high is None else 100 * drop_high,
        "speed-up": with_interval(row.speedup, row.speedup_ci),
        "drop, points": with_interval(row.drop, row.drop_ci, 0.01),
        "p50": f"{rounded(row.p50_ms)} ms",
        "size": f"{rounded(row.size_bytes, 1e6)} MB",
    }


def kind(row: Row) -> str:
    if row.winner:
        return "winner"
    return "on the Pareto front" if row.pareto else "dropped early" if row.status == "pruned" else "other"


def _within(value: dict[str, Any], deepest: float) -> dict[str, Any]:
    """The point on the chart. Its drop, in words, is as measured."""
    drops = {name: max(-deepest, min(deepest, value[name])) for name in ("drop", "drop_low", "drop_high")}
    return {**value, **drops}


def _front(points: list[dict[str, Any]], deepest: float) -> list[dict[str, Any]]:
    """Of the front of accuracy, speed and size, those that no other beats in speed and accuracy."""
    ordered = sorted(points, key=lambda value: (-value["speedup"], value["drop"]))
    found: list[dict[str, Any]] = []
    for value in ordered:
        on_front = value["kind"] in ("winner", "on the Pareto front")
        if on_front and (not found or value["drop"] < found[-1]["drop"]):
            found.append(value)
    return [{"speedup": value["speedup"], "drop": min(deepest, value["drop"])} for value in found]


def speedups(run: RunData) -> PageSection:
    rows = sorted(
        (row for row in measured(run.comparison.rows) if row.speedup is not None),
        key=lambda row: -(row.speedup or 0),
    )
    if not rows:
        return PageSection("speedups", "Speed-ups", ())
    values = [point(run, row) for row in rows]
    table = DataTable(
        "Speed-ups with 95 % intervals over launches",
        ("variant", "speed-up", "from", "to"),
        tuple(
            (
                Cell(row.variant, target=run.card_id(row.variant)),
                Cell(rounded(row.speedup)),
                *(Cell(rounded(end)) for end in row.speedup_ci or (None, None)),
            )
            for row in rows
        ),
    )
    floor = run.info.noise_floor
    note = (
        f"The grey band is the noise floor: a second copy of the baseline differed by {percent(floor)} %."
        if floor
        else ""
    )
    chart = Chart("Speed-ups over the baseline", charts.forest(values, floor), table, picks=True)
    return PageSection("speedups", "Speed-ups", (chart, *lines(note)))


def latencies(run: RunData) -> PageSection:
    title = "Latency distributions"
    rows = [row for row in measured(run.comparison.rows) if row.p50_ms is not None]
    if not rows:
        return PageSection("latencies", title, ())
    try:
        found = percentiles(run.folder.path / "latency.parquet")
    except WorkbenchError as error:
        return PageSection("latencies", title, lines(f"The raw samples cannot be shown: {error.message}"))
    rows = sorted((row for row in rows if row.variant in found), key=lambda row: found[row.variant][2])
    values = [
        {
            "variant": row.variant,
            "card": run.card_id(row.variant),
            "kind": kind(row),
            **{f"p{rank}": value for rank, value in zip(RANKS, found[row.variant], strict=True)},
            **{f"p{rank} ms": rounded(v) for rank, v in zip(RANKS, found[row.variant], strict=True)},
        }
        for row in rows
    ]
    table = DataTable(
        "Percentiles of one hot call, in ms",
        ("variant", *(f"p{rank}" for rank in RANKS)),
        tuple(
            (
                Cell(row.variant, target=run.card_id(row.variant)),
                *(Cell(rounded(value)) for value in found[row.variant]),
            )
            for row in rows
        ),
    )
    chart = Chart("Latency of one hot call", charts.latencies(values), table, picks=True)
    note = "Line: p5 to p95; box: p25 to p75; thick tick: p50; circle: p99. All launches together."
    return PageSection("latencies", title, (chart, *lines(note)))
