"""A fleet: its run as a table of variants and classes, and its devices as a table of states."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from workbench.errors import plural
from workbench.fleet.matrix import Matrix, MatrixCell
from workbench.fleet.records import FleetStatus
from workbench.fleet.standing import DeviceStanding
from workbench.report.cells import ABSENT, WINNER
from workbench.report.words import WIDTH, listed, signed, wrapped

# Of states that a run passes through: what they mean in one that is no longer running.
NO_END = {
    "queued": "its turn has not come",
    "measuring": "the driver was killed, or is still at it",
}
SPREAD = 0.05  # between devices of one class: a speed-up that differs by more is named


def matrix_text(matrix: Matrix, status: FleetStatus) -> str:
    """The table, and what it means below."""
    run, measured = matrix.run, [name for name, devices in matrix.devices.items() if devices]
    lines = [f"{run.name}, run {run.run_id}: {_measured_on(matrix)}", ""]
    if measured:
        lines += [*_grid(_rows(matrix, measured)), ""]
    lines += ["What it says"]
    for line in _sentences(matrix, measured):
        lines += wrapped(line, "    ", first="  ")
    if absent := list(filter(None, (_absence(name, status) for name in run.devices))):
        lines += ["", "Devices that were not measured to the end"]
        for line in absent:
            lines += wrapped(line, "    ", first="  ")
        lines += wrapped(f"`krishi-bench run --fleet --resume {run.run_id}` does what is missing", "  ")
    if measured:
        device = next(devices[0] for devices in matrix.devices.values() if devices)
        lines += ["", f"more: `compare {run.run_id}/devices/{device}`"]
    return "\n".join(lines)


def _measured_on(matrix: Matrix) -> str:
    parts = [f"{name} ({listed(devices)})" for name, devices in matrix.devices.items() if devices]
    return f"measured on {', '.join(parts)}" if parts else "no device was measured to the end"


def _rows(matrix: Matrix, classes: Sequence[str]) -> list[list[str]]:
    rows = [["variant", *classes]]
    for variant, cells in matrix.cells.items():
        marks = [WINNER if matrix.winners[name] == variant else " " for name in classes]
        rows.append([variant, *(f"{m} {_cell(cells[n])}" for m, n in zip(marks, classes, strict=True))])
    if (one := matrix.one) is not None and len(classes) > 1:
        rows.append(["one file for all", *(f"  {_regret(one.regrets[name])}" for name in classes)])
    return rows


def _cell(cell: MatrixCell) -> str:
    if cell.speedup is None:
        return cell.status
    bounds = f" [{cell.interval[0]:.2f}, {cell.interval[1]:.2f}]" if cell.interval else ""
    return f"{cell.speedup:.2f}×{bounds}{'' if cell.fits else ' over budget'}"


def _regret(regret: float) -> str:
    return "the best" if regret < 0.005 else f"{signed(100 * regret, 0)} % more"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sentences(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    found = []
    for name in classes:
        winner = matrix.winners[name]
        found.append(f"{name}: {winner} wins" if winner else f"{name}: nothing keeps the budget")
    found += _one_sentence(matrix, classes)
    for variant, (faster, slower) in matrix.opposed.items():
        found.append(
            f"{variant} is faster than the baseline on {listed(faster)} and slower on {listed(slower)}"
        )
    for variant, cells in matrix.cells.items():
        for name in classes:
            cell = cells[name]
            if cell.low and cell.high and cell.high / cell.low > 1 + SPREAD:
                found.append(
                    f"devices of {name} differ in {variant}: from {cell.low:.2f}× to {cell.high:.2f}×"
                )
    for variant, cells in matrix.cells.items():
        ended = {name: cells[name].reason for name in classes if cells[name].status != "ok"}
        if classes and len(ended) == len(classes):
            reason = next(filter(None, ended.values()), "no reason was given")
            found.append(f"{variant} runs on none of the classes: {reason}")
        else:
            found += [f"{variant} on {name}: {reason}" for name, reason in ended.items() if reason]
    return found or ["nothing: no device was measured to the end"]


def _one_sentence(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    if len(classes) < 2:
        return []
    if (one := matrix.one) is None:
        return ["no file keeps the budget on all classes"]
    costs = ", ".join(f"{name} {_regret(regret)}" for name, regret in one.regrets.items())
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


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of one kind, their keys as headings; what is unknown as a dash."""
    headings = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[ABSENT if (v := row.get(key)) is None else str(v) for key in headings] for row in rows]
    lines = _grid([headings, *cells])
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 2] + " …" for line in lines)


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


def standings_text(standings: Sequence[DeviceStanding]) -> str:
    """A row a device, like the tracker of a fleet; below it why some cannot be used."""
    lines = [table([_standing(each) for each in standings])]
    for each in standings:
        if each.reason:
            lines += wrapped(f"{each.name}: {each.reason}", "    ", first="  ")
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
        "processor": facts and f"{facts.usable_cores} × {facts.machine.cpu}"[:30],
        "governor": facts and facts.governor,
        "°C": facts and facts.celsius and f"{facts.celsius:.0f}",
        "free MB": facts and f"{facts.free_memory_bytes / 1e6:.0f}",
    }
    if clock is not None:
        floor = clock["noise_floor"]
        row["noise"] = None if floor is None else f"{100 * floor:.1f} %"
    return row
