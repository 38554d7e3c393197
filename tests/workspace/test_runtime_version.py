"""`runtime.version`: an axis of a recipe, in an environment of its own."""

from pathlib import Path
from typing import Any

import pytest

from workbench.backends import RUNTIME, ExecutorchRuntime, LitertRuntime, OpenvinoRuntime, OrtRuntime
from workbench.run.environments import environments_of
from workbench.system.files import digest_of
from workbench.system.packages import versions
from workbench.workspace import recipe
from workbench.workspace.recipe import Variant

MATRIX = """
name: versions
runtime: {backend: onnxruntime, threads: 1}
matrix:
  runtime.version: ["1.26", "1.27.0"]
"""


def loaded(folder: Path, text: str) -> list[Variant]:
    path = folder / "versions.yaml"
    path.write_text(text)
    return recipe.load([path])


def test_versions_are_an_axis_and_each_has_an_environment_of_its_own(tmp_path: Path) -> None:
    found = loaded(tmp_path, MATRIX)
    assert [variant.name for variant in found] == ["versions[version=1.26]", "versions[version=1.27.0]"]
    assert [variant.runtime.version for variant in found] == ["1.26.0", "1.27.0"]
    environments = [variant.runtime.environment() for variant in found]
    assert [each and each.name for each in environments] == ["onnxruntime-1.26.0", "onnxruntime-1.27.0"]
    assert len({variant.digest for variant in found}) == 2


def test_an_environment_holds_the_runtime_and_what_a_measuring_process_imports_at_our_versions() -> None:
    environment = OpenvinoRuntime(version="2025.1.0").environment()
    assert environment is not None
    pinned = dict(pin.split("==") for pin in environment.pins)
    assert pinned["openvino"] == "2025.1.0"
    assert pinned["numpy"] == versions("numpy")["numpy"].partition("+")[0]
    assert {"pydantic", "psutil", "pillow"} <= pinned.keys()
    older = OpenvinoRuntime(version="2025.1.0", packages=("numpy==1.26.4", "other==3")).environment()
    assert older is not None
    assert set(older.pins) == {*environment.pins, "numpy==1.26.4", "other==3"} - {f"numpy=={pinned['numpy']}"}


@pytest.mark.skipif(not versions("onnxruntime"), reason="onnxruntime is not installed")
def test_the_installed_version_needs_no_environment() -> None:
    assert OrtRuntime(version=versions("onnxruntime")["onnxruntime"]).environment() is None
    assert OrtRuntime().environment() is None


def test_litert_and_executorch_have_versions_too(tmp_path: Path) -> None:
    litert = LitertRuntime(version="2.1.0").environment()
    assert litert is not None
    assert litert.name == "ai-edge-litert-2.1.0"
    assert {pin.partition("==")[0] for pin in litert.pins} >= {"ai-edge-litert", "flatbuffers", "numpy"}
    text = "name: e\nsteps: [{use: executorch}]\nruntime: {backend: executorch}\n"
    axis = 'matrix: {runtime.version: ["1.5.0", "1.4.0"]}\n'
    for variant in loaded(tmp_path, text + axis):
        (environment,) = environments_of(variant)
        assert environment.name == f"executorch-{variant.runtime.version}", "it writes what it opens"
        assert f"executorch=={variant.runtime.version}" in environment.pins


def test_executorch_comes_with_the_torch_that_it_is_linked_against() -> None:
    runtime = ExecutorchRuntime(version="1.5.0", packages=("torch==2.12.1",))
    environment = runtime.environment()
    assert environment is not None
    assert {"executorch==1.5.0", "torch==2.12.1", "torchao==0.18.0"} <= set(environment.pins)


def test_a_recipe_without_a_version_has_the_digest_that_it_had_before_there_was_one() -> None:
    (variant,) = recipe.load([recipe.shipped() / "int8-static.yaml"])[:1]
    dumped = [
        part.model_dump(mode="json", exclude={"version", "packages"})
        for part in (variant.export, *variant.steps, variant.runtime, variant.preprocess)
    ]
    assert variant.digest == digest_of(dumped)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"version": "newest"}, "`newest` is not a version, such as 1.26.0"),
        ({"version": "1.26.0", "device": "cuda"}, "`version` is for `device: cpu`"),
        ({"version": "1.26.0", "provider": "openvino"}, "`version` is for onnxruntime's own provider"),
        ({"backend": "torch", "version": "2.1.0"}, "backend `torch` runs in the version that is installed"),
        ({"version": 1.26}, "valid string"),
        ({"packages": ["numpy==1.26.4"]}, "`packages` needs `version`"),
        ({"version": "1.26.0", "packages": ["numpy>=1"]}, "`numpy>=1` does not say which version"),
        (
            {"backend": "executorch", "version": "1.5.0", "packages": ["executorch==1.4.0"]},
            "executorch 1.5.0 and 1.4.0: a process has one version of a package",
        ),
        (
            {"version": "1.26.0", "packages": ["onnxruntime==1.30.0"]},
            "onnxruntime 1.26.0 and 1.30.0: a process has one version of a package",
        ),
    ],
)
def test_a_version_that_cannot_be_is_refused(runtime: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        RUNTIME.validate_python(runtime)
    assert message in str(caught.value)


def test_a_run_of_no_recipe_takes_none_that_needs_an_environment() -> None:
    named = {variant.name for variant in recipe.load([recipe.shipped()])}
    chosen = {variant.name for variant in recipe.chosen(None)}
    assert chosen < named
    assert not any(name.startswith("runtime-versions") for name in chosen)
    devices = {variant.recipe for variant in recipe.chosen(None, ("server", "android"))}
    assert {"litert", "executorch"} <= devices
    assert "runtime-versions" not in devices
    assert {variant.recipe for variant in recipe.chosen([recipe.shipped() / "runtime-versions.yaml"])} == {
        "runtime-versions"
    }


def test_a_variant_with_a_version_is_the_same_as_a_recipe_of_its_own(tmp_path: Path) -> None:
    variant = loaded(tmp_path, MATRIX)[0]
    (again,) = loaded(tmp_path, recipe.to_yaml(variant, "versions"))
    assert again.runtime == variant.runtime
