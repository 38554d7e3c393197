"""Garbage collection: published versions that nothing needs go to the trash, and a day later for good.

<registry>/.trash/<name>@<version>@<moved at>@<token>/

Kept are the versions that aliases point at, those a rollback would return to, those that running servers
use, and the highest of each model. Nothing is moved before all of that could be read; no link is followed.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.registry.leases import read_leases
from workbench.registry.records import RetiredVersion, write_retired
from workbench.registry.semver import is_version
from workbench.registry.store import Registry, children, leftovers
from workbench.system.files import fsync_path, token, translated_os_errors

TRASH_NAME = ".trash"
GRACE = timedelta(hours=24)
DEFAULT_KEEP = 3
_TIME = "%Y%m%dT%H%M%SZ"

Root = tuple[str, str]
"""A model's name and a version of it."""


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """why: every reason it has, such as `production points at it`."""

    name: str
    version: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """A version on its way out. path: where it was found; until: when it may be deleted, ISO 8601 in UTC."""

    name: str
    version: str
    size_bytes: int
    path: str
    until: str


@dataclass(frozen=True, slots=True)
class Leftover:
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What a collection did, or would do where `done` is false.

    moved: from the models to the trash; deleted: from the trash for good; waiting: still in the trash.
    """

    done: bool
    keep: int
    kept: tuple[KeptVersion, ...]
    moved: tuple[Gone, ...]
    deleted: tuple[Gone, ...]
    waiting: tuple[Gone, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def freed_bytes(self) -> int:
        """What the disk has back now; what was moved to the trash follows after its grace."""
        return sum(gone.size_bytes for gone in self.deleted) + sum(left.size_bytes for left in self.leftovers)


def collect(
    registry: Registry, *, keep: int = DEFAULT_KEEP, delete: bool = False, now: datetime | None = None
) -> Reclaimed:
    """Find the versions nothing needs and, with `delete`, move them to the trash; empty what lay there a day.

    keep: how many steps back each alias can be rolled back afterwards. Raises WorkbenchError, and changes
    nothing, where an alias file or a lease cannot be read; or where the registry cannot be written.
    """
    if not registry.root.is_dir():
        raise WorkbenchError(f"there is no registry at {registry.root}")
    now = now or datetime.now(UTC)
    if not delete:
        return _plan(registry, keep, now)
    with registry.locked():
        plan = _plan(registry, keep, now)
        with translated_os_errors(registry.root):
            # First what gives room: on a full disk the rest may need it.
            for path in [gone.path for gone in plan.deleted] + [left.path for left in plan.leftovers]:
                _remove(Path(path))
            for ended in read_leases(registry.root).ended:
                ended.unlink(missing_ok=True)
            moved = _move(registry, plan.moved, now)
    return Reclaimed(True, keep, plan.kept, moved, plan.deleted, plan.waiting, plan.leftovers)


def _plan(registry: Registry, keep: int, now: datetime) -> Reclaimed:
    why = _roots(registry, keep)
    kept, moved = [], []
    until = _iso(now + GRACE)
    for name in registry.names():
        for version in registry.versions(name):
            folder = registry.root / name / version
            if (name, version) in why:
                kept.append(KeptVersion(name, version, tuple(why[name, version])))
            else:
                moved.append(Gone(name, version, _bytes(folder), str(folder), until))
    in_use = _leased(registry)
    trash = list(_trash(registry.root / TRASH_NAME))
    deleted = [gone for gone in trash if gone.until <= _iso(now) and (gone.name, gone.version) not in in_use]
    folders = [registry.root / ".tmp", *(registry.root / name for name in registry.names())]
    left = [problem.path for folder in folders for problem in leftovers(folder)]
    return Reclaimed(
        done=False,
        keep=keep,
        kept=tuple(kept),
        moved=tuple(moved),
        deleted=tuple(deleted),
        waiting=tuple(gone for gone in trash if gone not in deleted),
        leftovers=tuple(Leftover(str(path), _bytes(path)) for path in left),
    )


def _roots(registry: Registry, keep: int) -> dict[Root, list[str]]:
    """What must stay, with every reason for it."""
    why: dict[Root, list[str]] = {}

    def root(name: str, version: str, reason: str) -> None:
        reasons = why.setdefault((name, version), [])
        if reason not in reasons:
            reasons.append(reason)

    for name in registry.names():
        for alias, pointed in sorted(registry.aliases(name).items()):
            root(name, pointed.version, f"{alias} points at it")
            before = pointed.trail[:-1]
            for move in before[max(0, len(before) - keep) :]:
                root(name, move.version, f"{alias} can be rolled back to it")
        root(name, registry.versions(name)[-1], "the highest version")
    for lease in read_leases(registry.root).held:
        root(lease.name, lease.version, f"in use by {lease}")
    return why


def _leased(registry: Registry) -> set[Root]:
    return {(lease.name, lease.version) for lease in read_leases(registry.root).held}


def _move(registry: Registry, items: tuple[Gone, ...], now: datetime) -> tuple[Gone, ...]:
    """Move versions to the trash; returns those that are there now."""
    if not items:
        return ()
    trash = registry.root / TRASH_NAME
    if trash.is_symlink():
        raise WorkbenchError(f"{trash} is a symbolic link", hint="remove it: the trash lies in the registry")
    trash.mkdir(exist_ok=True)
    # First the record, so that no number is free to be given again.
    for name in dict.fromkeys(item.name for item in items):
        _record(registry, name, [item.version for item in items if item.name == name], now)
    moved = []
    for item in items:
        target = trash / f"{item.name}@{item.version}@{now.strftime(_TIME)}@{token()}"
        os.rename(item.path, target)
        # A server that takes a lease now waits for us, then looks whether its version is still there. One
        # that could not wait is seen here.
        if (item.name, item.version) in _leased(registry):
            os.rename(target, item.path)
        else:
            moved.append(item)
    for folder in (trash, *dict.fromkeys(Path(item.path).parent for item in items)):
        fsync_path(folder)
    return tuple(moved)


def _record(registry: Registry, name: str, versions: list[str], now: datetime) -> None:
    known = registry.retired(name)
    for version in versions:
        try:
            digest = registry.bundle(name, version).digest
        except WorkbenchError:
            digest = None  # Damaged: it goes all the same, and its number stays given.
        known[version] = RetiredVersion(at=now, manifest_sha256=digest)
    write_retired(registry.root / name, known)


def _trash(folder: Path) -> Iterator[Gone]:
    """The versions in the trash; what was not put there by a collection is left alone."""
    for path in children(folder):
        name, _, rest = path.name.partition("@")
        version, _, rest = rest.partition("@")
        try:
            at = datetime.strptime(rest.partition("@")[0], _TIME).replace(tzinfo=UTC)
        except ValueError:
            continue
        if is_version(version):
            yield Gone(name, version, _bytes(path), str(path), _iso(at + GRACE))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    """Of the files below, or of the file itself; no link is followed."""
    if path.is_symlink() or not path.is_dir():
        return os.lstat(path).st_size
    folders = os.walk(path)
    return sum(os.lstat(Path(folder, file)).st_size for folder, _, files in folders for file in files)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
