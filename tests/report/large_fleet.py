"""A made-up run of a fleet: classes that disagree, two devices of one of them, and one that went away."""

from datetime import UTC, datetime
from pathlib import Path

from tests.builders import absent_trial, run_info, trial
from tests.fleet.simulated import FACTS, fleet_of
from tests.report.large_run import EVIL
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.records import DeviceOutcome, FleetFolder, FleetRun, SavedRecipe, devices_of
from workbench.results.records import TrialResult

CLASSES = {"pi5-a": "pi5", "pi5-b": "pi5", "edge-1": "x86-avx2", "board-7": "riscv"}
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CPUS = {
    "pi5": ("Cortex-A76", ("asimddp",)),
    "x86-avx2": ("Intel(R) Core(TM) i5-6500T CPU @ 2.50GHz", ("avx2",)),
}
# Speed-ups by device: pi5-a, pi5-b, edge-1.
SPEEDUPS = {"int8": (3.05, 2.6, 0.82), "fp16": (1.6, 1.62, 1.95), "openvino": (1.2, 1.22, 2.4)}


def facts_of(device_class: str) -> DeviceFacts:
    cpu, features = CPUS[device_class]
    machine = FACTS.machine.model_copy(update={"cpu": cpu, "features": features, "architecture": "aarch64"})
    versions = {"numpy": "2.3.0", "onnxruntime": "1.27.0" if device_class == "pi5" else "1.26.0"}
    return FACTS.model_copy(update={"machine": machine, "libraries": versions})


def trials_of(number: int) -> list[TrialResult]:
    jitter = (0.98, 1.0, 1.02, 0.99, 1.01, 1.0)
    found = [trial("baseline", size_mb=9.0)]
    for name, speedups in SPEEDUPS.items():
        speedup = speedups[number]
        losses = 60 if name == "openvino" else 0
        found.append(trial(name, rounds=[speedup * j for j in jitter], size_mb=3.0, losses=losses))
    return [*found, absent_trial("wide", "skipped", f"this processor has no vnni {EVIL}")]


def large_fleet(results: Path, name: str = "leaves") -> FleetFolder:
    folder = FleetFolder.create(results)
    names = [*SPEEDUPS, "wide"]
    run = FleetRun(
        run_id=folder.run_id,
        created_at=SINCE,
        name=name,
        validation_digest="d" * 64,
        recipes={
            each: SavedRecipe(recipe=each, text=f"name: {each}\ndescription: {EVIL}\n") for each in names
        },
        devices=devices_of(fleet_of(CLASSES)),
    )
    folder.save(run)
    for number, (device, device_class) in enumerate(CLASSES.items()):
        done = device_class in CPUS
        outcome = DeviceOutcome(
            state="done" if done else "gone",
            reason=None if done else "nothing was heard of it for 45 s",
            since=SINCE,
            heard_at=SINCE,
            facts=facts_of(device_class) if done else None,
            checked=5 if done else 2,
        )
        folder.update(device, outcome)
        if done:
            run_folder = folder.device(device)
            machine = facts_of(device_class).machine
            run_folder.save_info(run_info(run_id=run_folder.run_id, name=name, machine=machine))
            for each in trials_of(number):
                run_folder.append(each)
    return folder
