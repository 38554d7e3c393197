"""What was sent to a device, by content: `<cache>/fleet/objects/<sha256>`. Nothing travels twice."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.system.files import fsync_path, make_folder, sha256_file, translated_os_errors

UNUSED_DAYS = 30


class ObjectStore:
    """Files by their sha256. One that arrives in pieces is `<sha256>.part` until its content is checked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Of an object that is there. Raises WorkbenchError where it is not."""
        if not (path := self._path(digest)).exists():
            raise WorkbenchError(f"the object {digest[:12]} was not sent")
        return path

    def missing(self, digests: Iterable[str]) -> dict[str, int]:
        """The digests that are not here, with the bytes of each that have come already."""
        found: dict[str, int] = {}
        for digest in digests:
            path, part = self._path(digest), self._part(digest)
            if path.exists():
                os.utime(path)
            else:
                found[digest] = part.stat().st_size if part.exists() else 0
        return found

    def add(self, digest: str, offset: int, piece: bytes, *, last: bool) -> None:
        """Write a piece at its place; the last one makes the object appear.

        Raises WorkbenchError where the disk is full, a piece is missing, or the content is another.
        """
        path, part = self._path(digest), self._part(digest)
        with translated_os_errors(path):
            make_folder(self.root)
            with part.open("r+b" if part.exists() else "w+b") as file:
                if (size := os.fstat(file.fileno()).st_size) < offset:
                    raise WorkbenchError(f"bytes {size} to {offset} of the object {digest[:12]} are missing")
                file.seek(offset)
                file.write(piece)
                file.truncate()
            if not last:
                return
            if sha256_file(part) != digest:
                part.unlink()
                raise WorkbenchError(f"the object {digest[:12]} was damaged on its way")
            fsync_path(part)
            part.replace(path)

    def adopt(self, digest: str, path: Path) -> None:
        """Take a file of this machine as an object, so that it is never sent here. digest: of its content."""
        make_folder(self.root)
        if not (target := self._path(digest)).exists():
            target.hardlink_to(path)

    def remove_unused(self) -> None:
        """Delete what no run has asked for in a month."""
        oldest = time.time() - UNUSED_DAYS * 86_400
        for path in self.root.glob("*"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise WorkbenchError(f"`{digest[:80]}` is not a sha256")
        return self.root / digest

    def _part(self, digest: str) -> Path:
        return self._path(digest).with_suffix(".part")
