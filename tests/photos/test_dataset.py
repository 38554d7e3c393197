"""Labelled photos on disk: their order, and the errors about other files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.errors import WorkbenchError
from workbench.photos import dataset
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Dataset, Images
from workbench.photos.preprocess import preprocess

Encode = Callable[..., bytes]

CLASSES = ("scab", "rust", "healthy")  # not in the order of the folder names, on purpose
CONTRACT = Preprocess(resize=10, crop=8, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))


@pytest.fixture
def photo(encoded: Encode) -> Callable[[Path, int], Path]:
    """Write a photo of one colour that its number decides."""

    def write(path: Path, number: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (number * 37 % 256, number * 91 % 256, number * 13 % 256)
        form = {".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
        path.write_bytes(encoded(Image.new("RGB", (12, 10), color), form))
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[[Path, int], Path]) -> Path:
    root = tmp_path / "val"
    names = ("scab/2.jpg", "rust/a.JPEG", "healthy/x.webp", "scab/1.png", "healthy/deeper/y.jpg")
    for number, name in enumerate(names):
        photo(root / name, number)
    return root


def scan(source: Path) -> Dataset:
    return dataset.scan(source, CLASSES, field="data.validation")


def refused(source: Path) -> tuple[str, str | None]:
    with pytest.raises(WorkbenchError) as caught:
        scan(source)
    return caught.value.message.replace(f"{source.parent}/", ""), caught.value.hint


def load(
    found: Dataset,
    cache: Path,
    contract: Preprocess = CONTRACT,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Images:
    return dataset.load(found, contract, cache, field="data.validation", progress=progress)


def test_labels_follow_the_class_names_and_not_the_folders(folder: Path) -> None:
    found = scan(folder)
    names = ("scab/1.png", "scab/2.jpg", "rust/a.JPEG", "healthy/deeper/y.jpg", "healthy/x.webp")
    assert found.paths == tuple(folder / name for name in names)
    assert found.labels == (0, 0, 1, 2, 2)


def test_the_order_does_not_depend_on_the_file_system(folder: Path, tmp_path: Path) -> None:
    # Written in the opposite order, which is the order many file systems list them in.
    copy = tmp_path / "copy"
    for path in sorted(folder.rglob("*.*"), reverse=True):
        (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(folder))
    first, second = scan(folder), scan(copy)
    assert [p.relative_to(folder) for p in first.paths] == [p.relative_to(copy) for p in second.paths]
    assert (first.labels, first.digest) == (second.labels, second.digest)


def test_a_csv_names_photos_relative_to_itself(folder: Path) -> None:
    manifest = folder / "list.csv"
    manifest.write_text("label,path,note\nrust,rust/a.JPEG,blurred\nscab,scab/1.png,\n")
    found = scan(manifest)
    assert (found.paths, found.labels) == ((folder / "scab/1.png", folder / "rust/a.JPEG"), (0, 1))


def test_a_csv_saved_by_a_spreadsheet_is_read(folder: Path) -> None:
    manifest = folder / "list.csv"
    manifest.write_bytes("\ufeffpath,label\r\nscab/1.png,scab\r\n".encode())
    assert len(scan(manifest)) == 1


def test_the_digest_is_of_the_bytes_and_labels(folder: Path, photo: Callable[[Path, int], Path]) -> None:
    before = scan(folder).digest
    shutil.move(folder / "scab/1.png", folder / "rust/1.png")
    relabelled = scan(folder).digest
    photo(folder / "rust/1.png", 99)
    assert len({before, relabelled, scan(folder).digest}) == 3


def test_an_unknown_class_is_named_with_those_that_are_known(
    folder: Path, photo: Callable[[Path, int], Path]
) -> None:
    photo(folder / "mildew" / "1.jpg", 1)
    assert refused(folder) == (
        "data.validation: val has `mildew`, which the model does not know",
        "name each folder like one of the 3 classes: `scab`, `rust`, `healthy`",
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "path,label\nscab/1.png,mildew\n",
            "data.validation: list.csv:2: `mildew` is no class of the model",
            "labels are class names, or their numbers from 0: `scab`, `rust`, `healthy`",
        ),
        (
            "path,label\nscab/1.png,scab\ngone.png,scab\n",
            "data.validation: list.csv:3: gone.png does not exist",
            "paths are relative to the CSV",
        ),
        (
            "what,else\na,b\n",
            "data.validation: list.csv:1 has `what`, `else`, but not a photo's path and its label",
            None,
        ),
        ("", "data.validation: list.csv is empty", None),
        (
            "path,label\n",
            "data.validation: list.csv holds no photos",
            "write a row for each photo: its path and its class",
        ),
        (
            "path,label\nscab/1.png\n",
            "data.validation: list.csv:2: this row has no label",
            "write the photo's class, or remove the row",
        ),
        (
            "path,label\n,scab\n",
            "data.validation: list.csv:2: this row names no photo",
            "write the photo's path, or remove the row",
        ),
        (
            "image,scab,rust,healthy\nscab/1.png,1,0,0\nrust/a.JPEG,0,1,0\n",
            "data.validation: list.csv:1 has `image`, `scab`, `rust`, `healthy`, but not "
            "a photo's path and its label",
            None,
        ),
        (
            "foto,wahr,vorhergesagt\nscab/1.png,scab,scab\nrust/a.JPEG,rust,scab\n",
            "data.validation: list.csv:1 has `foto`, `wahr`, `vorhergesagt`, but not "
            "a photo's path and its label",
            None,
        ),
        (
            "scab/1.png,1,0,0\nrust/a.JPEG,0,1,0\n",
            "data.validation: list.csv:1 has `scab/1.png`, `1`, `0`, `0`, but not "
            "a photo's path and its label",
            None,
        ),
    ],
)
def test_an_error_of_a_csv_names_the_line(folder: Path, text: str, message: str, hint: str | None) -> None:
    (folder / "list.csv").write_text(text)
    got = refused(folder / "list.csv")
    assert got[0] == message
    assert hint is None or got[1] == hint


def test_of_columns_in_other_words_the_one_with_a_label_in_every_row_is_read(folder: Path) -> None:
    manifest = folder / "list.csv"
    manifest.write_text("nr,foto,klasse\n1,scab/1.png,0\n2,scab/2.jpg,0\n3,rust/a.JPEG,1\n")
    assert scan(manifest).labels == (0, 0, 1)


def test_a_photo_given_instead_of_a_csv_is_no_text_file(folder: Path) -> None:
    assert refused(folder / "scab/2.jpg")[0] == "data.validation: 2.jpg is not a text file: a JPEG"


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone")[0] == "data.validation: gone does not exist"


@pytest.mark.parametrize(
    ("inside", "note"),
    [
        ("", ""),
        ("scab/", ""),
        ("scab/notes.txt", " (passed over: 1 empty file)"),
        ("scab/.hidden.jpg", " (passed over: 1 hidden)"),
        ("scab/.thumbs/1.jpg", " (passed over: 1 hidden)"),
        (".git/1.jpg", " (passed over: 1 of git)"),
        ("1.jpg", " (passed over: 1 photo in no class folder)"),
    ],
)
def test_a_folder_without_photos_of_classes_is_refused(tmp_path: Path, inside: str, note: str) -> None:
    root = tmp_path / "val"
    folder, _, name = inside.rpartition("/")
    (root / folder).mkdir(parents=True)
    if name:
        (root / folder / name).touch()
    assert refused(root)[0] == f"data.validation: val holds no photos{note}"


def test_every_photo_that_cannot_be_read_is_listed(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "scab/2.jpg").read_bytes()
    (folder / "scab/2.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "rust/a.JPEG").write_text("I am a text file")
    (folder / "healthy/x.webp").write_bytes(b"")
    with pytest.raises(WorkbenchError) as caught:
        load(scan(folder), tmp_path / "cache")
    first, *listed = caught.value.message.splitlines()
    assert first == "data.validation: 3 of 5 photos cannot be read"
    assert [line.strip().removeprefix(f"{folder}/").partition(": ")[0] for line in listed] == [
        "scab/2.jpg",
        "rust/a.JPEG",
        "healthy/x.webp",
    ]
    assert "leaving photos out silently would change the accuracy" in (caught.value.hint or "")


def test_after_five_bad_photos_the_others_are_counted(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "val" / "rust").mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / "rust" / f"{number}.jpg").write_text("no photo")
    with pytest.raises(WorkbenchError) as caught:
        load(scan(tmp_path / "val"), tmp_path / "cache")
    assert len(caught.value.message.splitlines()) == 1 + 5 + 1
    assert caught.value.message.endswith("and 3 more")


def test_a_failed_load_leaves_nothing_that_the_next_one_would_take(folder: Path, tmp_path: Path) -> None:
    good = (folder / "rust/a.JPEG").read_bytes()
    (folder / "rust/a.JPEG").write_bytes(b"bad")
    with pytest.raises(WorkbenchError):
        load(scan(folder), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    (folder / "rust/a.JPEG").write_bytes(good)
    assert len(load(scan(folder), tmp_path / "cache")) == 5


def test_the_pixels_are_those_the_server_would_see(folder: Path, tmp_path: Path) -> None:
    found = scan(folder)
    images = load(found, tmp_path / "cache")
    expected = np.concatenate([preprocess(path.read_bytes(), CONTRACT) for path in found.paths])
    assert np.array_equal(np.concatenate(list(images.batches(2))), expected)
    assert images.labels == found.labels
    assert images.pixels().shape == (5, 8, 8, 3)


def test_a_second_load_decodes_nothing(folder: Path, tmp_path: Path) -> None:
    decoded: list[tuple[int, int]] = []
    one, two = (
        load(scan(folder), tmp_path / "cache", progress=lambda *call: decoded.append(call)) for _ in range(2)
    )
    assert one == two
    assert decoded == [(n, 5) for n in range(1, 6)]


def test_another_contract_or_another_photo_is_decoded_again(
    folder: Path, tmp_path: Path, photo: Callable[[Path, int], Path]
) -> None:
    first = load(scan(folder), tmp_path)
    smaller = CONTRACT.model_copy(update={"crop": 6})
    second = load(scan(folder), tmp_path, smaller)
    photo(folder / "scab/1.png", 50)
    third = load(scan(folder), tmp_path)
    assert len({first.path, second.path, third.path}) == 3
    assert second.pixels().shape == (5, 6, 6, 3)


def test_the_cached_pixels_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    assert not load(scan(folder), tmp_path / "cache").pixels().flags.writeable


def test_rows_and_batches_agree(folder: Path, tmp_path: Path) -> None:
    images = load(scan(folder), tmp_path / "cache")
    rows = list(images.rows(range(1, 4)))
    assert [row.shape for row in rows] == [(1, 3, 8, 8)] * 3
    assert np.array_equal(np.concatenate(rows), np.concatenate(list(images.batches(5)))[1:4])
    assert [len(batch) for batch in images.batches(2)] == [2, 2, 1]


def test_a_few_photos_are_taken_from_all_over_the_set(folder: Path, tmp_path: Path) -> None:
    images = load(scan(folder), tmp_path / "cache")
    everything = np.concatenate(list(images.batches(5)))
    spread = np.concatenate(list(images.spread(3, 2)))
    assert np.array_equal(spread, everything[[0, 1, 3]])
    assert np.array_equal(np.concatenate(list(images.spread(5, 5))), everything)


def test_a_full_disk_is_a_sentence_and_not_a_crash(folder: Path, small_disk: Path) -> None:
    large = CONTRACT.model_copy(update={"resize": 200, "crop": 200})
    with pytest.raises(WorkbenchError, match="No space left on device"):
        load(scan(folder), small_disk, large)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError, match="Not a directory"):
        load(scan(folder), tmp_path / "file")


def test_copies_are_warned_of_by_name(folder: Path) -> None:
    assert dataset.copies(scan(folder)) is None
    photo = next(folder.rglob("*.jpg"))
    (photo.parent / "copy.jpg").write_bytes(photo.read_bytes())
    assert "1 of 6 validation photos are copies of others" in str(dataset.copies(scan(folder)))
