"""krishi.yaml: its meaning, where it is searched, and the errors about missing parts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import error_of
from workbench.errors import WorkbenchError
from workbench.results.records import Budget
from workbench.workspace import workspace
from workbench.workspace.workspace import WorkspacePreprocess

MINIMAL: dict[str, Any] = {"model": {"checkpoint": "student.ckpt"}, "data": {"validation": "data/val"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything a workspace may name."""
    root = tmp_path / "Leaf Project"
    for name in ("data/val", "data/calib", "data/train"):
        (root / name).mkdir(parents=True)
    for name in ("student.ckpt", "student.py", "labels.json"):
        (root / name).touch()
    return root


def written(folder: Path, content: dict[str, Any] | str) -> Path:
    path = folder / "krishi.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def refused(path: Path) -> tuple[str, str | None]:
    error = error_of(lambda: workspace.load(path))
    return error.message, error.hint


def test_paths_are_relative_to_the_file_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"factory": "student.py:create_model", "class_names": "labels.json", **MINIMAL["model"]}
    data = {"validation": "data/val", "calibration": "data/calib", "train": "data/train"}
    written(folder, {"model": model, "data": data, "registry": "published", "results": "../elsewhere"})
    monkeypatch.chdir(folder.parent)
    found = workspace.load(Path("Leaf Project/krishi.yaml"))
    assert found.model.checkpoint == folder / "student.ckpt"
    assert found.model.factory == f"{folder}/student.py:create_model"
    assert found.model.class_names == folder / "labels.json"
    assert (found.validation, found.calibration) == (folder / "data/val", folder / "data/calib")
    assert (found.train, found.allow_overlap) == (folder / "data/train", False)
    assert found.registry == folder / "published"
    assert found.results.resolve() == folder.parent / "elsewhere"
    assert found.file == folder / "krishi.yaml"


def test_an_absolute_path_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.ckpt"
    elsewhere.touch()
    path = written(folder, {**MINIMAL, "model": {"checkpoint": str(elsewhere)}})
    assert workspace.load(path).model.checkpoint == elsewhere


def test_a_factory_in_a_package_is_left_alone(folder: Path) -> None:
    model = {"checkpoint": "student.ckpt", "factory": "timm.models:create"}
    path = written(folder, {**MINIMAL, "model": model})
    assert workspace.load(path).model.factory == "timm.models:create"


def test_what_is_left_out_has_defaults(folder: Path) -> None:
    found = workspace.load(written(folder, MINIMAL))
    assert found.budget == Budget(max_accuracy_drop=0.01, objective="latency")
    assert found.preprocess == WorkspacePreprocess()
    assert (found.registry, found.results) == (folder / "registry", folder / "results")
    assert found.calibration is None
    assert not found.synthetic


def test_a_preprocess_may_give_some_keys_only(folder: Path) -> None:
    path = written(folder, {**MINIMAL, "preprocess": {"crop": 224, "decode": "full"}})
    assert workspace.load(path).preprocess == WorkspacePreprocess(crop=224, decode="full")


def test_the_name_is_the_folders_unless_stated(folder: Path) -> None:
    assert workspace.load(written(folder, MINIMAL)).name == "leaf-project"
    assert workspace.load(written(folder, {**MINIMAL, "name": "student-v2"})).name == "student-v2"


def test_the_error_about_a_missing_checkpoint_names_the_line(folder: Path) -> None:
    path = written(folder, "# mine\nmodel:\n  checkpoint: gone.ckpt\ndata:\n  validation: data/val\n")
    assert refused(path) == (
        f"{path}:3: model.checkpoint: {folder}/gone.ckpt does not exist",
        "paths are relative to the folder of krishi.yaml",
    )


def test_a_path_may_begin_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    found = workspace.load(written(folder, {**MINIMAL, "registry": "~/shared", "results": "~nobody-here/r"}))
    assert (found.registry, found.results) == (folder.parent / "shared", folder / "~nobody-here/r")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("$HOME/models", "variables are not filled in: write the path out, or begin it with `~`"),
        ("s3://bucket/models", "name a file or folder of this computer"),
        ("C:\\models", "name a file or folder of this computer"),
        ("..\\models", "write `/` between folders"),
    ],
)
@pytest.mark.parametrize("place", ["registry", "checkpoint"])
def test_no_folder_is_made_of_a_variable_a_url_or_a_path_of_windows(
    folder: Path, place: str, given: str, hint: str
) -> None:
    changed = {"registry": given} if place == "registry" else {"model": {**MINIMAL["model"], place: given}}
    message, got = refused(written(folder, {**MINIMAL, **changed}))
    assert f"{place}: " in message and message.endswith("does not exist")
    assert got == hint


@pytest.mark.parametrize("key", ["registry", "results"])
def test_a_file_where_versions_or_runs_should_go_is_refused(folder: Path, key: str) -> None:
    (folder / "notes.txt").touch()
    message, hint = refused(written(folder, {**MINIMAL, key: "notes.txt"}))
    assert message.endswith(f"{key}: {folder}/notes.txt is a file")
    assert hint == "choose a folder of its own"


def test_names_of_classes_in_krishi_yaml_itself_are_asked_for_in_a_file(folder: Path) -> None:
    content = {**MINIMAL, "model": {**MINIMAL["model"], "class_names": ["rust", "scab"]}}
    message, hint = refused(written(folder, content))
    assert "model.class_names: this must be a file, not the names themselves" in message
    assert hint is not None and "`class_names: labels.txt`" in hint


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "factory", "gone.py:create_model"),
        ("model", "class_names", "gone.json"),
        ("data", "validation", "gone"),
        ("data", "calibration", "gone"),
        ("data", "train", "gone"),
    ],
)
def test_everything_that_is_named_must_be_there(folder: Path, section: str, key: str, value: str) -> None:
    content = {**MINIMAL, section: {**MINIMAL[section], key: value}}
    message, _ = refused(written(folder, content))
    assert f" {section}.{key}: " in message
    assert message.endswith(f"{value.partition(':')[0]} does not exist")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("modle: {}", "modle: unknown key", "did you mean `model`?"),
        (
            "budget: {max_acuracy_drop: 0.1}",
            "budget.max_acuracy_drop: unknown key",
            "did you mean `max_accuracy_drop`?",
        ),
        (
            "budget: {objective: speed}",
            "budget.objective: `speed` is not one of latency, size, memory, throughput",
            None,
        ),
        (
            "budget: {max_accuracy_drop: -0.1}",
            "budget.max_accuracy_drop: input should be greater than or equal to 0 (got -0.1)",
            None,
        ),
        ("budget: {max_size_mb: .nan}", "budget.max_size_mb: input should be greater than 0 (got nan)", None),
        ("abstain: {max_risk: 0}", "abstain.max_risk: input should be greater than 0 (got 0)", None),
        (
            "preprocess: {crop: 0}",
            "preprocess.crop: give one side or [height, width], in whole pixels from 1 to 4096, not 0",
            None,
        ),
        (
            "preprocess: {interpolation: bilinaer}",
            "preprocess.interpolation: `bilinaer` is not one of nearest, bilinear, bicubic, lanczos, box, "
            "hamming, area",
            "did you mean `bilinear`?",
        ),
    ],
)
def test_an_error_names_the_line_and_a_correction(
    folder: Path, text: str, message: str, hint: str | None
) -> None:
    path = written(folder, f"{text}\nmodel: {{checkpoint: student.ckpt}}\ndata: {{validation: data/val}}\n")
    assert refused(path) == (f"{path} is not a valid workspace\n  {path}:1: {message}", hint)


def test_the_keys_that_must_be_there_are_named(folder: Path) -> None:
    message, _ = refused(written(folder, "name: leaves\n"))
    assert "model: this key is required" in message
    assert "data: this key is required" in message


def test_the_nearest_krishi_yaml_above_counts(folder: Path) -> None:
    written(folder, MINIMAL)
    inner = folder / "data" / "val"
    assert workspace.find(None, inner).root == folder


def test_a_workspace_is_named_by_its_folder_or_its_file(folder: Path, tmp_path: Path) -> None:
    path = written(folder, MINIMAL)
    assert workspace.find(folder, tmp_path) == workspace.find(path, tmp_path)


def test_a_named_folder_without_krishi_yaml_is_an_error_and_not_the_sample(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"krishi\.yaml does not exist"):
        workspace.find(tmp_path, tmp_path)


def test_without_a_krishi_yaml_the_bundled_sample_is_the_workspace(tmp_path: Path) -> None:
    found = workspace.find(None, tmp_path)
    assert (found.name, found.file, found.synthetic) == ("leaf-sample", None, True)
    assert (found.results, found.registry) == (tmp_path / "results", tmp_path / "registry")
    assert found.model.checkpoint.is_file()
    assert Path((found.model.factory or "").partition(":")[0]).is_file()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["server", "server"], "there twice"),
        (["ios"], "`ios` is not one of server, android"),
        ([], "at least one target"),
    ],
)
def test_a_target_that_is_unknown_or_there_twice_is_refused(
    folder: Path, targets: list[str], message: str
) -> None:
    path = written(folder, {**MINIMAL, "targets": targets})
    error = error_of(lambda: workspace.load(path))
    assert "targets" in error.message
    assert message in error.message
