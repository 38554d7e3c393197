"""Files of phones and boards by the whole path: init, run, promote, serve; answers are as measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.settings import Settings
from tests.e2e.tiny import CLASS_NAMES, Bench, photos_of, prepare_folder
from tests.serving import ready
from workbench.results.folder import find_run

pytestmark = pytest.mark.e2e

WRITERS = {"litert": "litert_torch", "executorch": "executorch"}
OPENERS = {"litert": "ai_edge_litert", "executorch": "executorch"}
RECIPE = """
name: {name}
steps: [{{use: {name}, images: 24}}]
runtime: {{backend: {name}, threads: 1}}
matrix: {{steps.{name}.quantize: [none, static]}}
"""
BRIEF = ("--rounds", "1", "--turns", "1", "--time-budget", "0.1", "--quiet")


@pytest.fixture(scope="module", params=["litert", "executorch"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bench]:
    """The runtime, and a workspace that was run with it."""
    name = str(request.param)
    for module in (WRITERS[name], OPENERS[name]):
        pytest.importorskip(module, reason="it runs in an environment of its own")
    bench = Bench(tmp_path_factory.mktemp(name) / "leaves", tmp_path_factory.mktemp("cache"))
    prepare_folder(bench.root)
    (bench.root / f"{name}.yaml").write_text(RECIPE.format(name=name))
    bench.run("init")
    bench.run("run", f"{name}.yaml", *BRIEF)
    return name, bench


@pytest.mark.parametrize("quantize", ["none", "static"])
def test_a_file_for_devices_is_served_under_its_alias_and_answers_as_it_was_measured(
    bench: tuple[str, Bench], quantize: str
) -> None:
    name, where = bench
    variant = f"{name}[quantize={quantize}]"
    logits = np.load(find_run(where.root / "results", None).predictions(variant))["logits"]
    promoted = where.json(
        "promote", "--target", "android", "--variant", variant, "--force", "a test", "--no-abstain"
    )
    photos: list[tuple[Path, int]] = photos_of(where.root / "data" / "val", CLASS_NAMES)
    with ready(Settings(registry=where.root / "registry", alias="android")) as server:
        bodies: list[dict[str, Any]] = [server.post(path.read_bytes()).json() for path, _ in photos]
    assert [body["class_id"] for body in bodies] == logits.argmax(axis=1).tolist()
    assert {body["model_version"] for body in bodies} == {promoted["version"]}
