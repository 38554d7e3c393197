"""The bundled workspace: synthetic leaf photographs and a small trained student (README.md says more).

Importing this is cheap; the photographs are drawn once, at their first use.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from workbench.system.files import new_folder
from workbench.system.folders import cache_folder

CHECKPOINT = Path(__file__).with_name("student.ckpt")
CALIB_PER_CLASS = 20
VAL_PER_CLASS = 100

DrawProgress = Callable[[int, int], None]  # (photos drawn, photos in all)


def silent(done: int, total: int) -> None:
    """Ignore progress."""


def ensure_sample(
    cache: Path | None = None,
    progress: DrawProgress = silent,
    *,
    calib_per_class: int = CALIB_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
) -> Path:
    """The folder with `data/calib/<class>/*.jpg` and `data/val/<class>/*.jpg`, drawn if it is not there.

    cache: where the folder lives; `cache_folder()` by default. Its name carries a digest of the
    generator and the counts, so a changed generator draws new photos. It appears whole or not at all, also
    when two processes draw it at once. Raises WorkbenchError where the cache cannot be written.
    """
    folder = sample_folder(cache or cache_folder(), calib_per_class, val_per_class)
    if not folder.is_dir():
        # The folder exists by then if another process was faster: its photos are the same as ours.
        with suppress(FileExistsError), new_folder(folder) as scratch:
            _draw(scratch / "data", calib_per_class, val_per_class, progress)
    return folder


def sample_folder(
    cache: Path, calib_per_class: int = CALIB_PER_CLASS, val_per_class: int = VAL_PER_CLASS
) -> Path:
    """Where `ensure_sample` keeps the photos; may not exist yet."""
    generator = Path(__file__).with_name("leaves.py").read_bytes()
    counts = f"{calib_per_class} {val_per_class}".encode()
    return cache / f"sample-{hashlib.sha256(generator + counts).hexdigest()[:12]}"


def _draw(root: Path, calib_per_class: int, val_per_class: int, progress: DrawProgress) -> None:
    from workbench.workspace.sample.leaves import CLASS_NAMES, write_split

    calib, total = len(CLASS_NAMES) * calib_per_class, len(CLASS_NAMES) * (calib_per_class + val_per_class)
    write_split(root, "calib", calib_per_class, lambda done, _: progress(done, total))
    write_split(root, "val", val_per_class, lambda done, _: progress(calib + done, total))
