"""Workers die, swaps fail, metrics files vanish: the server goes on, and a 503 says what helps."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve.metrics import Metrics
from tests.load import children, point, sample
from tests.serving import ServerProcess, encoded, noise, publish, server_process, wait_for
from workbench.registry.leases import read_leases
from workbench.registry.store import Registry
from workbench.report.registry import versions, versions_answer

pytestmark = pytest.mark.integration

PHOTO = encoded(noise(1))
JPEG = {"Content-Type": "image/jpeg"}
WORKERS = 3
FOREIGN = "counter_4711.db"


@dataclass
class Fleet:
    """A server of several workers, asked over new connections. first: answers from its start on."""

    process: ServerProcess
    registry: Path
    foreign: Path
    first: list[httpx.Response] = field(default_factory=list)

    def ask(self, path: str = "/predict") -> httpx.Response:
        url = f"http://127.0.0.1:{self.process.port}{path}"
        if path == "/predict":
            return httpx.post(url, content=PHOTO, headers=JPEG, timeout=30, verify=False)
        return httpx.get(url, timeout=30, verify=False)

    def metrics(self) -> str:
        answer = self.ask("/metrics")
        assert answer.status_code == 200, answer.text
        return answer.text

    def workers(self) -> list[psutil.Process]:
        return children(self.process.process.pid, "serve.server")

    def folder(self) -> Path:
        return Path(self.workers()[0].cmdline()[-3])

    def with_model(self) -> int:
        """Workers that have a model: each says so in its own file."""
        files = self.folder().glob("gauge_livemax_*.db")
        return sum(b"model_info" in file.read_bytes() for file in files)

    def statuses_until(self, met: Callable[[], bool]) -> set[int]:
        """The statuses of predictions until `met`, at least 20; a reset connection is 0."""
        seen, deadline = [], time.monotonic() + 60
        while len(seen) < 20 or not met():
            assert time.monotonic() < deadline, self.process.log
            try:
                seen.append(self.ask().status_code)
            except httpx.TransportError:
                seen.append(0)
            time.sleep(0.01)
        return set(seen)

    def replaced(self, victim: psutil.Process) -> bool:
        pids = [worker.pid for worker in self.workers()]
        return victim.pid not in pids and len(pids) == self.with_model() == WORKERS


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Started before there is a model, in an environment with somebody else's PROMETHEUS_MULTIPROC_DIR."""
    folder = tmp_path_factory.mktemp("fleet")
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / FOREIGN).write_bytes(b"not ours")
    process = ServerProcess(
        folder / "registry", KRISHI_WORKERS=str(WORKERS), KRISHI_RETRY="0.3", KRISHI_WATCH="0.2",
        KRISHI_DRAIN_DELAY="0.3", PROMETHEUS_MULTIPROC_DIR=str(foreign),
    )  # fmt: skip
    fleet = Fleet(process, folder / "registry", foreign)
    try:
        wait_for(lambda: len(fleet.workers()) == WORKERS)
        fleet.first += [fleet.ask(path) for path in ("/healthz", "/readyz", "/model", "/predict")]
        publish(fleet.registry)
        while len(fleet.first) < 30 or fleet.with_model() < WORKERS:
            fleet.first.append(fleet.ask())
        yield fleet
    finally:
        assert process.end() == 0, process.log
    assert "Traceback" not in process.log


# Several workers


def test_before_there_is_a_model_the_port_answers_and_says_what_helps(fleet: Fleet) -> None:
    healthy, *others = fleet.first[:4]
    assert healthy.status_code == 200
    for answer in others:
        assert answer.status_code == 503
        assert "`krishi-bench promote`" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1


def test_once_one_worker_has_answered_none_says_that_there_is_no_model(fleet: Fleet) -> None:
    statuses = [answer.status_code for answer in fleet.first[4:]]
    assert set(statuses[statuses.index(200) :]) == {200}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_replacement_of_a_worker_that_ends_answers_only_when_it_has_its_model(
    fleet: Fleet, number: int
) -> None:
    victim = fleet.workers()[1]
    victim.send_signal(number)
    assert fleet.statuses_until(lambda: fleet.replaced(victim)) <= {200, 0}


def test_a_replacement_that_finds_no_model_leaves_the_port_to_the_others(fleet: Fleet) -> None:
    victim, version = fleet.workers()[0], fleet.registry / "leaf" / "1.0.0"
    version.rename(fleet.registry / "away")
    victim.kill()
    failed = time.monotonic() + 4
    assert fleet.statuses_until(lambda: time.monotonic() > failed) <= {200, 0}
    (fleet.registry / "away").rename(version)
    assert fleet.statuses_until(lambda: fleet.replaced(victim)) == {200}


def test_where_all_are_killed_the_port_answers_again_when_one_has_its_model(fleet: Fleet) -> None:
    old = fleet.workers()
    for worker in old:
        worker.kill()
    assert fleet.statuses_until(lambda: all(map(fleet.replaced, old))) <= {200, 503, 0}
    assert fleet.ask("/readyz").status_code == 200


# Metrics of several workers


def test_metrics_of_somebody_elses_folder_are_neither_read_nor_written(fleet: Fleet) -> None:
    fleet.metrics()
    assert [path.name for path in fleet.foreign.iterdir()] == [FOREIGN]
    assert (fleet.foreign / FOREIGN).read_bytes() == b"not ours"


def counted(fleet: Fleet) -> float:
    return sample(fleet.metrics(), 'requests_total{code="200"}')


def test_the_workers_write_their_metrics_again_where_the_folder_is_deleted(fleet: Fleet) -> None:
    before, folder = counted(fleet), fleet.folder()
    shutil.rmtree(folder)
    wait_for(lambda: counted(fleet) == before)
    assert fleet.ask().status_code == 200
    wait_for(lambda: counted(fleet) == before + 1)
    shutil.rmtree(folder)
    victim = fleet.workers()[0]
    victim.kill()
    assert fleet.statuses_until(lambda: fleet.replaced(victim)) <= {200, 0}


def overwrite(data: bytes) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with path.open("r+b") as file:  # no longer than it was, and not shorter
            file.write(data)

    return write


@pytest.mark.parametrize(
    ("kind", "harm", "content"),
    [
        ("counter", lambda path: os.truncate(path, 0), b'"requests_total"'),
        ("histogram", lambda path: os.truncate(path, 100), b'"inference_latency_seconds_sum"'),
        ("counter", overwrite(b"garbage, " * 500), b'"requests_total"'),
        ("gauge_livemax", overwrite(b"\xff" * 4096), b'"model_info"'),
        ("counter", overwrite(bytes(4096)), b'"requests_total"'),
        ("histogram", Path.unlink, b'"inference_latency_seconds_sum"'),
    ],
)
def test_a_damaged_metrics_file_is_left_out_counted_and_written_again(
    fleet: Fleet, kind: str, harm: Callable[[Path], object], content: bytes
) -> None:
    damaged = sample(fleet.metrics(), "metrics_files_damaged_total")
    path = fleet.folder() / f"{kind}_1.db"
    harm(path)
    if path.exists() and path.stat().st_size > 100:  # else its worker may see it before the others do
        wait_for(lambda: sample(fleet.metrics(), "metrics_files_damaged_total") == damaged + 1)
    wait_for(lambda: fleet.metrics() != "" and path.exists() and path.stat().st_size >= 1 << 16)
    wait_for(lambda: content in path.read_bytes())
    assert fleet.statuses_until(lambda: fleet.with_model() == len(fleet.workers()) == WORKERS) <= {200, 0}
    assert "model_info{" in fleet.metrics()


def test_one_worker_alone_does_not_look_at_somebody_elses_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "registry")
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "absent"),
        "prometheus_multiproc_dir": "/absent",
    }
    with server_process(tmp_path / "registry", **environment) as process:
        assert process.client.post("/predict", content=PHOTO, headers=JPEG).status_code == 200
        assert sample(process.client.get("/metrics").text, 'requests_total{code="200"}') == 1
    assert not (tmp_path / "absent").exists()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "absent"))
    Metrics().requests.labels("200").inc()


# Swaps that fail


@dataclass(frozen=True)
class Single:
    """A server that looks at its alias on SIGHUP, and tries again what failed after 0.2 s, 0.4 s, 0.8 s …"""

    process: ServerProcess
    registry: Path

    def hang_up(self) -> None:
        self.process.process.send_signal(signal.SIGHUP)

    def state(self) -> dict[str, Any]:
        answer = self.process.client.get("/readyz")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def metrics(self) -> str:
        return self.process.client.get("/metrics").text

    def models(self) -> str:
        return versions(versions_answer(Registry(self.registry)))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    registry = tmp_path_factory.mktemp("single") / "registry"
    publish(registry)
    with server_process(registry, KRISHI_WATCH="3600", KRISHI_RETRY="0.2") as process:
        yield Single(process, registry)


Mend = Callable[[], object]


def file_missing(folder: Path) -> Mend:
    away = (folder / "model.onnx").rename(folder.parent.parent / "away")
    return lambda: away.rename(folder / "model.onnx")


def folder_missing(folder: Path) -> Mend:
    away = folder.rename(folder.parent.parent / "away")
    return lambda: away.rename(folder)


def cut_short(path: Path) -> Mend:
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:100])
    return lambda: path.write_bytes(data)


def file_cut_short(folder: Path) -> Mend:
    return cut_short(folder / "golden.npz")


def manifest_cut_short(folder: Path) -> Mend:
    return cut_short(folder / "manifest.json")


def stranger_in_the_folder(folder: Path) -> Mend:
    (folder / "notes.txt").write_text("x")
    return (folder / "notes.txt").unlink


def aliases_cut_short(folder: Path) -> Mend:
    return cut_short(folder.parent / "aliases.json")


HARMS = [
    (file_missing, "model.onnx: is missing"),
    (folder_missing, "has no version"),
    (file_cut_short, "golden.npz: has 100 bytes"),
    (manifest_cut_short, "manifest.json"),
    (stranger_in_the_folder, "notes.txt: is not in the manifest: move it elsewhere"),
    (aliases_cut_short, "aliases.json"),
]


@pytest.mark.parametrize(("number", "harm", "why"), [(i, *harm) for i, harm in enumerate(HARMS, start=1)])
def test_a_swap_that_failed_is_tried_again_until_its_cause_is_gone(
    single: Single, number: int, harm: Callable[[Path], Mend], why: str
) -> None:
    served, version = single.state()["version"], f"1.1.{number}"
    publish(single.registry, version=version, seed=number)
    mend = harm(single.registry / "leaf" / version)
    single.hang_up()
    wait_for(lambda: "wanted" in single.state())
    state = single.state()
    assert state["version"] == served
    assert why in state["wanted"]["reason"]
    assert state["wanted"]["next_try_at"] > "2026"
    assert single.process.client.post("/predict", content=PHOTO, headers=JPEG).status_code == 200
    if state["wanted"]["version"] == version:
        line = f'model_next_try_timestamp_seconds{{name="leaf",version="{version}"}}'
        wait_for(lambda: line in single.metrics())
        problems = Registry(single.registry).verify()
        assert any("cannot load it" in problem.what for problem in problems)
        if harm in (file_missing, file_cut_short, stranger_in_the_folder):
            assert f"leaf {version}: process {single.process.process.pid}" in single.models()
            assert "tries again at" in single.models()
    mend()
    wait_for(lambda: single.state() == {"status": "ready", "name": "leaf", "version": version})
    assert "model_next_try_timestamp_seconds{" not in single.metrics()
    assert not [one for one in read_leases(single.registry)[0] if one.refused]
    assert Registry(single.registry).verify() == []
    assert f"leaf {version}: process {single.process.process.pid} of" in single.models()


def test_the_pauses_between_attempts_grow_and_a_move_of_the_alias_ends_them(single: Single) -> None:
    before = single.state()["version"]
    publish(single.registry, version="1.2.0", golden_error=1.0)
    begin = len(single.process.log)
    single.hang_up()
    pauses: list[float] = []

    def failed_thrice() -> bool:
        pauses[:] = map(float, re.findall(r"not 1\.2\.0: .* in ([\d.]+) s", single.process.log[begin:]))
        return len(pauses) == 3

    wait_for(failed_thrice)
    assert pauses == [0.2, 0.4, 0.8]
    assert "golden" in single.state()["wanted"]["reason"]
    point(single.registry, before)
    single.hang_up()
    wait_for(lambda: "wanted" not in single.state())
