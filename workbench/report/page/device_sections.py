"""A fleet's run: what each device is, and what was not measured where, and why."""

from workbench.fleet.facts import DeviceFacts
from workbench.fleet.records import DeviceOutcome
from workbench.report.cells import ABSENT, percent
from workbench.report.fleet import absences
from workbench.report.page.blocks import Cell, DataTable, PageSection, lines, table
from workbench.report.page.fleet_data import FleetData
from workbench.report.verdict import sections
from workbench.results.records import RunInfo

HEADINGS = (
    "device", "class", "state", "processor", "cores", "memory GiB", "system", "governor", "turbo", "°C",
    "throttled", "noise floor, %", "rounds disturbed",
)  # fmt: skip
UNMEASURED = ("Not measured here", "Dropped early")  # sections of a verdict


def devices(data: FleetData) -> PageSection:
    """What each device is and how it stood; its name leads to its own page where there is one."""
    infos = {each.device: each.info for found in data.results.values() for each in found}
    rows = [
        (
            Cell(name, page=data.page_of(name)),
            Cell(device.device_class),
            *map(Cell, _standing(data.status.outcomes[name], infos.get(name))),
        )
        for name, device in data.info.devices.items()
    ]
    linked = any(row[0].page for row in rows)
    note = (
        "" if linked else f"`krishi-bench report {data.info.run_id}/devices/NAME` makes a device's own page."
    )
    caption = "As each device was when its measurement began; a name leads to the device's own page"
    figures = DataTable(caption, HEADINGS, tuple(rows), texts=4)
    return PageSection("devices", "The devices", (figures, *lines(note)))


def _standing(outcome: DeviceOutcome, info: RunInfo | None) -> tuple[str, ...]:
    facts = outcome.facts
    what = (ABSENT,) * 8 if facts is None else _facts(facts)
    if info is None:
        return (outcome.state, *what, ABSENT, ABSENT)
    disturbed = sum(1 for environment in info.environments if environment.disturbed)
    floor = ABSENT if info.noise_floor is None else percent(info.noise_floor)
    return outcome.state, *what, floor, f"{disturbed} of {len(info.environments)}"


def _facts(facts: DeviceFacts) -> tuple[str, ...]:
    machine = facts.machine
    throttled = {None: "unknown", True: "yes", False: "no"}[facts.throttled]
    return (
        machine.cpu,
        str(facts.usable_cores),
        f"{machine.memory_bytes / 2**30:.1f}",
        machine.system,
        facts.governor,
        facts.turbo,
        ABSENT if facts.celsius is None else f"{facts.celsius:.0f}",
        throttled,
    )


def versions(data: FleetData) -> PageSection:
    """The software of each device, and what its processor computes with."""
    known = {name: o.facts for name, o in data.status.outcomes.items() if o.facts is not None}
    libraries = dict.fromkeys(name for facts in known.values() for name in sorted(facts.libraries))
    found = {library: [facts.libraries.get(library) for facts in known.values()] for library in libraries}
    same = [f"{library} {values[0]}" for library, values in found.items() if len(set(values)) == 1]
    different = [library for library, values in found.items() if len(set(values)) > 1]
    rows = [
        (
            *(name, ", ".join(facts.machine.features) or "unknown", facts.version, facts.machine.python),
            *(facts.glibc or ABSENT, f"{facts.page_bytes / 1024:.0f}"),
            *(facts.libraries.get(library, ABSENT) for library in different),
        )
        for name, facts in known.items()
    ]
    headings = ("device", "features", "krishi-bench", "Python", "glibc", "page KiB", *different)
    figures = table("Versions of each device", headings, rows, texts=2)
    note = f"The same on all: {', '.join(same)}." if same else ""
    return PageSection("versions", "What runs on them", (figures, *lines(note)) if rows else ())


def unmeasured(data: FleetData) -> PageSection:
    """What was not measured where, or not to the end, and why."""
    said = [f"{text}." for text in absences(data.status)]
    for name, comparison in data.comparisons.items():
        found = {section.title: section.lines for section in sections(comparison, verbose=True)}
        said += [f"{name}: {line}" for title in UNMEASURED for line in found.get(title, ())]
    none = "Everything that was asked for was measured to the end on every device."
    return PageSection("unmeasured", "What was not measured where, and why", lines(*(said or [none])))
