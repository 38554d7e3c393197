"""Words of a command as what a gate compares."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import error_of, run_info, trial
from tests.versions import publish, workspace_folder
from workbench.errors import WorkbenchError
from workbench.registry.gate import candidates_of, reference_of
from workbench.registry.promotion import publish as promote
from workbench.registry.store import Registry
from workbench.results.folder import RunFolder
from workbench.run.given import Given
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace, load


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    found = replace(load(workspace_folder(tmp_path / "leaf") / "krishi.yaml"), name="leaf")
    registry = Registry(found.registry)
    for version in ("1.0.0", "1.1.0"):
        publish(registry, version)
    registry.point("leaf", "production", "1.1.0", reason="a test", expected=0)
    return found


def run_of(workspace: Workspace, **more: object) -> RunFolder:
    folder = RunFolder.create(workspace.results)
    folder.save_info(run_info(run_id=folder.run_id, name="leaf", **more))
    folder.append(trial("baseline"))
    folder.append(trial("quick", speedup=2.0, artifact_key="a" * 64, artifact_digest="b" * 64))
    folder.recipe("quick").parent.mkdir()
    folder.recipe("quick").write_text("name: quick\n")
    return folder


def test_a_version_and_an_alias_are_what_was_published(workspace: Workspace) -> None:
    pointed, named = reference_of(workspace, "production"), reference_of(workspace, "1.0.0")
    assert (pointed.label, named.label) == ("1.1.0 (production)", "1.0.0")
    assert pointed.artifact.read() == b"weights of 1.1.0"
    assert pointed.contract is not None
    assert pointed.as_baseline().variant.name == "baseline"


def test_a_changed_version_is_refused(workspace: Workspace) -> None:
    file = workspace.registry / "leaf" / "1.1.0" / "model.bin"
    file.chmod(0o644)
    file.write_bytes(b"other")
    assert "is not what was published" in error_of(lambda: reference_of(workspace, "production")).message


def test_what_is_nothing_of_all_that_is_named_with_what_there_is(workspace: Workspace) -> None:
    error = error_of(lambda: reference_of(workspace, "prodution"))
    assert "`prodution` is no .onnx file, no version or alias of `leaf` and no run" in error.message
    assert "production, 1.0.0, 1.1.0" in (error.hint or "")
    assert "does not exist" in error_of(lambda: reference_of(workspace, "absent.onnx")).message


def test_a_run_whose_artifact_is_gone_is_named(workspace: Workspace) -> None:
    run = run_of(workspace)
    error = error_of(lambda: reference_of(workspace, f"{run.run_id}:quick"))
    assert error.message.startswith(f"`quick` of run {run.run_id} was not measured")  # it has no runtime
    error = error_of(lambda: reference_of(workspace, f"{run.run_id}:quik"))
    assert (error.hint or "").startswith("did you mean `quick`?")


def test_candidates_are_recipes_and_versions_and_a_runs_variant(workspace: Workspace) -> None:
    recipe = workspace.root / "ship.yaml"
    recipe.write_text("name: ship\n")
    ship, version = candidates_of(workspace, ["1.0.0", str(recipe)], None, None)
    assert isinstance(ship, Variant)
    assert isinstance(version, Given)
    assert (ship.name, version.label) == ("ship", "1.0.0")
    run_of(workspace)
    (again,) = candidates_of(workspace, [], None, "quick")
    assert isinstance(again, Variant)
    assert again.name == "quick"
    error = error_of(lambda: candidates_of(workspace, [], None, "baseline"))
    assert "recorded no recipe of a variant `baseline`" in error.message


def test_with_nothing_named_the_workspaces_own_recipes_are_the_candidates(workspace: Workspace) -> None:
    error = error_of(lambda: candidates_of(workspace, [], None, None))
    assert "no recipes in" in error.message
    assert "krishi-bench gate recipes/ship.yaml" in (error.hint or "")
    (workspace.root / "recipes").mkdir()
    (workspace.root / "recipes" / "ship.yaml").write_text("name: ship\n")
    (ship,) = candidates_of(workspace, [], None, None)
    assert isinstance(ship, Variant)
    assert ship.name == "ship"


def test_a_gates_run_is_never_promoted(workspace: Workspace) -> None:
    run_of(workspace, reference="1.1.0 (production)")
    with pytest.raises(WorkbenchError, match=r"is of a gate: its drops are against 1\.1\.0 \(production\)"):
        promote(
            workspace,
            run_id=None,
            variant="quick",
            bump=None,
            version=None,
            alias="production",
            force=None,
            describe=lambda _: "",
        )
