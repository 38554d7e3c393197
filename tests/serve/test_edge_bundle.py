"""What a server makes of the files of phones and boards."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve.engine.model import load_model
from tests import edge
from tests.builders import artifact_info, error_of
from tests.versions import publish
from workbench.backends import ExecutorchRuntime
from workbench.registry.store import Registry
from workbench.system.packages import versions


def test_a_litert_version_is_served_where_its_runtime_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="it opens the model")
    coarse = np.random.default_rng(0).integers(0, 256, (2, 24, 30, 3), np.uint8)
    for number, pixels in enumerate(coarse):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    bundle = edge.published(tmp_path, [tmp_path / "0.png", tmp_path / "1.png"])
    with closing(load_model(bundle)) as model:
        assert model.infer(model.batch((tmp_path / "0.png").read_bytes())).shape == (1, edge.CLASSES)


@pytest.mark.skipif(bool(versions("executorch")), reason="executorch is installed")
def test_a_server_without_executorch_says_what_its_program_needs(tmp_path: Path) -> None:
    program = artifact_info(b"weights of 1.0.0", format="pte")
    bundle = publish(Registry(tmp_path), "1.0.0", artifact=program, runtime=ExecutorchRuntime())
    message = error_of(lambda: load_model(bundle)).message
    assert message.startswith("leaf 1.0.0 cannot run here: `executorch` is not installed")
    assert "krishi-bench[executorch]" in message
