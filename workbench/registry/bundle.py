"""A bundle: the folder of one published version, with its model file, manifest.json, golden.npz and
MODEL_CARD.md."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from workbench.backends import Infer
from workbench.backends.artifact import Artifact, ArtifactInfo, Companion
from workbench.errors import WorkbenchError
from workbench.registry.explanation import ClassMaps
from workbench.registry.logits import Logits, Pixels, compare_logits, logits_of
from workbench.registry.manifest import MANIFEST_NAME, Draft, FileEntry, Manifest, parse_manifest
from workbench.system.files import (
    is_junk,
    load_arrays,
    open_plain,
    read_plain,
    sha256_bytes,
    sha256_file,
    unreadable,
)
from workbench.system.records import invalid, to_json

REMEDY = (
    "bring it back from a copy; without one, `krishi-bench rollback` leaves this version and `promote` "
    "publishes the model again"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of a file or folder of a registry. harmless: it is said, and nothing is refused for it."""

    path: Path
    what: str
    harmless: bool = False

    def __str__(self) -> str:
        # An error's message names the file that it is about.
        return self.what if self.what.startswith(str(self.path)) else f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest was read; `verify` checks its other files. digest: the manifest's sha256."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def artifact(self) -> Artifact:
        """The model; its `read()` checks the bytes that it returns."""
        return Artifact(self.folder, self.manifest.artifact)

    @property
    def class_maps(self) -> Artifact | None:
        """The model that gives class activation maps too, where there is one."""
        if (how := self.manifest.explanation) is None or how.maps is None:
            return None
        entries = [self.manifest.entry(file) for file in how.maps.files]
        return Artifact(self.folder, class_maps_info(self.manifest.artifact, how.maps, entries))

    def golden(self) -> tuple[Pixels, Logits]:
        """The published images and logits. Raises WorkbenchError for a changed file and other shapes."""
        entry = self.manifest.entry(self.manifest.golden.file)
        path = self.folder / entry.path
        data = read_plain(path)
        if sha256_bytes(data) != entry.sha256:
            raise WorkbenchError(f"{path} was changed since it was published: its sha256 differs")
        pixels, logits = load_arrays(path, data, "pixels", "logits")
        n, size = self.manifest.golden.images, self.manifest.preprocess.size
        for name, array, dtype, shape in (
            ("pixels", pixels, "uint8", (n, *size, 3)),
            ("logits", logits, "float32", (n, len(self.manifest.class_names))),
        ):
            if (array.dtype.name, array.shape) != (dtype, shape):
                found = f"{array.dtype} {array.shape}"
                raise WorkbenchError(f"{path}: `{name}` is {found}, should be {dtype} {shape}")
        return pixels, logits

    def problems(self, *, hashed: bool = True) -> list[Problem]:
        """Every difference from what was published, but for the junk of systems, which is never read.

        hashed: read every file; else only its size is looked at. No link is followed.
        """
        expected: dict[str, tuple[str, int | None]] = {MANIFEST_NAME: (self.digest, None)}
        expected |= {entry.path: (entry.sha256, entry.size_bytes) for entry in self.manifest.files}
        try:
            found = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            return [Problem(self.folder, unreadable(self.folder, error).message)]
        problems = [Problem(self.folder / name, "is missing") for name in sorted(expected.keys() - found)]
        for path in [self.folder / name for name in sorted(found)]:
            if path.name in expected:
                problem = _difference(path, *expected[path.name], hashed=hashed)
            elif is_junk(path.name):
                continue
            else:
                what = "is a symbolic link" if path.is_symlink() else "is not in the manifest"
                problem = Problem(path, f"{what}: move it elsewhere")
            problems += [problem] if problem else []
        return problems

    def verify(self) -> None:
        """Raise WorkbenchError with every problem that is not harmless."""
        if problems := [problem for problem in self.problems() if not problem.harmless]:
            listed = "\n  ".join(map(str, problems))
            raise WorkbenchError(
                f"{self.manifest.name} {self.version} is not what was published\n  {listed}",
                hint="`krishi-bench rollback` returns to the version before; `promote` publishes it again",
            )


def _difference(path: Path, sha256: str, size_bytes: int | None, *, hashed: bool) -> Problem | None:
    try:
        with open_plain(path) as file:
            status = os.fstat(file.fileno())
            if size_bytes is not None and status.st_size != size_bytes:
                return Problem(path, f"has {status.st_size} bytes, was published with {size_bytes}")
            if hashed and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return Problem(path, "was changed since it was published: its sha256 differs")
    except WorkbenchError as error:
        hint = f": {error.hint}" if error.hint else ""
        return Problem(path, error.message.removeprefix(f"{path} ") + hint)
    # A volume's own modes, a umask or a copy do this. What is served is the bytes that were hashed.
    if mode := status.st_mode & 0o022:
        others = "anybody" if mode & 0o002 else "its group"
        return Problem(path, f"can be written by {others}; unless you mean that: `chmod go-w`", harmless=True)
    return None


def seal(draft: Draft, folder: Path) -> None:
    """Write the manifest of the files in `folder` and make all of them read-only."""
    paths = sorted(path for path in folder.iterdir() if not is_junk(path.name))
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise WorkbenchError(f"a bundle holds plain files only, and {path.name} is none")
    try:
        files = tuple(
            FileEntry(path=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in paths
        )
        manifest = Manifest.model_validate({**dict(draft), "files": files})
    except ValidationError as error:
        raise invalid(f"{draft.name} {draft.version} cannot be published", error) from error
    target = folder / MANIFEST_NAME
    data = to_json(manifest)
    parse_manifest(data, target)  # Not every value survives JSON: NaN becomes null.
    target.write_bytes(data)
    for path in (target, *paths):
        with suppress(PermissionError):  # a volume that keeps no modes; what counts is the digest
            path.chmod(0o444)


def load_bundle(folder: Path) -> Bundle:
    """Read the manifest of a bundle. Raises WorkbenchError where it is missing or not valid."""
    if folder.is_symlink():
        raise WorkbenchError(f"{folder} is a symbolic link")
    path = folder / MANIFEST_NAME
    try:
        data = read_plain(path)
        return Bundle(folder, parse_manifest(data, path), sha256_bytes(data))
    except WorkbenchError as error:
        raise WorkbenchError(error.message, hint=error.hint or REMEDY) from error


def class_maps_info(info: ArtifactInfo, maps: ClassMaps, entries: Sequence[FileEntry]) -> ArtifactInfo:
    """info: of the model that the maps explain. entries: of their files, in that order."""
    file, *others = entries
    companions = tuple(
        Companion(file=other.path, sha256=other.sha256, size_bytes=other.size_bytes) for other in others
    )
    found = {
        "file": file.path,
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "companions": companions,
    }
    outputs = info.classes * (1 + maps.grid[0] * maps.grid[1])
    return info.model_copy(update={**found, "classes": outputs})


def check_golden(infer: Infer, manifest: Manifest, pixels: Pixels, logits: Logits) -> float:
    """`compare_logits` of a session with `Bundle.golden()`, to the bundle's tolerance."""
    got = logits_of(infer, manifest.preprocess, pixels, raw=manifest.artifact.pixels)
    return compare_logits(got, logits, manifest.golden.atol)
