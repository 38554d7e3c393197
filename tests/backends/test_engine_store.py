"""Where engines are kept: opened from a folder of this user's alone, whole, and made for this machine."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.backends.gpu import engine_store
from workbench.errors import WorkbenchError
from workbench.system import nvidia

HERE, DATA = "NVIDIA Test GPU, driver 580, TensorRT 11.4", b"an engine"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(*parts: str) -> Path:
    """A folder with an engine in it."""
    place = engine_store.folder(parts or ("network",))
    engine_store.keep(place, DATA, binding=HERE, build_s=12.5)
    return place


def test_an_engine_comes_back_as_it_was_kept(cache: Path) -> None:
    place = kept()
    assert engine_store.fitting(place, HERE) == DATA
    record = json.loads((place / engine_store.RECORD).read_text())
    assert (record["build_s"], record["bound_to"]) == (12.5, HERE)


def test_nothing_is_found_where_nothing_was_kept_or_for_another_machine(cache: Path) -> None:
    assert engine_store.fitting(engine_store.folder(("empty",)), HERE) is None
    assert engine_store.fitting(kept(), HERE.replace("580", "590")) is None


def test_folders_are_private_and_named_by_what_decides_the_engine(cache: Path) -> None:
    one, same, other = (engine_store.folder(("tensorrt", key, HERE)) for key in ("a", "a", "b"))
    assert one == same != other
    assert stat.S_IMODE(one.stat().st_mode) == stat.S_IMODE(cache.joinpath("engines").stat().st_mode) == 0o700


def longer(place: Path) -> None:
    engine = place / engine_store.ENGINE
    engine.write_bytes(engine.read_bytes() + b"more")


def both_changed(place: Path) -> None:
    (place / engine_store.ENGINE).write_bytes(b"another engine")
    record = json.loads((place / engine_store.RECORD).read_text())
    (place / engine_store.RECORD).write_text(json.dumps({**record, "sha256": "0" * 64}))


def no_record(place: Path) -> None:
    (place / engine_store.RECORD).unlink()


def open_to_others(place: Path) -> None:
    (place / engine_store.ENGINE).chmod(0o644)


def linked(place: Path) -> None:
    (place / engine_store.ENGINE).rename(place / "elsewhere")
    (place / engine_store.ENGINE).symlink_to(place / "elsewhere")


def of_another_user(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user takes root")
    os.chown(place / engine_store.ENGINE, 65534, 65534)


@pytest.mark.parametrize("touch", [longer, both_changed, no_record, open_to_others, linked, of_another_user])
def test_an_engine_that_was_touched_is_not_opened(cache: Path, touch: Callable[[Path], None]) -> None:
    place = kept()
    touch(place)
    assert engine_store.fitting(place, HERE) is None
    engine_store.keep(place, DATA, binding=HERE, build_s=1.0)
    assert engine_store.fitting(place, HERE) is not None


@pytest.mark.parametrize("which", ["root", "folder"])
def test_a_folder_that_is_a_link_or_open_to_others_is_refused(
    cache: Path, tmp_path: Path, which: str
) -> None:
    folder = kept() if which == "folder" else kept().parent
    folder.chmod(0o755)
    with pytest.raises(WorkbenchError, match="is open to other users"):
        kept()
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkbenchError, match="is a link: engines are opened from a real folder"):
        kept()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(WorkbenchError, match="is not a folder"):
        kept()


def test_engines_are_not_kept_in_a_folder_that_another_user_can_exchange(cache: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user takes root")
    kept()
    os.chown(cache, 65534, 65534)
    with pytest.raises(WorkbenchError, match=r"cache belongs to another user \(id 65534\)") as caught:
        kept()
    assert "KRISHI_CACHE" in (caught.value.hint or "")


def test_where_nothing_can_be_kept_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRISHI_CACHE", "/proc/nowhere")
    with pytest.raises(engine_store.Unwritable, match="engines cannot be kept in"):
        engine_store.folder(("network",))


def test_a_full_disk_leaves_no_engine_that_is_half_there(
    monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(small_disk))
    place = kept()
    with pytest.raises(WorkbenchError, match="No space left on device"):
        engine_store.keep(place, b"x" * 100_000, binding=HERE, build_s=1.0)
    assert engine_store.fitting(place, HERE) is None
    assert not list(small_disk.glob("engines/*/.*"))


def test_of_two_that_start_at_once_one_builds(cache: Path) -> None:
    place, built = engine_store.folder(("network",)), []

    def start() -> None:
        with engine_store.alone(place):
            if engine_store.fitting(place, HERE) is None:
                built.append(threading.current_thread())
                engine_store.keep(place, DATA, binding=HERE, build_s=1.0)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_an_engine_not_opened_for_long_goes_when_another_comes(cache: Path) -> None:
    old, timing = kept("old"), engine_store.timing_folder(HERE)
    long_ago = time.time() - engine_store.FORGET_S - 60
    os.utime(old, (long_ago, long_ago))
    os.utime(timing.parent, (long_ago, long_ago))
    engine_store.folder(("old",))  # opened: it is in use
    kept("other")
    assert old.is_dir()
    os.utime(old, (long_ago, long_ago))
    kept("third")
    assert not old.exists()
    assert timing.is_dir()


def test_without_a_gpu_there_is_nothing_to_bind_an_engine_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.NO_GPU)
    with pytest.raises(WorkbenchError, match="shows no GPU"):
        engine_store.bound_to("TensorRT 11.4")
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("NVIDIA Test GPU", "9.0", "13.0"))
    bound = engine_store.bound_to("TensorRT 11.4")
    assert bound.startswith("NVIDIA Test GPU (compute capability 9.0), driver ")
    assert bound.endswith("for CUDA 13.0, TensorRT 11.4")
