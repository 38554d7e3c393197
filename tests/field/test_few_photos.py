"""Shipped recipes with as many calibration photos as people have: 153, 20, 3."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the network is exported from torch")
pytest.importorskip("onnxruntime", reason="the steps are onnxruntime's")

from tests.builders import coloured_photos, exported, mobile_network
from workbench import steps
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.workspace import recipe

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CALIBRATED = [
    variant
    for variant in recipe.load([recipe.shipped()])
    if any("calibration" in step.READS for step in variant.steps) and not variant.runs_apart
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("sources")
    network = mobile_network(4)
    return {
        17: exported(network, folder / "17.onnx", 32),
        19: exported(network, folder / "19.onnx", 32, opset=19),
    }


@pytest.fixture(scope="module", params=[3, 20, 153])
def photos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Images:
    return coloured_photos(tmp_path_factory.mktemp("photos"), request.param, 4, CONTRACT, 20)


@pytest.mark.parametrize("variant", CALIBRATED, ids=lambda variant: variant.name)
def test_every_shipped_recipe_calibrates_on_the_photos_there_are(
    variant: recipe.Variant, photos: Images, sources: dict[int, Path], tmp_path: Path
) -> None:
    source = sources[max(17, variant.export.opset if "opset" in variant.export.model_fields_set else 17)]
    for number, step in enumerate(variant.steps):
        target = tmp_path / f"{number}.onnx"
        steps.apply(step, source, target, steps.Photos(CONTRACT, photos, photos, None))
        source = target
    assert np.isfinite(_logits(source, photos)).all()


def _logits(model: Path, photos: Images) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    batch = next(photos.batches(3))
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = session.run(
        None, {session.get_inputs()[0].name: batch}
    )[0]
    return logits
