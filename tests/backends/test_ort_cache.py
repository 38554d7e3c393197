"""Engines that a provider keeps by itself: only what it wrote, unchanged, in a folder of ours, is opened."""

from pathlib import Path

import pytest

from workbench.backends.gpu import engine_store
from workbench.backends.ort.engine_cache import opening
from workbench.errors import WorkbenchError

HERE = "Test GPU, driver 1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path))
    return tmp_path


def built(*, binding: str = HERE, noted: bool = True) -> Path:
    """A first opening, in which the provider writes an engine."""
    with opening(["model"], binding, noted=noted) as kept:
        assert kept.place is not None
        assert not list(kept.place.glob("*.engine"))
        (kept.place / "a.engine").write_bytes(b"code")
    engine = kept.engine()
    assert engine is not None
    assert (engine.size_bytes, engine.bound_to) == (4, binding)
    assert engine.build_s is not None
    return kept.place


def test_an_engine_is_built_once_and_kept_where_nobody_else_can_write() -> None:
    place = built()
    assert place.stat().st_mode & 0o077 == 0
    with opening(["model"], HERE) as kept:
        assert kept.place == place
        assert (place / "a.engine").read_bytes() == b"code"
    engine = kept.engine()
    assert engine is not None
    assert engine.build_s is None


def test_an_engine_of_another_gpu_driver_or_version_is_not_found() -> None:
    assert built() != built(binding="Test GPU, driver 2")


def test_an_engine_that_changed_since_is_removed_before_it_is_opened(tmp_path: Path) -> None:
    place = built()
    (tmp_path / "elsewhere").write_bytes(b"code")
    (place / "a.engine").write_bytes(b"evil")
    (place / "b.engine").write_bytes(b"more")
    (place / "c.engine").symlink_to(tmp_path / "elsewhere")
    with opening(["model"], HERE):
        assert not list(place.glob("*.engine"))
    assert (tmp_path / "elsewhere").read_bytes() == b"code"


def test_an_opening_that_failed_leaves_nothing_to_open() -> None:
    with pytest.raises(WorkbenchError, match="no kernels"), opening(["model"], HERE) as kept:
        assert kept.place is not None
        (kept.place / "half.engine").write_bytes(b"half")
        raise WorkbenchError("no kernels")
    with opening(["model"], HERE) as kept:
        assert kept.place is not None
        assert not list(kept.place.glob("*.engine"))


def test_what_is_written_when_the_session_closes_is_guarded_by_its_folder_alone() -> None:
    place = built(noted=False)
    (place / "late.cache").write_bytes(b"later")
    with opening(["model"], HERE, noted=False):
        assert (place / "late.cache").exists()
    place.chmod(0o777)
    with pytest.raises(WorkbenchError, match="open to other users"), opening(["model"], HERE, noted=False):
        pass


def test_where_nothing_can_be_written_engines_are_built_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "file" / "below"))
    with opening(["model"], HERE) as kept:
        assert kept.place is None
    assert kept.engine() is None


def test_a_session_serves_where_its_engine_cannot_be_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise WorkbenchError(f"{path}: no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(engine_store, "write_private", full)
        place = built()
    assert "no space left on device: the engine is not kept" in capsys.readouterr().err
    with opening(["model"], HERE):
        assert not list(place.glob("*.engine"))  # nobody vouches for it
