"""A bundle of a TensorRT model on a machine without a GPU."""

from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serving import Running, publish, running
from workbench.backends import TensorrtRuntime
from workbench.system import nvidia

pytestmark = pytest.mark.integration

RUNTIME = TensorrtRuntime(device="cuda", cuda_graph=True)


def test_without_a_gpu_the_server_says_so_and_stays_up(tmp_path: Path) -> None:
    if nvidia.missing_gpu() is None:
        pytest.skip("there is a GPU here")
    bundle = publish(tmp_path / "registry", runtime=RUNTIME)
    carried = {path.name for path in bundle.folder.iterdir()}
    assert carried == {"model.onnx", "golden.npz", "manifest.json", "MODEL_CARD.md"}  # and no engine
    with running(Settings(registry=tmp_path / "registry")) as server:
        said = reason_of(server)
    assert said.startswith("leaf 1.0.0 cannot run here: no NVIDIA driver is here")


def reason_of(server: Running) -> str:
    for _ in range(200):
        answer = server.client.get("/readyz")
        body = answer.json()["error"]
        if body["code"] == "bad-model":
            return str(body["message"])
    raise AssertionError(answer.text)
