"""A bundle of a TensorRT model on a pretended GPU: it carries the network, and no engine."""

from pathlib import Path

import pytest

from serve import model
from serve.model import Model
from serve.settings import Settings
from tests.nvidia.fake_world import World
from tests.nvidia.machine import pretend
from tests.serving import Running, encoded, noise, publish, running, wait_until_ready
from workbench.backends import TensorrtRuntime
from workbench.backends.gpu import engine_store
from workbench.errors import WorkbenchError
from workbench.registry.bundle import Bundle
from workbench.system import nvidia
from workbench.system.folders import cache_folder

RUNTIME = TensorrtRuntime(device="cuda", cuda_graph=True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return pretend(monkeypatch, "tensorrt-11.4", tmp_path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return publish(tmp_path / "registry", runtime=RUNTIME)


def opened(bundle: Bundle) -> Model:
    loaded = model.load(bundle)
    loaded.close()
    return loaded


def kept(name: str) -> list[Path]:
    return sorted((cache_folder() / "engines").glob(f"*/{name}"))


def test_the_engine_is_built_where_it_serves_and_kept_for_the_next_start(
    world: World, bundle: Bundle
) -> None:
    assert {path.name for path in bundle.folder.iterdir()} == {
        "model.onnx", "golden.npz", "manifest.json", "MODEL_CARD.md",
    }  # fmt: skip
    first = opened(bundle).session.engine
    again = opened(bundle).session.engine
    assert first is not None and again is not None
    assert (len(world.built), first.build_s is None, again.build_s) == (1, False, None)
    assert first.bound_to == again.bound_to


def test_another_driver_gets_an_engine_of_its_own(world: World, bundle: Bundle, tmp_path: Path) -> None:
    opened(bundle)
    (tmp_path / "driver").write_text("590.1\n")
    opened(bundle)
    assert len(world.built) == 2


def test_a_changed_engine_is_never_opened_but_built_again(world: World, bundle: Bundle) -> None:
    opened(bundle)
    (engine,) = kept(engine_store.ENGINE)
    engine.write_bytes(engine.read_bytes() + b"more")
    count = world.deserialized
    opened(bundle)
    assert (len(world.built), world.deserialized) == (2, count + 1)
    assert not engine.read_bytes().endswith(b"more")


def test_an_engine_that_computes_something_else_does_not_serve(world: World, tmp_path: Path) -> None:
    wrong = publish(tmp_path / "registry", golden_error=1.0, runtime=RUNTIME)
    with pytest.raises(WorkbenchError, match="does not reproduce its golden logits"):
        model.load(wrong)


def test_the_server_answers_through_it(world: World, bundle: Bundle, tmp_path: Path) -> None:
    with running(Settings(registry=tmp_path / "registry")) as server:
        wait_until_ready(server.client)
        answer = server.post(encoded(noise(1)))
        shown = server.client.get("/model").json()
    assert answer.status_code == 200
    assert answer.json()["model_version"] == "1.0.0"
    assert shown["provider"] == "TensorRT"
    assert len(world.built) == 1


def test_without_a_gpu_the_server_says_so_and_stays_up(bundle: Bundle, tmp_path: Path) -> None:
    if nvidia.missing_gpu() is None:
        pytest.skip("there is a GPU here")
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
