"""What `tune --fleet` found for each class, in words."""

import shlex

from workbench.fleet.tune import FleetTuned
from workbench.report import tune
from workbench.report.fleet import absences
from workbench.report.search import search


def text(done: FleetTuned) -> str:
    """The story of each class: what was tried on which device, and what came of it."""
    status = done.status
    lines: list[str] = []
    for name in status.run.classes:
        if (found := done.found.get(name)) is not None:
            lines.append(f"{name} ({', '.join(status.complete(name))})")
            lines += [f"  {line}" for line in tune.text(found, name).splitlines()]
        else:
            lines += [f"{name}: no search came to its end", *_lost(done, name)]
    lines += absences(status)
    recipes = [shlex.quote(str(found.recipe)) for found in done.found.values() if found.recipe is not None]
    if len(recipes) > 1:
        lines.append(f"`krishi-bench run --fleet {' '.join(recipes)}` measures each of them on every class")
    return "\n".join(lines)


def _lost(done: FleetTuned, name: str) -> list[str]:
    """What a search had tried when its device went away."""
    told = []
    for device, each in done.status.run.devices.items():
        run = done.folder.device(device)
        if each.device_class == name and (run.path / "run.json").is_file():
            summary = run.info().search
            told += [f"  {line}" for line in search(summary)] if summary else []
    if told:
        told.append("  what was looked at is remembered on the device: the same command goes on from there")
    return told
