"""Devices with a raylet: nodes of one machine, told apart by their labels. Runs where Ray is installed."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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

from workbench.errors import WorkbenchError  # noqa: E402
from workbench.fleet.lease import FOLDER_VARIABLE  # noqa: E402
from workbench.fleet.link import DeviceGone  # noqa: E402
from workbench.fleet.ray_link import RayLink  # noqa: E402
from workbench.fleet.session import DeviceBusy, DeviceSession  # noqa: E402
from workbench.fleet.spec import DeviceSettings, FleetFile  # noqa: E402
from workbench.system.files import sha256_file  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

DEVICE = DeviceSettings.model_validate({"class": "x86", "ray": True})
NAMES = ("a", "b", "c")


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
            yield {
                name: cluster.add_node(
                    num_cpus=0, resources={"krishi_device": 1}, labels={"krishi.device": name}
                )
                for name in NAMES
            } | {"cluster": cluster}
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
