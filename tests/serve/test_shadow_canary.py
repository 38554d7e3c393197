"""A version beside the one that serves: it answers a share of the photos, or sees some and answers none."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import serve.engine.shadow
from serve.engine.model import Model
from serve.settings import Settings
from tests.load import heavy_onnx, point, publish_cut, publish_model, sample
from tests.serving import (
    CLASS_NAMES,
    Running,
    encoded,
    noise,
    publish,
    ready,
    running,
    wait_for,
    wait_until_ready,
)

pytestmark = pytest.mark.integration

PRIMARY, OTHER = "1.0.0", "1.1.0"
PHOTOS = [encoded(noise(seed, 40, 36)) for seed in range(60)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with other weights; the alias points at the first."""
    root = tmp_path_factory.mktemp("beside") / "registry"
    publish(root)
    publish(root, version=OTHER, seed=8, alias=None)
    publish(root, version="2.0.0", golden_error=1.0, alias=None)
    publish_model(root, "3.0.0", heavy_onnx(8, 1, classes=4), class_names=("Cotton_Rust", *CLASS_NAMES[:3]))
    publish_cut(root, "4.0.0")
    return root


@pytest.fixture(autouse=True)
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are tried in a process of their own, which takes its time; test_swap.py is about that."""
    monkeypatch.setattr("serve.engine.loader.run_load_trial", lambda *_: None)


@contextmanager
def accompanied(settings: Settings, role: str) -> Iterator[Running]:
    with ready(settings) as server:
        wait_for(lambda: loaded(server, role))
        yield server


def loaded(server: Running, role: str) -> bool:
    return re.search(rf'^model_info{{.*role="{role}"', server.metrics(), re.MULTILINE) is not None


def answers(server: Running, photos: list[bytes]) -> list[dict[str, Any]]:
    found = []
    for photo in photos:
        response = server.post(photo)
        assert response.status_code == 200
        body: dict[str, Any] = response.json()
        assert response.headers["x-model-version"] == body["model_version"]
        found.append(body)
    return found


def classes_of(registry: Path, version: str, photos: list[bytes]) -> list[int]:
    with ready(Settings(registry=registry, pin=version)) as server:
        return [body["class_id"] for body in answers(server, photos)]


# The canary


def test_the_canary_answers_its_share_and_the_same_photo_always_the_same_way(registry: Path) -> None:
    weight = 0.3
    with accompanied(Settings(registry=registry, canary=OTHER, weight=weight), "canary") as server:
        first = answers(server, PHOTOS)
        again = answers(server, PHOTOS)
        text = server.metrics()
    assert [body["model_version"] for body in first] == [body["model_version"] for body in again]
    shares = Counter(body["model_version"] for body in first)
    assert set(shares) == {PRIMARY, OTHER}
    # Four standard deviations of a binomial.
    assert abs(shares[OTHER] / len(PHOTOS) - weight) < 4 * (weight * (1 - weight) / len(PHOTOS)) ** 0.5
    # Each answers with its own weights.
    known = {version: classes_of(registry, version, PHOTOS) for version in (PRIMARY, OTHER)}
    assert [body["class_id"] for body in first] == [
        known[body["model_version"]][number] for number, body in enumerate(first)
    ]
    for version, role in ((PRIMARY, "primary"), (OTHER, "canary")):
        labels = f'role="{role}",version="{version}"'
        assert sample(text, f'version_requests_total{{code="200",{labels}}}') == 2 * shares[version]
        assert sample(text, f"version_inference_seconds_count{{{labels}}}") == 2 * shares[version]
    assert sample(text, "inference_latency_seconds_count") == 2 * len(PHOTOS)
    predicted = sum(sample(text, f'predictions_total{{class_id="{i}"}}') for i in range(len(CLASS_NAMES)))
    assert predicted == 2 * len(PHOTOS)


def test_which_photos_the_canary_takes_is_its_versions_own_draw(registry: Path) -> None:
    """Or the same users would try every canary there ever is."""
    with accompanied(Settings(registry=registry, pin=OTHER, canary=PRIMARY, weight=0.5), "canary") as server:
        one = [body["model_version"] == PRIMARY for body in answers(server, PHOTOS)]
    with accompanied(Settings(registry=registry, canary=OTHER, weight=0.5), "canary") as server:
        two = [body["model_version"] == OTHER for body in answers(server, PHOTOS)]
    assert one != two
    assert 0.2 < np.mean(np.array(one) == np.array(two)) < 0.8


@pytest.mark.parametrize(("weight", "expected"), [(0.0, PRIMARY), (1.0, OTHER)])
def test_none_and_all_are_shares_too(registry: Path, weight: float, expected: str) -> None:
    with accompanied(Settings(registry=registry, canary=OTHER, weight=weight), "canary") as server:
        assert {body["model_version"] for body in answers(server, PHOTOS[:15])} == {expected}


@pytest.mark.parametrize("role", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("9.9.9", "has no version 9.9.9 of `leaf`"),
        ("2.0.0", "does not reproduce its golden logits"),
        ("3.0.0", "3.0.0 knows other classes than 1.0.0"),
        ("4.0.0", "onnxruntime cannot open model.onnx"),
    ],
)
def test_one_that_cannot_be_loaded_leaves_the_other_alone(
    registry: Path, role: str, version: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(registry=registry, weight=1.0, sample=1.0, **{role: version})  # type: ignore[arg-type]
    with running(settings) as server:
        wait_for(lambda: f"no {role}: " in caplog.text)
        wait_until_ready(server.client)
        assert {body["model_version"] for body in answers(server, PHOTOS[:5])} == {PRIMARY}
        assert not loaded(server, role)
    assert why in caplog.text


def test_a_defect_of_the_loader_itself_leaves_the_other_alone_and_swaps_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    publish(tmp_path, version=OTHER, seed=8, alias=None)

    def failing(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("serve.engine.loader.run_load_trial", failing)
    with running(Settings(registry=tmp_path, canary=OTHER, watch_s=0.01)) as server:
        wait_for(lambda: "no canary: 1.1.0 could not be loaded" in caplog.text)
        monkeypatch.setattr("serve.engine.loader.run_load_trial", lambda *_: None)
        point(tmp_path, OTHER)
        wait_for(lambda: server.client.get("/readyz").json().get("version") == OTHER)


def test_beside_a_primary_of_other_classes_the_canary_rests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    publish(tmp_path, version=OTHER, seed=8, alias=None)
    publish_model(tmp_path, "2.0.0", heavy_onnx(8, 1, classes=4), class_names=CLASS_NAMES[:4])
    settings = Settings(registry=tmp_path, canary=OTHER, weight=1.0, shadow=OTHER, sample=1.0, watch_s=0.01)
    with accompanied(settings, "shadow") as server:
        assert server.post(PHOTOS[0]).json()["model_version"] == OTHER
        point(tmp_path, "2.0.0")
        wait_for(lambda: server.client.get("/readyz").json()["version"] == "2.0.0")
        assert server.post(PHOTOS[0]).json()["model_version"] == "2.0.0"
        assert not loaded(server, "canary")
        point(tmp_path, PRIMARY)
        wait_for(lambda: server.client.get("/readyz").json()["version"] == PRIMARY)
        assert server.post(PHOTOS[0]).json()["model_version"] == OTHER
        assert loaded(server, "canary")
        # Numbers of classes that mean other classes agree on nothing.
        assert 'version="2.0.0"' not in "".join(re.findall(r"shadow_requests_total.*", server.metrics()))
    assert "the canary 1.1.0 rests: it knows other classes than 2.0.0" in caplog.text


def test_broken_photos_count_for_the_version_they_were_shown_to(registry: Path) -> None:
    with accompanied(Settings(registry=registry, canary=OTHER, weight=1.0), "canary") as server:
        assert server.post(b"no photo").status_code == 415
        text = server.metrics()
    assert sample(text, 'version_requests_total{code="415",role="canary",version="1.1.0"}') == 1


# The shadow


def compared(text: str, result: str, version: str = PRIMARY) -> float:
    labels = f'result="{result}",shadow_version="{OTHER}",version="{version}"'
    return sample(text, f"shadow_requests_total{{{labels}}}")


def sampled(server: Running, version: str) -> float:
    text = server.metrics()
    return sum(compared(text, result, version) for result in ("agree", "disagree", "failed", "shed"))


def one_by_one(server: Running, photos: list[bytes], version: str = PRIMARY) -> None:
    """Each photo once the shadow is done with the one before: it keeps only a few."""
    for photo in photos:
        before = sampled(server, version)
        server.post(photo)
        wait_for(lambda before=before: sampled(server, version) == before + 1)  # type: ignore[misc]


def test_the_shadow_counts_how_often_it_agrees_and_gives_no_answer(registry: Path) -> None:
    photos = PHOTOS[:30]
    mine, its = (classes_of(registry, version, photos) for version in (PRIMARY, OTHER))
    agreeing = sum(a == b for a, b in zip(mine, its, strict=True))
    assert 0 < agreeing < len(photos)
    with accompanied(Settings(registry=registry, shadow=OTHER, sample=1.0), "shadow") as server:
        one_by_one(server, photos)
        assert {body["model_version"] for body in answers(server, photos[:1])} == {PRIMARY}
        wait_for(lambda: compared(server.metrics(), "agree") + compared(server.metrics(), "disagree") == 31)
        text = server.metrics()
    first = mine[0] == its[0]
    assert compared(text, "agree") == agreeing + first
    assert compared(text, "disagree") == len(photos) - agreeing + (not first)
    assert compared(text, "failed") == compared(text, "shed") == 0
    # What it does is counted as its own, and nowhere else.
    for model in ("primary", "shadow"):
        labels = f'model="{model}",shadow_version="{OTHER}",version="{PRIMARY}"'
        assert sample(text, f"shadow_inference_seconds_count{{{labels}}}") == 31
    assert sample(text, 'version_requests_total{code="200",role="shadow",version="1.1.0"}') == 31
    assert sample(text, 'version_inference_seconds_count{role="shadow",version="1.1.0"}') == 31
    assert sample(text, "inference_latency_seconds_count") == 31
    assert sample(text, "prediction_confidence_count") == 31
    for stage in ("queue", "decode", "infer", "total"):
        assert sample(text, f'request_stage_seconds_count{{stage="{stage}"}}') == 31
    predicted = [sample(text, f'predictions_total{{class_id="{i}"}}') for i in range(len(CLASS_NAMES))]
    assert predicted == [mine.count(i) + (mine[0] == i) for i in range(len(CLASS_NAMES))]


def test_the_shadow_sees_only_its_sample(registry: Path) -> None:
    with accompanied(Settings(registry=registry, shadow=OTHER, sample=0.0), "shadow") as server:
        answers(server, PHOTOS[:10])
        assert "shadow_requests_total{" not in server.metrics()


def test_a_shadow_that_is_slow_slows_no_answer_and_sheds(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []

    def slow(*_: object) -> None:
        held.append(time.monotonic())
        time.sleep(0.5)
        raise AssertionError("nobody waits for this")

    with accompanied(Settings(registry=registry, shadow=OTHER, sample=1.0), "shadow") as server:
        monkeypatch.setattr(serve.engine.shadow, "classify", slow)
        began = time.monotonic()
        answers(server, PHOTOS[:20])
        took = time.monotonic() - began
        wait_for(lambda: compared(server.metrics(), "shed") >= 20 - serve.engine.shadow.MAX_WAITING - 2)
        assert held
        assert took < 0.5 * 20 / 2
        wait_for(lambda: compared(server.metrics(), "failed") >= 1)
        assert server.client.get("/readyz").status_code == 200


def test_a_shadow_that_raises_changes_no_answer(
    registry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    infer = Model.batch
    with accompanied(Settings(registry=registry, shadow=OTHER, sample=1.0), "shadow") as server:
        expected = answers(server, PHOTOS[:1])[0]["confidence"]
        wait_for(lambda: compared(server.metrics(), "agree") + compared(server.metrics(), "disagree") == 1)

        def failing(model: Model, photo: bytes) -> Any:
            if model.version == OTHER:
                raise MemoryError
            return infer(model, photo)

        monkeypatch.setattr(Model, "batch", failing)
        one_by_one(server, PHOTOS[:3])
        assert answers(server, PHOTOS[:1])[0]["confidence"] == expected
        wait_for(lambda: compared(server.metrics(), "failed") >= 1)
        text = server.metrics()
    assert sample(text, 'version_requests_total{code="500",role="shadow",version="1.1.0"}') >= 1
    assert sample(text, 'requests_total{code="500"}') == 0
    assert "1.1.0 failed on a photo that was answered" in caplog.text


def test_under_load_the_shadow_is_shed_first(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While anyone waits for a thread, it does nothing; all are answered."""
    batch = Model.batch

    def slow(model: Model, photo: bytes) -> Any:
        time.sleep(0.02)
        return batch(model, photo)

    monkeypatch.setattr(Model, "batch", slow)
    with accompanied(
        Settings(registry=registry, shadow=OTHER, sample=1.0, queue_budget_s=30), "shadow"
    ) as server:
        with (
            httpx.Client(base_url=server.url, timeout=20, verify=False) as client,
            ThreadPoolExecutor(10) as pool,
        ):
            headers = {"Content-Type": "image/jpeg"}
            statuses = pool.map(
                lambda photo: client.post("/predict", content=photo, headers=headers).status_code, PHOTOS
            )
            assert set(statuses) == {200}
        text = server.metrics()
    assert compared(text, "shed") > len(PHOTOS) / 2


def test_after_a_swap_the_shadow_is_compared_with_the_new_version(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, version=OTHER, seed=8, alias=None)
    publish(tmp_path, version="1.0.1", seed=9, alias=None)
    with accompanied(Settings(registry=tmp_path, shadow=OTHER, sample=1.0, watch_s=0.01), "shadow") as server:
        one_by_one(server, PHOTOS[:2])
        point(tmp_path, "1.0.1")
        wait_for(lambda: server.client.get("/readyz").json()["version"] == "1.0.1")
        one_by_one(server, PHOTOS[:3], "1.0.1")
        text = server.metrics()
        assert sum(compared(text, result) for result in ("agree", "disagree")) == 2
        assert sum(compared(text, result, "1.0.1") for result in ("agree", "disagree")) == 3
        # Once it is promoted itself there is nothing to compare: it would agree with itself.
        point(tmp_path, OTHER)
        wait_for(lambda: server.client.get("/readyz").json()["version"] == OTHER)
        for photo in PHOTOS[:3]:
            assert server.post(photo).json()["model_version"] == OTHER
        time.sleep(0.1)
        assert compared(server.metrics(), "agree", OTHER) == 0


def test_photos_that_the_canary_answered_are_not_shown_to_the_shadow(registry: Path) -> None:
    """The comparison is between the primary and the shadow."""
    settings = Settings(registry=registry, canary=OTHER, weight=1.0, shadow=OTHER, sample=1.0)
    with accompanied(settings, "shadow") as server:
        answers(server, PHOTOS[:5])
        time.sleep(0.1)
        assert "shadow_requests_total{" not in server.metrics()
