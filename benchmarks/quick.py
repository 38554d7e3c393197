"""What a small run takes: one variant of the bundled network of 1 MB on 204 photos.

The first run builds, the others take every build from a cache of their own. Each is given beside a bare
`python -c "import onnxruntime"`, by stage, and with how long a fixed loop took in its rounds, over the
shortest of all of them, so that a slow machine does not look like a slow program.

    python benchmarks/quick.py [--runs 2]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench.report.timings import STAGES
from workbench.workspace.sample import CHECKPOINT, STUDENT, ensure_sample

PER_CLASS = 17  # of 12 classes
RECIPE = "name: one\ndescription: One plain export.\nexport: {exporter: torchscript, opset: 17}\n"
BARE = [sys.executable, "-c", "import onnxruntime"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2, metavar="N", help="after the first (default: 2)")
    more = parser.parse_args().runs
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KRISHI_CACHE"] = str(folder / "cache")
        prepare(folder)
        bare = statistics.median(seconds(BARE, folder)[0] for _ in range(5))
        print(f"bare import of onnxruntime: {bare:.2f} s\n")
        print(f"| run | seconds | bare imports | CPU seconds | {' | '.join(STAGES)} |")
        print("| --- " * (4 + len(STAGES)) + "|")
        loops = [show("first" if number == 0 else "cached", bare, folder) for number in range(1 + more)]
        shortest = min(map(min, loops))
        print("\nthe fixed loop, median of each run over the shortest of all:", end=" ")
        print(*(f"{statistics.median(run) / shortest:.2f}" for run in loops), sep=", ")


def prepare(folder: Path) -> None:
    """A workspace of the bundled network and photos, and the recipe."""
    photos = ensure_sample(folder / "cache", calib_per_class=5, val_per_class=PER_CLASS) / "data"
    (folder / "krishi.yaml").write_text(
        f"name: quick\nmodel: {{checkpoint: {CHECKPOINT}, factory: '{STUDENT}:create_model'}}\n"
        f"data: {{calibration: {photos / 'calib'}, validation: {photos / 'val'}}}\n"
    )
    (folder / "one.yaml").write_text(RECIPE)


def show(label: str, bare: float, folder: Path) -> list[float]:
    """One run as a row, stages in percent of their sum. Returns the seconds of the loop in its rounds."""
    command = [sys.executable, "-m", "workbench", "run", "one.yaml", "--quiet"]
    wall_s, cpu_s = seconds(command, folder)
    latest = max((folder / "results").glob("*/run.json"))
    record = json.loads(latest.read_text())
    timings = record["timings"]
    total = sum(timings.values())
    shares = " | ".join(f"{100 * timings.get(stage, 0.0) / total:.0f} %" for stage in STAGES)
    print(f"| {label} | {wall_s:.1f} | {wall_s / bare:.0f} | {cpu_s:.1f} | {shares} |", flush=True)
    return [environment["spin_s"] for environment in record["environments"]]


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """By the clock, and of the processors, its own processes included. Exit code 1: nothing won."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
