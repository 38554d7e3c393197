"""The server says which answers are uncertain, by the rule of the version that gave them."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve.settings import Settings
from tests.load import sample
from tests.serving import (
    CONTRACT,
    PREDICTION_KEYS,
    Running,
    draft,
    encoded,
    noise,
    onnx_session,
    publish_bytes,
    ready,
    tiny_onnx,
)
from workbench.backends.abstention import Abstention, RiskLimits
from workbench.photos.preprocess import normalize, preprocess
from workbench.registry.store import Registry

pytestmark = pytest.mark.integration

PHOTOS = [encoded(noise(seed), "PNG") for seed in range(9)]
UNLIKE, UNSURE = "unlike the training photos", "low confidence"


@pytest.fixture(scope="module")
def expected(registry: Path) -> list[str | None]:
    """The reason of each photo: the least energy third is unlike, half of the others are unsure."""
    (rule,) = [Registry(registry).resolve("leaf", "production").manifest.abstention]
    assert rule is not None
    session = onnx_session(tiny_onnx())
    scores = [rule.scores(session(preprocess(photo, CONTRACT))[0], "logits") for photo in PHOTOS]
    reasons: list[str | None] = [rule.doubt(score) for score in scores]
    assert {reason: reasons.count(reason) for reason in reasons} == {UNLIKE: 3, UNSURE: 3, None: 3}
    return reasons


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("abstaining") / "registry"
    data = tiny_onnx()
    session = onnx_session(data)
    logits = np.concatenate([session(preprocess(photo, CONTRACT)) for photo in PHOTOS])
    rule = Abstention(limits=RiskLimits(), temperature=2.0)
    scores = rule.scores(logits, "logits")
    assert scores.energy is not None
    energies = np.sort(scores.energy)
    sure = np.sort(scores.confidence[scores.energy >= energies[3]])
    rule = rule.model_copy(
        update={
            "least_energy": float(energies[2:4].mean()),
            "usual_energy": float(energies[5]),
            "least_confidence": float(sure[2:4].mean()),
        }
    )
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    made = draft(data, "1.0.0").model_copy(update={"abstention": rule})
    publish_bytes(root, made, data, pixels, session(normalize(pixels, CONTRACT)))
    Registry(root).point("leaf", "production", "1.0.0", reason="test", expected=None)
    return root


@pytest.fixture(scope="module")
def server(registry: Path) -> Iterator[Running]:
    with ready(Settings(registry=registry)) as server:
        yield server


def test_an_uncertain_answer_says_why_and_the_others_say_nothing(
    server: Running, expected: list[str | None]
) -> None:
    for photo, reason in zip(PHOTOS, expected, strict=True):
        body = server.post(photo).json()
        assert body.get("reason") == reason
        assert list(body) == PREDICTION_KEYS + (["uncertain", "reason"] if reason else [])


def test_batches_and_kserve_say_the_same(server: Running, expected: list[str | None]) -> None:
    batch = server.client.post("/predict/batch", files=[("files", photo) for photo in PHOTOS]).json()
    instances = [{"b64": base64.b64encode(photo).decode()} for photo in PHOTOS]
    kserve = server.client.post("/v1/models/leaf:predict", json={"instances": instances}).json()
    for entries in (batch["predictions"], kserve["predictions"]):
        assert [entry.get("reason") for entry in entries] == expected
        assert [entry.get("uncertain", False) for entry in entries] == [
            reason is not None for reason in expected
        ]


def test_a_threshold_of_the_request_makes_more_answers_uncertain(
    server: Running, expected: list[str | None]
) -> None:
    for photo, reason in zip(PHOTOS, expected, strict=True):
        body = server.client.post("/predict?threshold=1", files={"file": photo}).json()
        assert (body["uncertain"], body["reason"]) == (True, reason or UNSURE)


def test_the_rule_can_be_turned_off(registry: Path) -> None:
    with ready(Settings(registry=registry, abstain=False)) as server:
        assert all(list(server.post(photo).json()) == PREDICTION_KEYS for photo in PHOTOS)
        assert server.client.get("/model").json()["abstention"] is None
        assert sample(server.metrics(), "prediction_likeness_count") == 0


COUNTED = {
    'predictions_uncertain_total{reason="unlike-training"}': 3,
    'predictions_uncertain_total{reason="low-confidence"}': 3,
    "prediction_calibrated_confidence_count": 9,
    'prediction_likeness_bucket{le="0.0"}': 3,
}


def test_the_rule_is_shown_and_what_it_decides_is_counted(
    server: Running, expected: list[str | None]
) -> None:
    shown = server.client.get("/model").json()["abstention"]
    assert Abstention.model_validate(shown).limits == RiskLimits()
    before = server.metrics()
    for photo in PHOTOS:
        server.post(photo)
    after = server.metrics()
    assert {name: sample(after, name) - sample(before, name) for name in COUNTED} == COUNTED
