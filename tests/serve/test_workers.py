"""Several processes behind one port: each serves, each can die, and together they look like one."""

import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict

import serve.workers
from serve.settings import Settings
from tests.load import Load, children, point, sample, say
from tests.serving import ServerProcess, encoded, noise, publish, server_process, wait_for

pytestmark = pytest.mark.integration

PHOTO = encoded(noise(1))
JPEG = {"Content-Type": "image/jpeg"}
BUSY_S = 30.0  # a worker takes a second to start; this machine may be busy


def metrics(process: ServerProcess) -> str:
    # Each in a connection of its own, so that any worker may answer.
    return httpx.get(f"http://127.0.0.1:{process.port}/metrics", timeout=20, verify=False).text


def predict(process: ServerProcess) -> httpx.Response:
    url = f"http://127.0.0.1:{process.port}/predict"
    return httpx.post(url, content=PHOTO, headers=JPEG, timeout=20, verify=False)


def workers(process: ServerProcess) -> list[psutil.Process]:
    return children(process.process.pid, "serve.server")


def ready(process: ServerProcess) -> bool:
    """Both have a model: each says so in its own file of gauges."""
    found = workers(process)
    if len(found) != 2:
        return False
    files = [Path(one.cmdline()[-3]) / f"gauge_livemax_{one.cmdline()[-1]}.db" for one in found]
    return all(file.exists() and b"model_info" in file.read_bytes() for file in files)


def metrics_folder(process: ServerProcess) -> Path:
    return Path(workers(process)[0].cmdline()[-3])


def replaced(process: ServerProcess, killed: list[psutil.Process]) -> bool:
    found = [one.pid for one in workers(process)]
    return not any(one.pid in found for one in killed) and ready(process)


@contextmanager
def serving(registry: Path, **environment: str) -> Iterator[ServerProcess]:
    with server_process(registry, KRISHI_WORKERS="2", **environment) as process:
        wait_for(lambda: ready(process), BUSY_S)
        yield process


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """A server of two workers that checks the alias on SIGHUP only; and its registry."""
    registry = tmp_path_factory.mktemp("workers") / "registry"
    publish(registry)
    with serving(registry, KRISHI_WATCH="3600") as process:
        yield process, registry


def test_both_serve_and_their_metrics_are_one(shared: tuple[ServerProcess, Path], tmp_path: Path) -> None:
    process, _ = shared
    result = Load(process.port, tmp_path, rate=60, seconds=1).result()
    assert set(result.outcomes) == {"200"}
    count = len(result.answers)
    # Who takes a connection is up to chance, so each has to do without the other.
    for worker in workers(process):
        worker.suspend()
        for _ in range(5):
            assert predict(process).status_code == 200
        worker.resume()
        count += 5
    text = metrics(process)
    shares = [
        sum(
            value
            for key, value, *_ in MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
            if '"requests_total"' in key
        )
        for path in sorted(metrics_folder(process).glob("counter_*.db"))
    ]
    say(f"of {count} requests, the workers answered {shares}")
    assert sum(shares) == count
    assert min(shares) >= 5
    assert sample(text, 'requests_total{code="200"}') == count
    assert sample(text, "inference_latency_seconds_count") == count
    assert sample(text, "inflight_requests") == 0
    assert sample(text, "workers") == 2
    assert sample(text, "process_resident_memory_bytes") > 50e6
    assert len(re.findall(r"^model_info\{.*\} 1\.0$", text, re.MULTILINE)) == 1


def test_one_that_is_killed_takes_its_own_requests_and_is_replaced(
    shared: tuple[ServerProcess, Path], tmp_path: Path
) -> None:
    process, _ = shared
    counted = sample(metrics(process), 'requests_total{code="200"}')
    files = {path.name for path in metrics_folder(process).iterdir()}
    load = Load(process.port, tmp_path, rate=50, seconds=4)
    time.sleep(1)
    victim = workers(process)[0]
    killed = time.monotonic()
    victim.kill()
    wait_for(lambda: replaced(process, [victim]), BUSY_S)
    back = time.monotonic() - killed
    result = load.result()
    text = metrics(process)
    lost = [answer for answer in result.answers if answer.outcome != "200"]
    say(f"{dict(result.outcomes)}; a new worker was ready after {back:.2f} s")
    # Those it had in hand, and those sent into connections it held, at the moment it died.
    assert {answer.outcome for answer in lost} <= {"reset"}
    assert len(lost) < 10
    assert all(killed - 1 < answer.sent < killed + 2 for answer in lost)
    answered = sample(text, 'requests_total{code="200"}') - counted
    assert result.outcomes["200"] <= answered <= result.outcomes["200"] + len(lost)
    assert sample(text, "inflight_requests") == 0
    assert sample(text, "queue_depth") == 0
    assert {path.name for path in metrics_folder(process).iterdir()} == files
    assert re.search(r"worker \d ended with -9; a new one starts in 0(\.5)? s", process.log)
    # Two seconds where the processors are free.
    assert back < 20


def test_gauges_of_a_dead_worker_are_forgotten(shared: tuple[ServerProcess, Path]) -> None:
    process, _ = shared
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as connections:
        for _ in range(8):
            one = connections.enter_context(socket.create_connection((process.host, process.port), 10))
            one.sendall(head)
        wait_for(lambda: sample(metrics(process), "inflight_requests") == 8)
        counted = sample(metrics(process), 'requests_total{code="200"}')
        old = workers(process)
        for worker in old:
            worker.kill()
        wait_for(lambda: replaced(process, old), BUSY_S)
        text = metrics(process)
        assert sample(text, "inflight_requests") == 0
        assert sample(text, 'requests_total{code="200"}') == counted
        assert predict(process).status_code == 200


def test_a_promotion_under_load_reaches_all_of_them(
    shared: tuple[ServerProcess, Path], tmp_path: Path
) -> None:
    process, registry = shared
    load = Load(process.port, tmp_path, rate=40, seconds=3)
    before = sample(metrics(process), 'model_swaps_total{result="ok"}')
    for number in range(1, 3):
        publish(registry, version=f"1.0.{number}", seed=number, alias=None)
        point(registry, f"1.0.{number}")
        process.process.send_signal(signal.SIGHUP)
        swapped = before + 2 * number
        wait_for(
            lambda swapped=swapped: sample(metrics(process), 'model_swaps_total{result="ok"}') == swapped,  # type: ignore[misc]
            BUSY_S,
        )
        assert {predict(process).json()["model_version"] for _ in range(8)} == {f"1.0.{number}"}
        wait_for(lambda: metrics(process).count("\nmodel_info{") == 1)
        assert re.search(rf'^model_info{{.*version="1\.0\.{number}"', metrics(process), re.MULTILINE)
    result = load.result()
    assert set(result.outcomes) == {"200"}
    assert {answer.version for answer in result.answers} <= {"1.0.0", "1.0.1", "1.0.2"}


def test_no_worker_ends_of_a_sighup_while_it_starts(tmp_path: Path) -> None:
    """A SIGHUP ends a process that is not prepared for it, as a worker is not while it starts."""
    registry = tmp_path / "registry"
    process = ServerProcess(registry, KRISHI_WORKERS="2", KRISHI_DRAIN_DELAY="0")
    try:
        wait_for(lambda: len(workers(process)) == 2)
        deadline = time.monotonic() + BUSY_S
        while process.client.get("/readyz").status_code == 503:
            assert time.monotonic() < deadline
            process.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
            if process.client.get("/healthz").status_code == 200 and not registry.exists():
                publish(registry)
        while not ready(process):
            assert time.monotonic() < deadline
            process.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        assert predict(process).json()["model_version"] == "1.0.0"
    finally:
        assert process.end() == 0, process.log
    assert "ended with" not in process.log
    assert "Traceback" not in process.log


def test_sigterm_under_load_loses_nothing(registry: Path, tmp_path: Path) -> None:
    with serving(registry, KRISHI_DRAIN_DELAY="0.5") as process:
        mine = workers(process)
        load = Load(process.port, tmp_path, rate=50, seconds=2.5)
        time.sleep(1)
        asked = time.monotonic()
        assert process.end() == 0
        ended = time.monotonic() - asked
        result = load.result()
        say(f"{dict(result.outcomes)}; ended after {ended:.2f} s")
        assert set(result.outcomes) == {"200", "refused"}
        assert max(answer.sent for answer in result.answers if answer.outcome == "200") > asked + 0.3
        assert not any(worker.is_running() for worker in mine)


def test_the_workers_end_with_a_parent_that_is_killed(registry: Path) -> None:
    process = ServerProcess(registry, KRISHI_WORKERS="2", KRISHI_DRAIN_DELAY="0")
    wait_for(lambda: ready(process), BUSY_S)
    mine, folder = workers(process), metrics_folder(process)
    process.process.kill()
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert not alive
    assert process.wait() == -signal.SIGKILL
    assert "Traceback" not in process.log
    assert "Fatal Python error" not in process.log
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_one_that_cannot_start_is_tried_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr("serve.workers.time", SimpleNamespace(monotonic=lambda: now))
    started: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # It reads nothing and ends at once, as one whose imports fail.
        worker = serve.workers._Worker(0, [sys.executable, "-S", "-c", ""], Settings(), listener)
        start = worker.start

        def counted() -> None:
            started.append(now)
            start()
            assert worker.process is not None
            worker.process.wait()

        monkeypatch.setattr(worker, "start", counted)
        for _ in range(1400):
            worker.replace_if_dead(tmp_path)
            now += 0.1
        pauses = [round(b - a, 1) for a, b in pairwise(started)]
        assert pauses[:7] == pytest.approx([0.5, 1, 2, 4, 8, 16, 30], abs=0.25)
        # One that lived for a while did not die of its start: the next comes at once.
        assert worker.process is None
        worker.restart_at = now
        worker.replace_if_dead(tmp_path)
        now += serve.workers.STEADY_S + 1
        before = len(started)
        worker.replace_if_dead(tmp_path)
        assert len(started) == before + 1
        worker._clean_up(tmp_path)
        monkeypatch.setattr(worker, "start", start)
        worker.command, worker.restart_at = ["/nonexistent/python"], 0.0
        worker.replace_if_dead(tmp_path)
        assert worker.process is None
    assert "cannot be started: No such file or directory" in caplog.text
