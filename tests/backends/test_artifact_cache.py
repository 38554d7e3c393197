"""Build outputs between runs: found by their key, never half there, mended when damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import artifact_info
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.system.files import cache_folder

KEY = "ab" + "0" * 62
Build = Callable[[Path], Artifact]


def building(content: bytes) -> Build:
    def build(folder: Path) -> Artifact:
        (folder / "model.onnx").write_bytes(content)
        return Artifact(folder, artifact_info(content, format="onnx", file="model.onnx"))

    return build


def test_what_was_stored_is_found_and_reads_back(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    stored = cache.store(KEY, building(b"model"))
    assert cache.find(KEY) == stored
    assert stored.read() == b"model"
    assert ArtifactCache(tmp_path).find(KEY) == stored


def test_what_was_never_stored_is_not_found(tmp_path: Path) -> None:
    assert ArtifactCache(tmp_path).find(KEY) is None


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def failing(folder: Path) -> Artifact:
        (folder / "model.onnx").write_bytes(b"half")
        raise RuntimeError("the exporter gave up")

    cache = ArtifactCache(tmp_path)
    with pytest.raises(RuntimeError):
        cache.store(KEY, failing)
    assert cache.find(KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_of_two_builds_at_once_the_first_to_end_is_kept(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)

    def slower(folder: Path) -> Artifact:
        cache.store(KEY, building(b"faster"))
        return building(b"slower")(folder)

    assert cache.store(KEY, slower).read() == b"faster"


@pytest.mark.parametrize("left", [slice(3), None])
@pytest.mark.parametrize("name", ["model.onnx", "artifact.json"])
def test_a_damaged_artifact_is_not_found_and_can_be_built_again(
    tmp_path: Path, name: str, left: slice | None
) -> None:
    cache = ArtifactCache(tmp_path)
    file = cache.store(KEY, building(b"model")).folder / name
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[left])
    assert cache.find(KEY) is None
    assert cache.store(KEY, building(b"rebuilt")).read() == b"rebuilt"
    assert cache.find(KEY) is not None


def test_keys_do_not_share_an_artifact(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    other = "ab" + "1" * 62
    cache.store(KEY, building(b"one"))
    cache.store(other, building(b"two"))
    assert [cache.store(key, building(b"?")).read() for key in (KEY, other)] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"KRISHI_CACHE": "/fast/disk", "XDG_CACHE_HOME": "/xdg"}, "/fast/disk"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/krishi-bench"),
        ({"HOME": "/home/asha"}, "/home/asha/.cache/krishi-bench"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("KRISHI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
