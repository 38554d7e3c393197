"""Labelled photos on disk, decoded and cropped once and then memory-mapped."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, plural, some
from workbench.photos.contract import MAX_PIXELS, Batch, ImageError, Preprocess
from workbench.photos.folders import ClassNames, Walk, class_folders
from workbench.photos.manifest import read_manifest
from workbench.photos.preprocess import batch_of, read_pixels
from workbench.photos.signatures import PHOTOS
from workbench.system.files import digest_of, new_file, sha256_file
from workbench.system.packages import versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPENCV = ("opencv-python-headless", "opencv-python")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Photos and their labels, in a fixed order.

    labels: class indices in the order of the class names, not of the folder names.
    contents: sha256 of each photo's bytes. digest: of all of them and the labels. notes: sentences on what
    was passed over, and on what else a reader of the results must know.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    contents: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True)
class Images:
    """The cropped pixels of a dataset in a memory-mapped file, and the contract that made them.

    path: a .npy file of (n, height, width, 3) uint8, normalised on read: float32 would take four times the
    space. raw: for a network that takes the pixels and normalises them itself.
    """

    path: Path
    labels: tuple[int, ...]
    contract: Preprocess
    digest: str
    raw: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self) -> "NDArray[np.uint8]":
        """(n, height, width, 3) uint8, memory-mapped read-only."""
        import numpy as np

        mapped: NDArray[np.uint8] = np.load(self.path, mmap_mode="r")
        return mapped

    def rows(self, chosen: Iterable[int], size: int = 1) -> Iterator[Batch]:
        """Batches of at most `size` of these rows, in the network's form (see `preprocess.batch_of`)."""
        pixels, indices = self.pixels(), list(chosen)
        for start in range(0, len(indices), size):
            yield batch_of(pixels[indices[start : start + size]], self.contract, raw=self.raw)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size`, of all photos."""
        return self.rows(range(len(self)), size)

    def spread(self, count: int, size: int) -> Iterator[Batch]:
        """Batches of at most `size`, of `count` photos taken at even distances.

        Photos are ordered by class: the first `count` of them would be a few classes only.
        """
        return self.rows((row * len(self) // count for row in range(count)), size)


def scan(source: Path, class_names: Sequence[str], *, field: str, labelled: bool = True) -> Dataset:
    """List the photos of a folder of class folders, or of a CSV (see `manifest`), whatever their names.

    field: the key in krishi.yaml, for messages. labelled: False where classes do not matter, as for
    calibration: the photos may lie at any depth, and all labels are 0.
    Photos are ordered by class, then by path, whatever the file system. Raises WorkbenchError where there
    are no photos, where a class is unknown, or where a link leads nowhere.
    """
    pairs, notes = _listed(source, ClassNames(class_names, where=field), field, labelled=labelled)
    if labelled:
        pairs = sorted(pairs, key=lambda pair: (pair[1], str(pair[0])))
    if not pairs:
        raise WorkbenchError(
            f"{field}: {source} holds no photos{''.join(f' ({note})' for note in notes[:1])}",
            hint="write a row for each photo: its path and its class"
            if source.is_file()
            else "photos are files with the content of a JPEG, PNG, WebP or AVIF"
            + ", in one folder a class" * labelled,
        )
    paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
    if labelled and (absent := [name for label, name in enumerate(class_names) if label not in set(labels)]):
        notes.append(
            f"no photo of {some(absent)}: nothing is known of {'it' if len(absent) == 1 else 'them'}, and "
            f"macro-F1 is over the other {plural(len(class_names) - len(absent), 'class')}"
        )
    contents = tuple(sha256_file(path) for path in paths)
    digest = digest_of([[label, content] for label, content in zip(labels, contents, strict=True)])
    return Dataset(paths, labels, contents, digest, tuple(f"{field}: {note}" for note in notes))


def _listed(
    source: Path, classes: ClassNames, field: str, *, labelled: bool
) -> tuple[list[tuple[Path, int]], list[str]]:
    """Photos with their labels, in no order, and notes on the source. Raises WorkbenchError."""
    if source.is_dir() and not labelled:
        walk = Walk()
        pairs = [(path, 0) for path in walk.photos(source)]
        walk.check(field)
        return pairs, [*walk.notes(), *_classes_missing(source, classes)]
    if source.is_dir():
        return class_folders(source, classes, field)
    if source.exists():
        return read_manifest(source, classes, field, labelled=labelled)
    target = f" links to {source.readlink()}, which" if source.is_symlink() else ""
    raise WorkbenchError(
        f"{field}: {source}{target} does not exist",
        hint="give a folder of class folders, or a CSV with the columns path,label",
    )


def _classes_missing(source: Path, classes: ClassNames) -> list[str]:
    """A note on classes without a photo, where there are folders of classes at all."""
    there = {classes.label(path.name) for path in source.iterdir() if next(Walk().photos(path), None)}
    absent = [name for label, name in enumerate(classes.names) if label not in there]
    return [f"no photo of {some(absent)}"] if absent and there - {None} else []


def copies(dataset: Dataset) -> str | None:
    """A warning about repeated photos, which statistics count as independent; None where there are none."""
    first = {content: row for row, content in reversed(list(enumerate(dataset.contents)))}
    rows = enumerate(dataset.contents)
    repeated = [str(dataset.paths[row]) for row, content in rows if first[content] != row]
    if not repeated:
        return None
    return (
        f"{len(repeated)} of {len(dataset)} validation photos are copies of others ({some(repeated)}): "
        "accuracy and its intervals look surer than they are"
    )


def load(
    dataset: Dataset, contract: Preprocess, cache: Path, *, field: str, progress: Callable[[int, int], None]
) -> Images:
    """Decode and crop every photo once, into a memory-mapped file named by content under `cache`.

    Raises WorkbenchError naming every photo that cannot be read: skipping some would change the accuracy
    silently.
    """
    import numpy as np

    libraries = versions("pillow", *(OPENCV if contract.library == "opencv" else ()))
    digest = digest_of([dataset.digest, contract.model_dump(mode="json"), libraries, "pixels-1"])
    path = cache / "pixels" / f"{digest}.npy"
    images = Images(path, dataset.labels, contract, digest)
    if path.exists():
        os.utime(path)
        return images
    with new_file(path) as temporary:
        shape = (len(dataset), *contract.size, 3)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # Allocate the sparse file: otherwise a full disk is a SIGBUS when the mapped pixels are written.
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        _decode_all(dataset, contract, pixels, field, progress)
        pixels.flush()
    return images


def _decode_all(
    dataset: Dataset,
    contract: Preprocess,
    pixels: "NDArray[np.uint8]",
    field: str,
    progress: Callable[[int, int], None],
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(item: tuple[int, Path]) -> tuple[str, str] | None:
        row, path = item
        try:
            pixels[row] = read_pixels(path, contract)
        except ImageError as error:
            return f"{path}: {error}", error.kind
        except OSError as error:
            return f"{path}: {error.strerror}", "unreadable"
        return None

    problems: list[tuple[str, str]] = []
    # Pillow decodes and resizes outside the interpreter lock, so threads do use the cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, problem in enumerate(pool.map(one, enumerate(dataset.paths)), start=1):
            if problem is not None:
                problems.append(problem)
            progress(done, len(dataset))
    if problems:
        texts = [text for text, _ in problems]
        listed = some(texts, quote="", separator="\n  ")
        raise WorkbenchError(
            f"{field}: {len(problems)} of {plural(len(dataset), 'photo')} cannot be read\n  {listed}",
            hint=_remedy(texts, {kind for _, kind in problems}, field),
        )


def _remedy(problems: Sequence[str], kinds: Collection[str], field: str) -> str:
    """kinds: of the ImageErrors among the problems."""
    if any("Git LFS" in problem for problem in problems):
        return "fetch them with `git lfs pull`"
    ways = []
    if any(f"{kind} image" in problem for problem in problems for kind in PHOTOS):
        ways.append("convert them to JPEG, PNG or WebP")
    if "too-large" in kinds:
        ways.append(f"save large ones again with at most {MAX_PIXELS / 1e6:g} megapixels")
    what = f"{', '.join(ways)}, or remove" if ways else "remove or repair"
    why = "" if field == "data.train" else ": leaving photos out silently would change the accuracy"
    return f"{what} them{why}"
