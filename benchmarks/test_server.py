"""The server on the bundled sample's student: time to ready, memory, CPU per request against a bare loop."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from workbench.backends import BACKENDS
from workbench.cache import cache_folder
from workbench.images import preprocess
from workbench.registry import Registry
from workbench.sample import ensure_sample
from workbench.sample.demo import multipart

REQUESTS = 400
PORT = 8766


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a promoted model of the sample."""
    folder = tmp_path_factory.mktemp("workplace")
    recipe = folder / "fp32.yaml"
    recipe.write_text("name: plain\n")
    cli = [sys.executable, "-m", "workbench.cli"]
    subprocess.run(
        [*cli, "run", str(recipe), "--rounds", "6", "--quiet"], cwd=folder, check=True, capture_output=True
    )
    subprocess.run([*cli, "promote"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    folder = ensure_sample(cache_folder()) / "data" / "val"
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:50]]


@pytest.fixture(scope="module")
def server(workplace: Path) -> Iterator[tuple[psutil.Process, float]]:
    """The running server and how long it took to be ready, in seconds."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "serve", "--port", str(PORT)],
        cwd=workplace,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5):
                break
        except OSError:
            time.sleep(0.01)
    yield psutil.Process(process.pid), time.monotonic() - started
    process.terminate()
    process.wait(30)


def test_server(
    benchmark: BenchmarkFixture, server: tuple[psutil.Process, float], workplace: Path, photos: list[bytes]
) -> None:
    process, ready_s = server
    bundle = Registry(workplace / "registry").resolve(None, "production")
    runtime = bundle.manifest.runtime

    def ratio() -> float:
        """CPU seconds of the server per request over those of the same work in a bare loop, in turns."""
        served = bare = 0.0
        with BACKENDS[runtime.backend].session(bundle.artifact, runtime) as session:
            for _ in range(0, REQUESTS, len(photos)):
                before = _cpu_s(process)
                for photo in photos:
                    _post(photo)
                served += _cpu_s(process) - before
                before = time.process_time()
                for photo in photos:
                    session.infer(preprocess(photo, bundle.manifest.preprocess)).argmax()
                bare += time.process_time() - before
        return served / bare

    found = benchmark.pedantic(ratio, rounds=1)
    resident = process.memory_info().rss / 1e6
    print(f"\nready after {ready_s:.2f} s (target: 2 s); resident {resident:.0f} MB (250 MB)")
    print(f"CPU per request over a bare loop's: {found:.2f}, {os.cpu_count()} cores, one client")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _post(photo: bytes) -> None:
    body, content_type = multipart(photo, "leaf.jpg")
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/predict", data=body, headers={"Content-Type": content_type}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        json.load(response)
