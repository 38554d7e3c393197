"""`tune --fleet` over two classes of two devices of this machine, and a builder; one class has a slower copy
of the model.

    python -m benchmarks.fleet_tune [--budget 40]

On the devices of class `slow` every photo of fewer pixels than the workspace's is computed forty times. Each
device has a cache and a lease of its own. Says what each class found, what was built by whom, and then kills
one device in the middle of a second search, and goes on from there.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.plain import prepare_folder  # noqa: E402 - the tests are in the checkout, not in the package
from tests.fleet.slower import SLOWER  # noqa: E402
from workbench.fleet.lease import FOLDER_VARIABLE  # noqa: E402
from workbench.fleet.link import ProcessLink  # noqa: E402
from workbench.fleet.openssh import explain  # noqa: E402
from workbench.fleet.run import FleetOptions  # noqa: E402
from workbench.fleet.spec import DeviceSettings, FleetFile  # noqa: E402
from workbench.fleet.tune import FleetTuned, tune_fleet  # noqa: E402
from workbench.measure.latency import Plan  # noqa: E402
from workbench.report.fleet_tune import text  # noqa: E402
from workbench.run.pipeline import Options  # noqa: E402
from workbench.system.child import child_environment  # noqa: E402
from workbench.system.progress import silent  # noqa: E402
from workbench.workspace import recipe as recipes  # noqa: E402
from workbench.workspace.workspace import load  # noqa: E402

CLASSES = {"f1": "fast", "f2": "fast", "s1": "slow", "s2": "slow"}
MAKER = DeviceSettings.model_validate({"class": "maker", "ssh": "maker", "role": "build"})


class Devices:
    """Workers of this machine, each as if it were another. open: as `reach.open_link`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.links = folder, dict[str, ProcessLink]()
        (folder / "slower").mkdir()
        (folder / "slower" / "sitecustomize.py").write_text(SLOWER)

    def open(self, name: str, device: DeviceSettings, log: Path) -> ProcessLink:
        own = self.folder / name
        own.mkdir(exist_ok=True)
        environment = {**child_environment(), FOLDER_VARIABLE: str(own), "KRISHI_CACHE": str(own)}
        if device.device_class == "slow":
            environment["PYTHONPATH"] = f"{self.folder / 'slower'}{os.pathsep}{environment['PYTHONPATH']}"
        command = [
            sys.executable,
            "-P",
            "-m",
            "workbench.fleet.worker",
            *(["--builds"] if device.builds else []),
        ]
        self.links[name] = ProcessLink(command, log, explain, environment)
        return self.links[name]


def tuned(root: Path, devices: Devices, budget_s: float, **more: Any) -> tuple[FleetTuned, float]:
    fleet = FleetFile(
        devices={
            name: DeviceSettings.model_validate({"class": each, "ssh": name})
            for name, each in CLASSES.items()
        }
        | {"maker": MAKER}
    )
    targets = {name: root / "recipes" / f"tuned-{name}.yaml" for name in fleet.classes}
    plan = Plan(budget_s=budget_s, rounds=4, turns=8)
    settings = FleetOptions(Options(plan=plan), open=more.get("open", devices.open))
    started = time.monotonic()
    variants = recipes.load([root / "int8.yaml"])
    done = tune_fleet(load(root / "krishi.yaml"), fleet, variants, targets, settings, silent)
    return done, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="a search for two classes of devices")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds for each class")
    budget_s = parser.parse_args().budget
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["KRISHI_CACHE"] = str(folder / "driver")
        root = prepare_folder(folder / "plain", max_drop=0.5)
        (root / "int8.yaml").write_text(
            "{name: int8, steps: [{use: static_int8, calibration: {images: 24}}]}"
        )
        devices = Devices(folder)
        done, seconds = tuned(root, devices, budget_s)
        print(f"## A search, {seconds:.0f} s\n\n{text(done)}\n")
        print(f"winners: { {name: each.comparison.winner for name, each in done.found.items()} }")
        infos = [json.loads(path.read_bytes()) for path in (folder / "driver").rglob("artifact.json")]
        print(f"built by: {dict(Counter(info.get('built_on') or 'the driver' for info in infos))}")
        looks = {name: len(list((folder / name).rglob("looks/*.json"))) for name in CLASSES}
        print(f"looks remembered, by device: {looks}\n")
        threading.Timer(budget_s / 2, lambda: devices.links["s1"].process.kill()).start()
        lost, seconds = tuned(root, devices, 2 * budget_s)
        print(f"## Again with twice the time, s1 killed after {budget_s / 2:.0f} s: {seconds:.0f} s\n")
        print(text(lost))


if __name__ == "__main__":
    main()
