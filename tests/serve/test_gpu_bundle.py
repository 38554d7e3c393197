"""A bundle of a TensorRT model on a machine without a GPU."""

from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serving import not_ready, publish, running
from workbench.backends import TensorrtRuntime
from workbench.system.nvidia_check import missing_link

pytestmark = pytest.mark.integration

RUNTIME = TensorrtRuntime(device="cuda", cuda_graph=True)


def test_without_a_gpu_the_server_says_so_and_stays_up(tmp_path: Path) -> None:
    if missing_link("GPU") is None:
        pytest.skip("there is a GPU here")
    bundle = publish(tmp_path / "registry", runtime=RUNTIME)
    carried = {path.name for path in bundle.folder.iterdir()}
    assert carried == {"model.onnx", "golden.npz", "manifest.json", "MODEL_CARD.md"}  # and no engine
    with running(Settings(registry=tmp_path / "registry")) as server:
        message = not_ready(server.client, "bad-model")
    assert message.startswith("leaf 1.0.0 cannot run here: no NVIDIA driver is here")
