"""Engines that GPU runtimes compile of networks for this machine, kept for the next start.

An engine is code. It is built where it runs, from verified bytes, and one that this user did not build here
is never opened: each lies below the cache in a folder that this user alone can enter, and owner and rights of
folder and file are checked. The sha256 finds damage, and `bound_to` engines that no longer fit this machine;
they are built again.
"""

import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from workbench.errors import WorkbenchError
from workbench.system import nvidia
from workbench.system.files import (
    cache_folder,
    digest_of,
    exclusive,
    sha256_bytes,
    translated_os_errors,
    write_atomic,
)
from workbench.system.records import Record, Sha256, to_json

log = logging.getLogger(__name__)

ENGINE, RECORD, LOCK, TIMING = "engine.plan", "engine.json", "lock", "timings"
TIMING_FOLDER = "timing"
FORGET_S = 90 * 86400.0
PRIVATE = 0o077  # rights of others than the owner


class Unwritable(WorkbenchError):
    """Engines cannot be kept; they are built at each start."""


class EngineRecord(Record):
    """What `engine.json` holds beside an engine. build_s: seconds it took to build."""

    schema_version: Literal[1] = 1
    sha256: Sha256
    size_bytes: int
    bound_to: str
    build_s: float


def bound_to(library: str) -> str:
    """What an engine is bound to here: GPU, driver and `library` with its version, as one sentence part.

    Raises WorkbenchError where there is no GPU.
    """
    gpu = nvidia.gpu()
    if isinstance(gpu, str):
        raise WorkbenchError(gpu)
    driver = f"{version} " if (version := nvidia.driver_version()) else ""
    return f"{gpu.name} (compute capability {gpu.capability}), driver {driver}for CUDA {gpu.cuda}, {library}"


def folder(parts: Sequence[str]) -> Path:
    """The private folder for the engine that `parts` decide; made where missing.

    Raises Unwritable where it cannot be made, and WorkbenchError where it, or the folder of all engines, is
    a link, another user's, or open to others.
    """
    place = _private(_root() / digest_of(list(parts)))
    with suppress(OSError):  # a cache that was filled ahead and is read-only
        os.utime(place)
    return place


def timing_folder(binding: str) -> Path:
    """The private folder for a builder's timings on this machine. Raises as `folder` does."""
    return _private(_private(_root() / TIMING_FOLDER) / digest_of(binding))


def _root() -> Path:
    """The folder of all engines, in a cache whose owner cannot put another in its place."""
    root = _private(cache_folder() / "engines")
    if (owner := root.parent.stat().st_uid) not in (0, os.geteuid()):
        raise WorkbenchError(
            f"{root.parent} belongs to another user (id {owner}), who could exchange the engines in it",
            hint="point KRISHI_CACHE at a folder of yours",
        )
    return root


def _private(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except FileExistsError:
        raise WorkbenchError(f"{path} is not a folder", hint="move it away: engines are kept there") from None
    except OSError as error:
        raise Unwritable(
            f"engines cannot be kept in {path}: {os.strerror(error.errno or 0)}",
            hint="point KRISHI_CACHE at a folder of yours that can be written to",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise WorkbenchError(
            f"{path} is a link: engines are opened from a real folder of yours only",
            hint="remove the link, or point KRISHI_CACHE at another folder",
        )
    if found.st_uid != os.geteuid():
        raise WorkbenchError(
            f"{path} belongs to another user (id {found.st_uid}): an engine is code, and theirs is not run",
            hint="point KRISHI_CACHE at a folder of yours",
        )
    if found.st_mode & PRIVATE:
        raise WorkbenchError(
            f"{path} is open to other users: an engine is code, and may be anybody's there",
            hint=f"rm -r {path}; the engines are built again",
        )
    return path


def fitting(place: Path, binding: str) -> bytes | None:
    """The engine kept in a folder of `folder`'s, where it is ours, undamaged and made for `binding`.

    The bytes are read once and verified: these are opened, and not the file again.
    """
    record, data = read_private(place / RECORD), read_private(place / ENGINE)
    if record is None or data is None:
        return None
    try:
        kept = EngineRecord.model_validate_json(record)
    except ValidationError:
        return None
    return data if kept.bound_to == binding and kept.sha256 == sha256_bytes(data) else None


def keep(place: Path, data: bytes, *, binding: str, build_s: float) -> None:
    """Keep an engine in a folder of `folder`'s, instead of an earlier one. Raises WorkbenchError."""
    record = EngineRecord(sha256=sha256_bytes(data), size_bytes=len(data), bound_to=binding, build_s=build_s)
    # The old record goes first: after a crash between the two writes, the engine counts as damaged.
    with translated_os_errors(place):
        (place / RECORD).unlink(missing_ok=True)
    write_private(place / ENGINE, data)
    write_private(place / RECORD, to_json(record))
    _forget_old(place.parent)


def _forget_old(root: Path) -> None:
    # Each update of the driver leaves a set of engines behind.
    now = time.time()
    for place in root.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            if place.name != TIMING_FOLDER and now - place.lstat().st_mtime > FORGET_S:
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Let one process at a time find or build the engine of a folder; the others find it built."""
    if not os.access(place, os.W_OK):  # Filled ahead and read-only, as in a container: nothing to wait for.
        yield
        return

    def waiting() -> None:
        log.info("waiting for another process that builds an engine in %s", place)

    with exclusive(place / LOCK, waiting):
        yield


def read_private(path: Path) -> bytes | None:
    """The bytes of a file that only this user can read and change; None for others and missing ones."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & PRIVATE
        return file.read() if ours else None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that this user alone can read. Raises as `write_atomic` does."""
    write_atomic(path, data, rights=0o600)
