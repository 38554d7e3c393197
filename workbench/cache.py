"""Where build outputs, decoded pixels and the sample live between runs, named by content."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from workbench.artifact import Artifact, load_artifact
from workbench.errors import WorkbenchError
from workbench.files import new_folder


def cache_folder() -> Path:
    """`$KRISHI_CACHE`, else krishi-bench's folder in the user's cache. May not exist yet."""
    if chosen := os.environ.get("KRISHI_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krishi-bench"


class ArtifactCache:
    """Artifacts by the digest of everything that decides their bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Artifact | None:
        """The artifact built for `key`, or None where there is none, or one that was damaged since."""
        folder = self._folder(key)
        try:
            artifact = load_artifact(folder)
            artifact.read()
            artifact.read_companions()
        except WorkbenchError:
            return None
        return artifact

    def store(self, key: str, build: Callable[[Path], Artifact]) -> Artifact:
        """Let `build` fill a temporary folder and keep it under `key`.

        Where another process was faster, its artifact is kept and returned.
        """
        folder = self._folder(key)
        if folder.exists() and self.find(key) is None:
            shutil.rmtree(folder)  # Damaged: a folder that is there is never replaced.
        try:
            with new_folder(folder) as temporary:
                build(temporary).save_info()
        except FileExistsError:
            pass  # Two runs at once in one workspace: both built the same thing.
        return load_artifact(folder)

    def _folder(self, key: str) -> Path:
        return self.root / "artifacts" / key[:2] / key
