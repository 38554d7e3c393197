"""The server on the bundled sample's student: time to ready, memory, the first answers."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from workbench.system.files import cache_folder
from workbench.workspace.sample import ensure_sample

REQUESTS = 400
FIRST = 20
PORT = 8766


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a promoted model of the sample."""
    folder = tmp_path_factory.mktemp("workplace")
    recipe = folder / "fp32.yaml"
    recipe.write_text("name: plain\n")
    cli = [sys.executable, "-m", "workbench"]
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
        [sys.executable, "-m", "workbench", "serve", "--port", str(PORT)],
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
    benchmark: BenchmarkFixture, server: tuple[psutil.Process, float], photos: list[bytes]
) -> None:
    process, ready_s = server
    first = [_post(photo) for photo in photos[:FIRST]]

    def later() -> list[float]:
        return [_post(photo) for _ in range(0, REQUESTS, len(photos)) for photo in photos]

    steady = benchmark.pedantic(later, rounds=1)
    resident = process.memory_info().rss / 1e6
    ratio = max(first) / _p99(steady)
    print(f"\nready after {ready_s:.2f} s (target: 2 s); resident {resident:.0f} MB (250 MB)")
    print(f"the slowest of the first {FIRST} answers over the p99 of {REQUESTS} later: {ratio:.2f} (2)")


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


def _post(photo: bytes) -> float:
    """Seconds until the answer is there."""
    url = f"http://127.0.0.1:{PORT}/predict"
    form = httpx.Request("POST", url, files={"file": ("leaf.jpg", photo, "image/jpeg")})
    request = urllib.request.Request(
        url, data=form.read(), headers={"Content-Type": form.headers["Content-Type"]}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=30) as response:
        json.load(response)
    return time.perf_counter() - started
