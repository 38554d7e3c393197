"""The driver over many simulated devices, of which some go wrong in every way."""

from collections.abc import Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fleet.simulated import FACTS, STATES, Fate, SimulatedDevice, driver_over, random_fates
from workbench.fleet.link import DeviceLink
from workbench.fleet.progress import FleetProgress
from workbench.fleet.records import FleetFolder
from workbench.fleet.run import FleetOptions
from workbench.fleet.session import DeviceSession
from workbench.fleet.sharding import ClassSharding
from workbench.fleet.shares import PhotoShare
from workbench.run.pipeline import Options
from workbench.system.progress import Report, silent

VARIANTS = ["int8", "fp16"]
SPEEDUPS = {"int8": 2.0, "fp16": 1.2}
COUNT = 60


def devices_with(fates: dict[str, Fate]) -> dict[str, SimulatedDevice]:
    return {name: SimulatedDevice(name, fate, SPEEDUPS) for name, fate in fates.items()}


def test_every_device_ends_in_a_stated_state_and_every_lease_ends(tmp_path: Path) -> None:
    fates = random_fates(COUNT)
    devices = devices_with(fates)
    driver = driver_over(tmp_path, devices, dict.fromkeys(fates, "pi5"), VARIANTS)
    status = driver.measure(list(fates))
    assert {name: outcome.state for name, outcome in status.outcomes.items()} == {
        name: STATES[fate] for name, fate in fates.items()
    }
    assert all(outcome.reason for outcome in status.outcomes.values() if outcome.state != "done")
    assert {d.holder for d in devices.values() if d.fate != "busy"} == {None}
    assert status.incomplete_classes == []


def test_a_device_costs_the_driver_the_same_however_many_there_are(tmp_path: Path) -> None:
    asked = {}
    for count in (1, 8):
        devices = devices_with({f"d{n}": "well" for n in range(count)})
        driver_over(tmp_path, devices, dict.fromkeys(devices, "pi5"), VARIANTS).measure(list(devices))
        asked[count] = [device.asked for device in devices.values()]
    assert asked[8] == asked[1] * 8


def test_two_drivers_never_have_one_device_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    devices = devices_with({f"d{n}": "well" for n in range(8)})  # each asserts that its holder asks
    drivers = [driver_over(tmp_path, devices, dict.fromkeys(devices, "x"), VARIANTS) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda driver: driver.measure(list(devices)), drivers))
    for name in devices:
        assert {"done"} <= {status.outcomes[name].state for status in done} <= {"done", "busy"}


@pytest.mark.parametrize(("fate", "kept"), [("dies", 3), ("hangs", 0)])
def test_a_run_taken_up_does_what_is_missing(tmp_path: Path, fate: Fate, kept: int) -> None:
    devices = devices_with({"a": "well", "b": fate})
    driver = driver_over(tmp_path, devices, {"a": "x", "b": "y"}, VARIANTS)
    before = driver.measure(["a", "b"])
    assert (before.outcomes["b"].state, before.outcomes["b"].checked) == ("gone", kept)
    assert before.incomplete_classes == ["y"]
    assert len(driver.folder.device("b").trials()) == kept
    devices["b"].fate = "well"
    devices["b"].asked.clear()
    after = driver.measure(["b"])
    assert after.outcomes["b"].state == "done"
    assert devices["b"].asked.count("check") == 3 - kept
    assert devices["b"].asked.count("recall") == kept
    assert "put" not in devices["b"].asked or kept  # of what was sent, nothing travels again
    assert [t.variant for t in driver.folder.device("b").trials()] == ["baseline", *VARIANTS]


def test_who_stops_a_run_is_told_how_to_take_it_up(tmp_path: Path) -> None:
    driver = driver_over(tmp_path, devices_with({"a": "well"}), {"a": "x"}, VARIANTS)

    def interrupted(*_: object) -> DeviceLink:
        raise KeyboardInterrupt

    driver.settings = FleetOptions(Options(), open=interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"run --fleet --resume {driver.folder.run_id}` takes it up"):
        driver.measure(["a"])


class SimulatedSharding(ClassSharding):
    """Six photos; a device answers when it can check at all."""

    merged: tuple[str, ...] = ()

    def answer(
        self, session: DeviceSession, name: str, _facts: Any, rows: Sequence[int], _report: Report
    ) -> None:
        session.check(self.work.sent(self.work.context.baseline, FACTS))
        self._keep(PhotoShare(device=name, rows=tuple(rows), folder=name, parts={}))

    def merge(self, devices: Collection[str]) -> None:
        self.merged = (*self.merged, *devices)


def test_the_photos_of_devices_that_went_away_are_answered_by_those_that_are_there(tmp_path: Path) -> None:
    devices = devices_with({"a": "well", "b": "hangs", "c": "well", "d": "away"})
    driver = driver_over(tmp_path, devices, dict.fromkeys(devices, "x"), VARIANTS)
    work: Any = driver.work
    work.context.job = SimpleNamespace(photos=range(6))
    sharding = SimulatedSharding(driver.folder, "x", driver.work)
    (tmp_path / driver.folder.run_id / "shares" / "x").mkdir(parents=True)
    assert driver.answer_all([sharding], list(devices), FleetProgress(silent, 4)) == ["a", "c"]
    assert sharding.merged == ("a", "c")
    rows = sorted((share.device, share.rows) for share in sharding.shares())
    assert rows == [("a", (0, 4)), ("a", (1, 5)), ("c", (2,)), ("c", (3,))]
    assert [driver.folder.outcome(name).state for name in devices] == [
        "measuring",
        "gone",
        "measuring",
        "gone",
    ]
    assert {device.holder for device in devices.values()} == {None}


def test_what_is_stopped_frees_every_lease(tmp_path: Path) -> None:
    devices = devices_with({f"d{n}": "well" for n in range(4)})
    driver = driver_over(tmp_path, devices, dict.fromkeys(devices, "x"), VARIANTS)
    driver.links.stop()
    status = driver.measure(list(devices))
    assert {device.holder for device in devices.values()} == {None}
    assert {outcome.state for outcome in status.outcomes.values()} == {"stopped"}
    assert FleetFolder(driver.folder.path).status() == status
