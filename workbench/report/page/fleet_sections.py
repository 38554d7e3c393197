"""A fleet's run: what each class of devices says of each variant, and the recipes."""

import shlex
from typing import Any

from workbench.fleet.matrix import MatrixCell
from workbench.measure.records import BASELINE
from workbench.report.cells import ABSENT, WINNER, rounded, with_interval
from workbench.report.contents import SYNTHETIC
from workbench.report.fleet import cell_text, opposed_sentences, regret_text
from workbench.report.page import charts
from workbench.report.page.blocks import (
    CardList,
    Cell,
    Chart,
    CommandLines,
    DataTable,
    PageBlock,
    PageSection,
    VariantCard,
    lines,
    table,
)
from workbench.report.page.fleet_data import FleetData
from workbench.report.search import search
from workbench.report.verdict import sections
from workbench.report.words import listed, signed
from workbench.results.records import TrialResult
from workbench.results.verdict import speed

KINDS = ("winner", "within the budget", "over the budget")
SPREADS = 20  # rows of the table of differences between devices of one class


def decision(data: FleetData) -> PageSection:
    """The winner of each class, the one file for all, and what must be mended before it is believed."""
    warnings = [
        f"No device of {name} was measured to the end: the class has no column."
        for name in data.status.incomplete_classes
    ]
    for found in data.comparisons.values():
        notes = {section.title: section.lines for section in sections(found, verbose=False)}
        warnings += notes.get("Notes: mend these before anything else", ())
    photos = SYNTHETIC if any(c.info.synthetic for c in data.comparisons.values()) else ""
    blocks = (
        *lines(*dict.fromkeys(warnings), tone="warning"),
        *lines(_winners(data), _one_for_all(data), tone="lead"),
        *lines(photos),
    )
    return PageSection("decision", "The decision", blocks)


def _winners(data: FleetData) -> str:
    won: dict[str | None, list[str]] = {}
    for name in data.classes:
        won.setdefault(data.matrix.winners[name], []).append(name)
    if not won:
        return "No class of devices was measured to the end."
    parts = [
        f"{variant} wins on {listed(names)}" if variant else f"nothing keeps the budget on {listed(names)}"
        for variant, names in won.items()
    ]
    return f"{'; '.join(parts)}."


def _one_for_all(data: FleetData) -> str:
    if len(data.classes) < 2:
        return ""
    if (one := data.matrix.one) is None:
        return "No file keeps the budget on all classes."
    costs = ", ".join(
        f"{name} {'nothing' if regret < 0.005 else f'{signed(100 * regret, 0)} %'}"
        for name, regret in one.regrets.items()
    )
    least = f"If one file must serve all, {one.variant} is the least bad"
    return f"{least}; over each class's winner it costs {costs}."


def matrix(data: FleetData) -> PageSection:
    """Variants by classes, the winner of each class marked."""
    classes, found = data.classes, data.matrix
    rows = [
        (
            Cell(variant, target=data.card_id(variant)),
            *(_matrix_cell(cells[name], won=found.winners[name] == variant) for name in classes),
        )
        for variant, cells in found.cells.items()
    ]
    if (one := found.one) is not None and len(classes) > 1:
        costs = (Cell(regret_text(one.regrets[name])) for name in classes)
        rows.append((Cell(f"one file for all: {one.variant}"), *costs))
    caption = (
        f"Speed-ups over the baseline of the same device, with 95 % intervals; {WINNER} the winner of a class"
    )
    blocks = (DataTable(caption, ("variant", *classes), tuple(rows)),) if classes else ()
    return PageSection("matrix", "Variants by class", blocks)


def _matrix_cell(cell: MatrixCell, *, won: bool) -> Cell:
    return Cell(f"{WINNER} {cell_text(cell)}" if won else cell_text(cell), marked=won)


def speedups(data: FleetData) -> PageSection:
    """A forest plot for each class."""
    blocks: list[PageBlock] = []
    for name in data.classes:
        cells = {variant: row[name] for variant, row in data.matrix.cells.items()}
        shown = {variant: cell for variant, cell in cells.items() if cell.speedup is not None}
        if shown:
            blocks.append(_forest(data, name, shown))
    return PageSection("speedups", "Speed-ups by class", tuple(blocks))


def _forest(data: FleetData, name: str, cells: dict[str, MatrixCell]) -> Chart:
    ordered = sorted(cells, key=lambda variant: -(cells[variant].speedup or 0))
    devices, winner = data.results[name], data.matrix.winners[name]
    values = [_point(data, variant, cells[variant], won=variant == winner) for variant in ordered]
    single = [
        {
            "variant": variant,
            "device": each.device,
            "speedup": ratio.speedup,
            "speed-up": rounded(ratio.speedup),
        }
        for variant in ordered
        for each in devices
        if len(devices) > 1 and (ratio := speed(each.trials[variant])) is not None
    ]
    figures = DataTable(
        f"Speed-ups on {name}, with 95 % intervals over launches",
        ("variant", "speed-up", "from", "to", "slowest device", "fastest device"),
        tuple(
            (
                Cell(variant, target=data.card_id(variant)),
                *map(Cell, _figures(cells[variant])),
            )
            for variant in ordered
        ),
    )
    noise = max((each.info.noise_floor or 0.0 for each in devices), default=0.0)
    title = f"Speed-ups over the baseline on {name}"
    return Chart(title, charts.forest(values, noise, KINDS, single), figures, picks=True)


def _figures(cell: MatrixCell) -> tuple[str, ...]:
    low, high = cell.interval or (None, None)
    return tuple(map(rounded, (cell.speedup, low, high, cell.low, cell.high)))


def _point(data: FleetData, variant: str, cell: MatrixCell, *, won: bool) -> dict[str, Any]:
    low, high = cell.interval or (cell.speedup, cell.speedup)
    return {
        "variant": variant,
        "card": data.card_id(variant),
        "kind": KINDS[0] if won else KINDS[1] if cell.fits else KINDS[2],
        "speedup": cell.speedup,
        "low": low,
        "high": high,
        "speed-up": with_interval(cell.speedup, cell.interval),
    }


def disagreement(data: FleetData) -> PageSection:
    """Variants that are surely faster on some classes and surely slower on others."""
    found = [f"{sentence}." for sentence in opposed_sentences(data.matrix)]
    none = "No variant is surely faster on one class and surely slower on another."
    blocks = lines(*(found or [none])) if len(data.classes) > 1 else ()
    return PageSection("disagreement", "Where classes disagree", blocks)


def spread(data: FleetData) -> PageSection:
    """How far devices of one class are apart, the widest first."""
    found = [
        (cell.high / cell.low, name, variant, cell)
        for variant, cells in data.matrix.cells.items()
        for name, cell in cells.items()
        if cell.low and cell.high and variant != BASELINE
    ]
    found.sort(key=lambda each: -each[0])
    rows: list[tuple[str, ...]] = [
        (variant, name, f"{_x(cell.low)} {low}", f"{_x(cell.high)} {high}", f"{100 * (ratio - 1):.1f}")
        for ratio, name, variant, cell in found[:SPREADS]
        for low, high in [_ends(data, name, variant)]
    ]
    headings = ("variant", "class", "slowest device", "fastest device", "apart, %")
    blocks = (table("The widest differences", headings, rows, texts=2),) if rows else ()
    return PageSection("spread", "Devices of one class", blocks)


def _x(value: float | None) -> str:
    return f"{value:.2f}×" if value else ABSENT


def _ends(data: FleetData, name: str, variant: str) -> tuple[str, str]:
    """The slowest and the fastest device of a class."""
    ratios = {
        each.device: ratio.speedup
        for each in data.results[name]
        if (ratio := speed(each.trials[variant])) is not None
    }
    return min(ratios, key=lambda device: ratios[device]), max(ratios, key=lambda device: ratios[device])


def searches(data: FleetData) -> PageSection:
    """What `tune --fleet` tried on each class."""
    told = [
        f"{name} ({each.device}): {line}"
        for name, devices in data.results.items()
        for each in devices
        if each.info.search is not None
        for line in search(each.info.search)
    ]
    return PageSection("searches", "What was tried on each class", lines(*told))


def variants(data: FleetData) -> PageSection:
    """Every variant: its recipe, its figures on each device, and the commands for it."""
    cards = tuple(_card(data, variant, cells) for variant, cells in data.matrix.cells.items())
    return PageSection("variants", "Every variant: recipe, commands, figures", (CardList(cards),))


def _card(data: FleetData, variant: str, cells: dict[str, MatrixCell]) -> VariantCard:
    run, name = data.info.run_id, shlex.quote(variant)
    saved = data.info.recipes.get(variant)
    figures = [
        f"{each.device} ({device_class}): {_device_figures(each.trials.get(variant))}"
        for device_class, devices in data.results.items()
        for each in devices
    ]
    firsts = [devices[0].device for devices in data.results.values()]
    commands = [f"krishi-bench compare {run}/devices/{device} --variant {name}" for device in firsts]
    if saved is not None:
        commands += [
            f"krishi-bench promote --class {device_class} --run {run} --variant {name}"
            for device_class, cell in cells.items()
            if cell.status == "ok"
        ]
    return VariantCard(
        id=data.card_id(variant),
        variant=variant,
        summary=", ".join(f"{device_class} {cell_text(cell)}" for device_class, cell in cells.items()),
        recipe=saved.text if saved is not None else None,
        commands=tuple(commands),
        everything="\n".join(figures) or "no device was measured to the end",
    )


def _device_figures(trial: TrialResult | None) -> str:
    if trial is None:
        return "not tried"
    if trial.latency is None:
        return trial.reason or trial.status
    ratio = speed(trial)
    parts = [f"p50 {trial.latency.p50_ns / 1e6:.2f} ms"]
    parts += [f"{with_interval(ratio.speedup, ratio.interval)} times the baseline's speed"] if ratio else []
    parts += [f"top-1 {100 * trial.accuracy.top1:.2f} %"] if trial.accuracy else []
    return ", ".join(parts)


def repeat(data: FleetData) -> PageSection:
    """The commands that show the run again, and take up what is missing."""
    run = data.info.run_id
    commands = [f"krishi-bench compare {run}", f"krishi-bench report {run}"]
    if any(outcome.state != "done" for outcome in data.status.outcomes.values()):
        commands.append(f"krishi-bench run --fleet --resume {run}")
    commands += [f"krishi-bench promote --class {name} --run {run}" for name in data.classes]
    told = f"{data.info.created_at:%Y-%m-%d %H:%M} UTC; validation photos {data.info.validation_digest}"
    return PageSection("repeat", "To repeat it", (CommandLines(tuple(commands)), *lines(told)))
