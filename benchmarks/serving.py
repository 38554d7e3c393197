"""What serving costs on top of the model: the server beside the same work in a bare loop, in turns.

    python benchmarks/serving.py [--registry DIR [--photos DIR]] [--rounds 20] [--out FILE.json]

Without --registry, a plain export of the bundled sample is published in a temporary folder. Round by round,
in random order:

    form, raw     the server at saturation: a closed loop of --connections in another process (openloop.py),
                  the photos in a form and as raw bodies
    bare, twin    preprocess + infer + argmax in a loop, twice under two names: their ratio is the noise floor

The bare loop is one process with one session and as many threads as the bundle runs at a time, which is
what the engine has: same memory, same lock of the interpreter. As many processes with a session each were no
faster and took no less CPU when measured (1.64 ms a photo, threads 1.59), so this is the harder comparison.

CPU is user + system time of the process tree, per photo; a ratio is taken within a round, and its interval is
that of the centre over rounds (`workbench.measure.launches`, 95 %). The client takes its share of the
processors: the throughput is shown as it was, and over what the bare loop does on the processors the client
left.

Then photos of 12 megapixels (4000 x 3000, enlarged, with a camera's noise): a request against a full decode.
"""

import argparse
import io
import json
import math
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import cycle
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from openloop import photos_in
from PIL import Image

from workbench.backends import Session
from workbench.backends.table import BACKENDS
from workbench.measure import launches
from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode
from workbench.photos.preprocess import preprocess
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry
from workbench.system import machine
from workbench.system.files import cache_folder
from workbench.workspace.sample import ensure_sample

ROOT = Path(__file__).parents[1]
SIDE, LARGE = 256, (4000, 3000)
PHOTOS, LARGE_PHOTOS = 200, 4
CPU_TARGET, THROUGHPUT_TARGET, LARGE_TARGET = 1.10, 0.90, 0.45


@dataclass(frozen=True, slots=True)
class Reading:
    """One arm of one round. client_s: CPU time of whoever sent the requests."""

    photos: int
    cpu_s: float
    wall_s: float
    client_s: float = 0.0

    @property
    def cpu_each_s(self) -> float:
        return self.cpu_s / self.photos

    @property
    def per_s(self) -> float:
        return self.photos / self.wall_s

    @property
    def left_by_client(self) -> float:
        """The share of all processors that the client did not use."""
        return 1 - self.client_s / self.wall_s / len(machine.available_cpus())


Arm = Callable[[], Reading]
Round = Mapping[str, Reading]


# The server and its client


class Server:
    """`python -m serve` on a free port of this machine."""

    def __init__(self, registry: Path, log: Path, **environment: str) -> None:
        self.log = log
        with log.open("wb") as sink:
            self._started = subprocess.Popen(
                [sys.executable, "-m", "serve"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "KRISHI_REGISTRY": str(registry.resolve()),
                    "KRISHI_PORT": "0",
                    **environment,
                },
                stderr=sink,
            )
        self.process = psutil.Process(self._started.pid)
        self.url = ""

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._started.poll() is None:
            text = self.log.read_text()
            if "serving " in text and (found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", text)):
                self.url = found[1]
                return
            time.sleep(0.05)
        sys.exit(f"error: the server is not ready\n{self.log.read_text()}")

    def cpu_s(self) -> float:
        return tree_cpu_s(self.process)

    def stop(self) -> int:
        self._started.terminate()
        return self._started.wait(60)


@contextmanager
def served(registry: Path, log: Path, **environment: str) -> Iterator[Server]:
    server = Server(registry, log, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def tree_cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its children, also of those that ended and were waited for."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
        if each == process:
            total += times.children_user + times.children_system
    return float(total)


def load(url: str, photos: Path, *words: str) -> dict[str, Any]:
    """What openloop.py found."""
    command = [sys.executable, str(Path(__file__).with_name("openloop.py")), "--url", url, "--json"]
    done = subprocess.run(
        [*command, "--photos", str(photos), *words], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def saturated(server: Server, photos: Path, seconds: float, *words: str) -> Reading:
    before = server.cpu_s()
    found = load(f"{server.url}/predict", photos, "--seconds", str(seconds), *words)
    if list(found["outcomes"]) != ["200"]:
        sys.exit(f"error: not every request was answered: {found['outcomes']}")
    return Reading(found["requests"], server.cpu_s() - before, found["seconds"], found["client"]["cpu_s"])


# The bare loop


class Bare:
    """A process that classifies photos in a loop when told to."""

    def __init__(self, registry: Path, photos: Sequence[bytes], contract: Preprocess) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=bare, args=(theirs, registry, photos, contract), daemon=True)
        self._process.start()

    def __call__(self, seconds: float) -> Reading:
        self._pipe.send(seconds)
        reading: Reading = self._pipe.recv()
        return reading

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def bare(pipe: Pipe, registry: Path, photos: Sequence[bytes], contract: Preprocess) -> None:
    """In the process of `Bare`: runs for as many seconds as the pipe says, until it says None."""
    bundle = production(registry)
    runtime, raw = bundle.manifest.runtime, bundle.manifest.artifact.pixels
    with BACKENDS[runtime.backend].session(bundle.artifact, runtime) as session:
        while (seconds := pipe.recv()) is not None:
            cpu, wall = time.process_time(), time.perf_counter()
            with ThreadPoolExecutor(runtime.sessions) as threads:
                starts = range(0, len(photos), -(-len(photos) // runtime.sessions))
                counts = threads.map(
                    lambda start: walk(session, [*photos[start:], *photos[:start]], contract, raw, seconds),
                    starts,
                )
                count = sum(counts)
            pipe.send(Reading(count, time.process_time() - cpu, time.perf_counter() - wall))


def walk(session: Session, photos: Sequence[bytes], contract: Preprocess, raw: bool, seconds: float) -> int:
    ends, photo = time.perf_counter() + seconds, cycle(photos)
    count = 0
    while time.perf_counter() < ends:
        session.infer(preprocess(next(photo), contract, raw=raw))[0].argmax()
        count += 1
    return count


def production(registry: Path) -> Bundle:
    return Registry(registry).resolve(None, "production")


# Photos and a bundle to serve


def small_photos(source: Path, folder: Path) -> list[bytes]:
    """JPEG photos whose shorter side is 256 px, in `folder`; those that are so already, as they are."""
    folder.mkdir()
    paths = photos_in([source])
    for number, path in enumerate(paths[:: -(-len(paths) // PHOTOS)]):
        data = path.read_bytes()
        image = decode(data)
        if min(image.size) != SIDE or not data.startswith(b"\xff\xd8"):
            scale = SIDE / min(image.size)
            data = jpeg(image.resize((round(image.width * scale), round(image.height * scale))))
        (folder / f"{number:04}.jpg").write_bytes(data)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def large_photos(source: Path, folder: Path) -> list[bytes]:
    """JPEG photos of 12 megapixels, about 4.5 MB each as a phone's are: enlarged, with noise on top."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, path in enumerate(photos_in([source])[:LARGE_PHOTOS]):
        pixels = np.asarray(decode(path.read_bytes()).resize(LARGE, Image.Resampling.BICUBIC), np.int16)
        noise = rng.normal(0, 6, (LARGE[1], LARGE[0], 1)).astype(np.int16)
        photo = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
        (folder / f"{number}.jpg").write_bytes(jpeg(photo))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def publish_sample(folder: Path) -> Path:
    """A registry with a plain export of the bundled sample."""
    folder.mkdir(exist_ok=True)
    (folder / "plain.yaml").write_text("name: plain\n")
    cli = [sys.executable, "-m", "workbench"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["run", "plain.yaml", "--rounds", "6", "--quiet"], ["promote"]):
        subprocess.run([*cli, *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "registry"


# Rounds and what they say


def rounds(arms: Mapping[str, Arm], count: int, what: str) -> list[Round]:
    """Each arm once a round, in random order; the first round only warms up."""
    rng = random.Random(0)
    found: list[Round] = []
    for number in range(count + 1):
        found.append({name: arms[name]() for name in rng.sample(list(arms), len(arms))})
        say(f"{what}: round {number} of {count}")
    return found[1:]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The centre over rounds and its 95 % interval (None with fewer than 6 rounds)."""

    name: str
    ratio: float
    interval: tuple[float, float] | None
    target: float | None = None
    at_most: bool = True

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        sense = "at most" if self.at_most else "at least"
        low, high = self.interval or (-math.inf, math.inf)
        met = high <= self.target if self.at_most else low >= self.target
        missed = low > self.target if self.at_most else high < self.target
        return f"{sense} {self.target:g}: {'met' if met else 'missed' if missed else 'undecided'}"

    def row(self) -> str:
        low, high = self.interval or (math.nan, math.nan)
        return f"| {self.name} | {self.ratio:.3f} | {low:.3f} to {high:.3f} | {self.verdict} |"


def ratio_of(
    name: str, values: Sequence[float], target: float | None = None, *, at_most: bool = True
) -> Ratio:
    return Ratio(name, launches.centre(values), launches.interval(values), target, at_most)


def small_ratios(found: Sequence[Round]) -> list[Ratio]:
    ratios = []
    # The bare loop's are those of its two turns of a round.
    cpu = [math.sqrt(each["bare"].cpu_each_s * each["twin"].cpu_each_s) for each in found]
    per_s = [math.sqrt(each["bare"].per_s * each["twin"].per_s) for each in found]
    for arm in (arm for arm in ("form", "raw") if arm in found[0]):
        mine = [each[arm] for each in found]
        costs = [its.cpu_each_s / bare for its, bare in zip(mine, cpu, strict=True)]
        speeds = [its.per_s / bare for its, bare in zip(mine, per_s, strict=True)]
        left = [speed / its.left_by_client for its, speed in zip(mine, speeds, strict=True)]
        ratios += [
            ratio_of(f"CPU per request, {arm}", costs, CPU_TARGET),
            ratio_of(f"throughput, {arm}, client beside it", speeds, THROUGHPUT_TARGET, at_most=False),
            ratio_of(f"throughput, {arm}, over what the client left", left, THROUGHPUT_TARGET, at_most=False),
        ]
    twins = [each["twin"].cpu_each_s / each["bare"].cpu_each_s for each in found]
    return [*ratios, ratio_of("noise floor: CPU, twin over bare", twins)]


def large_ratios(found: Sequence[Round]) -> list[Ratio]:
    def over(arm: str, reference: str) -> list[float]:
        return [each[arm].cpu_each_s / each[reference].cpu_each_s for each in found]

    return [
        ratio_of("12 megapixels: CPU per request over a full decode", over("request", "full"), LARGE_TARGET),
        ratio_of("12 megapixels: the contract's decode over a full one", over("scaled", "full")),
        ratio_of("12 megapixels: CPU per request over the bare loop", over("request", "scaled")),
    ]


def compared(registry: Path, photos: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything about one bundle."""
    bundle = production(registry)
    contract = bundle.manifest.preprocess
    small, large = small_photos(photos, scratch / "small"), large_photos(photos, scratch / "large")
    full = contract.model_copy(update={"decode": "full"})
    loops = {
        "bare": Bare(registry, small, contract),
        "twin": Bare(registry, small, contract),
        "scaled": Bare(registry, large, contract),
        "full": Bare(registry, large, full),
    }
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    closed = ("--closed", str(options.connections))
    with served(registry, scratch / "server.log", KRISHI_MODEL=bundle.manifest.name) as server:
        seconds = options.seconds

        def requests(folder: str, *words: str, seconds: float = seconds) -> Arm:
            return lambda: saturated(server, scratch / folder, seconds, *closed, *words)

        def loop(which: str, seconds: float = seconds) -> Arm:
            return lambda: loops[which](seconds)

        arms = {"form": requests("small"), "raw": requests("small", "--raw")}
        found = rounds({**arms, "bare": loop("bare"), "twin": loop("twin")}, options.rounds, name)
        longer = 3 * seconds
        arms = {
            "request": requests("large", "--raw", seconds=longer),
            "full": loop("full", longer),
            "scaled": loop("scaled", longer),
        }
        found_large = rounds(arms, max(6, options.rounds // 2), f"{name}, 12 megapixels")
    for each in loops.values():
        each.stop()
    return {
        "bundle": name,
        "runtime": bundle.manifest.runtime.model_dump(),
        "sessions": bundle.manifest.runtime.sessions,
        "photo_bytes": round(sum(map(len, small)) / len(small)),
        "large_photo_bytes": round(sum(map(len, large)) / len(large)),
        "rounds": [{arm: asdict(reading) for arm, reading in each.items()} for each in found],
        "large_rounds": [{arm: asdict(reading) for arm, reading in each.items()} for each in found_large],
        "table": table(name, bundle, found, found_large),
    }


def table(name: str, bundle: Bundle, found: Sequence[Round], found_large: Sequence[Round]) -> str:
    side = bundle.manifest.preprocess.crop
    lines = [
        f"### {name}, {side} px, {bundle.manifest.runtime.sessions} at a time\n",
        "| ratio | centre | 95 % | target |",
        "| --- | ---: | --- | --- |",
        *(ratio.row() for ratio in small_ratios(found) + large_ratios(found_large)),
        "",
        "| arm | CPU per photo, ms | photos per second |",
        "| --- | ---: | ---: |",
    ]
    for series in (found, found_large):
        for arm in series[0]:
            cpu = 1e3 * median(each[arm].cpu_each_s for each in series)
            lines.append(f"| {arm} | {cpu:.2f} | {median(each[arm].per_s for each in series):.1f} |")
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="what serving costs on top of the model")
    parser.add_argument(
        "--registry", type=Path, help="with a production version; default: the bundled sample"
    )
    parser.add_argument("--photos", type=Path, help="a folder; default: the bundled sample's")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each arm in each round")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        registry = options.registry or publish_sample(scratch)
        photos = options.photos or ensure_sample(cache_folder()) / "data" / "val"
        found = compared(registry, photos, options, scratch)
    here = machine.collect()
    found = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "cpu": here.cpu, "cores": here.cores, **found}
    print(f"{found['date']} UTC, {here.cpu}, {here.cores} cores, Python {here.python}\n\n{found['table']}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
