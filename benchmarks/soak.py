"""Half an hour of everything at once against one server process: does its memory stay flat?

    python benchmarks/soak.py [--registry DIR --photos DIR] [--minutes 30] [--rate 60] [--out FILE.json]

Open-loop load (openloop.py, in a process of its own): photos in forms and as raw bodies, large and broken
ones, bodies over the limit, batches, metadata of the inference protocol. Every --swap-every seconds the alias
moves to the other of two published versions of the same network. Every 5 s the server's RSS and PSS, threads
and open files are read.

Each kind of request has its status code; any other outcome is a failure, as is an answer of the version that
was, asked for after /readyz had named the next one.

Growth is the slope of PSS over requests answered. Memory swings with each swap and readings that follow each
other are alike, so the readings after the warm-up (the first fifth) become the means of 12 blocks and a line
is fitted through those (95 %, Student's t). Flat: at most 50 bytes a request, which a million requests turn
into 50 MB.
"""

import argparse
import json
import math
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from openloop import Answer, Load, Plan, poisson, request_of
from serving import large_photos, production, publish_sample, say, served, small_photos, tree_cpu_s

from workbench.measure.student_t import student_t_quantile
from workbench.registry.bundle import Bundle
from workbench.registry.manifest import Draft
from workbench.registry.store import Registry
from workbench.system import machine
from workbench.system.files import cache_folder
from workbench.workspace.sample import ensure_sample

EVERY_S = 5.0
BLOCKS = 12
FLAT_BYTES = 50.0  # a request
WARM_UP = 0.2  # of the time
NEXT_VERSION = "99.0.0"
BATCH = 4
# How many of 200 requests are of each kind, and the status code that is right for it.
MIX = {
    "form": (120, "200"),
    "raw": (40, "200"),
    "broken": (12, "422"),
    "not an image": (6, "415"),
    "batch": (8, "200"),
    "metadata": (10, "200"),
    "12 megapixels": (2, "200"),
    "too large": (2, "413"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the server at one moment; at_s: time.monotonic()."""

    at_s: float
    rss_bytes: int
    pss_bytes: int
    threads: int
    files: int


@dataclass(frozen=True, slots=True)
class Swap:
    """promoted_s: when the alias moved; served_s: when /readyz named the version. time.monotonic()."""

    version: str
    promoted_s: float
    served_s: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes a request, with a 95 % interval."""

    slope: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.high <= FLAT_BYTES:
            return "flat"
        return "grows" if self.low > 0 else "undecided: soak for longer"


# What is sent


def requests_of(
    url: str, name: str, small: Sequence[bytes], large: Sequence[bytes]
) -> dict[str, list[bytes]]:
    """Requests by kind."""
    rng = random.Random(0)
    to, host = urlsplit(f"{url}/predict"), urlsplit(url).netloc
    cut = [photo[: rng.randrange(200, len(photo) // 2)] for photo in small[:20]]
    parts = [
        b'--batch\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n" % (number, photo)
        for number, photo in enumerate(small[:BATCH])
    ]
    batch = b"".join(parts) + b"--batch--\r\n"
    head = (
        f"POST /predict/batch HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: multipart/form-data; boundary=batch\r\nContent-Length: {len(batch)}\r\n\r\n"
    )
    metadata = f"GET /v2/models/{name} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    return {
        "form": [request_of(to, photo, raw=False) for photo in small],
        "raw": [request_of(to, photo, raw=True) for photo in small],
        "broken": [request_of(to, photo, raw=False) for photo in cut],
        "not an image": [request_of(to, rng.randbytes(30_000), raw=False)],
        "batch": [head.encode() + batch],
        "metadata": [metadata.encode()],
        "12 megapixels": [request_of(to, photo, raw=True) for photo in large],
        "too large": [request_of(to, rng.randbytes(11_000_000), raw=True)],
    }


def mixed(requests: Mapping[str, Sequence[bytes]]) -> tuple[list[str], list[bytes]]:
    """Kinds and requests, each kind as often as MIX says: a client picks one at random."""
    rng, kinds, bodies = random.Random(0), [], []
    for kind, (count, _) in MIX.items():
        for number in range(count):
            of_kind = requests[kind]
            kinds.append(kind)
            bodies.append(of_kind[number] if number < len(of_kind) else rng.choice(of_kind))
    return kinds, bodies


def send(plan: Plan, pipe: Pipe) -> None:
    """In the client's process."""
    load = Load(plan)
    load.run()
    pipe.send((load.began, load.answers))


# What happens meanwhile


def two_versions(source: Path, registry: Path) -> Bundle:
    """A copy of a registry in which the production version is there a second time, under another number."""
    shutil.copytree(source, registry)
    bundle = production(registry)
    draft = Draft.model_validate({**bundle.manifest.model_dump(exclude={"files"}), "version": NEXT_VERSION})

    def build(folder: Path) -> None:
        for entry in bundle.manifest.files:
            shutil.copyfile(bundle.folder / entry.path, folder / entry.path)

    Registry(registry).publish(draft, build)
    return bundle


def reading_of(process: Any) -> Reading:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in rollup[1:]}
    return Reading(time.monotonic(), sizes["Rss"], sizes["Pss"], process.num_threads(), process.num_fds())


def swap(registry: Path, bundle: Bundle, version: str, url: str) -> Swap:
    """Move the alias and wait until the server serves it; served_s is infinite if it does not in 30 s."""
    Registry(registry).point(bundle.manifest.name, "production", version, reason="soak", expected=None)
    promoted = time.monotonic()
    while time.monotonic() < promoted + 30:
        try:
            with urlopen(f"{url}/readyz", timeout=10) as response:
                if json.load(response)["version"] == version:
                    return Swap(version, promoted, time.monotonic())
        except HTTPError:
            pass  # not ready: only a failure if the load sees it too
        time.sleep(0.1)
    return Swap(version, promoted, math.inf)


# What came of it


def growth(readings: Sequence[Reading], ended_s: Sequence[float]) -> Growth:
    """ended_s: when answers came, time.monotonic(), sorted."""
    warm = readings[round(WARM_UP * len(readings)) :]
    points, position = [], 0
    for reading in warm:
        while position < len(ended_s) and ended_s[position] <= reading.at_s:
            position += 1
        points.append((float(position), float(reading.pss_bytes)))
    edges = [round(number * len(points) / BLOCKS) for number in range(BLOCKS + 1)]
    blocks = [points[low:high] for low, high in pairwise(edges) if high > low]
    xs, ys = ([fmean(point[axis] for point in block) for block in blocks] for axis in (0, 1))
    return line_through(xs, ys)


def line_through(xs: Sequence[float], ys: Sequence[float]) -> Growth:
    """Least squares, and the slope's interval."""
    middle_x, middle_y = fmean(xs), fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
    freedom = len(xs) - 2
    left = sum((y - middle_y - slope * (x - middle_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = student_t_quantile(0.975, freedom) * math.sqrt(left / freedom / spread)
    return Growth(slope, slope - half, slope + half)


def stale(answers: Sequence[Answer], began: float, swaps: Sequence[Swap]) -> int:
    """Answers of any other version between when one was served and when the alias moved on."""
    found = 0
    for number, each in enumerate(swaps):
        until = swaps[number + 1].promoted_s if number + 1 < len(swaps) else math.inf
        found += sum(
            answer.version not in ("", each.version)
            for answer in answers
            if each.served_s < began + answer.sent_s and began + answer.ended_s < until
        )
    return found


def report(
    readings: Sequence[Reading],
    answers: Sequence[Answer],
    began: float,
    kinds: Sequence[str],
    swaps: Sequence[Swap],
    cpu_s: float,
) -> dict[str, Any]:
    outcomes = Counter(
        (kinds[answer.request] if answer.request >= 0 else "unsent", answer.outcome) for answer in answers
    )
    wrong = {
        f"{kind}: {outcome}": count
        for (kind, outcome), count in sorted(outcomes.items())
        if MIX.get(kind, (0, ""))[1] != outcome
    }
    found = growth(readings, sorted(began + answer.ended_s for answer in answers))
    return {
        "seconds": round(readings[-1].at_s - readings[0].at_s),
        "requests": len(answers),
        "outcomes": {f"{kind}: {outcome}": count for (kind, outcome), count in sorted(outcomes.items())},
        "failures": wrong,
        "swaps": len(swaps),
        "swaps_not_served": sum(math.isinf(each.served_s) for each in swaps),
        "stale_answers": stale(answers, began, swaps),
        "cpu_per_request_ms": round(1e3 * cpu_s / len(answers), 3),
        "growth_bytes_per_request": asdict(found),
        "verdict": found.verdict,
        "readings": [{**asdict(each), "at_s": round(each.at_s - readings[0].at_s, 1)} for each in readings],
    }


def table(found: Mapping[str, Any]) -> str:
    readings, slope = found["readings"], found["growth_bytes_per_request"]
    marks = [readings[round(share * (len(readings) - 1))] for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    lines = ["| minute | RSS, MB | PSS, MB | threads | open files |", "| ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {each['at_s'] / 60:.1f} | {each['rss_bytes'] / 1e6:.1f} | {each['pss_bytes'] / 1e6:.1f} "
        f"| {each['threads']} | {each['files']} |"
        for each in marks
    ]
    failures = ", ".join(f"{what} ({count})" for what, count in found["failures"].items()) or "none"
    lines += [
        "",
        f"{found['requests']} requests in {found['seconds'] / 60:.1f} minutes, {found['swaps']} swaps "
        f"({found['swaps_not_served']} not served); failures: {failures}; "
        f"stale answers: {found['stale_answers']}.",
        f"Memory: {found['verdict']}; {slope['slope']:+.1f} bytes a request "
        f"[{slope['low']:+.1f}, {slope['high']:+.1f}]; peak PSS "
        f"{max(each['pss_bytes'] for each in readings) / 1e6:.0f} MB.",
    ]
    return "\n".join(lines) + "\n"


def soak(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    registry, seconds = scratch / "registry", 60 * options.minutes
    bundle = two_versions(options.registry or publish_sample(scratch / "sample"), registry)
    photos = options.photos or ensure_sample(cache_folder()) / "data" / "val"
    small, large = small_photos(photos, scratch / "small"), large_photos(photos, scratch / "large")
    versions = (bundle.version, NEXT_VERSION)
    readings: list[Reading] = []
    swaps: list[Swap] = []
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    with served(registry, scratch / "log.txt", KRISHI_MODEL=bundle.manifest.name) as server:
        kinds, bodies = mixed(requests_of(server.url, bundle.manifest.name, small, large))
        due = poisson(options.rate, seconds, 0)
        plan = Plan(urlsplit(server.url).port or 0, tuple(bodies), due, seconds, 64, 30.0, 0)
        client = fork.Process(target=send, args=(plan, theirs), daemon=True)
        client.start()
        began, cpu_s = time.monotonic(), tree_cpu_s(server.process)
        swap_at = options.swap_every
        while (elapsed := time.monotonic() - began) < seconds and server.process.is_running():
            readings.append(reading_of(server.process))
            if elapsed >= swap_at:
                swap_at += options.swap_every
                swaps.append(swap(registry, bundle, versions[(len(swaps) + 1) % 2], server.url))
            if len(readings) % 12 == 0:
                say(f"{elapsed / 60:.0f} min: PSS {readings[-1].pss_bytes / 1e6:.1f} MB, {len(swaps)} swaps")
            time.sleep(max(0.0, began + len(readings) * EVERY_S - time.monotonic()))
        load_began, answers = ours.recv()
        client.join()
        cpu_s = tree_cpu_s(server.process) - cpu_s
    return report(readings, answers, load_began, kinds, swaps, cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="soak one server process and watch its memory")
    parser.add_argument("--registry", type=Path, help="with a production version; copied, not changed")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--swap-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not 0 < options.minutes <= 24 * 60:
        sys.exit("error: --minutes is between 0 and a day")
    with tempfile.TemporaryDirectory() as folder:
        found = soak(options, Path(folder))
    here = machine.collect()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {here.cpu}, {here.cores} cores, {options.rate:g} requests/s\n")
    print(table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["failures"] or found["stale_answers"] or found["swaps_not_served"]))


if __name__ == "__main__":
    main()
