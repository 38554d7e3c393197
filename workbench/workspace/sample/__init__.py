"""The bundled workspace: synthetic leaf photographs and a small trained student (README.md says more).

Importing this is cheap; the photographs are drawn once, at their first use.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.system.files import cache_folder, new_folder

if TYPE_CHECKING:
    from workbench.workspace.sample.leaves import Split

CHECKPOINT = Path(__file__).with_name("student.ckpt")
STUDENT = CHECKPOINT.with_name("student.py")
CALIB_PER_CLASS = 20
VAL_PER_CLASS = 100


def ensure_sample(
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    *,
    calib_per_class: int = CALIB_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
) -> Path:
    """The folder with `data/calib/<class>/*.jpg` and `data/val/<class>/*.jpg`, drawn if it is not there.

    cache: `cache_folder()` by default. progress: takes the photos drawn and those in all. The folder's name
    carries a digest of the generator and the counts, so a changed generator draws new photos. It appears
    whole or not at all, also when two processes draw it at once. Raises WorkbenchError where the cache cannot
    be written.
    """
    folder = sample_folder(cache or cache_folder(), calib_per_class, val_per_class)
    if not folder.is_dir():
        # The folder exists by then if another process was faster: its photos are the same as ours.
        with suppress(FileExistsError), new_folder(folder) as scratch:
            _draw(scratch / "data", {"calib": calib_per_class, "val": val_per_class}, progress)
    return folder


def sample_folder(cache: Path, calib: int = CALIB_PER_CLASS, val: int = VAL_PER_CLASS) -> Path:
    """Where `ensure_sample` keeps this many photos per class; may not exist yet."""
    generator = Path(__file__).with_name("leaves.py").read_bytes()
    return cache / f"sample-{hashlib.sha256(generator + f'{calib} {val}'.encode()).hexdigest()[:12]}"


def _draw(root: Path, counts: dict["Split", int], progress: Callable[[int, int], None]) -> None:
    from workbench.workspace.sample.leaves import CLASS_NAMES, photo, photo_seed

    photos = [(split, name, i) for split in counts for name in CLASS_NAMES for i in range(counts[split])]
    for done, (split, name, index) in enumerate(photos, start=1):
        path = root / split / name / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(name, photo_seed(split, index)))
        progress(done, len(photos))
