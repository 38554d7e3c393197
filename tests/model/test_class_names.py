"""The file of class names, as people and programs write it."""

import json
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.model.source.class_names import read_class_names

NAMES = ("healthy", "early blight", "rust")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("n.txt", "\nhealthy\r\nearly blight\r\n\r\nrust\r\n"),
        ("n.txt", "0: healthy\n1: early blight\n2: rust\n"),
        ("n.txt", "2\trust\n0\thealthy\n1\tearly blight\n"),
        ("n.csv", "index,name\n0,healthy\n1,early blight\n2,rust\n"),
        ("n.csv", "name;id\nrust;2\nhealthy;0\nearly blight;1\n"),
        ("n.csv", 'label\nhealthy\n"early blight"\nrust\n'),
        ("n.json", json.dumps(NAMES)),
        ("n.json", json.dumps({"1": "early blight", "0": "healthy", "2": "rust"})),
        ("n.json", json.dumps({"rust": 2, "healthy": 0, "early blight": 1})),
        ("config.json", json.dumps({"model_type": "vit", "id2label": dict(enumerate(NAMES))})),
        ("n.yaml", "- healthy\n- early blight\n- rust\n"),
        ("data.yaml", "nc: 3\nnames:\n  0: healthy\n  1: early blight\n  2: rust\n"),
        ("data.yaml", "nc: 3\nnames: [healthy, early blight, rust]\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_names_are_read_in_the_order_of_the_outputs(
    tmp_path: Path, file: str, text: str, encoding: str
) -> None:
    (tmp_path / file).write_text(text, encoding=encoding)
    assert read_class_names(tmp_path / file) == NAMES


@pytest.mark.parametrize(
    "names", [("stage: 0", "stage: 1"), ("leaf, young", "leaf, old"), ("0", "1"), ("# 1", "# 2")]
)
def test_names_that_look_like_tables_are_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "n.txt").write_text("\n".join(names))
    assert read_class_names(tmp_path / "n.txt") == names


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("n.json", '{"1": "healthy", "2": "rust"}', "has the numbers 1, 2; outputs are numbered from 0"),
        ("n.txt", "0: healthy\n2: rust\n", "has the numbers 0, 2; outputs are numbered from 0"),
        ("n.json", '["healthy", "rust",]', "is not valid JSON"),
        ("n.json", '{"0": ["n01", "healthy"], "1": ["n02", "rust"]}', "is not a list of names"),
        ("n.yaml", "- yes\n- no\n", "is not a list of names"),
        ("n.yaml", "a: [\n", "is not valid YAML"),
        ("n.csv", "id,name,area\n0,healthy,3\n", "has `id`, `name`, `area` in one row"),
        ("n.txt", "\n \n", "holds no names"),
    ],
)
def test_what_is_no_list_of_names_is_refused_with_what_stands_there(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(WorkbenchError) as caught:
        read_class_names(tmp_path / file)
    assert caught.value.message.startswith(f"model.class_names: {tmp_path / file} {said}")
    assert (
        caught.value.hint == "write one name per line, or a JSON list, in the order of the network's outputs"
    )
