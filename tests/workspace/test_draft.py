"""`krishi-bench init` finds what a folder holds and writes a krishi.yaml that works."""

import json
from pathlib import Path

import pytest
import yaml

from tests.builders import error_of
from workbench.errors import WorkbenchError
from workbench.workspace import workspace
from workbench.workspace.draft import Found, draft, look, write_draft
from workbench.workspace.workspace import WorkspaceFile

NOTHING = Found(None, None, None, None, None)


def filled(root: Path, *names: str) -> Path:
    """Empty files; those ending in .py get a factory."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def create_model():\n    ...\n" if path.suffix == ".py" else "")
    return root


def read(text: str) -> WorkspaceFile:
    return WorkspaceFile.model_validate(yaml.safe_load(text))


def test_everything_a_project_usually_has_is_found(tmp_path: Path) -> None:
    photos = ("data/val/rust/1.jpg", "data/train/rust/2.jpg")
    filled(tmp_path, "checkpoints/student.ckpt", "src/student.py", "labels.json", *photos)
    factory = "src/student.py:create_model"
    assert look(tmp_path) == Found(
        "checkpoints/student.ckpt", factory, "labels.json", "data/val", "data/train"
    )


@pytest.mark.parametrize("name", ["classes.txt", "class_names.yaml", "class_to_idx.json", "id2label.json"])
def test_class_names_are_found_under_their_usual_names(tmp_path: Path, name: str) -> None:
    filled(tmp_path, name, "labels.csv")  # which lists photos
    assert look(tmp_path).class_names == name


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert look(tmp_path) == NOTHING


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "pth", "onnx", "pt2", "safetensors"])
def test_every_kind_of_checkpoint_is_found(tmp_path: Path, suffix: str) -> None:
    assert look(filled(tmp_path, f"model.{suffix}")).checkpoint == f"model.{suffix}"


def test_the_checkpoint_nearest_to_the_top_is_taken(tmp_path: Path) -> None:
    assert look(filled(tmp_path, "a/b/old.ckpt", "z.ckpt")).checkpoint == "z.ckpt"


def test_the_checkpoints_that_were_not_taken_are_named(tmp_path: Path) -> None:
    _, findings = write_draft(filled(tmp_path, "a/b/old.ckpt", "y.ckpt", "z.ckpt"))
    assert findings[0].endswith("; not `z.ckpt`, `a/b/old.ckpt`")


def classifier(folder: Path, network: str = "ViTForImageClassification", **more: object) -> None:
    """Write the files of `save_pretrained`: a description and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": [network], "id2label": {"0": "rust", "1": "scab"}, **more}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")


def test_a_folder_of_transformers_is_the_checkpoint_and_says_what_it_is(tmp_path: Path) -> None:
    classifier(tmp_path / "leafnet", image_size=224)
    filled(tmp_path, "train.py")
    assert look(tmp_path) == Found("leafnet", None, None, None, None)
    path, findings = write_draft(tmp_path)
    assert findings[0] == (
        "checkpoint: leafnet, a transformers folder (ViTForImageClassification): 2 classes, named; "
        "crop 224, from config.json"
    )
    assert findings[1:3] == ["factory: not needed", "class names: those of the checkpoint"]
    assert read(path.read_text()).model.checkpoint == Path("leafnet")


def test_the_folder_itself_may_be_one_of_transformers(tmp_path: Path) -> None:
    classifier(tmp_path)
    classifier(tmp_path / "checkpoint-500")
    assert look(tmp_path).checkpoint == "."


def test_a_folder_of_transformers_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    classifier(tmp_path / "gray", num_channels=1)
    assert "gray, which cannot be used: " in write_draft(tmp_path)[1][0]


def test_a_folder_that_holds_another_kind_of_network_is_no_checkpoint(tmp_path: Path) -> None:
    classifier(tmp_path / "bert", network="BertModel")
    (tmp_path / "bert" / "model.safetensors").unlink()
    assert look(tmp_path) == NOTHING


def test_a_program_is_found_and_whether_to_trust_it_left_to_the_user(tmp_path: Path) -> None:
    path, _ = write_draft(filled(tmp_path, "model.pt2"))
    assert "  # trust_code: true " in path.read_text()
    assert not read(path.read_text()).model.trust_code
    assert "trust_code" not in draft(NOTHING)


@pytest.mark.parametrize(
    ("names", "validation", "calibration"),
    [
        (("val/a/1.jpg", "test/a/1.jpg"), "val", None),
        (("test/a/1.jpg",), "test", None),
        (("train/a/1.png", "calib/a/1.webp"), None, "calib"),
        (("Validation/a/1.JPG",), "Validation", None),
        (("val/readme.txt",), None, None),
        (("val/1.jpg",), None, None),  # no class folders
    ],
)
def test_photo_folders_are_known_by_their_names_and_the_photos_of_classes_in_them(
    tmp_path: Path, names: tuple[str, ...], validation: str | None, calibration: str | None
) -> None:
    found = look(filled(tmp_path, *names))
    assert (found.validation, found.calibration) == (validation, calibration)


def test_a_factory_is_read_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit\ndef build_model():\n    ...\n")
    (tmp_path / "broken.py").write_text("def create_model(:\n")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    assert look(tmp_path).factory == "net.py:build_model"


def test_hidden_folders_caches_and_deep_ones_are_not_searched(tmp_path: Path) -> None:
    hidden = (".venv/model.pt", "__pycache__/model.pt", ".git/net.py")
    assert look(filled(tmp_path, *hidden, "a/b/c/d/model.pt")) == NOTHING


def test_the_written_file_is_a_workspace_that_loads(tmp_path: Path) -> None:
    photos = ("data/val/rust/1.jpg", "data/calib/rust/2.jpg")
    filled(tmp_path, "student.ckpt", "student.py", "labels.json", *photos)
    path, findings = write_draft(tmp_path)
    found = workspace.load(path)
    assert found.model.checkpoint == tmp_path / "student.ckpt"
    assert found.model.factory == f"{tmp_path}/student.py:create_model"
    assert found.model.class_names == tmp_path / "labels.json"
    assert (found.validation, found.calibration) == (tmp_path / "data/val", tmp_path / "data/calib")
    assert findings == [
        f"checkpoint: student.ckpt, which cannot be used: model.checkpoint: {tmp_path}/student.ckpt is empty",
        "factory: student.py:create_model",
        "class names: labels.json",
        "validation photos: data/val: 1 photo",
        "calibration photos: data/calib: 1 photo",
    ]


def test_missing_parts_are_listed_and_left_to_fill_in(tmp_path: Path) -> None:
    path, findings = write_draft(tmp_path)
    assert all(finding.endswith(": not found, fill it in") for finding in findings)
    content = read(path.read_text())
    assert (content.model.factory, content.data.calibration) == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        "lightning_logs/version_3/checkpoints/epoch=12-step=1000.ckpt",
        "checkpoints/student_resnet18_leaves_final_v2.ckpt",
        'it\'s "mine".ckpt',
        "a # b.ckpt",
        "a: b.ckpt",
        "[draft] {1}.ckpt",
        "back\\slash.ckpt",
        "पत्ता 🍃.ckpt",
        "1e5.pt",
    ],
)
def test_any_file_name_survives_being_written_as_yaml(name: str) -> None:
    found = Found(checkpoint=name, factory=f"{name}:f", class_names=name, validation=name, calibration=name)
    content = read(draft(found))
    assert {str(content.model.checkpoint), str(content.model.class_names)} == {name}
    assert (str(content.data.validation), str(content.data.calibration)) == (name, name)
    assert content.model.factory == f"{name}:f"


def test_the_examples_to_uncomment_are_valid_too() -> None:
    text = draft(NOTHING)
    lines = text.splitlines()
    examples = [line.replace("# ", "", 1) if line.strip().startswith("# ") else line for line in lines]
    # The prose of the file is commented as well; only lines with a key of the model are examples.
    keys = ("factory:", "factory_args:", "class_names:", "calibration:", "max_")
    chosen = [new if new.strip().startswith(keys) else old for old, new in zip(lines, examples, strict=True)]
    content = read("\n".join(chosen))
    assert content.model.factory == "student.py:create_model"
    assert content.model.factory_args == {"num_classes": 38}
    assert content.budget.max_memory_mb == 100


def test_a_krishi_yaml_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "krishi.yaml").write_text("mine")
    assert error_of(lambda: write_draft(tmp_path)).message == f"{tmp_path}/krishi.yaml is there already"
    assert (tmp_path / "krishi.yaml").read_text() == "mine"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="is not a folder"):
        write_draft(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
