"""How the devices of a fleet stand: free, busy or gone, since when, and whether they can measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from workbench.errors import WorkbenchError
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.lease import DeviceLease, driver_name
from workbench.fleet.link import DeviceGone
from workbench.fleet.pool import OpenLinks, for_all
from workbench.fleet.reach import OpenLink, open_link
from workbench.fleet.session import DeviceBusy, DeviceSession, DeviceUnfit
from workbench.fleet.spec import DeviceSettings, FleetFile
from workbench.system.files import cache_folder, digest_of, make_folder

CLOCK_WAIT_S = 30.0
DeviceAvailability = Literal["free", "busy", "unfit", "gone"]


@dataclass(frozen=True, slots=True)
class DeviceStanding:
    """A device at this moment. since: of a busy one the lease's, of one that is gone when it last answered.

    clock: the A/A test, as `run.doctor.Clock`; None where it was not asked for.
    """

    name: str
    device: DeviceSettings
    state: DeviceAvailability
    reason: str | None = None
    since: datetime | None = None
    facts: DeviceFacts | None = None
    clock: Mapping[str, Any] | None = None


def look_at(
    fleet: FleetFile, *, clock: bool, found: Callable[[DeviceStanding], None], open_: OpenLink = open_link
) -> list[DeviceStanding]:
    """Ask every device at once. clock: lease each and time it against itself. found: is given each answer."""
    standings: dict[str, DeviceStanding] = {}
    links = OpenLinks()

    def look(name: str) -> None:
        standings[name] = _look(name, fleet.devices[name], links, open_, clock=clock)
        found(standings[name])

    for_all([list(fleet.devices)], look, links)
    return [standings[name] for name in fleet.devices]


def _look(
    name: str, device: DeviceSettings, links: OpenLinks, open_: OpenLink, *, clock: bool
) -> DeviceStanding:
    seen = _seen(name, device)
    gone = DeviceStanding(name, device, "gone", since=_changed_at(seen))
    try:
        with links.using(open_(name, device, cache_folder() / "logs" / f"fleet-{name}.txt")) as link:
            standing = _asked(name, device, DeviceSession(link), clock=clock)
    except DeviceUnfit as error:
        standing = replace(gone, state="unfit", reason=error.message, since=None)
    except DeviceGone as error:
        return replace(gone, reason=error.message)
    except WorkbenchError as error:
        standing = replace(gone, state="unfit", reason=error.message, since=None)
    make_folder(seen.parent)
    seen.touch()
    return standing


def _asked(name: str, device: DeviceSettings, session: DeviceSession, *, clock: bool) -> DeviceStanding:
    facts, holder = session.hello()
    if holder is not None:
        return _busy(name, device, facts, holder)
    if (problem := facts.unfit()) is not None:
        return DeviceStanding(name, device, "unfit", problem, facts=facts)
    if not clock:
        return DeviceStanding(name, device, "free", facts=facts)
    try:
        session.lease(driver_name(), "doctor", wait_s=CLOCK_WAIT_S)
    except DeviceBusy as error:
        return DeviceStanding(name, device, "busy", error.message, facts=facts)
    return DeviceStanding(name, device, "free", facts=facts, clock=session.doctor_clock())


def _busy(name: str, device: DeviceSettings, facts: DeviceFacts, holder: DeviceLease) -> DeviceStanding:
    return DeviceStanding(name, device, "busy", str(holder), holder.since, facts)


def _seen(name: str, device: DeviceSettings) -> Path:
    """A file whose time says when the device last answered."""
    return cache_folder() / "fleet" / "seen" / digest_of([name, device.model_dump(mode="json")])[:16]


def _changed_at(path: Path) -> datetime | None:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else None
