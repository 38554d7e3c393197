"""`krishi-bench doctor`: what this machine can run, where its GPU's chain breaks, how good its clock is."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.backends import RUNTIME, SETTINGS, NullRuntime
from workbench.backends.null import null_artifact
from workbench.backends.table import BACKENDS
from workbench.measure.heat_launchers import HeatLaunchers
from workbench.measure.host_watch import HostWatch, conditions
from workbench.measure.latency import Lineup, Measured, Plan, log_ratios, measure
from workbench.measure.power import Power, power
from workbench.measure.records import Conditions
from workbench.measure.stats import Ratio
from workbench.measure.worker import Worker
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.photos.folders import count_photos, survey
from workbench.system import machine
from workbench.system.machine import Machine
from workbench.system.nvidia_check import Chain, chain
from workbench.system.progress import Progress, Report

CLOCK_PLAN = Plan(rounds=8, least_rounds=8, turns=40, budget_s=30.0, repeats=4)
VALIDATION = "data.validation"
CLOCK_SIDE = 512  # pixels: about as long a call as a small network's


@dataclass(frozen=True, slots=True)
class Clock:
    """An A/A test: the same thing timed against itself.

    noise_floor: how far from 1 the ratio of two copies may be, as a fraction. detectable: the smallest
    difference that a run that makes all its rounds would find 19 times in 20. None where there was time for
    too few rounds. tries: rounds with those that were repeated because the machine was disturbed.
    disturbed: with what it was busy, one for each such try.
    """

    rounds: int
    tries: int
    noise_floor: float | None
    detectable: float | None
    disturbed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """runtimes: what can run here, None, or why not and what to install. nvidia: what its GPUs hang on.

    photos: what the workspace's data hold, by their field in krishi.yaml. power: what the validation photos
    can certify; None where they are not counted.
    """

    machine: Machine
    conditions: Conditions
    usable_cores: int
    runtimes: dict[str, str | None]
    nvidia: Chain
    clock: Clock
    photos: dict[str, str]
    power: Power | None = None


def diagnose(report: Report, photos: Mapping[str, Path], max_drop: float) -> Diagnosis:
    """Look at the machine and time it against itself, for a few seconds. photos: folders to look through.
    max_drop: of the budget."""
    validation = photos.get(VALIDATION)
    count = count_photos(validation) if validation else None
    return Diagnosis(
        machine=machine.collect(),
        conditions=conditions(),
        usable_cores=machine.usable_cores(),
        # Each backend on each device it runs on, but for the one that stands on no library.
        runtimes={
            f"{name} {device}": backend.unavailable(
                RUNTIME.validate_python({"backend": name, "device": device})
            )
            for name, backend in BACKENDS.items()
            for device in SETTINGS[name].DEVICES
            if backend.PACKAGES
        },
        nvidia=chain(),
        clock=clock(report),
        photos={field: survey(source) for field, source in photos.items()},
        power=power(count, max_drop) if count else None,
    )


def clock(report: Report) -> Clock:
    """Time two copies of the empty runtime against each other, by the very engine a run uses."""
    measured = _time_copies(report)
    disturbed = tuple(e.disturbed for e in measured.environments if e.disturbed)
    bounds = Ratio(tuple(log_ratios(measured, "a").get("b", {}).values())).log_interval
    rounds, tries = measured.rounds, len(measured.environments)
    if bounds is None:
        return Clock(rounds, tries, None, None, disturbed)
    low, high = bounds
    # An interval shrinks with the root of the rounds; twice its half-width is found 19 times in 20. A run
    # compares with the mean of two copies of the baseline: of the two variances one is halved.
    half = (high - low) / 2 * math.sqrt(0.75 * rounds / Plan().rounds)
    return Clock(rounds, tries, math.expm1(max(abs(low), abs(high))), math.expm1(2 * half), disturbed)


def _time_copies(report: Report) -> Measured:
    import numpy as np

    contract = Preprocess(resize=CLOCK_SIDE, crop=CLOCK_SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    cpus = machine.available_cpus()[-1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "photos.npy", np.zeros((8, CLOCK_SIDE, CLOCK_SIDE, 3), dtype=np.uint8))
        images = Images(folder / "photos.npy", (0,) * 8, contract, digest="zeros")
        artifact = null_artifact(folder, (0, 3, CLOCK_SIDE, CLOCK_SIDE), classes=10)
        runtime, log = NullRuntime(), folder / "log.txt"
        launchers = HeatLaunchers([runtime], log, ahead=len(machine.available_cpus()))

        def launch(_: str) -> Worker:
            launcher = launchers.of(runtime)
            return Worker(artifact, runtime, images, log=log, cpus=cpus, launcher=launcher)

        with launchers:
            return measure(
                Lineup(["a", "b"], baseline="a", twin="b"),
                launch,
                CLOCK_PLAN,
                watch=HostWatch(cpus),
                heat=launchers.heat,
                report=lambda timing: report(
                    Progress(
                        "timing the clock against itself", timing.done, timing.total, left_s=timing.left_s
                    )
                ),
            )
