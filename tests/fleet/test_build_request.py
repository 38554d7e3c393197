"""What a builder is sent of the trained network, and what it makes of it."""

from pathlib import Path

import pytest

from tests.builders import error_of
from workbench.fleet.build_request import place_source, source_files
from workbench.fleet.lease import DeviceLock
from workbench.fleet.objects import ObjectStore
from workbench.fleet.worker import DeviceWorker
from workbench.model.source.model_source import ModelSource
from workbench.system.files import sha256_file


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A state dict, and a factory that imports what is beside it and one folder below."""
    code = tmp_path / "my code"
    (code / "parts").mkdir(parents=True)
    (code / "student.py").write_text("from parts import gate\n")
    (code / "parts" / "gate.py").write_text("")
    (code / "notes.txt").write_text("no code")
    (tmp_path / "leaf.ckpt").write_bytes(b"weights")
    names = tmp_path / "names.json"
    return ModelSource(
        checkpoint=tmp_path / "leaf.ckpt", factory=f"{code}/student.py:create", class_names=names
    )


def test_the_source_is_put_together_on_the_builder_as_it_was(tmp_path: Path, source: ModelSource) -> None:
    given = source_files(source)
    assert given is not None
    relative, files = given
    assert set(files) == {"checkpoint/leaf.ckpt", "code/student.py", "code/parts/gate.py"}
    objects = ObjectStore(tmp_path / "objects")
    for path in files.values():
        objects.adopt(sha256_file(path), path)
    contents = {name: sha256_file(path) for name, path in files.items()}
    for _ in range(2):  # the second time it is there
        placed = place_source(relative, contents, tmp_path / "cache", objects)
    assert placed.checkpoint is not None and placed.checkpoint.read_bytes() == b"weights"
    file, _, function = str(placed.factory).rpartition(":")
    assert (Path(file).parent / "parts" / "gate.py").exists() and function == "create"
    assert placed.class_names is None
    outside = {"../../evil.py": contents["code/student.py"]}
    message = error_of(lambda: place_source(relative, outside, tmp_path / "cache", objects)).message
    assert message == "../../evil.py is no file of a source"


@pytest.mark.parametrize(
    ("factory", "sent"), [("timm:resnet18", True), ("package.module:create", False), (None, True)]
)
def test_code_that_is_installed_here_is_not_looked_for_elsewhere(
    source: ModelSource, factory: str | None, sent: bool
) -> None:
    given = source_files(source.model_copy(update={"factory": factory}))
    assert (given is not None) is sent


def test_a_worker_that_was_not_started_to_build_builds_nothing(tmp_path: Path) -> None:
    worker = DeviceWorker(tmp_path / "cache", DeviceLock(tmp_path), lambda _: None)
    worker.answer({"op": "lease", "driver": "d", "run": "r"}, b"")
    try:
        message = error_of(lambda: worker.answer({"op": "build", "request": {}}, b"")).message
    finally:
        worker.close()
    assert message == "the worker was started without `--builds`, and builds nothing for others"
