"""A fleet: its run as a table of variants and classes, and its devices as a table of states."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from workbench.errors import plural
from workbench.fleet.matrix import Matrix, MatrixCell
from workbench.fleet.records import FleetStatus
from workbench.fleet.standing import DeviceStanding
from workbench.report.cells import ABSENT, WINNER
from workbench.report.text_table import GAP, text_table
from workbench.report.words import WIDTH, listed, signed, wrapped

# Of states that a run passes through: what they mean in one that is no longer running.
NO_END = {
    "queued": "its turn has not come",
    "measuring": "the driver was killed, or is still at it",
}
SPREAD = 0.05  # between devices of one class: a speed-up that differs by more is named
NAME_WIDTH = 26  # of a variant's name, at most, where the classes need the room
# What of a device is left out first on a narrow terminal; `--format json` has it all.
LEAST_NEEDED = ("version", "reach", "free MB", "governor", "processor", "°C")
PROCESSOR_WIDTH = 16  # of its name, at least: it goes over several lines


def matrix_text(matrix: Matrix, status: FleetStatus, width: int = WIDTH) -> str:
    """The table, and what it means below. width: of the terminal, in columns."""
    run, measured = matrix.run, [name for name, devices in matrix.devices.items() if devices]
    lines = [*wrapped(f"{run.name}, run {run.run_id}: {_measured_on(matrix)}", "", width=width), ""]
    if measured:
        lines += _grids(_rows(matrix, measured), width)
    lines += ["What it says"]
    for line in _sentences(matrix, measured):
        lines += wrapped(line, "    ", first="  ", width=width)
    if absent := absences(status):
        lines += ["", "Devices that were not measured to the end"]
        for line in absent:
            lines += wrapped(line, "    ", first="  ", width=width)
        what = f"`krishi-bench run --fleet --resume {run.run_id}` does what is missing"
        lines += wrapped(what, "  ", width=width)
    if measured:
        device = next(devices[0] for devices in matrix.devices.values() if devices)
        lines += ["", f"more: `compare {run.run_id}/devices/{device}`"]
    return "\n".join(lines)


def absences(status: FleetStatus) -> list[str]:
    """Of each device that was not measured to the end: how it ended, and what is kept."""
    return [text for name in status.run.devices if (text := _absence(name, status)) is not None]


def _measured_on(matrix: Matrix) -> str:
    parts = [f"{name} ({listed(devices)})" for name, devices in matrix.devices.items() if devices]
    return f"measured on {', '.join(parts)}" if parts else "no device was measured to the end"


def _rows(matrix: Matrix, classes: Sequence[str]) -> list[list[str]]:
    rows = [["variant", *classes]]
    for variant, cells in matrix.cells.items():
        marks = [WINNER if matrix.winners[name] == variant else " " for name in classes]
        rows.append([variant, *(f"{m} {cell_text(cells[n])}" for m, n in zip(marks, classes, strict=True))])
    if (one := matrix.one) is not None and len(classes) > 1:
        rows.append(["one file for all", *(f"  {regret_text(one.regrets[name])}" for name in classes)])
    return rows


def cell_text(cell: MatrixCell) -> str:
    if cell.speedup is None:
        return cell.status
    bounds = f" [{cell.interval[0]:.2f}, {cell.interval[1]:.2f}]" if cell.interval else ""
    return f"{cell.speedup:.2f}×{bounds}{'' if cell.fits else ' over budget'}"


def regret_text(regret: float) -> str:
    return "the best" if regret < 0.005 else f"{signed(100 * regret, 0)} % more"


def _grids(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The table; where the classes do not fit beside each other, in several with the variants in each."""
    names, *columns = zip(*rows, strict=True)
    first = min(NAME_WIDTH, max(map(len, names)))
    blocks, used = [[names]], first
    for column in columns:
        needed = len(GAP) + max(map(len, column))
        if len(blocks[-1]) > 1 and used + needed > width:
            blocks.append([names])
            used = first
        blocks[-1].append(column)
        used += needed
    lines = []
    for block in blocks:
        lines += [*text_table(list(zip(*block, strict=True)), width, folds=[0]), ""]
    return lines


def _sentences(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    found = [_winner(matrix, name) for name in classes]
    found += _one_sentence(matrix, classes)
    found += opposed_sentences(matrix)
    for variant, cells in matrix.cells.items():
        for name in classes:
            cell = cells[name]
            if cell.low and cell.high and cell.high / cell.low > 1 + SPREAD:
                found.append(
                    f"devices of {name} differ in {variant}: from {cell.low:.2f}× to {cell.high:.2f}×"
                )
    found += unmeasured_sentences(matrix, classes)
    return found or ["nothing: no device was measured to the end"]


def _winner(matrix: Matrix, name: str) -> str:
    winner = matrix.winners[name]
    return f"{name}: {winner} wins" if winner else f"{name}: nothing keeps the budget"


def opposed_sentences(matrix: Matrix) -> list[str]:
    """The variants that are surely faster on some classes and surely slower on others."""
    return [
        f"{variant} is faster than the baseline on {listed(faster)} and slower on {listed(slower)}"
        for variant, (faster, slower) in matrix.opposed.items()
    ]


def unmeasured_sentences(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    """Why variants have no figures on a class; what runs on none of them is said once."""
    found = []
    for variant, cells in matrix.cells.items():
        ended = {name: cells[name].reason for name in classes if cells[name].status != "ok"}
        if classes and len(ended) == len(classes):
            reason = next(filter(None, ended.values()), "no reason was given")
            found.append(f"{variant} runs on none of the classes: {reason}")
        else:
            found += [f"{variant} on {name}: {reason}" for name, reason in ended.items() if reason]
    return found


def _one_sentence(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    if len(classes) < 2:
        return []
    if (one := matrix.one) is None:
        return ["no file keeps the budget on all classes"]
    costs = ", ".join(f"{name} {regret_text(regret)}" for name, regret in one.regrets.items())
    return [f"one file for all: {one.variant}; against the best of each class it costs {costs}"]


def _absence(name: str, status: FleetStatus) -> str | None:
    outcome, device = status.outcomes[name], status.run.devices[name]
    if outcome.state == "done":
        return None
    heard = f", last heard of at {outcome.heard_at:%H:%M:%S} UTC" if outcome.heard_at else ""
    kept = f"; {plural(outcome.checked, 'variant')} checked, and kept" if outcome.checked else ""
    reason = outcome.reason or NO_END.get(outcome.state, "no reason")
    return f"{name} ({device.device_class}) {outcome.state}: {reason}{heard}{kept}"


def matrix_answer(matrix: Matrix, status: FleetStatus) -> dict[str, Any]:
    """For `--format json`."""
    return {
        "schema_version": 1,
        "run_id": matrix.run.run_id,
        "name": matrix.run.name,
        "classes": {name: list(devices) for name, devices in matrix.devices.items()},
        "cells": {
            variant: {name: asdict(cell) for name, cell in cells.items()}
            for variant, cells in matrix.cells.items()
        },
        "winners": matrix.winners,
        "one_for_all": matrix.one and {**asdict(matrix.one), "worst": matrix.one.worst},
        "opposed": {v: {"faster": f, "slower": s} for v, (f, s) in matrix.opposed.items()},
        "devices": {
            name: {
                "class": status.run.devices[name].device_class,
                **outcome.model_dump(mode="json", exclude={"facts", "schema_version"}),
            }
            for name, outcome in status.outcomes.items()
        },
    }


def standings_answer(standings: Sequence[DeviceStanding]) -> dict[str, Any]:
    """For `--format json`."""
    return {
        "schema_version": 1,
        "devices": {
            each.name: {
                "class": each.device.device_class,
                "reach": each.device.reach,
                "state": each.state,
                "reason": each.reason,
                "since": each.since and each.since.isoformat(),
                "facts": each.facts and each.facts.model_dump(mode="json"),
                "clock": each.clock,
            }
            for each in standings
        },
    }


def standings_text(standings: Sequence[DeviceStanding], width: int = WIDTH) -> str:
    """A row a device, like the tracker of a fleet; below it why some cannot be used."""
    rows = [_standing(each) for each in standings]
    headings = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[ABSENT if (v := row.get(key)) is None else str(v) for key in headings] for row in rows]
    folds, drops = [headings.index("processor")], [headings.index(name) for name in LEAST_NEEDED]
    lines = text_table([headings, *cells], width, folds=folds, drops=drops, least=PROCESSOR_WIDTH)
    for each in standings:
        if each.reason:
            lines += wrapped(f"{each.name}: {each.reason}", "    ", first="  ", width=width)
    return "\n".join(lines)


def _standing(each: DeviceStanding) -> dict[str, object]:
    facts, clock = each.facts, each.clock
    row: dict[str, object] = {
        "class": each.device.device_class,
        "device": each.name,
        "reach": each.device.reach,
        "state": each.state,
        "since": each.since and f"{each.since:%m-%d %H:%M}",
        "version": facts and facts.version,
        "processor": facts and f"{facts.usable_cores} × {facts.machine.cpu}",
        "governor": facts and facts.governor,
        "°C": facts and facts.celsius and f"{facts.celsius:.0f}",
        "free MB": facts and f"{facts.free_memory_bytes / 1e6:.0f}",
    }
    if clock is not None:
        floor = clock["noise_floor"]
        row["noise"] = None if floor is None else f"{100 * floor:.1f} %"
    return row
