"""How far each way of timing can be trusted: A/A sessions, and sessions against a copy that is truly slower.

    python benchmarks/aa.py [--sessions 30] [--designs rounds] [--kept FILE] [--output docs/measured-aa.md]

Every session times three sessions of onnxruntime: A, A again, and B, which is A with one more block (about
9 % slower). Four designs look at the same files in turn, so that all of them meet the same machine, and a
fifth shows what the machine itself does:

    rounds       ours: a number of rounds fixed beforehand, of fresh launches in random order; turns; paired
                 ratios; the interval of `workbench.measure.launches`
    sequential   A fully, then the others: ratio of medians, bootstrap interval
    loop         onnxruntime's usual example: warm up, N runs in one process, mean and standard error
    repetition   like hyperfine: six launches of one, then six of the next, mean and error propagation
    hashing      `rounds` of SHA-256 over a few bytes, some thousand times, in the place of the networks: work
                 of known length that needs no memory: what its ratios spread by is the machine's doing

Half of the sessions run beside a process that never stops computing. Coverage is how often the 95 % interval
holds the true ratio, which long sessions of the first design find, before the others and after them, with the
neighbour where the others have it. A session without an interval holds nothing.

`rounds` alone, 30 sessions: half an hour, on a machine with nothing else to do. --kept: a file that gets a
line after every session; the same command goes on from there. --output: the new section comes first in it.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.backends import OrtRuntime
from workbench.backends.artifact import Artifact
from workbench.measure.heat_launchers import HeatLaunchers
from workbench.measure.host_watch import HostWatch
from workbench.measure.latency import Lineup, Measured, Plan, log_ratios, measure
from workbench.measure.stats import Ratio
from workbench.measure.warm_up import WarmUp, warm_up
from workbench.measure.worker import Worker
from workbench.model.graph.onnx_file import artifact_info
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.run.time_variants import UNRACED_ROUNDS, with_rounds
from workbench.system import machine
from workbench.system.launcher import Launcher
from workbench.system.progress import silent

SIDE, CHANNELS, BLOCKS = 56, 48, 11
A, TWIN, B = "a", "a (again)", "b"
SEQUENTIAL_CALLS, LOOP_CALLS, LAUNCHES, LAUNCH_CALLS = 300, 200, 6, 20
BUDGET_S = 20.0  # of a session of ours
HASHES = 25_000  # of a call: about as long as the network's
HASHES_OF_B = HASHES + HASHES // BLOCKS  # as much longer as B is
TRUTH_ROUNDS = 60  # before the sessions, and as many after them
BEFORE, AFTER = "truth, before", "truth, after"

Estimate = tuple[float, float, float]  # ratio of times to A's, and its 95 % interval; nan where there is none


@dataclass(frozen=True, slots=True)
class Bench:
    """The artifacts and what it takes to launch them."""

    artifacts: dict[str, Artifact]
    images: Images
    log: Path

    @property
    def cpus(self) -> tuple[int, ...]:
        return machine.available_cpus()[-1:]

    def launch(self, name: str, launcher: Launcher | None = None) -> Worker:
        artifact = self.artifacts[name]
        return Worker(artifact, OrtRuntime(), self.images, log=self.log, cpus=self.cpus, launcher=launcher)


@dataclass(frozen=True, slots=True)
class Found:
    """One session of a design. neighbour: whether a process computed beside it."""

    neighbour: bool
    design: str
    number: int
    seconds: float
    estimates: dict[str, Estimate]


def main() -> None:
    parser = argparse.ArgumentParser(description="A/A benchmark of timing designs")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=list(DESIGNS))
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.output and not options.output.is_file():
        parser.error(f"--output: {options.output} does not exist; it gets a section")
    log = Log(options.kept)
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(Path(folder))
        for neighbour in (False, True):
            time_sessions(bench, log, options.designs, options.sessions, neighbour=neighbour)
    report = "\n".join(
        [
            heading(options.sessions, options.designs),
            *(table(log.found, options.designs, neighbour=neighbour) for neighbour in (False, True)),
        ]
    )
    print(report)
    if options.output:
        title, earlier = options.output.read_text().split("\n", 1)
        options.output.write_text(f"{title}\n\n{report}\n{earlier}")


class Log:
    """The sessions so far, in a file too where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.found = [Found(**json.loads(line)) for line in lines]

    def add(self, found: Found) -> None:
        self.found.append(found)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")

    def has(self, design: str, number: int, *, neighbour: bool) -> bool:
        return any((f.design, f.number, f.neighbour) == (design, number, neighbour) for f in self.found)


def prepare(folder: Path, channels: int = CHANNELS) -> Bench:
    """Write the two networks and a few photos."""
    contract = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    path = folder / "photos.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8))
    images = Images(path, (0,) * 8, contract, digest="noise")
    artifacts = {name: network(folder / name, BLOCKS + more, channels) for more, name in enumerate((A, B))}
    return Bench({**artifacts, TWIN: artifacts[A]}, images, folder / "log.txt")


def network(folder: Path, blocks: int, outputs: int = CHANNELS) -> Artifact:
    """A plain stack of 3 x 3 convolutions, so that one more block costs one part in `blocks`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    rng = np.random.default_rng(0)
    nodes, weights, source, channels = [], [], "images", 3
    for index in range(blocks + 1):
        kernel = rng.normal(0, 1 / math.sqrt(channels * 9), (outputs, channels, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        source, channels = f"r{index}", outputs
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", outputs])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return Artifact(folder, artifact_info(folder / "model.onnx"))


def time_sessions(bench: Bench, log: Log, designs: Sequence[str], sessions: int, *, neighbour: bool) -> None:
    """The truth, `sessions` of every design, in random order within each, and the truth again."""
    rng = random.Random(0)
    steps = [(BEFORE, 0)]
    for number in range(sessions):
        steps += [(name, number) for name in rng.sample(list(designs), len(designs))]
    steps.append((AFTER, 1))
    busy = multiprocessing.Process(target=spin, daemon=True) if neighbour else None
    if busy:
        busy.start()
    try:
        for design, number in steps:
            if log.has(design, number, neighbour=neighbour):
                continue
            started = time.monotonic()
            estimates = DESIGNS.get(design, truth)(bench, number)
            log.add(Found(neighbour, design, number, time.monotonic() - started, estimates))
            beside = "with" if neighbour else "without"
            shown = ", ".join(
                f"{name} {ratio:.4f} [{low:.4f}, {high:.4f}]"
                for name, (ratio, low, high) in estimates.items()
            )
            say(f"{beside} neighbour: {design} {number + 1} of {sessions}: {shown}")
    finally:
        if busy:
            busy.kill()


def ours(bench: Bench, plan: Plan, *, anew: bool = False) -> dict[str, Estimate]:
    """One session of the first design. anew: every process starts and imports by itself."""
    lineup, watch = Lineup([A, TWIN, B], A, TWIN), HostWatch(bench.cpus)
    if anew:
        measured = measure(lineup, bench.launch, plan, watch=watch, report=silent)
    else:
        measured = forked(bench, lineup, plan)
    return estimated(measured)


def estimated(measured: Measured) -> dict[str, Estimate]:
    estimates = {}
    for name in (TWIN, B):
        ratio = Ratio(tuple(log_ratios(measured, A)[name].values()))
        low, high = ratio.log_interval or (math.nan, math.nan)
        estimates[name] = (math.exp(-ratio.log_speedup), math.exp(low), math.exp(high))
    return estimates


def forked(bench: Bench, lineup: Lineup, plan: Plan, *, ahead: int | None = None) -> Measured:
    """A session with its launches forked, as a run has them. ahead: as many as there are processors."""
    ahead = ahead or len(machine.available_cpus())
    with HeatLaunchers([OrtRuntime()], bench.log, ahead=ahead) as launchers:

        def launch(name: str) -> Worker:
            return bench.launch(name, launchers.of(OrtRuntime()))

        watch = HostWatch(bench.cpus)
        return measure(lineup, launch, plan, watch=watch, report=silent, heat=launchers.heat)


def truth(bench: Bench, seed: int) -> dict[str, Estimate]:
    """Of processes that share nothing, as a user starts them: what is forked must come out the same."""
    plan = Plan(rounds=TRUTH_ROUNDS, least_rounds=TRUTH_ROUNDS, budget_s=400, repeats=10, seed=seed)
    return ours(bench, plan, anew=True)


def rounds(bench: Bench, seed: int) -> dict[str, Estimate]:
    """As a run times one variant and the baseline: with no race before, and a fixed number of rounds."""
    plan = Plan(seed=seed, budget_s=BUDGET_S)
    return ours(bench, with_rounds(plan, UNRACED_ROUNDS))


def hashing(bench: Bench, seed: int) -> dict[str, Estimate]:
    plan = with_rounds(Plan(seed=seed, budget_s=BUDGET_S), UNRACED_ROUNDS)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, bench.cpus)
    try:
        watch = HostWatch(bench.cpus)
        return estimated(
            measure(Lineup([A, TWIN, B], A, TWIN), hash_in_turns, plan, watch=watch, report=silent)
        )
    finally:
        os.sched_setaffinity(0, allowed)


class Hashing:
    """A subject without a session, in this process."""

    def __init__(self, hashes: int) -> None:
        self.hashes = hashes

    def ready(self) -> None:
        """There is nothing to wait for."""

    def warm_up(self) -> WarmUp:
        return warm_up(self.call)

    def burst(self, calls: int) -> tuple[int, ...]:
        return tuple(self.call() for _ in range(calls))

    def call(self) -> int:
        return timed(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", self.hashes))

    def preemptions(self) -> int:
        return 0


@contextmanager
def hash_in_turns(name: str) -> Iterator[Hashing]:
    yield Hashing(HASHES_OF_B if name == B else HASHES)


def sequential(bench: Bench, seed: int) -> dict[str, Estimate]:
    times = {name: np.asarray(launched(bench, name, SEQUENTIAL_CALLS)) for name in (A, TWIN, B)}
    rng = np.random.default_rng(seed)

    def medians(name: str) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = np.median(rng.choice(times[name], (1000, SEQUENTIAL_CALLS)), axis=1)
        return drawn

    estimates = {}
    for name in (TWIN, B):
        low, high = np.quantile(medians(name) / medians(A), (0.025, 0.975))
        estimates[name] = (float(np.median(times[name]) / np.median(times[A])), float(low), float(high))
    return estimates


def loop(bench: Bench, _: int) -> dict[str, Estimate]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    feed = {"images": next(bench.images.rows([0]))}
    times = {}
    for name in (A, TWIN, B):
        opened = onnxruntime.InferenceSession(
            bench.artifacts[name].read(), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(10):
            opened.run(None, feed)
        times[name] = [timed(partial(opened.run, None, feed)) for _ in range(LOOP_CALLS)]
    return {name: propagated(times[name], times[A]) for name in (TWIN, B)}


def repetition(bench: Bench, _: int) -> dict[str, Estimate]:
    means = {
        name: [statistics.fmean(launched(bench, name, LAUNCH_CALLS)) for _ in range(LAUNCHES)]
        for name in (A, TWIN, B)
    }
    return {name: propagated(means[name], means[A]) for name in (TWIN, B)}


def launched(bench: Bench, name: str, calls: int) -> list[int]:
    with bench.launch(name) as worker:
        worker.ready()
        worker.warm_up()
        return list(worker.burst(calls))


def timed(call: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started


def propagated(times: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Ratio of means, with the standard errors propagated as if every value were independent."""
    mine, its = statistics.fmean(times), statistics.fmean(reference)
    relative = math.hypot(
        statistics.stdev(times) / math.sqrt(len(times)) / mine,
        statistics.stdev(reference) / math.sqrt(len(reference)) / its,
    )
    ratio = mine / its
    return ratio, ratio * (1 - 1.96 * relative), ratio * (1 + 1.96 * relative)


DESIGNS: dict[str, Callable[[Bench, int], dict[str, Estimate]]] = {
    "rounds": rounds,
    "sequential": sequential,
    "loop": loop,
    "repetition": repetition,
    "hashing": hashing,
}


def table(found: Sequence[Found], designs: Sequence[str], *, neighbour: bool) -> str:
    here = [each for each in found if each.neighbour == neighbour]
    long = [each.estimates[B] for each in here if each.design in (BEFORE, AFTER)]
    true_ratio = math.exp(statistics.fmean(math.log(ratio) for ratio, _, _ in long))
    halves = " and ".join(
        f"{100 * (ratio - 1):.2f} % [{100 * (low - 1):.2f}, {100 * (high - 1):.2f}]"
        for ratio, low, high in long
    )
    lines = [
        f"\n### {'Beside a process that never stops computing' if neighbour else 'No neighbour'}\n",
        f"B is truly {100 * (true_ratio - 1):.2f} % slower: {halves} before and after the sessions.\n",
        "| design | A/A covered | worst A/A error | B covered | B called | B called wrongly "
        "| mean half-width | no interval | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in designs:
        found_so = [each for each in here if each.design == name]
        lines.append(row(name, found_so, HASHES_OF_B / HASHES if name == "hashing" else true_ratio))
    return "\n".join(lines)


def row(name: str, found: Sequence[Found], truth: float) -> str:
    same, slower = [each.estimates[TWIN] for each in found], [each.estimates[B] for each in found]
    n = len(found)
    # Comparisons with nan are false: no interval holds nothing and calls nothing.
    half_widths = [(high - low) / 2 for _, low, high in same + slower if not math.isnan(low)]
    cells = [
        name,
        f"{sum(low <= 1 <= high for _, low, high in same)} of {n}",
        f"{100 * max(abs(ratio - 1) for ratio, _, _ in same):.1f} %",
        f"{sum(low <= truth <= high for _, low, high in slower)} of {n}",
        f"{sum(low > 1 or high < 1 for _, low, high in slower)} of {n}",
        f"{sum(high < 1 for _, _, high in slower)}",
        f"{100 * statistics.fmean(half_widths):.1f} %" if half_widths else "–",
        f"{2 * n - len(half_widths)}",
        f"{statistics.median(each.seconds for each in found):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def heading(sessions: int, designs: Sequence[str]) -> str:
    here = machine.collect()
    named = "" if list(designs) == list(DESIGNS) else f" --designs {' '.join(designs)}"
    return (
        f"## {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"Output of `python benchmarks/aa.py --sessions {sessions}{named}`, {here.cpu}, {here.cores} cores, "
        f"{platform.system()}, Python {here.python}.\n\n"
        "A and A again are the same file; B has one more block. The true ratio of B is that of "
        f"{2 * TRUTH_ROUNDS} rounds, half of them before the sessions and half after, with the neighbour "
        "where they have it. Intervals are nominally 95 %; covered: the interval holds the true ratio; "
        "called: it excludes 1. An A/A interval without 1 is a wrong call."
    )


def spin() -> None:
    while True:
        pass


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
