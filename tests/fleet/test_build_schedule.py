"""Which builder makes which link: handed out, refused, given up, and given to another."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fleet.simulated import FACTS, Fate, SimulatedDevice, SimulatedLink
from workbench.fleet.build_links import LinkTask
from workbench.fleet.build_schedule import LATE_S, BuildSchedule
from workbench.fleet.builders import Builders, BuildSession, other_code, other_packages
from workbench.fleet.pool import OpenLinks
from workbench.fleet.spec import DeviceSettings
from workbench.run.build import EXPORT_PACKAGES

CHAINS = {"int8": ("export", "int8"), "fp16": ("export", "fp16"), "quant": ("export", "int8", "convert")}


def task_of(key: str) -> LinkTask:
    nothing: Any = SimpleNamespace(steps=(), runtime=None)
    return LinkTask(key, nothing, nothing, ())


class Chains:
    """Variants whose links depend on each other; what is in the cache, and a clock."""

    def __init__(self, *builders: str) -> None:
        self.cache: list[str] = []
        self.now = 0.0
        self.schedule = BuildSchedule(self.frontier, builders, lambda: self.now)

    def frontier(self) -> list[LinkTask]:
        missing = (next((k for k in chain if k not in self.cache), None) for chain in CHAINS.values())
        return [task_of(key) for key in dict.fromkeys(key for key in missing if key is not None)]

    def take(self, builder: str) -> str | None:
        task = self.schedule.next(builder)
        return task and task.key

    def finish(self, builder: str, key: str) -> None:
        self.cache.append(key)
        self.schedule.finish(builder, key)


def test_every_link_is_built_once_and_what_others_share_is_not_built_twice() -> None:
    chains, began = Chains("a", "b", "c"), list[str]()

    def serve(builder: str) -> None:
        while (key := chains.take(builder)) is not None:
            began.append(key)
            chains.finish(builder, key)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(serve, ["a", "b", "c"]))
    assert sorted(began) == ["convert", "export", "fp16", "int8"]
    assert chains.schedule.over and sum(chains.schedule.built.values()) == 4


def test_what_a_builder_that_died_was_making_goes_to_another() -> None:
    chains = Chains("a", "b")
    assert chains.take("a") == "export"
    chains.schedule.leave("a")
    assert chains.take("b") == "export"
    assert chains.take("a") is None


def test_a_refused_link_is_left_to_others_and_in_the_end_to_the_driver() -> None:
    chains = Chains("a", "b")
    chains.finish("a", "export")
    assert chains.take("a") == "int8"
    chains.schedule.refuse("int8", ["a"])
    assert chains.take("a") == "fp16"
    assert chains.take("b") == "int8"
    chains.schedule.refuse("int8")
    chains.finish("a", "fp16")
    assert chains.schedule.over
    assert chains.take("a") is chains.take("b") is None


def test_a_builder_that_keeps_others_waiting_is_given_company() -> None:
    chains = Chains("slow", "quick")
    assert chains.take("slow") == "export"
    chains.now = LATE_S + 1
    assert chains.take("quick") == "export"
    chains.finish("quick", "export")
    assert chains.schedule.built == {"slow": 0, "quick": 1}
    chains.finish("slow", "export")  # the later one changes nothing
    assert chains.take("quick") in ("int8", "fp16")


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("away", "it cannot be reached"),
        ("busy", "another has it for run r since"),
        ("old", "it has krishi-bench 0.0.1"),
        ("well", "its code that builds is not the driver's"),  # nor is any code that of a simulated device
    ],
)
def test_a_builder_that_cannot_build_is_said_in_one_line_and_freed(
    tmp_path: Path, fate: Fate, reason: str
) -> None:
    chains, device, said = Chains("big"), SimulatedDevice("big", fate, {}), list[str]()
    settings = DeviceSettings.model_validate({"class": "x", "ssh": "big", "role": "build"})

    def open_simulated(*_: object) -> Any:
        return SimulatedLink(device)

    builders = Builders(
        {"big": settings}, open_simulated, "run", tmp_path, 1.0, lambda progress: said.append(progress.what)
    )
    BuildSession(builders, chains.schedule, OpenLinks()).serve("big")
    (line,) = said
    assert line.startswith(f"what big would build: {reason}")
    assert chains.schedule.over and device.holder in (None, "another driver")
    assert builders.lost == (set() if fate == "busy" else {"big"})  # one that is busy is asked again


def test_a_builder_whose_link_is_closed_since_all_is_built_or_stopped_is_not_lost(tmp_path: Path) -> None:
    chains, device, said = Chains("big"), SimulatedDevice("big", "away", {}), list[str]()
    settings = DeviceSettings.model_validate({"class": "x", "ssh": "big", "role": "build"})

    def open_simulated(*_: object) -> Any:
        return SimulatedLink(device)

    builders = Builders(
        {"big": settings}, open_simulated, "run", tmp_path, 1.0, lambda progress: said.append(progress.what)
    )
    builders.links.stop()
    work = BuildSession(builders, chains.schedule, OpenLinks())
    work.serve("big")
    assert (builders.lost, work.lost, said) == (set(), set(), [])


def test_a_builder_of_other_code_or_packages_is_refused_with_both_versions() -> None:
    own = {"torch": "2.9.1", "onnx": "1.20.0"}
    same = FACTS.model_copy(update={"libraries": own})
    older = FACTS.model_copy(update={"libraries": {**own, "torch": "2.8.0"}})
    export = task_of("export")
    assert export.packages == EXPORT_PACKAGES
    assert other_packages(same, export, own) is None
    assert other_packages(older, export, own) == "its torch is 2.8.0, the driver's 2.9.1"
    assert other_packages(FACTS, export, own) == "its torch is not installed, the driver's 2.9.1"
    assert other_code(FACTS, FACTS.code) is None
    assert "its code that builds is not the driver's" in (other_code(FACTS, "1" * 64) or "")
