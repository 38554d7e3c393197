"""Photos and classes as people have them: each test is one case from a bug report, or another of its kind."""

import io
import os
import shutil
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.builders import error_of
from tests.serving import png_claiming
from workbench.errors import WorkbenchError
from workbench.photos import dataset
from workbench.photos.contract import ImageError, Preprocess
from workbench.photos.dataset import Dataset
from workbench.photos.decode import decode, readable_formats
from workbench.photos.folders import survey
from workbench.system.files import is_junk

CLASSES = ("healthy", "rust", "Piñón sano")
CONTRACT = Preprocess(resize=10, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def photo(number: int = 0, form: str = "JPEG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (number * 37 % 256, 90, number * 11 % 256)).save(buffer, form, **settings)  # type: ignore[arg-type]
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """Two photos a class."""
    for number, name in enumerate(CLASSES):
        write(tmp_path / "val" / name / "a.jpg", photo(2 * number))
        write(tmp_path / "val" / name / "b.jpg", photo(2 * number + 1))
    return tmp_path / "val"


def scan(source: Path, labelled: bool = True) -> Dataset:
    return dataset.scan(source, CLASSES, field="data.validation", labelled=labelled)


def load(source: Path) -> dataset.Images:
    cache = source.parent / "cache"
    return dataset.load(scan(source), CONTRACT, cache, field="data.validation", progress=lambda *_: None)


# What is a photo


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(
            ("c.jfif", "JPEG"),
            ("C.JPG", "JPEG"),
            ("c", "JPEG"),
            ("c.jpeg.download", "JPEG"),
            ("c.jpg", "PNG"),
        ),
        *(("c.png", "WEBP"), ("c.bin", "PNG"), ("c.mpo", "JPEG"), ("IMG 0001 (1).JPEG", "JPEG")),
    ],
)
def test_what_has_a_photos_content_is_one_whatever_its_name(val: Path, name: str, form: str) -> None:
    write(val / "rust" / name, photo(9, form))
    assert len(load(val)) == 7
    assert scan(val).notes == ()


def test_what_is_passed_over_is_counted_by_kind(val: Path) -> None:
    for name in ("readme.txt", "a.json", "b.xmp"):
        write(val / "rust" / name, b"{}")
    write(val / "rust" / "clip.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")
    write(val / "rust" / ".DS_Store", b"\0\0\0\1Bud1")
    write(val / "healthy" / "._a.jpg", b"\0\5\x16\7")
    write(val / "rust" / ".cache.jpg", photo())
    write(val / "stray.jpg", photo())
    write(val / "notes" / "plan.md", b"# plan")
    (val / "rust" / "loop").symlink_to("..")
    (val / "rust" / "twice.jpg").symlink_to("a.jpg")
    os.mkfifo(val / "rust" / "pipe")
    found = scan(val)
    assert len(found) == 6
    assert found.notes == (
        "data.validation: passed over: 4 text files, 2 of macOS, 1 folder without photos, 1 hidden, 1 video, "
        "1 link loop, 1 special file, 1 reached twice by links, 1 photo in no class folder",
    )
    assert survey(val).startswith("7 photos; passed over: 4 text files, 2 of macOS")


@pytest.mark.parametrize(
    "name",
    [
        *("__MACOSX", ".DS_Store", "._x.jpg", "Thumbs.db", "desktop.ini", "@eaDir", "#recycle", "lost+found"),
        *(
            ".ipynb_checkpoints",
            ".git",
            ".Trash-1000",
            "$RECYCLE.BIN",
            "System Volume Information",
            "~$list.xlsx",
        ),
        *(".Spotlight-V100", ".fseventsd", ".AppleDouble", ".nfs000012", "x.jpg.tmp", "Icon\r", "THUMBS.DB"),
        *("photo.jpg.crdownload", "__pycache__", ".gitkeep", "@Recycle", "a.jpg:Zone.Identifier"),
    ],
)
def test_what_programs_leave_behind_is_ignored_and_said(val: Path, name: str) -> None:
    assert is_junk(name)
    write(val / name / "rust" / "1.jpg", photo(7))  # a folder beside the classes
    write(val / "rust" / name / "2.jpg", photo(8))  # and one among the photos
    found = scan(val)
    assert len(found) == 6
    assert found.notes[0].startswith("data.validation: passed over: 2 of ")


def test_names_of_photos_and_classes_are_no_junk() -> None:
    assert not any(map(is_junk, (*CLASSES, "IMG_0001.jpg", "tmp", "@home", "icon.png", "trash", "git")))


def test_a_class_may_be_called_like_junk(tmp_path: Path) -> None:
    write(tmp_path / "val" / "recycler" / "a.jpg", photo())
    found = dataset.scan(tmp_path / "val", ("recycler", "x"), field="data.validation")
    assert found.labels == (0,)


# Links


def test_links_are_followed_everywhere_alike(val: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (val / "rust").rename(tmp_path / "store" / "r")
    (val / "rust").symlink_to("../store/r")
    (val / "healthy" / "a.jpg").rename(tmp_path / "store" / "h.jpg")
    (val / "healthy" / "a.jpg").symlink_to(tmp_path / "store" / "h.jpg")
    (tmp_path / "linked").symlink_to("val")
    write(tmp_path / "lists" / "l.csv", b"path,label\n../linked/rust/a.jpg,rust\n")
    (tmp_path / "l.csv").symlink_to("lists/l.csv")
    assert scan(tmp_path / "linked").labels == (0, 0, 1, 1, 2, 2)
    assert len(scan(tmp_path / "linked", labelled=False)) == 6
    # A CSV's paths are relative to where it was found.
    assert "does not exist" in error_of(lambda: scan(tmp_path / "l.csv")).message


@pytest.mark.parametrize("place", ["rust", "rust/c.jpg", "rust/more", "gone", "rust/me"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_broken_link_is_an_error_that_names_it(val: Path, place: str, labelled: bool) -> None:
    if place == "rust":
        (val / "rust").rename(val.parent / "elsewhere")
    (val / place).symlink_to("me" if place == "rust/me" else "../nowhere")
    error = error_of(lambda: scan(val, labelled))
    assert error.message.splitlines()[0] == "data.validation: links or folders that cannot be read: 1"
    assert f"{val / place}: link to " in error.message


def test_a_root_that_is_a_broken_link_says_where_to(tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to("nowhere")
    error = error_of(lambda: scan(tmp_path / "val"))
    assert error.message == f"data.validation: {tmp_path}/val links to nowhere, which does not exist"


def test_loops_end(val: Path) -> None:
    (val / "again").symlink_to(".")
    (val / "rust" / "up").symlink_to("../../val")
    for depth in range(12):  # each of them reached by two ways from the one before
        (val.parent / f"d{depth}").mkdir()
        for name in ("x", "y"):
            (val.parent / f"d{depth}" / name).symlink_to(f"../d{depth + 1}")
    write(val.parent / "d12" / "p.jpg", photo(50))
    (val / "rust" / "many").symlink_to("../../d0")
    found = scan(val)
    assert len(found) == 7
    assert "2 link loops" in found.notes[0]


# Names of classes


@pytest.mark.parametrize(
    "written", [unicodedata.normalize("NFD", CLASSES[2]), f"{CLASSES[2]} ", f" {CLASSES[2]}"]
)
def test_folders_and_labels_are_matched_by_their_normal_form(val: Path, written: str) -> None:
    (val / CLASSES[2]).rename(val / written)
    assert scan(val).labels == (0, 0, 1, 1, 2, 2)
    manifest = write(val / "l.csv", f"path,label\n{CLASSES[2]}/a.jpg,{CLASSES[2]}\n".encode())
    if written.strip() == written:  # accents in another form than the file system's
        assert scan(manifest).labels == (2,)
    by_label = write(val / "m.csv", f'path,label\nrust/a.jpg,"{written}"\n'.encode())
    assert scan(by_label).labels == (2,)


def test_two_folders_of_one_class_are_said(val: Path) -> None:
    write(val / unicodedata.normalize("NFD", CLASSES[2]) / "c.jpg", photo(9))
    found = scan(val)
    assert found.labels.count(2) == 3
    assert "are one class, `Piñón sano`" in found.notes[0]


def test_two_class_names_that_only_look_different_are_refused(val: Path) -> None:
    names = (*CLASSES, unicodedata.normalize("NFD", CLASSES[2]))
    error = error_of(lambda: dataset.scan(val, names, field="data.validation"))
    assert error.message.startswith("data.validation: the class names 3 and 4, ")


@pytest.mark.parametrize("written", ["Rust", "RUST", "rusty"])
def test_another_case_gets_a_suggestion(val: Path, written: str) -> None:
    (val / "rust").rename(val / written)
    error = error_of(lambda: scan(val))
    assert (f"has `{written}`, which the model does not know" in error.message, error.hint) == (
        True,
        "did you mean `rust`?",
    )


def test_folders_of_classes_one_level_down_are_found(val: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(val, val.parent / "all" / part)
    error = error_of(lambda: scan(val.parent / "all"))
    assert error.hint == f"folders of classes lie in `test`, `train`: give `{val.parent}/all/test`"


def test_a_folder_of_a_class_within_another_is_said(val: Path) -> None:
    """As some programs unpack; its photos would count as the outer class without a word."""
    shutil.copytree(val / "rust", val / "healthy" / "rust")
    count = len(list((val / "rust").iterdir()))
    said = f"data.validation: {count} photos of `healthy` lie in a folder `rust`, and count as `healthy`"
    assert said in scan(val).notes


def test_an_empty_folder_of_no_class_is_passed_over_and_said(val: Path) -> None:
    (val / "new folder").mkdir()
    assert scan(val).notes == ("data.validation: passed over: 1 folder without photos",)


def test_a_class_without_a_photo_is_named(val: Path) -> None:
    for path in (val / "rust").iterdir():
        path.unlink()
    known = "nothing is known of it, and macro-F1 is over the other 2 classes"
    assert scan(val).notes == (f"data.validation: no photo of `rust`: {known}",)
    assert scan(val, labelled=False).notes == ("data.validation: no photo of `rust`",)


def test_calibration_photos_in_any_folders_say_nothing_of_classes(val: Path) -> None:
    val.rename(val.parent / "calib")
    assert scan(val.parent, labelled=False).notes == ()


# CSV

ROWS = "rust/a.jpg;rust\nhealthy/b.jpg;healthy\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\n" + ROWS.replace(";", ","), "utf-8"),
        ("path, label\n" + ROWS.replace(";", ", "), "utf-8"),
        ("path;label\n" + ROWS, "utf-8"),
        ("sep=;\npath;label\n" + ROWS, "utf-8-sig"),
        ("path\tlabel\n" + ROWS.replace(";", "\t"), "utf-8"),
        ("Path , Label\r\n" + ROWS.replace(";", ",").replace("\n", "\r\n"), "utf-8-sig"),
        ("label;path\nrust;rust/a.jpg\nhealthy;healthy/b.jpg\n", "utf-16"),
        ("path,label\n" + ROWS.replace(";", ","), "utf-16-le"),
        ("filename,class\n" + ROWS.replace(";", ","), "utf-8"),
        ("image,label\n" + ROWS.replace(";", ","), "utf-8"),
        (",file_name,class_name\n0,rust/a.jpg,rust\n1,healthy/b.jpg,healthy\n", "utf-8"),
        ("Bild,Klasse\n" + ROWS.replace(";", ","), "utf-8"),
        (ROWS.replace(";", ","), "utf-8"),
        (ROWS.replace(";", " "), "utf-8"),
        ("path,label\nrust\\a.jpg,rust\nhealthy\\b.jpg,healthy\n", "utf-8"),
        ('"path","label"\n"rust/a.jpg","rust"\n"healthy/b.jpg","healthy"\n', "utf-8"),
        ("\n\npath,label\n\n" + ROWS.replace(";", ",") + "\n,\n", "utf-8"),
        ("path,label\nrust/a.jpg,1\nhealthy/b.jpg,0\n", "utf-8"),
        ("image_path,label_id\nrust/a.jpg,1.0\nhealthy/b.jpg,0.0\n", "utf-8"),
        ("path,label,\nrust/a.jpg,rust,\nhealthy/b.jpg,healthy,\n", "utf-8"),
        ("path|label\n" + ROWS.replace(";", "|"), "utf-8"),
    ],
)
def test_the_dialects_of_csv_are_read(val: Path, text: str, encoding: str) -> None:
    found = scan(write(val / "l.csv", text.encode(encoding)))
    assert [(path.parent.name, path.name) for path in found.paths] == [
        ("healthy", "b.jpg"),
        ("rust", "a.jpg"),
    ]
    assert found.labels == (0, 1)


def test_absolute_paths_and_a_code_page_of_windows_are_read(val: Path) -> None:
    rows = f"Ruta;Clase\n{val}/{CLASSES[2]}/a.jpg;{CLASSES[2]}\n"
    found = scan(write(val.parent / "l.csv", rows.encode("cp1252")))
    assert found.labels == (2,)
    assert found.notes[0] == "data.validation: l.csv is not UTF-8: read as Windows-1252"


def test_numbers_as_labels_are_said(val: Path) -> None:
    notes = scan(write(val / "l.csv", b"path,label\nrust/a.jpg,1\n")).notes
    assert notes[0].endswith(
        "labels are numbers, read as places in the order of the class names, from 0 (`healthy`)"
    )
    assert dataset.scan(val / "l.csv", ("1", "x"), field="data.validation").labels == (0,)  # a class called 1


def test_calibration_needs_no_labels(val: Path) -> None:
    assert len(scan(write(val / "l.csv", b"path\nrust/a.jpg\n"), labelled=False)) == 1
    assert len(scan(write(val / "l.csv", b"rust/a.jpg\nrust/b.jpg\n"), labelled=False)) == 2
    assert len(scan(write(val / "l.csv", b"path,label\nrust/a.jpg,of another model\n"), labelled=False)) == 1


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (
            b"when,what\nmonday,rain\n",
            "l.csv:1 has `when`, `what`, but not a photo's path and its label",
            "columns path,label",
        ),
        (
            b"path\nrust/a.jpg\n",
            "l.csv:1 has `path`, but not a photo's path and its label",
            "columns path,label",
        ),
        (
            b"path,label\nrust/a.jpg,Rust\n",
            "l.csv:2: `Rust` is no class of the model",
            "did you mean `rust`?",
        ),
        (b"path,label\nrust/a.jpg,3\n", "l.csv:2: `3` is no class of the model", "numbers from 0"),
        (b"path,label\nrust/z.jpg,rust\n", "l.csv:2: {val}/rust/z.jpg does not exist", "relative to the CSV"),
        (b"path,label\nrust,rust\n", "l.csv:2: {val}/rust is a folder", "relative to the CSV"),
        (b"path,label\nhttps://a.org/a.jpg,rust\n", "l.csv:2: https://a.org/a.jpg is a URL", "fetch them"),
        (b"path,label\nC:\\v\\a.jpg,rust\n", "l.csv:2: C:\\v\\a.jpg is a path of Windows", "to the CSV"),
        (b"image_id,label\nrust/a,rust\n", "l.csv:2: {val}/rust/a does not exist", "did you mean `a.jpg`?"),
        (
            b"path,label\nval/rust/a.jpg,rust\n",
            "l.csv:2: {val}/val/rust/a.jpg does not exist",
            "this one is to {val.parent}: put the CSV there",
        ),
        (b"path,label\n,rust\n", "l.csv:2: this row names no photo", None),
        (
            b"path,label\na,b.jpg,rust\n",
            "l.csv:2: this row has 3 cells, the first one 2",
            "between double quotes",
        ),
        (
            b"PK\x03\x04 a workbook",
            "l.csv is not a text file: a ZIP archive (of a spreadsheet, if it is one)",
            "save it as CSV",
        ),
        (b"PAR1....", "l.csv is not a text file: a Parquet file", "save it as CSV"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "l.csv is a Git LFS pointer",
            "git lfs pull",
        ),
    ],
)
def test_another_csv_is_refused_with_what_stands_there(
    val: Path, data: bytes, message: str, hint: str | None
) -> None:
    error = error_of(lambda: scan(write(val / "l.csv", data)))
    assert message.format(val=val) in error.message
    assert hint is None or hint.format(val=val) in str(error.hint)


def test_names_of_classes_count_more_than_the_numbers_beside_them(val: Path) -> None:
    """Whatever the columns are called: the numbers may be of another program's order."""
    rows = b"image,label,disease\nrust/a.jpg,0,rust\nhealthy/b.jpg,1,healthy\n"
    found = scan(write(val / "l.csv", rows))
    assert found.labels == (0, 1)
    assert [path.name for path in found.paths] == ["b.jpg", "a.jpg"]


def test_a_column_that_tells_training_from_validation_is_said_not_to_be_read(val: Path) -> None:
    rows = b"path,label,split\nrust/a.jpg,rust,train\nhealthy/b.jpg,healthy,test\n"
    notes = scan(write(val / "l.csv", rows)).notes
    said = "data.validation: l.csv: the column `split` (1 train, 1 test) is not read: every row counts"
    assert said in notes
    assert not any("split" in note for note in scan(val / "l.csv", labelled=False).notes)


# Formats


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these chunks before its pixels and again behind them."""
    data = photo(form="PNG")
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    made = b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return data[:at] + made + data[at:end] + made + data[end:]


BIG = os.urandom(3 << 20)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"iCCP", b"profile\0\0" + zlib.compress(BIG, 0)),
        (b"zTXt", b"Raw profile type icc\0\0" + zlib.compress(BIG, 0)),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(70 << 20))),
        (b"tEXt", b"Comment\0" + bytes(70 << 20)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        (b"iCCP", b"profile\0\0" + b"no zlib"),
        (b"zTXt", b"no zero byte"),
    ],
    ids=["icc", "zTXt", "bomb", "tEXt", "xmp", "damaged icc", "damaged text"],
)
def test_a_png_with_a_large_profile_or_text_is_read(kind: bytes, body: bytes) -> None:
    assert np.array_equal(np.asarray(decode(png((kind, body)))), np.asarray(decode(photo(form="PNG"))))


def test_the_orientation_that_a_png_tells_in_a_text_still_counts() -> None:
    xmp = b'<x tiff:Orientation="6"/>'
    for body in (b"\0\0\0\0" + xmp, b"\1\0\0\0" + zlib.compress(xmp)):
        assert decode(png((b"iTXt", b"XML:com.adobe.xmp\0" + body))).size == (10, 12)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (photo(form="GIF"), "a GIF image"),
        (photo(form="TIFF"), "a TIFF or camera raw image"),
        (photo(form="BMP"), "a BMP image"),
        (photo(form="JPEG2000"), "a JPEG 2000 image"),
        (b"\xff\x0a\x10\x20", "a JPEG XL image"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera raw image"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"<!DOCTYPE html><html><head><title>404", "a web page"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer (`git lfs pull` fetches it)"),
    ],
)
def test_what_is_called_jpg_and_is_none_says_what_it_is(val: Path, data: bytes, what: str) -> None:
    write(val / "rust" / "c.jpg", data)
    error = error_of(lambda: load(val))
    assert error.message.endswith(f"rust/c.jpg: not a JPEG, PNG or WebP image but {what}")
    assert "1 of 7 photos cannot be read" in error.message
    assert error.hint is not None and ("git lfs pull" in error.hint) == ("LFS" in what)
    if what.endswith("image"):  # such a photo is not passed over under another name either
        (val / "rust" / "c.jpg").rename(val / "rust" / "c.dat")
        assert error_of(lambda: load(val)).hint == error.hint


def test_a_photo_of_too_many_pixels_is_to_be_saved_smaller(val: Path) -> None:
    write(val / "rust" / "c.png", png_claiming(20_000, 10_000))
    error = error_of(lambda: load(val))
    assert "rust/c.png: the image has 20000 x 10000 pixels, more than 50 megapixels" in error.message
    smaller = "save large ones again with at most 50 megapixels, or remove them: leaving photos out silently"
    assert error.hint is not None and error.hint.startswith(smaller)
    write(val / "rust" / "d.jpg", photo(form="BMP"))
    hint = error_of(lambda: load(val)).hint
    assert hint is not None and hint.startswith(f"convert them to JPEG, PNG or WebP, {smaller}")


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif_is_read_with_its_orientation_and_limits(val: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), (200, 30, 30)).save(buffer, "AVIF", exif=exif)
    image = decode(buffer.getvalue())
    assert image.size == (32, 64)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() < 8
    write(val / "rust" / "c.jpg", buffer.getvalue())
    assert len(load(val)) == 7
    large = io.BytesIO()
    Image.new("L", (12_100, 16)).save(large, "AVIF", speed=10)
    with pytest.raises(ImageError, match="more than 12000 pixels a side"):
        decode(large.getvalue())


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_is_read_where_pillow_heif_is_installed_and_else_named() -> None:
    if "HEIC" not in readable_formats():
        with pytest.raises(
            ImageError, match=r"but a HEIC image \(pip install 'krishi-bench\[heif\]' reads it\)"
        ):
            decode(HEIC)
        return
    pillow_heif = sys.modules["pillow_heif"]
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 32), (200, 30, 30))).save(buffer, quality=95)
    image = decode(buffer.getvalue())
    assert image.size == (64, 32)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() < 8


def test_an_empty_photo_and_a_cut_one_keep_their_reasons(val: Path) -> None:
    write(val / "rust" / "c.jpg", b"")
    write(val / "rust" / "d.jpg", photo()[:-80])
    with pytest.raises(WorkbenchError) as caught:
        load(val)
    _, first, second = caught.value.message.splitlines()
    assert first.endswith("c.jpg: the image is empty (0 bytes)")
    assert "d.jpg: the image " in second and "truncated" in second.lower()
