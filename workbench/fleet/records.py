"""A fleet's run on disk: `results/<run>/fleet.json`, `build/` of the driver, `devices/<name>/` as other runs.

How a device ended is in its own folder, so that a run of many writes no more for each than a run of one.
"""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from workbench.errors import WorkbenchError, did_you_mean
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.spec import FleetFile, Reach, check_classes
from workbench.results.folder import FLEET_NAME, RunFolder
from workbench.system.files import write_atomic
from workbench.system.records import Record, read_record, to_json, write_record

OUTCOME_NAME = "device.json"
# `done`: all was measured. `unfit`: it cannot measure. `busy`: another driver had it. `gone`: it ended or
# fell silent. `failed`: it said why it could not go on. `stopped`: by the user.
DeviceState = Literal["queued", "measuring", "done", "unfit", "busy", "gone", "failed", "stopped"]


class DeviceOutcome(Record):
    """`devices/<name>/device.json`: a device in a run.

    since: of its state, in UTC. heard_at: the last answer. facts: None where it was never reached.
    checked: variants that were. sent_bytes: in its last session.
    """

    schema_version: Literal[1] = 1
    state: DeviceState = "queued"
    reason: str | None = None
    since: datetime
    heard_at: datetime | None = None
    facts: DeviceFacts | None = None
    checked: int = 0
    sent_bytes: int = 0


class SavedRecipe(Record):
    """A variant as a recipe of its own (see `shipment.SentVariant`)."""

    recipe: str
    text: str


class FleetDevice(Record):
    """A device of a run, as `fleet.yaml` had it."""

    device_class: str
    reach: Reach


class FleetRun(Record):
    """`fleet.json`: what was asked for. recipes: by variant. built_on: by variant, the machine that made each
    link of its build, the export first. sharded: the photos of a class are shared out over its devices."""

    schema_version: Literal[1] = 1
    run_id: str
    created_at: datetime
    name: str
    validation_digest: str
    recipes: dict[str, SavedRecipe]
    devices: dict[str, FleetDevice]
    built_on: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    sharded: bool = False

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(device.device_class for device in self.devices.values()))


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """A fleet's run and how its devices stand."""

    run: FleetRun
    outcomes: dict[str, DeviceOutcome]

    def complete(self, device_class: str) -> list[str]:
        """The devices of a class on which everything was measured."""
        mine = (name for name, device in self.run.devices.items() if device.device_class == device_class)
        return [name for name in mine if self.outcomes[name].state == "done"]

    @property
    def incomplete_classes(self) -> list[str]:
        """The classes without a device on which everything was measured."""
        return [name for name in self.run.classes if not self.complete(name)]


class FleetFolder:
    """`results/<run>/` of a fleet, being written or read."""

    def __init__(self, path: Path) -> None:
        self.path, self.run_id = path, path.name

    @classmethod
    def create(cls, results: Path) -> "FleetFolder":
        made = RunFolder.create(results).path
        for name in ("logs", "predictions"):
            shutil.rmtree(made / name)  # each device has its own
        return cls(made)

    @property
    def build(self) -> RunFolder:
        """What the driver did itself: the baseline, checked there, and the logs of the builds."""
        return _made(RunFolder(self.path / "build"))

    def device(self, name: str) -> RunFolder:
        return _made(RunFolder(self.path / "devices" / name, f"{self.run_id}/devices/{name}"))

    def measured(self) -> list[RunFolder]:
        """The runs of the devices, as far as they came."""
        return [self.device(path.parent.name) for path in sorted(self.path.glob("devices/*/run.json"))]

    def run(self) -> FleetRun:
        return read_record(self.path / FLEET_NAME, FleetRun, what="run of a fleet")

    def save(self, run: FleetRun) -> None:
        write_record(self.path / FLEET_NAME, run)

    def outcome(self, name: str) -> DeviceOutcome:
        path = self.path / "devices" / name / OUTCOME_NAME
        if not path.exists():
            return DeviceOutcome(since=datetime.now(UTC))
        return read_record(path, DeviceOutcome, what="outcome of a device")

    def update(self, name: str, outcome: DeviceOutcome, **changed: object) -> DeviceOutcome:
        """Save the outcome with what has changed; a new state begins now."""
        since = {"since": datetime.now(UTC)} if "state" in changed else {}
        after = outcome.model_copy(update={**since, **changed})
        write_atomic(self.path / "devices" / name / OUTCOME_NAME, to_json(after))
        return after

    def status(self) -> FleetStatus:
        run = self.run()
        return FleetStatus(run, {name: self.outcome(name) for name in run.devices})

    def remove_if_never_begun(self) -> None:
        if not (self.path / FLEET_NAME).exists():
            shutil.rmtree(self.path)


def _made(folder: RunFolder) -> RunFolder:
    for name in ("logs", "predictions"):
        (folder.path / name).mkdir(parents=True, exist_ok=True)
    return folder


def devices_of(fleet: FleetFile) -> dict[str, FleetDevice]:
    return {
        name: FleetDevice(device_class=device.device_class, reach=device.reach)
        for name, device in fleet.measuring.items()
    }


def fleet_folders(results: Path) -> list[FleetFolder]:
    """The runs of fleets under `results`, oldest first."""
    if not results.is_dir():
        return []
    return [FleetFolder(path) for path in sorted(results.iterdir()) if (path / FLEET_NAME).is_file()]


def find_fleet_run(results: Path, run_id: str | None) -> FleetFolder:
    """The fleet's run of that name, or in that folder; the latest by default. Raises WorkbenchError."""
    if run_id is not None and (Path(run_id) / FLEET_NAME).is_file():
        return FleetFolder(Path(run_id).absolute())
    found = {folder.run_id: folder for folder in fleet_folders(results)}
    if run_id is None and found:
        return list(found.values())[-1]
    if run_id in found:
        return found[run_id]
    hint = run_id and did_you_mean(run_id, found)
    what = f"no fleet's run `{run_id}`" if run_id else "no fleet's run yet"
    raise WorkbenchError(f"{results} holds {what}", hint=hint or "start one with `krishi-bench run --fleet`")


def devices_of_class(folder: FleetFolder, device_class: str) -> list[str]:
    """The devices of a class on which everything was measured. Raises WorkbenchError where there is none."""
    status = folder.status()
    check_classes([device_class], status.run.classes)
    if not (found := status.complete(device_class)):
        raise WorkbenchError(
            f"no device of the class `{device_class}` was measured to the end in run {folder.run_id}",
            hint=f"`krishi-bench run --fleet --resume {folder.run_id}`",
        )
    return found
