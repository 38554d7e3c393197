"""The driver over up to 1,000 simulated devices, of which a third goes wrong: its own cost for each device.

    python benchmarks/fleet_simulation.py [--counts 10 100 1000]

The devices are those of tests/fleet/simulated.py; all else is the driver's own code, its files included.
Every device must end in the state that its fate demands, and no lease may be held twice, or the script fails.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.fleet.simulated import (  # noqa: E402 - the tests are in the checkout, not in the package
    STATES,
    SimulatedDevice,
    driver_over,
    random_fates,
)

VARIANTS = ["int8", "fp16", "int8-static"]


def simulate(count: int, folder: Path) -> tuple[float, float, dict[str, int]]:
    """CPU and wall seconds, and how many devices ended in each state."""
    fates = random_fates(count)
    devices = {name: SimulatedDevice(name, fate, {"int8": 2.0}) for name, fate in fates.items()}
    classes = {name: f"class-{number % 7}" for number, name in enumerate(fates)}
    driver = driver_over(folder, devices, classes, VARIANTS)
    cpu, wall = time.process_time(), time.monotonic()
    status = driver.measure(list(fates))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    ended = {name: outcome.state for name, outcome in status.outcomes.items()}
    assert ended == {name: STATES[fate] for name, fate in fates.items()}
    assert {device.holder for device in devices.values() if device.fate != "busy"} == {None}
    return cpu, wall, dict(sorted(Counter(ended.values()).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description="a fleet of simulated devices")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000])
    print(
        "| devices | CPU of the driver, ms a device | wall, ms a device | ended |\n| --- | --- | --- | --- |"
    )
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall, ended = simulate(count, Path(folder))
        states = ", ".join(f"{number} {state}" for state, number in ended.items())
        print(f"| {count:,} | {1000 * cpu / count:.1f} | {1000 * wall / count:.1f} | {states} |")


if __name__ == "__main__":
    main()
