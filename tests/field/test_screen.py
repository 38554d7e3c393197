"""What stands on the screen: numbers of things, reasons that are whole, no question without need."""

import ast
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.builders import draft, error_of, per_class, small_classifier, trial
from workbench.errors import first_line, plural
from workbench.model.source.model_source import ModelSource
from workbench.registry.model_card import model_card
from workbench.registry.store import Registry
from workbench.report.words import millions
from workbench.run.export_checkpoint import _photos
from workbench.workspace import workspace
from workbench.workspace.draft import look, write_draft

ROOT = Path(__file__).parents[2]
COUNTED = re.compile(
    r" (?:[a-z-]+ )?(photos|versions|classes|images|files|variants|layers|nodes|rounds|cores|threads|folders|"
    r"processors|bytes|requests|names|copies|labels|outputs|inputs|lines|rows|sessions|workers|calls|columns|"
    r"cells)\b(?!/)"
)
# Always two or more, no count at all, or for nobody to read.
NEVER_ONE = {
    *("len(self.class_images)", "len(classes.names)", "len(draft.class_names)", "len(run_ids)"),
    *(
        "size",
        "FEW",
        "use",
        "MAX_ROWS",
        "MAX_BATCH",
        "MAX_HEAD_BYTES",
        "MAX_PART_HEADER",
        "self.intra_threads",
        "len(dataset)",
        "threads",
    ),
    *(
        "got.shape",
        "path",
        "PROCESSOR",
        "step.use",
        "status.st_size",
        "target",
        "precision",
        "share",
        "len(logits)",
        "len(photos)",
    ),
}


@pytest.mark.parametrize("package", ["workbench", "serve"])
def test_one_of_a_thing_is_not_called_several(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in pairwise(parts):
                if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                    continue
                decimals = value.format_spec is not None and "." in ast.unparse(value.format_spec)
                if COUNTED.match(str(after.value)) and not decimals:
                    found.append((f"{path.relative_to(ROOT)}:{value.lineno}", ast.unparse(value.value)))
    assert [place for place, counted in found if counted not in NEVER_ONE] == []


def test_plurals() -> None:
    said = [
        plural(1, "photo"),
        plural(0, "photo"),
        plural(2, "class"),
        plural(1200, "version"),
        plural(2, "copy"),
    ]
    assert said == ["1 photo", "0 photos", "2 classes", "1,200 versions", "2 copies"]


def test_small_networks_are_counted_in_ones() -> None:
    assert millions(9216, "MAC", 0) == "9,216 MACs"
    assert millions(1, "parameter", 2) == "1 parameter"
    assert millions(360_000, "MAC", 2) == "0.36 million MACs"
    assert millions(56_000_000, "MAC", 0) == "56 million MACs"


def test_a_reason_is_not_cut_off_at_its_announcement() -> None:
    assert first_line(ValueError("Dropout-17 with a message:\n\n  no such rate\nat frontend.cpp")) == (
        "Dropout-17 with a message: no such rate"
    )
    assert first_line(ValueError("whole\nmore")) == "whole"
    assert first_line(ValueError("ends here:")) == "ends here:"
    assert first_line(ValueError()) == "ValueError"


def test_a_registry_that_is_not_there_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(lambda: Registry(Path("registry")).model_name(None))
    assert error.message == f"the registry {tmp_path}/registry does not exist"


def test_init_asks_for_no_factory_where_the_file_is_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    small_classifier(tmp_path, 8, 3, 2)
    (tmp_path / "train.py").write_text("def create_model():\n    ...\n")
    assert look(tmp_path).factory is None
    assert "factory: not needed" in write_draft(tmp_path)[1]


def test_a_class_without_photos_is_unknown_and_not_perfect() -> None:
    counts = per_class([10, 0, 5], [1, 0, 0], [0, 0, 0])
    assert (counts.absent_classes, counts.macro_scope()) == ((1,), " over 2 of 3 classes")
    assert per_class([1, 2], [0, 0], [0, 0]).macro_scope() == ""
    card = model_card(draft(measured=trial("fp32", backend="null", accuracy=counts)), noise_floor=None)
    assert "| macro F1 over 2 of 3 classes | 0.900 |" in card
    assert "**No validation photo showed `scab`: whether it tells them is unknown.**" in card


def test_export_says_why_it_took_no_photos(tmp_path: Path) -> None:
    sample, shape = workspace.sample(tmp_path), (1, 3, 8, 8)
    nowhere = replace(sample, validation=tmp_path / "nowhere")
    assert _photos(nowhere, sample.model, shape) == (None, "there is no workspace with photos")
    here = replace(sample, validation=tmp_path, file=tmp_path / "krishi.yaml")
    other = ModelSource(checkpoint=tmp_path / "other.onnx")
    assert _photos(here, other, shape) == (None, f"the model of {tmp_path}/krishi.yaml is another one")
