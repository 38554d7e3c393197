"""A bundle: one published model with everything it takes to serve it, and the proof that it is whole.

model file · manifest.json · golden.npz · MODEL_CARD.md
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends import Infer
from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of
from workbench.registry.manifest import MANIFEST_NAME, Manifest, parse_manifest
from workbench.system.files import load_arrays, open_plain, read_plain, sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file or folder of a registry."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest was read; its other files are not checked yet.

    digest: sha256 of the manifest's bytes, which names everything in the bundle.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def artifact(self) -> Artifact:
        """The model. Its `read()` checks the bytes it returns."""
        return Artifact(self.folder, self.manifest.artifact)

    def golden(self) -> "tuple[NDArray[np.uint8], NDArray[np.float32]]":
        """Pixels (n, crop, crop, 3) uint8 and the logits (n, classes) float32 they gave.

        Raises WorkbenchError where the file is not the one that was published, or not of that form.
        """
        entry = self.manifest.entry(self.manifest.golden.file)
        path = self.folder / entry.path
        data = read_plain(path)
        if sha256_bytes(data) != entry.sha256:
            raise WorkbenchError(f"{path} was changed since it was published: its sha256 differs")
        arrays = load_arrays(path, data, "pixels", "logits")
        crop = self.manifest.preprocess.crop
        n = self.manifest.golden.images
        expected = [
            ("pixels", "uint8", (n, crop, crop, 3)),
            ("logits", "float32", (n, len(self.manifest.class_names))),
        ]
        for array, (name, dtype, shape) in zip(arrays, expected, strict=True):
            if (array.dtype.name, array.shape) != (dtype, shape):
                raise WorkbenchError(
                    f"{path}: `{name}` is {array.dtype} {array.shape}, should be {dtype} {shape}"
                )
        pixels, logits = arrays
        return pixels, logits

    def problems(self) -> list[Problem]:
        """Everything that differs from what was published. Hashes every file; follows no link."""
        expected: dict[str, tuple[str, int | None]] = {MANIFEST_NAME: (self.digest, None)}
        expected |= {entry.path: (entry.sha256, entry.size_bytes) for entry in self.manifest.files}
        try:
            found = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            return [Problem(self.folder, f"cannot be listed: {error.strerror}")]
        problems = [Problem(self.folder / name, "is missing") for name in sorted(expected.keys() - found)]
        for name in sorted(found):
            path = self.folder / name
            if name in expected:
                what = _difference(path, *expected[name])
            else:
                what = "is a symbolic link" if path.is_symlink() else "is not in the manifest"
            if what is not None:
                problems.append(Problem(path, what))
        return problems

    def verify(self) -> None:
        """Raises WorkbenchError listing every problem."""
        if problems := self.problems():
            listed = "\n  ".join(str(problem) for problem in problems)
            raise WorkbenchError(
                f"{self.manifest.name} {self.version} is not what was published\n  {listed}",
                hint="`krishi-bench rollback` returns to the version before; `promote` publishes it again",
            )


def _difference(path: Path, sha256: str, size_bytes: int | None) -> str | None:
    try:
        with open_plain(path) as file:
            status = os.fstat(file.fileno())
            if size_bytes is not None and status.st_size != size_bytes:
                return f"has {status.st_size} bytes, was published with {size_bytes}"
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return "was changed since it was published: its sha256 differs"
    except WorkbenchError as error:
        return error.message.removeprefix(f"{path} ")
    # Only what others may write: the owner's bit does not survive every copy, as in a git checkout.
    return "can be written by others than its owner" if status.st_mode & 0o022 else None


def load_bundle(folder: Path) -> Bundle:
    """Read the manifest of a bundle. Raises WorkbenchError where there is none or it cannot be used."""
    path = folder / MANIFEST_NAME
    if folder.is_symlink():
        raise WorkbenchError(f"{folder} is a symbolic link")
    data = read_plain(path)
    return Bundle(folder, parse_manifest(data, path), sha256_bytes(data))


def logits_of(
    infer: Infer, contract: Preprocess, pixels: "NDArray[np.uint8]", *, raw: bool
) -> "NDArray[np.float32]":
    """Logits (n, classes) of pixels (n, crop, crop, 3) uint8, one image at a time, as a server meets them."""
    import numpy as np

    return np.concatenate([infer(batch_of(pixels[i : i + 1], contract, raw=raw)) for i in range(len(pixels))])


def compare_logits(got: "NDArray[np.float32]", expected: "NDArray[np.float32]", atol: float) -> float:
    """The largest absolute difference of two (n, classes) arrays.

    Raises WorkbenchError where it exceeds atol, or where the top-1 class of any row differs.
    """
    import numpy as np

    if got.shape != expected.shape:
        raise WorkbenchError(f"the logits have the shape {got.shape}, the recorded ones {expected.shape}")
    difference = float(np.max(np.abs(got.astype(np.float64) - expected)))
    # The negation also catches NaN, which is neither above nor below.
    if not difference <= atol:
        raise WorkbenchError(f"the logits differ by up to {difference:.3g}, more than the {atol:.3g} allowed")
    if moved := np.flatnonzero(got.argmax(axis=1) != expected.argmax(axis=1)).tolist():
        raise WorkbenchError(f"the top-1 class differs on golden image {moved[0]}")
    return difference


def check_golden(
    infer: Infer, manifest: Manifest, pixels: "NDArray[np.uint8]", logits: "NDArray[np.float32]"
) -> float:
    """The largest absolute difference between a session's logits and a bundle's recorded ones.

    pixels, logits: from `Bundle.golden()`. One image at a time, through the one preprocessing we have.
    Raises WorkbenchError where it exceeds the bundle's tolerance or any top-1 class differs.
    """
    got = logits_of(infer, manifest.preprocess, pixels, raw=manifest.artifact.pixels)
    return compare_logits(got, logits, manifest.golden.atol)
