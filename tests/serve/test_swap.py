"""Another version takes over while the server serves: no request is lost, and a bad version is not served."""

import errno
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import pytest

import serve.engine.loader
from serve.engine.model import Model
from serve.settings import Settings
from tests.load import Answer, Load, children, heavy_onnx, point, publish_cut, publish_model, sample, say
from tests.serving import ServerProcess, encoded, noise, publish, ready, server_process, wait_for
from workbench.registry.gc import collect
from workbench.registry.store import Registry
from workbench.system.files import write_atomic

pytestmark = pytest.mark.integration

Moment = tuple[float, str]  # time.monotonic(), a version


def swaps(client: httpx.Client, result: str) -> float:
    return sample(client.get("/metrics").text, f'model_swaps_total{{result="{result}"}}')


def served(client: httpx.Client) -> str:
    """The version /readyz names; being not ready fails the test."""
    response = client.get("/readyz")
    assert response.status_code == 200, response.text
    version: str = response.json()["version"]
    return version


# Under load


def test_swaps_and_rollbacks_under_load_lose_nothing(tmp_path: Path) -> None:
    """5 promotions, 2 rollbacks and a candidate that does not load, beside Poisson arrivals."""
    registry = tmp_path / "registry"
    publish(registry)
    publish_cut(registry, "2.0.0")
    loads: list[Load] = []
    acknowledged: list[Moment] = []
    digests: dict[str, str] = {}
    with server_process(registry, KRISHI_WATCH="0.05") as process:
        client = process.client

        def moved(move: Callable[[], object], version: str) -> None:
            if not loads or time.monotonic() > loads[-1].ends - 2:
                loads.append(Load(process.port, tmp_path / "load", rate=40, seconds=6))
            move()
            wait_for(lambda: served(client) == version)
            acknowledged.append((time.monotonic(), version))
            digest = client.get("/model").json()["digest"]
            assert digests.setdefault(version, digest) == digest

        moved(lambda: None, "1.0.0")
        for number in range(1, 6):
            publish(registry, version=f"1.0.{number}", seed=number, alias=None)
            moved(lambda number=number: point(registry, f"1.0.{number}"), f"1.0.{number}")  # type: ignore[misc]
        point(registry, "2.0.0")
        wait_for(lambda: swaps(client, "failed") == 1)
        assert served(client) == "1.0.5"
        Registry(registry).rollback("leaf", "production")  # to what is served all the same
        for number in range(4, 2, -1):
            moved(lambda: Registry(registry).rollback("leaf", "production"), f"1.0.{number}")
        results = [load.result() for load in loads]
        # Back at the version it serves, the alias moved twice without a swap.
        assert (swaps(client, "ok"), swaps(client, "failed")) == (7, 1)
    answers = [answer for result in results for answer in result.answers]
    assert len(set(digests.values())) == 6
    assert {answer.outcome for answer in answers} == {"200"}
    check_versions(answers, acknowledged)
    assert process.log.count("1.0.5 goes on serving, not 2.0.0: ") == 1
    slowest_ms = 1e3 * max(answer.latency_s for answer in answers)
    say(f"{len(answers)} answers over {len(acknowledged) - 1} swaps, all 200, slowest {slowest_ms:.0f} ms")


def check_versions(answers: list[Answer], acknowledged: list[Moment]) -> None:
    """An answer to a request sent between two acknowledgements is of the one version or the other."""
    assert all(answer.version for answer in answers)
    for (begins, version), (ends, following) in pairwise([*acknowledged, (float("inf"), "")]):
        between = [one for one in answers if begins < one.sent <= ends]
        assert {one.version for one in between} <= {version, following}
        # From its first answer on, no request gets the one before.
        first = min((one.ended for one in between if one.version == following), default=ends)
        assert {one.version for one in between if one.sent > first} <= {following}


def test_once_a_swap_is_acknowledged_no_answer_is_of_the_old_version(tmp_path: Path) -> None:
    """Slow photos are in flight as the alias moves; until they are answered /readyz names their version."""
    publish(tmp_path)
    publish(tmp_path, version="1.1.0", seed=8, alias=None)
    slow = encoded(noise(1, 5000, 4000), "PNG", compress_level=1)
    head = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(slow)}\r\n\r\n"
    )
    with ready(Settings(registry=tmp_path, watch_s=0.01, deadline_s=60)) as server:
        old = [socket.create_connection(server.address) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda one: one.sendall(head.encode() + slow), old))
        wait_for(lambda: sample(server.metrics(), "inflight_requests") == 6)
        point(tmp_path, "1.1.0")
        while served(server.client) == "1.0.0":
            time.sleep(0.001)
        # A loopback delivers as the server writes: a socket that is not readable now had no answer before.
        answered, _, _ = select.select(old, [], [], 0)
        wait_for(lambda: swaps(server.client, "ok") == 1)
        versions = []
        for one in old:
            answer = one.recv(4096).decode()
            one.close()
            assert answer.startswith("HTTP/1.1 200 ")
            versions.append("1.0.0" if "x-model-version: 1.0.0" in answer.lower() else "1.1.0")
            assert versions[-1] == "1.1.0" or one in answered
        assert "1.0.0" in versions
        assert server.post(encoded(noise(2))).json()["model_version"] == "1.1.0"


# Candidates that cannot serve


JPEG = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True)
class Manual:
    """A server of 1.0.0 that checks its alias on SIGHUP only, so that its attempts can be counted."""

    registry: Path
    process: ServerProcess

    @property
    def client(self) -> httpx.Client:
        return self.process.client

    def check(self) -> None:
        self.process.process.send_signal(signal.SIGHUP)

    def check_in_vain(self) -> str:
        """Have it check and fail; returns what it logged."""
        failed, logged = swaps(self.client, "failed"), len(self.process.log)
        self.check()
        wait_for(lambda: swaps(self.client, "failed") == failed + 1)
        wait_for(lambda: "goes on serving" in self.process.log[logged:])
        return self.process.log[logged:]


@contextmanager
def checking_on_signals(registry: Path) -> Iterator[Manual]:
    publish(registry)
    with server_process(registry, KRISHI_WATCH="3600", KRISHI_RETRY="3600") as process:
        yield Manual(registry, process)


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manual]:
    with checking_on_signals(tmp_path_factory.mktemp("manual")) as manual:
        yield manual


def flip_a_byte(path: Path, at: int = 1000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def wrong_logits(registry: Path) -> str:
    publish(registry, version="1.0.1", golden_error=1.0)
    return "1.0.1"


def cut_file(registry: Path) -> str:
    publish_cut(registry, "2.0.0")
    point(registry, "2.0.0")
    return "2.0.0"


def too_few_classes(registry: Path) -> str:
    data = heavy_onnx(8, 1, classes=4)
    publish_model(registry, "2.0.1", data, golden_of=lambda pixels: pixels[:, 0, 0, :5])
    point(registry, "2.0.1")
    return "2.0.1"


def changed_file(registry: Path) -> str:
    """Whole when the alias was pointed at it."""
    publish(registry, version="1.0.2")
    flip_a_byte(registry / "leaf" / "1.0.2" / "model.onnx")
    return "1.0.2"


def changed_manifest(registry: Path) -> str:
    publish(registry, version="1.1.0", seed=8)
    manifest = registry / "leaf" / "1.1.0" / "manifest.json"
    flip_a_byte(manifest, manifest.read_bytes().index(b"2026-01-02") + 9)
    return "1.1.0"


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (wrong_logits, "does not reproduce its golden logits"),
        (cut_file, "onnxruntime cannot open model.onnx"),
        (too_few_classes, "the logits have the shape (3, 4), the recorded ones (3, 5)"),
        (changed_file, "model.onnx"),
        (changed_manifest, "is not the manifest that `production` was pointed at"),
    ],
)
def test_a_candidate_that_cannot_serve_leaves_the_one_before(
    manual: Manual, candidate: Callable[[Path], str], why: str
) -> None:
    version = candidate(manual.registry)
    said = manual.check_in_vain()
    assert said.count(f"1.0.0 goes on serving, not {version}: ") == 1, said
    assert why in said
    assert str(manual.registry) not in said
    assert served(manual.client) == "1.0.0"
    answer = manual.client.post("/predict", content=encoded(noise(1)), headers=JPEG)
    assert answer.json()["model_version"] == "1.0.0"


def test_what_failed_is_tried_again_after_the_pause_or_on_a_signal_and_not_before(manual: Manual) -> None:
    publish(manual.registry, version="1.4.0", golden_error=1.0)
    time.sleep(0.2)
    failed = swaps(manual.client, "failed")
    manual.check_in_vain()  # no check before the signal
    time.sleep(0.2)
    assert not children(manual.process.process.pid, "workbench.system.child")
    assert swaps(manual.client, "failed") == failed + 1
    manual.check_in_vain()


def test_what_kills_the_trial_of_a_candidate_does_not_kill_the_server(manual: Manual) -> None:
    """As running out of memory does."""
    publish_model(manual.registry, "1.2.0", heavy_onnx(1500, 2))
    point(manual.registry, "1.2.0")
    failed, server = swaps(manual.client, "failed"), manual.process.process.pid
    manual.check()
    wait_for(lambda: bool(children(server, "workbench.system.child")))
    children(server, "workbench.system.child")[0].kill()
    wait_for(lambda: swaps(manual.client, "failed") == failed + 1)
    wait_for(lambda: "loading leaf 1.2.0 ends the process with signal 9" in manual.process.log)
    assert served(manual.client) == "1.0.0"


def test_ending_does_not_wait_for_a_candidate_on_trial(tmp_path: Path) -> None:
    publish(tmp_path)
    with server_process(tmp_path, KRISHI_WATCH="0.05") as process:
        publish_model(tmp_path, "1.1.0", heavy_onnx(1000, 4))
        point(tmp_path, "1.1.0")
        wait_for(lambda: bool(children(process.process.pid, "workbench.system.child")))
        (trial,) = children(process.process.pid, "workbench.system.child")
        asked = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - asked < 10
        assert not trial.is_running()


# Which version


def test_a_pinned_version_is_served_without_an_alias_and_whatever_it_says(tmp_path: Path) -> None:
    publish(tmp_path, alias=None)
    with ready(Settings(registry=tmp_path, pin="1.0.0", watch_s=0.01)) as server:
        publish(tmp_path, version="1.1.0", seed=8)
        time.sleep(0.2)
        assert served(server.client) == "1.0.0"
        assert swaps(server.client, "ok") == swaps(server.client, "failed") == 0


def test_without_its_alias_it_goes_on_and_takes_the_next_when_the_alias_is_back(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, version="1.1.0", seed=8, alias=None)
    path = tmp_path / "leaf" / "aliases.json"
    with ready(Settings(registry=tmp_path, watch_s=0.01)) as server:
        before = path.read_bytes()
        path.unlink()
        time.sleep(0.1)
        assert served(server.client) == "1.0.0"
        assert swaps(server.client, "failed") == 0
        write_atomic(path, before[:40])
        wait_for(lambda: swaps(server.client, "failed") == 1)
        assert server.post(encoded(noise(1))).json()["model_version"] == "1.0.0"
        write_atomic(path, before)
        time.sleep(0.1)
        point(tmp_path, "1.1.0")
        wait_for(lambda: served(server.client) == "1.1.0")
        wait_for(lambda: swaps(server.client, "ok") == 1)
        assert swaps(server.client, "failed") == 1


def test_a_registry_that_goes_away_does_not_end_it(tmp_path: Path) -> None:
    """As a volume that is unmounted for a while."""
    registry = tmp_path / "registry"
    publish(registry)
    with ready(Settings(registry=registry, watch_s=0.01)) as server:
        registry.rename(tmp_path / "away")
        time.sleep(0.1)
        assert server.post(encoded(noise(1))).status_code == 200
        (tmp_path / "away").rename(registry)
        publish(registry, version="1.1.0", seed=8)
        wait_for(lambda: served(server.client) == "1.1.0")


def test_a_folder_that_became_a_link_is_one_failure_and_not_one_at_every_look(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, version="1.1.0", seed=8, alias=None)
    with ready(Settings(registry=tmp_path, watch_s=0.01)) as server:
        (tmp_path / "leaf").rename(tmp_path / "away")
        (tmp_path / "leaf").symlink_to(tmp_path / "away")
        wait_for(lambda: swaps(server.client, "failed") == 1)
        time.sleep(0.2)
        assert swaps(server.client, "failed") == 1
        (tmp_path / "leaf").unlink()
        (tmp_path / "away").rename(tmp_path / "leaf")
        point(tmp_path, "1.1.0")
        wait_for(lambda: served(server.client) == "1.1.0")


def test_a_version_that_cannot_be_freed_does_not_end_the_swaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease may lie on a disk that went away."""
    for number in range(3):
        publish(tmp_path, version=f"1.0.{number}", seed=number, alias=None)
    point(tmp_path, "1.0.0")
    close = Model.close

    def failing(model: Model) -> None:
        close(model)
        if model.version == "1.0.0":
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Model, "close", failing)
    with ready(Settings(registry=tmp_path, watch_s=0.01)) as server:
        for version in ("1.0.1", "1.0.2"):
            point(tmp_path, version)
            wait_for(lambda version=version: served(server.client) == version)  # type: ignore[misc]
    assert "1.0.0 could not be freed" in caplog.text


def test_a_trial_finds_our_modules_and_not_those_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish(tmp_path / "registry")
    (tmp_path / "serve.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    serve.engine.loader.run_load_trial(tmp_path / "registry", bundle, threading.Event())


# What a swap leaves behind


def test_forty_swaps_leave_no_memory_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network has 8 MB, so that one kept each time would show."""
    versions = ["1.0.0", "1.0.1"]
    for seed, version in enumerate(versions):
        publish_model(tmp_path, version, heavy_onnx(500, 1, seed=seed))
    point(tmp_path, versions[0])
    # Trials are processes of their own, and cost no memory here.
    monkeypatch.setattr(serve.engine.loader, "run_load_trial", lambda *_: None)
    here = psutil.Process()
    resident: list[int] = []
    with ready(Settings(registry=tmp_path, watch_s=0.01)) as server:
        for number in range(40):
            version = versions[(number + 1) % 2]
            point(tmp_path, version)
            wait_for(lambda version=version: served(server.client) == version)  # type: ignore[misc]
            assert server.post(encoded(noise(number))).json()["model_version"] == version
            resident.append(here.memory_info().rss)
            threads = here.num_threads()
            if number == 10:
                settled = threads
        assert threads <= settled + 2
        wait_for(lambda: swaps(server.client, "ok") == 40)
        wait_for(lambda: server.metrics().count("\nmodel_info{") == 1)
    grown = min(resident[30:]) - min(resident[10:20])
    say(f"resident memory grew by {grown / 1e6:.1f} MB over 20 swaps")
    assert grown < 30e6


def test_a_version_that_is_served_is_not_collected(tmp_path: Path) -> None:
    publish(tmp_path)
    for number in range(1, 4):
        publish(tmp_path, version=f"1.0.{number}", seed=number, alias=None)
    registry = Registry(tmp_path)
    with ready(Settings(registry=tmp_path, watch_s=3600)) as server:
        for number in range(1, 4):
            point(tmp_path, f"1.0.{number}")
        collect(registry, keep=0, delete=True)
        assert registry.versions("leaf") == ["1.0.0", "1.0.3"]
        assert server.post(encoded(noise(1))).json()["model_version"] == "1.0.0"
    collect(registry, keep=0, delete=True)
    assert registry.versions("leaf") == ["1.0.3"]


def test_a_version_that_is_no_longer_served_can_be_collected(tmp_path: Path) -> None:
    publish(tmp_path)
    registry = Registry(tmp_path)
    with ready(Settings(registry=tmp_path, watch_s=0.01)) as server:
        publish(tmp_path, version="1.1.0", seed=8)
        wait_for(lambda: served(server.client) == "1.1.0")
        wait_for(lambda: len(list((tmp_path / ".leases").iterdir())) == 1)
        collect(registry, keep=0, delete=True)
        assert registry.versions("leaf") == ["1.1.0"]
