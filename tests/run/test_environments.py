"""Environments are made when the user agrees, and what lacks one is skipped with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import artifact_info, error_of
from workbench.backends import ExecutorchRuntime, OrtRuntime
from workbench.backends.artifact import Artifact
from workbench.cli.environments import agreed, question
from workbench.model.export.settings import Export
from workbench.run.availability import not_here
from workbench.run.environments import make_all, not_made
from workbench.system.progress import silent
from workbench.workspace.recipe import Variant


def variant(version: str | None) -> Variant:
    return Variant(f"v[{version}]", "v", "", Export(), (), OrtRuntime(version=version))


VARIANTS = [variant("1.0.1"), variant("1.0.2"), variant(None), variant("1.0.1")]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))


def test_each_environment_is_wanted_once_and_none_is_made_unasked() -> None:
    assert [each.name for each in not_made(VARIANTS)] == ["onnxruntime-1.0.1", "onnxruntime-1.0.2"]
    # No terminal: nobody can be asked.
    assert agreed(VARIANTS, "state-dict", yes=False) == []
    assert agreed(VARIANTS, "state-dict", yes=True) == not_made(VARIANTS)
    assert agreed([variant(None)], "state-dict", yes=True) == []


def test_nothing_is_made_for_what_will_be_skipped() -> None:
    program = Variant("e", "e", "", Export(), (), ExecutorchRuntime(version="1.4.0"))
    elsewhere = replace(VARIANTS[0], needs=("openvino>=9999",))
    crowded = Variant("t", "t", "", Export(), (), OrtRuntime(version="1.0.1", threads=4096))
    assert not_made([program, elsewhere, crowded])
    assert agreed([program, elsewhere, crowded], "onnx", yes=True) == []
    assert agreed([program], "torchscript", yes=True) == []
    assert agreed([program], "state-dict", yes=True) == not_made([program])


def test_the_question_says_what_how_large_and_how_long() -> None:
    text = question(not_made(VARIANTS))
    assert "the recipes need 2 environments of their own" in text
    assert "onnxruntime-1.0.2: about " in text
    assert "MB together and 1 minute" in text


def test_a_variant_whose_environment_is_not_made_is_not_here_and_the_command_is_said(tmp_path: Path) -> None:
    baseline = Artifact(tmp_path, artifact_info(opset=18))
    (first, *_) = not_made(VARIANTS)
    reason = not_here(VARIANTS[0], "torch", baseline)
    assert reason is not None
    assert reason.startswith("`krishi-bench run RECIPE --yes` makes the environment ")
    assert not_here(VARIANTS[0], "torch", baseline, {first: "no network"}) == "no network"


def test_where_no_environment_can_be_made_the_run_ends_and_where_some_can_it_goes_on(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    one, other = not_made(VARIANTS)
    assert "onnxruntime==1.0.1" in error_of(lambda: make_all([one], silent, wheels=wheels)).message
    error = error_of(lambda: make_all([one, other], silent, wheels=wheels))
    assert "none of the environments could be made" in error.message
    assert "onnxruntime==1.0.2" in error.message
    assert make_all([], silent) == {}
    nowhere = error_of(lambda: make_all([], silent, wheels=tmp_path / "nowhere")).message
    assert nowhere == f"{tmp_path / 'nowhere'} is no folder"  # though nothing is to be made
