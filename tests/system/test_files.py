"""Files and folders appear whole or not at all."""

import errno
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.system.files import (
    digest_of,
    file_name,
    make_folder,
    new_folder,
    sha256_bytes,
    sha256_file,
    translated_os_errors,
    write_arrays,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_above_it_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    for content in (b"old", b"new"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["file.txt"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "file.bin"
    write_atomic(path, b"old")
    with pytest.raises(WorkbenchError) as caught:
        write_atomic(path, bytes(200_000))
    assert caught.value.message == f"cannot write {path}: No space left on device"
    assert (caught.value.hint or "").startswith("free some space")
    assert path.read_bytes() == b"old"
    assert names(small_disk) == ["file.bin"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(WorkbenchError):
        write_atomic(tmp_path / "taken", b"content")
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("below", ["file.txt", "deeper/file.txt"])
def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "blocked").touch()
    with pytest.raises(WorkbenchError) as caught:
        write_atomic(tmp_path / "blocked" / below, b"content")
    assert caught.value.message.endswith(": Not a directory")
    assert caught.value.hint == "a file is where a folder should be: move it away, or choose another folder"


def test_a_device_or_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    """`--output /dev/null`, as root, would put a file in its place."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (pipe, tmp_path, Path("/dev/krishi-bench-test")):
        with pytest.raises(WorkbenchError) as caught:
            write_atomic(path, b"content")
        why = "it is no file" if path.exists() else "the folder is the system's"
        assert caught.value.message == f"cannot write {path}: {why}"
    assert pipe.is_fifo()
    assert not Path("/dev/krishi-bench-test").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_place_where_no_folder_can_be_is_a_sentence() -> None:
    with pytest.raises(WorkbenchError) as caught:
        make_folder(Path("/proc/krishi-bench/results"))
    assert caught.value.message == "cannot write /proc/krishi-bench/results: no folder can be made there"


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with new_folder(final) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("x")
        assert not final.exists()
    assert (final / "inner" / "file").read_text() == "x"
    assert names(final.parent) == ["final"]


def test_a_folder_vanishes_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "final") as temporary:
        (temporary / "file").write_text("x")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("filled", [True, False])
def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path, filled: bool) -> None:
    final = tmp_path / "final"
    final.mkdir()
    if filled:
        (final / "old").write_text("old")
    with pytest.raises(FileExistsError), new_folder(final) as temporary:
        (temporary / "new").write_text("new")
    assert names(tmp_path) == ["final"]
    assert names(final) == (["old"] if filled else [])


def test_the_slower_of_two_at_once_gets_an_error_and_the_faster_ones_folder_stays(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with pytest.raises(FileExistsError), new_folder(final) as slower:
        (slower / "who").write_text("slower")
        with new_folder(final) as faster:
            (faster / "who").write_text("faster")
    assert (final / "who").read_text() == "faster"


def test_a_folder_can_be_filled_elsewhere(tmp_path: Path) -> None:
    with new_folder(tmp_path / "final", scratch=tmp_path / "scratch") as temporary:
        assert temporary.parent == tmp_path / "scratch"
    assert names(tmp_path) == ["final", "scratch"]
    assert names(tmp_path / "scratch") == []


def test_a_disk_that_fills_up_inside_a_folder_is_a_sentence_and_leaves_nothing(small_disk: Path) -> None:
    with (
        pytest.raises(WorkbenchError, match="No space left on device"),
        new_folder(small_disk / "final") as temporary,
    ):
        (temporary / "file").write_bytes(bytes(200_000))
    assert names(small_disk) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_the_user_can_mend_is_told_with_the_path_and_a_remedy(tmp_path: Path, code: int) -> None:
    with pytest.raises(WorkbenchError) as caught, translated_os_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert caught.value.message == f"cannot write {tmp_path}: {os.strerror(code)}"
    assert caught.value.hint


def test_any_other_os_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), translated_os_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "arrays.npz"
    write_arrays(path, logits=np.eye(3, dtype=np.float32), indices=np.array([2, 1]))
    with np.load(path) as back:
        assert back["logits"].dtype == np.float32
        assert back["indices"].tolist() == [2, 1]


def test_a_file_and_its_bytes_have_one_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == sha256_bytes(b"abc") == known


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})


@pytest.mark.parametrize(
    ("variant", "file"),
    [
        ("int8-static[method=entropy]", "int8-static_method=entropy"),
        ("fp32[torchscript,opset=13]", "fp32_torchscript_opset=13"),
        ("a[exclude_nodes=/head/*]", "a_exclude_nodes=_head"),
    ],
)
def test_a_variants_file_name_has_no_brackets_commas_or_slashes(variant: str, file: str) -> None:
    assert file_name(variant) == file


@given(st.text(min_size=1, max_size=400))
def test_any_name_makes_a_file_name_that_a_file_system_takes(name: str) -> None:
    assert len(file_name(name).encode()) <= 200
    assert not set(file_name(name)) & set("/[],: \0")


def test_long_names_that_differ_at_their_ends_get_files_of_their_own() -> None:
    assert file_name("x" * 300 + "a") != file_name("x" * 300 + "b")
