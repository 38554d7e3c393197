"""Where the network looked, over real HTTP: what is answered, what it costs others, when it is refused."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from serve.engine.explainer import MAX_WAITING, Explainer
from serve.engine.model import load_model
from serve.engine.predict_job import Classification
from serve.errors import ApiError
from serve.metrics import Metrics
from serve.settings import Settings
from tests.builders import onnx_model
from tests.serving import (
    CLASS_NAMES,
    CONTRACT,
    CPU,
    PREDICTION_KEYS,
    Running,
    draft,
    encoded,
    error_code,
    noise,
    onnx_session,
    ready,
)
from workbench.backends.artifact import Artifact
from workbench.backends.heat_map import CALLS
from workbench.errors import Unsuited
from workbench.photos.preprocess import normalize
from workbench.registry.bundle import Bundle
from workbench.registry.explanation_builder import MapsJob, build_maps, explanation_of
from workbench.registry.store import Registry

pytestmark = pytest.mark.integration

SIDE = 8  # cells of the feature map
RED = len(CLASS_NAMES) - 1  # the class of red photos


def pooled_onnx() -> bytes:
    """4 x 4 windows, ReLU, a global average pool and a linear layer: the last class is what is red."""
    kernel = np.zeros((3, 3, 4, 4))
    for channel in range(3):
        kernel[channel, channel] = 1 / 16
    weights = np.zeros((len(CLASS_NAMES), 3))
    weights[RED] = (30, -15, -15)
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["conv"], strides=[4, 4]),
        node("Relu", ["conv"], ["features"]),
        node("GlobalAveragePool", ["features"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "weights"], ["logits"], transB=1),
    ]
    model = onnx_model(
        nodes,
        {"kernel": kernel, "weights": weights},
        ("image", ["n", 3, 32, 32]),
        ("logits", ["n", len(CLASS_NAMES)]),
    )
    data: bytes = model.SerializeToString()
    return data


def job_of(folder: Path, data: bytes) -> MapsJob:
    pixels = np.stack([np.asarray(noise(seed, 32, 32)) for seed in range(3)])
    (folder / "model.onnx").write_bytes(data)
    logits = onnx_session(data)(normalize(pixels, CONTRACT))
    info = draft(data, "1.0.0").artifact
    return MapsJob(Artifact(folder, info), CPU, CONTRACT, "logits", pixels, logits, 1e-3)


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published model with class activation maps."""
    folder = tmp_path_factory.mktemp("explained")
    data = pooled_onnx()
    job = job_of(folder, data)
    method, files = explanation_of(job, folder / "log.txt")

    def build(target: Path) -> None:
        (target / "model.onnx").write_bytes(data)
        for name, content in files.items():
            (target / name).write_bytes(content)
        np.savez(target / "golden.npz", pixels=job.pixels, logits=job.logits)
        (target / "MODEL_CARD.md").write_text("# leaf\n")

    made = draft(data, "1.0.0").model_copy(update={"explanation": method})
    registry = Registry(folder / "registry")
    bundle = registry.publish(made, build)
    registry.point("leaf", "production", "1.0.0", reason="test", expected=None)
    return bundle


@pytest.fixture(scope="module")
def mapped(explained: Bundle) -> Iterator[Running]:
    with ready(Settings(registry=explained.folder.parents[1])) as server:
        yield server


def red_spot(width: int = 320, height: int = 240) -> bytes:
    """Grey, with a red spot to the lower left of the middle."""
    canvas = np.full((height, width, 3), 90, np.uint8)
    canvas[height * 6 // 10 : height * 8 // 10, width * 3 // 10 : width * 45 // 100] = (255, 20, 20)
    return encoded(Image.fromarray(canvas), "PNG")


def picture_of(answer: dict[str, Any]) -> Any:
    prefix, _, text = answer["explanation"]["image"].partition(",")
    assert prefix == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    return np.asarray(image).astype(int)


def test_the_manifest_says_how_answers_are_explained(explained: Bundle) -> None:
    explained.verify()
    how = explained.manifest.explanation
    assert how is not None and how.maps is not None
    assert (how.method, how.maps.grid, how.maps.step) == ("class-activation-map", (SIDE, SIDE), 1.0)
    assert how.maps.error < 1e-5
    assert explained.manifest.entry(how.maps.file).size_bytes > 0


def test_the_answer_is_as_ever_and_shows_the_place_that_spoke_for_it(mapped: Running) -> None:
    photo = red_spot()
    plain = mapped.post(photo).json()
    answer = mapped.client.post("/predict?explain=true", files={"file": photo}).json()
    assert list(plain) == PREDICTION_KEYS and list(answer) == [*PREDICTION_KEYS, "explanation"]
    assert {k: answer[k] for k in ("class_id", "confidence")} == {
        k: plain[k] for k in ("class_id", "confidence")
    }
    assert answer["class_id"] == RED
    assert answer["explanation"]["method"] == "class-activation-map"
    alpha = picture_of(answer)[..., 3]
    assert alpha.shape == (192, 256)
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert 0.6 < row / 192 < 0.8 and 0.3 < column / 256 < 0.45
    assert alpha[:96].max() < 30


def test_a_client_may_have_the_picture_alone(mapped: Running) -> None:
    answer = mapped.client.post(
        "/predict", params={"explain": "true"}, content=red_spot(), headers={"Accept": "image/png"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-model-version"] == "1.0.0"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.mode, image.size) == ("RGB", (320, 240))


def test_explain_may_be_a_field_of_the_form_and_false(mapped: Running) -> None:
    for value, there in (("true", True), ("false", False)):
        files = {"file": ("leaf.png", red_spot(), "image/png")}
        answer = mapped.client.post("/predict", files=files, data={"explain": value})
        assert ("explanation" in answer.json()) == there


@pytest.mark.parametrize("value", ["yes", "1", "", "TRUE", "true&explain=true"])
def test_explain_is_true_or_false(mapped: Running, value: str) -> None:
    answer = mapped.client.post(f"/predict?explain={value}", files={"file": red_spot()})
    assert (answer.status_code, error_code(answer)) == (422, "bad-parameter")
    assert answer.json()["error"]["message"] == "`explain` must be true or false, given once"


def test_several_photos_have_no_heat_maps(mapped: Running) -> None:
    files = [("files", red_spot())]
    answer = mapped.client.post("/predict/batch?explain=true", files=files)
    assert (answer.status_code, error_code(answer)) == (422, "bad-parameter")
    assert "goes to /predict" in answer.json()["error"]["message"]
    assert mapped.client.post("/predict/batch?explain=false", files=files).status_code == 200


def test_a_model_without_maps_is_explained_by_occlusion(server: Running) -> None:
    answer = server.client.post("/predict?explain=true", files={"file": encoded(noise(3))}).json()
    assert answer["explanation"]["method"] == "occlusion"
    assert picture_of(answer)[..., 3].max() > 150
    page = server.metrics()
    assert 'explanations_total{method="occlusion",result="ok"} 1.0' in page
    assert 'explanation_seconds_count{method="occlusion"} 1.0' in page
    assert 'explanations_total{method="class-activation-map",result="ok"} 0.0' in page


def test_heat_maps_are_described_for_programs(server: Running) -> None:
    described = server.client.get("/openapi.json").json()
    post = described["paths"]["/predict"]["post"]
    assert "explain" in [parameter["name"] for parameter in post["parameters"]]
    assert set(post["responses"]["200"]["content"]) == {"application/json", "image/png"}
    batch = described["paths"]["/predict/batch"]["post"]
    assert "explain" not in [parameter["name"] for parameter in batch["parameters"]]


# Without a server around it


@pytest.fixture(scope="module")
def answer(registry: Path) -> Iterator[Classification]:
    model = load_model(Registry(registry).resolve("leaf", "production"))
    yield Classification(model, 1, np.full(5, 0.2), 0.001, encoded(noise(1)))
    model.close()


def outcomes(metrics: Metrics) -> dict[str, float]:
    (family,) = metrics.explanations.collect()
    samples = [s for s in family.samples if s.name.endswith("_total") and s.labels["method"] == "occlusion"]
    return {sample.labels["result"]: sample.value for sample in samples if sample.value}


def test_requests_that_wait_go_first_and_a_heat_map_that_is_late_is_none(answer: Classification) -> None:
    metrics = Metrics()
    explainer = Explainer(lambda: True, metrics, deadline_s=0.1)
    with pytest.raises(ApiError) as caught:
        asyncio.run(explainer.explain(answer, overlay=False))
    assert (caught.value.status, caught.value.code) == (504, "deadline-passed")
    assert outcomes(metrics) == {"late": 1}
    explainer.close()


def test_a_heat_map_lets_requests_go_first_between_two_calls(answer: Classification) -> None:
    asked: list[float] = []

    def busy() -> bool:
        asked.append(time.perf_counter())
        return len(asked) % 3 == 0

    explainer = Explainer(busy, Metrics(), deadline_s=60)
    picture = asyncio.run(explainer.explain(answer, overlay=True))
    assert picture.method == "occlusion" and picture.png.startswith(b"\x89PNG")
    assert len(asked) > CALLS
    explainer.close()


def test_only_so_many_heat_maps_may_wait(answer: Classification) -> None:
    metrics, gate = Metrics(), threading.Event()
    explainer = Explainer(lambda: not gate.is_set(), metrics, deadline_s=60)

    async def ask() -> list[Any]:
        many = [explainer.explain(answer, overlay=False) for _ in range(MAX_WAITING + 2)]
        first = asyncio.gather(*many, return_exceptions=True)
        await asyncio.sleep(0.05)
        gate.set()
        return await first

    results = asyncio.run(ask())
    refused = [result for result in results if isinstance(result, ApiError)]
    assert [(error.status, error.code) for error in refused] == [(429, "overloaded")] * 2
    assert all("Retry-After" in (error.headers or {}) for error in refused)
    assert outcomes(metrics) == {"ok": MAX_WAITING, "refused": 2}
    explainer.close()


# At promotion


def test_a_model_that_cannot_have_maps_says_why_and_is_explained_by_occlusion(
    tmp_path: Path, registry: Path
) -> None:
    flat = Registry(registry).resolve("leaf", "production")
    job = job_of(tmp_path, flat.artifact.read())
    method, files = explanation_of(job, tmp_path / "log.txt")
    assert (method.method, method.maps, files) == ("occlusion", None, {})
    assert "does not end in a global average pool" in method.why
    assert str(CALLS) in method.why


def test_maps_whose_mean_is_not_the_answer_are_not_published(tmp_path: Path) -> None:
    """A pool over part of the map looks like one over all of it."""
    model = onnx.load_from_string(pooled_onnx())
    (pool,) = [node for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    pool.op_type = "AveragePool"
    pool.attribute.append(onnx.helper.make_attribute("kernel_shape", [SIDE, SIDE - 3]))
    pool.attribute.append(onnx.helper.make_attribute("strides", [1, SIDE]))
    with pytest.raises(Unsuited, match="the mean of its maps is"):
        build_maps(job_of(tmp_path, model.SerializeToString()))
