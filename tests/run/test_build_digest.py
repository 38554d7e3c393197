"""An artifact made by other code is never taken from the cache."""

from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.run import build


def tree(root: Path) -> Path:
    (root / "steps" / "int8").mkdir(parents=True)
    (root / "steps" / "fold.py").write_text("A = 1\n")
    (root / "steps" / "int8" / "static.py").write_text("B = 1\n")
    (root / "build.py").write_text("C = 1\n")
    return root


@pytest.mark.parametrize("file", ["steps/fold.py", "steps/int8/static.py", "build.py", "steps/int8/new.py"])
def test_a_change_at_any_depth_and_a_new_file_change_the_digest(tmp_path: Path, file: str) -> None:
    root = tree(tmp_path)
    before = build.digest_of_code(root, ("steps", "build"))
    (root / file).write_text("CHANGED = 2\n")
    assert build.digest_of_code(root, ("steps", "build")) != before


def test_a_moved_package_is_an_error_and_not_an_empty_digest(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="neither a module nor a package"):
        build.digest_of_code(tree(tmp_path), ("steps", "gone"))


def test_everything_named_is_there() -> None:
    assert len(build.code_digest()) == 64
