"""YAML files and the errors about them."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from workbench.errors import WorkbenchError, closest
from workbench.system.records import Record
from workbench.workspace import yamlfile


class Circle(Record):
    use: Literal["circle"]
    radius: int = 1


class Square(Record):
    use: Literal["square"]
    side: int = 1
    color: Literal["red", "green"] = "red"


class Paper(Record):
    width: int = 10


class Drawing(Record):
    title: str
    paper: Paper = Paper()
    file: Path | None = None
    shapes: tuple[Annotated[Circle | Square, Field(discriminator="use")], ...] = ()


def read(folder: Path, text: str | bytes) -> yamlfile.Document:
    path = folder / "drawing.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return yamlfile.read(path, kind="drawing")


def refused(folder: Path, text: str | bytes) -> tuple[str, str | None]:
    """The message, without the folder, and the hint of a file that is read and checked."""
    with pytest.raises(WorkbenchError) as caught:
        document = read(folder, text)
        yamlfile.validated(Drawing, document.data, document, kind="drawing")
    return caught.value.message.replace(f"{folder}/", ""), caught.value.hint


def test_every_key_and_item_knows_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "title: leaf\n\nshapes:\n  - use: circle\n    radius: 3\n  - use: square\n")
    places = (("title",), ("shapes", 0), ("shapes", 0, "radius"), ("shapes", 1))
    assert [document.lines[place] for place in places] == [1, 4, 5, 6]


def test_a_place_that_is_not_there_is_shown_at_the_nearest_key_above(tmp_path: Path) -> None:
    document = read(tmp_path, "title: leaf\npaper:\n  width: 3\n")
    assert document.where(("paper", "height")) == f"{tmp_path}/drawing.yaml:2"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("title: a\npapr: {}\n", ":2: papr: unknown key", "did you mean `paper`?"),
        ("title: a\nzzz: 1\n", ":2: zzz: unknown key (known: title, paper, file, shapes)", None),
        ("title: a\npaper:\n  widht: 3\n", ":3: paper.widht: unknown key", "did you mean `width`?"),
        (
            "title: a\nshapes:\n  - use: circle\n  - use: square\n    colour: red\n",
            ":5: shapes[1].colour: unknown key",
            "did you mean `color`?",
        ),
        (
            "title: a\nshapes: [{use: squar}]\n",
            ":2: shapes[0].use: `squar` is not one of circle, square",
            "did you mean `square`?",
        ),
        (
            "title: a\nshapes: [{use: square, color: gren}]\n",
            ":2: shapes[0].color: `gren` is not one of red, green",
            "did you mean `green`?",
        ),
        ("title: a\nshapes: [{side: 3}]\n", ":2: shapes[0]: say which step it is: `use: ...`", None),
        ("paper: {}\n", ":1: title: this key is required", None),
        (
            "title: a\npaper: {width: wide}\n",
            ":2: paper.width: input should be a valid integer, "
            "unable to parse string as an integer (got 'wide')",
            None,
        ),
        ("title: a\nshapes: circle\n", ":2: shapes: this must be a list, `[...]` (got 'circle')", None),
        (
            "title: a\nshapes: [circle]\n",
            ":2: shapes[0]: this must be a mapping of keys (got 'circle')",
            None,
        ),
        ("title: a\nfile: [b]\n", ":2: file: this must be a path (got ['b'])", None),
        (
            "title: a\npaper:\n",
            ":2: paper: nothing stands below this key",
            "give its keys, indented, or remove the line",
        ),
        ("title: a\nwidth: 3\n", ":2: width: unknown key", "`width` belongs below `paper`"),
        (
            "title: a\npaper: {title: b}\n",
            ":2: paper.title: unknown key",
            "`title` belongs at the top of the file, not indented",
        ),
        (
            "title: a\npaper: {width: 3cm}\n",
            ":2: paper.width: `3cm` is not a number",
            "write the number alone: 3",
        ),
        (
            "title: a\npaper: {width: 0,5}\n",
            ":2: paper[5]: `5` is no key",
            "write decimals with a point, not with a comma",
        ),
    ],
)
def test_an_error_names_the_line_the_key_and_a_correction(
    tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    expected = f"drawing.yaml is not a valid drawing\n  drawing.yaml{message}"
    assert refused(tmp_path, text) == (expected, hint)


def test_a_key_of_a_section_beside_it_is_told_that_section(tmp_path: Path) -> None:
    from workbench.workspace.recipe import Recipe

    document = read(tmp_path, "name: a\nsteps: [{use: static_int8, method: entropy}]\n")
    with pytest.raises(WorkbenchError) as caught:
        yamlfile.validated(Recipe, document.data, document, kind="recipe")
    assert caught.value.hint == "`method` belongs below `calibration`"


def test_all_errors_are_listed_at_once(tmp_path: Path) -> None:
    message, hint = refused(tmp_path, "title: a\npaper: {with: 1}\nshapes:\n  - use: circle\n    radus: 3\n")
    assert message == (
        "drawing.yaml is not a valid drawing\n"
        "  drawing.yaml:2: paper.with: unknown key; did you mean `width`?\n"
        "  drawing.yaml:5: shapes[0].radus: unknown key; did you mean `radius`?"
    )
    assert hint is None


def test_an_error_of_a_tagged_model_is_reported_at_its_key_and_not_at_the_tag(tmp_path: Path) -> None:
    from workbench.workspace.recipe import Recipe

    document = read(tmp_path, "name: a\nsteps:\n  - {use: static_int8, activation: int8, weight: uint8}\n")
    with pytest.raises(
        WorkbenchError, match=r"drawing.yaml:3: steps\[0\]: activation int8 needs weight int8"
    ):
        yamlfile.validated(Recipe, document.data, document, kind="recipe")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("title: a\npaper:\n\twidth: 3\n", ":3: a tab is used for indentation", "indent with spaces"),
        ("shapes:\n  - use: a\n\t  b: x\n", ":3: a tab is used for indentation", "indent with spaces"),
        ("", " is empty", "`krishi-bench schema drawing` describes one"),
        ("# nothing yet\n", " is empty", "`krishi-bench schema drawing` describes one"),
        (
            'file: "C:\\models"\n',
            ":1: found unknown escape character",
            "put what has a backslash between single quotes; in paths write `/`",
        ),
        ("- a\n- b\n", ":1: a drawing is a mapping of keys, this is a list", None),
        ("hello\n", ":1: a drawing is a mapping of keys, this is a str", None),
        (
            "title: a\npaper:\n  width: 1\n  width: 2\n",
            ":4: paper.width: the key is given twice (first in line 3)",
            None,
        ),
        (
            "title: [a\nb: c\n",
            ":2: did not find expected ',' or ']'",
            "the line above may be where it starts",
        ),
        ("a: 1\n---\nb: 2\n", ":2: but found another document", "the line above may be where it starts"),
        (b"title: a\x00b\n", ":1: not valid YAML", "the line above may be where it starts"),
        (bytes(range(256)), " is not a text file", "a drawing is YAML in UTF-8"),
        (
            "title: a\npaper: &here\n  width: *here\n",
            " contains itself, or is nested too deeply to be a drawing",
            None,
        ),
    ],
)
def test_an_error_of_a_file_that_cannot_be_read_names_the_line(
    tmp_path: Path, text: str | bytes, message: str, hint: str | None
) -> None:
    assert refused(tmp_path, text) == (f"drawing.yaml{message}", hint)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.yaml", r"nowhere\.yaml does not exist"), ("", "cannot be read: Is a directory")],
)
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        yamlfile.read(tmp_path / name, kind="drawing")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    document = read(tmp_path, "\ufefftitle: a\r\npaper: {width: 3}\r\n")
    assert document.data == {"title": "a", "paper": {"width": 3}}


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = "shapes:\n  - &one {use: circle, radius: 3}\n  - {<<: *one, radius: 4}\ntitle: a\n"
    document = read(tmp_path, text)
    drawing = yamlfile.validated(Drawing, document.data, document, kind="drawing")
    assert drawing.shapes == (Circle(use="circle", radius=3), Circle(use="circle", radius=4))


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, "title: !!python/object/apply:os.getcwd []\n")
    assert message.startswith("drawing.yaml:1: could not determine a constructor")


def test_an_error_of_computed_data_is_reported_at_its_origin(tmp_path: Path) -> None:
    document = read(tmp_path, "title: a\n\nmatrix:\n  x: 1\n")
    with pytest.raises(WorkbenchError) as caught:
        yamlfile.validated(Drawing, {"title": 3}, document, kind="drawing", at=("matrix", "x"))
    assert "drawing.yaml:4: title: input should be a valid string (got 3)" in caught.value.message
    assert caught.value.hint == "write it in quotes, or YAML reads a number"


@pytest.mark.parametrize(
    ("place", "text"),
    [((), ""), (("a",), "a"), (("steps", 0, "calibration", "method"), "steps[0].calibration.method")],
)
def test_places_read_like_paths(place: tuple[str | int, ...], text: str) -> None:
    assert yamlfile.dotted(place) == text


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("gpu", ["cpu", "cuda"], "cuda"),
        ("gpu", ["cpu", "cup"], "cpu"),
        ("TensorrtRTX", ["cpu", "cuda", "tensorrt"], "tensorrt"),
        ("CUDAExecutionProvider", ["cpu", "cuda", "tensorrt"], "cuda"),
        ("NVIDIA", ["cpu", "cuda"], "cuda"),
        ("conv", ["Gemm", "Conv"], "Conv"),
        ("Relu_1", ["relu_1", "Relu_2"], "relu_1"),
    ],
)
def test_a_name_is_known_by_its_synonyms_and_in_any_case(word: str, known: list[str], meant: str) -> None:
    assert closest(word, known) == meant


def test_nothing_is_suggested_for_a_word_like_no_other() -> None:
    assert closest("xyz", ["calibration", "method"]) is None
