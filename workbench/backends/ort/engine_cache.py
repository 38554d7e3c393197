"""Engines that a provider of onnxruntime builds and opens by itself, in a private folder that we watch.

The provider trusts whatever lies in the folder it is given. So the folder is this user's alone, and what
is in it is compared with the digests noted when it was written; what differs is removed, and built again.
The TensorRT-RTX plug-in writes when its session closes, unseen: there the folder's owner and rights must do.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from workbench.backends.base import Engine
from workbench.backends.gpu import engine_store
from workbench.errors import WorkbenchError
from workbench.system.files import sha256_bytes
from workbench.system.records import Sha256

NOTED = "provider.json"
OURS = frozenset({NOTED, engine_store.LOCK})
DIGESTS = TypeAdapter(dict[str, Sha256])


@dataclass(slots=True)
class Cache:
    """place: None where nothing can be kept, as in a read-only container: engines are built at each start.

    build_s: that opening took, where nothing was there to be opened.
    """

    place: Path | None
    binding: str
    build_s: float | None = None

    def engine(self) -> Engine | None:
        """What the provider keeps there; None where that is nothing."""
        size = sum(path.stat().st_size for path in _files(self.place)) if self.place else 0
        return Engine(size_bytes=size, bound_to=self.binding, build_s=self.build_s) if size else None


@contextmanager
def opening(parts: Sequence[str], binding: str, *, noted: bool = True) -> Iterator[Cache]:
    """The folder for what is made of `parts`, while the provider opens a file with it: one process at a time.

    noted: the provider has written all it keeps when the file is open. Raises WorkbenchError where the
    folder is not this user's alone (see `engine_store.folder`).
    """
    started = time.perf_counter()
    try:
        place = engine_store.folder([*parts, binding])
    except engine_store.Unwritable:
        yield Cache(None, binding)
        return
    with engine_store.alone(place):
        if noted:
            sweep(place)
        found = bool(_files(place))
        cache = Cache(place, binding)
        yield cache
        cache.build_s = None if found else time.perf_counter() - started
        if noted:
            try:
                note(place)
            except WorkbenchError as error:  # A full disk: this session serves, the next start builds again.
                sys.stderr.write(f"onnxruntime: {error.message}: the engine is not kept\n")


def note(place: Path) -> None:
    """Note the digests of what the provider left in the folder."""
    found = {path.name: sha256_bytes(path.read_bytes()) for path in _files(place)}
    engine_store.write_private(place / NOTED, DIGESTS.dump_json(found, indent=2) + b"\n")


def sweep(place: Path) -> None:
    """Remove every file that was not noted, or changed since: nobody vouches for it."""
    try:
        noted = DIGESTS.validate_json(engine_store.read_private(place / NOTED) or b"{}")
    except ValidationError:
        noted = {}
    for path in place.iterdir():
        if path.name not in OURS and (path.is_symlink() or path.is_file()) and not _as_noted(path, noted):
            path.unlink()


def _as_noted(path: Path, noted: dict[str, str]) -> bool:
    return not path.is_symlink() and sha256_bytes(path.read_bytes()) == noted.get(path.name)


def _files(place: Path) -> list[Path]:
    return [path for path in sorted(place.iterdir()) if path.name not in OURS and path.is_file()]
