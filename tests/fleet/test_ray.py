"""Devices with a raylet: nodes of one machine, told apart by their labels. Runs where Ray is installed."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'krishi-bench[fleet]'", allow_module_level=True)

from workbench.fleet import ray_cluster

# Before Ray is imported: it reads them once. With a token and certificates, as `fleet up` makes them.
SECRETS = Path(tempfile.mkdtemp())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
    outward.connect(("192.0.2.1", 1))  # sends nothing: it shows the address that Ray takes for this machine's
    ray_cluster.make_secrets(SECRETS, outward.getsockname()[0])
os.environ.update(ray_cluster.ray_environment(str(SECRETS)))

import ray  # noqa: E402

from tests.e2e.plain import prepare_folder  # noqa: E402
from tests.fleet.slower import SLOWER  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.fleet.lease import FOLDER_VARIABLE  # noqa: E402
from workbench.fleet.link import DeviceGone  # noqa: E402
from workbench.fleet.matrix import matrix_of  # noqa: E402
from workbench.fleet.ray_link import RayLink, connect  # noqa: E402
from workbench.fleet.records import FleetFolder  # noqa: E402
from workbench.fleet.run import FleetOptions, run_fleet  # noqa: E402
from workbench.fleet.session import DeviceBusy, DeviceSession  # noqa: E402
from workbench.fleet.spec import DeviceSettings, FleetFile  # noqa: E402
from workbench.measure.latency import Plan  # noqa: E402
from workbench.run.pipeline import Options  # noqa: E402
from workbench.system.files import sha256_file  # noqa: E402
from workbench.system.progress import silent  # noqa: E402
from workbench.workspace import recipe as recipes  # noqa: E402
from workbench.workspace.workspace import load  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

DEVICE = DeviceSettings.model_validate({"class": "x86", "ray": True})
NAMES = ("a", "b", "c", "queued", "loaded")
PAYLOAD_BYTES = 256 * 2**20


def add_node(cluster: Any, name: str, **environment: str) -> Any:
    """A raylet for a device. environment: of its own, as of a machine of its own."""
    labels, resources = {"krishi.device": name}, {"krishi_device": 1}
    return cluster.add_node(num_cpus=0, resources=resources, labels=labels, env_vars=environment or None)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A head and a node for each device, by name."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.setenv("KRISHI_CACHE", str(folder / "cache"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield {name: add_node(cluster, name) for name in NAMES} | {"cluster": cluster}
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(SECRETS)


def test_frames_reach_the_worker_through_an_actor(nodes: dict[str, Any], tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(os.urandom(1000))
    with RayLink("a", DEVICE) as link:
        session = DeviceSession(link)
        facts, holder = session.hello()
        assert facts.bits == 64 and holder is None
        session.lease("driver", "run", wait_s=0.0)
        session.send({sha256_file(payload): payload})
        assert session.send({sha256_file(payload): payload}) == 0
        with RayLink("b", DEVICE) as other, pytest.raises(DeviceBusy):  # of the same machine
            DeviceSession(other).lease("another", "run", wait_s=0.0)
    with RayLink("b", DEVICE) as other:
        DeviceSession(other, clock=lambda: 0.0).lease("another", "run", wait_s=10.0)


def test_a_device_without_a_raylet_is_gone_at_once(nodes: dict[str, Any]) -> None:
    with pytest.raises(DeviceGone, match="no raylet with its label is up"):
        RayLink("nowhere", DEVICE)


def test_a_raylet_that_is_killed_is_gone_and_the_others_answer(nodes: dict[str, Any]) -> None:
    with RayLink("c", DEVICE) as link:
        session = DeviceSession(link)
        session.hello()
        nodes["cluster"].remove_node(nodes["c"], allow_graceful=False)
        with pytest.raises(DeviceGone):
            for _ in range(100):
                session.hello()
    with RayLink("a", DEVICE) as link:
        DeviceSession(link).hello()


def test_a_raylet_that_is_killed_while_its_worker_is_queued_is_gone(nodes: dict[str, Any]) -> None:
    connect()
    taken = ray.remote(lambda: time.sleep(600)).options(
        num_cpus=0, resources={"krishi_device": 1}, label_selector={"krishi.device": "queued"}, max_retries=0
    )
    task = taken.remote()
    assert ray.wait([task], timeout=5.0)[0] == []
    with ThreadPoolExecutor(1) as pool:
        link = pool.submit(RayLink, "queued", DEVICE)
        assert wait([link], timeout=5.0).not_done
        nodes["cluster"].remove_node(nodes["queued"], allow_graceful=False)
        with pytest.raises(DeviceGone, match=r"raylet ended before|Ray lost it"):
            link.result()


def test_a_raylet_that_is_killed_during_a_transfer_is_gone(nodes: dict[str, Any], tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(os.urandom(PAYLOAD_BYTES))
    with RayLink("loaded", DEVICE) as link, ThreadPoolExecutor(1) as pool:
        session = DeviceSession(link)
        session.hello()
        session.lease("driver", "run", wait_s=30.0)
        sending = pool.submit(session.send, {sha256_file(payload): payload})
        while not session.sent_bytes and not sending.done():
            time.sleep(0.05)
        nodes["cluster"].remove_node(nodes["loaded"], allow_graceful=False)
        with pytest.raises(DeviceGone):
            sending.result()
        assert 0 < session.sent_bytes < PAYLOAD_BYTES


def test_two_classes_of_two_nodes_race_and_a_slower_copy_of_the_model_loses_on_its_own(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "driver"))
    root = prepare_folder(tmp_path / "plain", max_drop=1.0)
    (root / "small.yaml").write_text("{name: small, preprocess: {crop: 32}, steps: [{use: fixed_batch}]}")
    (tmp_path / "slower").mkdir()
    (tmp_path / "slower" / "sitecustomize.py").write_text(SLOWER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/slower:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    devices = {}
    for name, device_class in {"f1": "fast", "f2": "fast", "s1": "slow", "s2": "slow"}.items():
        own = tmp_path / name
        own.mkdir()
        path = os.pathsep.join(sys.path)
        add_node(nodes["cluster"], name, **{FOLDER_VARIABLE: str(own), "PYTHONPATH": path})
        slower = {"python": str(python)} if device_class == "slow" else {}
        devices[name] = DeviceSettings.model_validate(
            {"class": device_class, "ray": True, "cache": str(own), **slower}
        )
    add_node(nodes["cluster"], "maker", **{FOLDER_VARIABLE: str(tmp_path)})
    devices["maker"] = DeviceSettings.model_validate(
        {"class": "builder", "ray": True, "role": "build", "cache": str(tmp_path / "maker")}
    )
    options = Options(plan=Plan(rounds=2, turns=2, budget_s=10.0, repeats=0))
    status = run_fleet(
        load(root / "krishi.yaml"),
        FleetFile(devices=devices),
        recipes.load([root / "small.yaml"]),
        FleetOptions(options),
        silent,
    )
    assert {name: (o.state, o.reason) for name, o in status.outcomes.items()} == dict.fromkeys(
        ("f1", "f2", "s1", "s2"), ("done", None)
    )
    assert status.run.built_on["small"][-1] == "maker"
    matrix = matrix_of(FleetFolder(root / "results" / status.run.run_id))
    assert matrix.winners == {"fast": "small", "slow": "baseline"}
    assert matrix.devices == {"fast": ("f1", "f2"), "slow": ("s1", "s2")}
    fast, slow = (matrix.cells["small"][name].speedup or 0.0 for name in ("fast", "slow"))
    assert fast > 1 > slow


def test_a_wrong_token_lets_nobody_in(nodes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("1" * 64)
    code = "from workbench.fleet.ray_link import connect; connect()"
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0 and "oken" in done.stderr


@pytest.mark.parametrize("interface", [None, "0.0.0.0", "::", "eth0"])
def test_every_network_at_once_is_refused(interface: str | None) -> None:
    with pytest.raises(WorkbenchError):
        ray_cluster.up(FleetFile(devices={"a": DEVICE}), interface)
