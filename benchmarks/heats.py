"""Heats: whether ratios agree with those of sessions that held everything at once, and a run's memory.

    python benchmarks/heats.py [--rounds 6] [--variants 40] [--time-budget 60] [--output FILE]

First the same files are timed with everything open at once and in heats of one variant each, besides the
baseline and its second copy. Then `run --memory 2GB` measures variants of a 100 MB network, and the memory of
all its processes is summed up twice a second.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from aa import Bench, forked, network, prepare

from workbench.measure.latency import Lineup, Measured, Plan, log_ratios
from workbench.measure.records import BASELINE, TWIN
from workbench.measure.stats import Ratio
from workbench.results.folder import RunFolder, runs
from workbench.system import machine
from workbench.system.child import child_command, child_environment

BLOCKS = {BASELINE: 4, "same": 4, "a quarter more": 5, "half more": 6, "three quarters more": 7}
LIMIT = "2GB"
SIDE, HIDDEN, CLASSES = 32, 8000, 4  # 24.6 million weights, 98 MB
SAMPLE_S = 0.5
RUN_ROUNDS = 3  # what a run holds does not hang on how many it makes
RECIPE = """
name: large
matrix:
  runtime.graph_level: [basic, all]
  runtime.batch: [{batches}]
"""
WORKSPACE = """
name: large
model: {checkpoint: model.onnx, class_names: classes.json}
data: {validation: photos}
preprocess: {resize: 32, crop: 32, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
budget: {max_accuracy_drop: 0.2}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="sessions in heats")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--variants", type=int, default=40, help="an even number")
    parser.add_argument("--time-budget", type=int, default=60, help="seconds")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    parts = [heading(), memory(options.variants, options.time_budget), agreement(options.rounds)]
    report = "\n\n".join(parts)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def heading() -> str:
    here = machine.collect()
    return (
        f"# Heats\n\nOutput of `python benchmarks/heats.py`, {datetime.now(UTC):%Y-%m-%d}, {here.cpu}, "
        f"{here.cores} cores, {platform.system()}, Python {here.python}; {os.getloadavg()[0]:.0f} other "
        "processes wanted a processor when it began."
    )


def agreement(rounds: int) -> str:
    """A table of the same ratios from a session with all at once, and from one in heats."""
    with tempfile.TemporaryDirectory() as name:
        bench = prepare(Path(name))
        files = {label: network(Path(name) / label, blocks) for label, blocks in BLOCKS.items()}
        bench = replace(bench, artifacts={**files, TWIN: files[BASELINE]})
        whole = session(bench, Plan(rounds=rounds, budget_s=3600, seed=1))
        heats = session(bench, Plan(rounds=rounds, budget_s=3600, seed=2, memory_bytes=3))
    together, apart = (ratios(measured) for measured in (whole, heats))
    floor = max(0.01, *(floor_of(found[TWIN]) for found in (together, apart)))
    rows = [row(label, together[label], apart[label]) for label in BLOCKS if label != BASELINE]
    differences = [abs(together[label].log_speedup - apart[label].log_speedup) for label in BLOCKS]
    largest = math.expm1(max(differences))
    about = (
        f"Times over the baseline's, {whole.rounds} rounds each, with 95 % intervals. In heats every round "
        f"was {len(BLOCKS) - 1} heats of one variant, the baseline and its second copy. The largest "
        f"difference is {100 * largest:.1f} %; the noise floor, the larger of the two sessions', is "
        f"{100 * floor:.1f} %."
    )
    head = ("| variant | all at once | in heats | differ by |", "| --- | ---: | ---: | ---: |")
    return "\n".join(["## The same ratios", "", about, "", *head, *rows])


def session(bench: Bench, plan: Plan) -> Measured:
    names = [*BLOCKS, TWIN]
    lineup = Lineup(names, BASELINE, TWIN, needs_bytes=dict.fromkeys(names, 1))
    return forked(bench, lineup, plan, ahead=1)  # as a run has them whose variants do not all fit


def ratios(measured: Measured) -> Mapping[str, Ratio]:
    found = log_ratios(measured, BASELINE)
    return {name: Ratio(tuple(rounds.values())) for name, rounds in found.items()}


def floor_of(twin: Ratio) -> float:
    low, high = twin.log_interval or (-math.inf, math.inf)
    return math.expm1(max(-low, high))


def row(label: str, together: Ratio, apart: Ratio) -> str:
    cells = [label, *(cell(ratio) for ratio in (together, apart))]
    difference = 100 * math.expm1(together.log_speedup - apart.log_speedup)
    # Of two independent estimates.
    slack = 100 * math.expm1(math.hypot(*(half_width(ratio) for ratio in (together, apart))))
    return f"| {' | '.join(cells)} | {difference:+.1f} ± {slack:.1f} % |"


def half_width(ratio: Ratio) -> float:
    low, high = ratio.log_interval or (-math.inf, math.inf)
    return (high - low) / 2


def cell(ratio: Ratio) -> str:
    low, high = ratio.log_interval or (-math.inf, math.inf)
    return f"{math.exp(-ratio.log_speedup):.3f} [{math.exp(low):.3f}, {math.exp(high):.3f}]"


def memory(variants: int, budget_s: int) -> str:
    """What a run of many variants of a large network holds at its most."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_workspace(folder, variants)
        command = child_command("workbench", "run", "large.yaml", "--memory", LIMIT, "--quiet")
        command += ["--time-budget", f"{budget_s}s", "--rounds", str(RUN_ROUNDS)]
        environment = {**child_environment(), "KRISHI_CACHE": str(folder / "cache")}
        with (folder / "log.txt").open("wb") as log, Peak() as peak:
            code = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode
        found = runs(folder / "results")
        if not found or code not in (0, 1):
            raise SystemExit((folder / "log.txt").read_text())
        return described(found[-1], size, peak, budget_s)


def described(folder: RunFolder, size: int, peak: "Peak", budget_s: int) -> str:
    import pyarrow.parquet as pq

    trials = folder.trials()
    calls = pq.read_table(folder.path / "latency.parquet", columns=["session", "round", "heat"]).to_pandas()
    heats = calls.groupby(["session", "round"])["heat"].max() + 1
    timed = sum(trial.latency is not None for trial in trials)
    each = sorted(trial.peak_memory_bytes or 0 for trial in trials)[len(trials) // 2]
    command = f"run --memory {LIMIT} --time-budget {budget_s}s --rounds {RUN_ROUNDS}"
    about = (
        f"`{command}` on {len(trials) - 1} variants of a network of {size / 1e6:.0f} MB, each of which holds "
        f"{each / 1e6:.0f} MB above a process with no runtime in it: {timed - 1} were timed beside the "
        f"baseline, in {heats.min()} to {heats.max()} heats a round."
    )
    rows = (
        "| all processes of the run, at most | MB |",
        "| --- | ---: |",
        f"| shared pages counted once (PSS) | {peak.pss / 1e6:.0f} |",
        f"| shared pages counted in each (RSS) | {peak.rss / 1e6:.0f} |",
    )
    return "\n".join(["## Memory of a run", "", about, "", *rows])


class Peak:
    """The most memory that the processes below this one held together while it was open."""

    def __init__(self) -> None:
        self.pss = self.rss = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            pss = rss = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    held = process.memory_full_info()
                except psutil.Error:
                    continue  # it has ended
                pss, rss = pss + held.pss, rss + held.rss
            self.pss, self.rss = max(self.pss, pss), max(self.rss, rss)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def write_workspace(folder: Path, variants: int) -> int:
    """A network of two matrices with 40 photos of noise, and the recipe; the bytes of the network's file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(40):
        path = folder / "photos" / f"class{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    shapes = {"first": (3 * SIDE * SIDE, HIDDEN), "second": (HIDDEN, CLASSES)}
    weights = [
        numpy_helper.from_array(rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    batches = ", ".join(str(size) for size in range(1, variants // 2 + 1))
    (folder / "large.yaml").write_text(RECIPE.replace("{batches}", batches))
    (folder / "krishi.yaml").write_text(WORKSPACE)
    (folder / "classes.json").write_text(json.dumps([f"class{label}" for label in range(CLASSES)]))
    return (folder / "model.onnx").stat().st_size


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {(time.monotonic() - started) / 60:.0f} minutes", file=sys.stderr)
