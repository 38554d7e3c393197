"""Garbage collection moves published versions that nothing needs to the trash, and deletes them a day later.

<registry>/.trash/<name>@<version>@<moved at>@<token>/

It keeps the versions that aliases point at, those a rollback would return to, those that running servers
use, and the highest of each model. It moves nothing where one of these cannot be read, and follows no link.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.registry.leases import read_leases
from workbench.registry.records import COLLECTED_NAME, RetiredFile, RetiredVersion
from workbench.registry.semver import is_version
from workbench.registry.store import Registry, children, leftovers
from workbench.system.files import bytes_of, fsync_path, remove_tree, token, translated_os_errors
from workbench.system.records import write_record

TRASH_NAME = ".trash"
GRACE = timedelta(hours=24)
_TIME = "%Y%m%dT%H%M%SZ"

NamedVersion = tuple[str, str]  # a model's name and its version


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that stays. why: its reasons, such as `production points at it`."""

    name: str
    version: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """A version that nothing needs. until: when it may be deleted, ISO 8601 in UTC."""

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
    """A collection, or its plan where not `done`. moved: to the trash; deleted: from it; waiting: in it."""

    done: bool
    keep: int
    kept: tuple[KeptVersion, ...]
    moved: tuple[Gone, ...]
    deleted: tuple[Gone, ...]
    waiting: tuple[Gone, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def freed_bytes(self) -> int:
        """Bytes of what was deleted; versions moved to the trash still take their space."""
        return sum(gone.size_bytes for gone in self.deleted) + sum(left.size_bytes for left in self.leftovers)


def collect(
    registry: Registry, *, keep: int = 3, delete: bool = False, now: datetime | None = None
) -> Reclaimed:
    """Find the versions that nothing needs; with `delete`, move them to the trash and empty it of old ones.

    keep: steps that each alias can be rolled back afterwards. Raises WorkbenchError where an alias file or a
    lease cannot be read (nothing is changed then), or the registry cannot be written.
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
                remove_tree(Path(path))
            for ended in read_leases(registry.root)[1]:
                ended.unlink(missing_ok=True)
            return replace(plan, done=True, moved=_move(registry, plan.moved, now))


def _plan(registry: Registry, keep: int, now: datetime) -> Reclaimed:
    why = _reasons_to_keep(registry, keep)
    kept, moved = [], []
    names = registry.names()
    for name in names:
        for version in registry.versions(name):
            if reasons := why.get((name, version)):
                kept.append(KeptVersion(name, version, tuple(reasons)))
            else:
                moved.append(_gone(name, version, registry.root / name / version, now))
    in_use = _leased_versions(registry)
    trash = list(_trash(registry.root / TRASH_NAME))
    deleted = [gone for gone in trash if gone.until <= _iso(now) and (gone.name, gone.version) not in in_use]
    left = [problem.path for name in (".tmp", *names) for problem in leftovers(registry.root / name)]
    return Reclaimed(
        done=False,
        keep=keep,
        kept=tuple(kept),
        moved=tuple(moved),
        deleted=tuple(deleted),
        waiting=tuple(gone for gone in trash if gone not in deleted),
        leftovers=tuple(Leftover(str(path), bytes_of(path)) for path in left),
    )


def _reasons_to_keep(registry: Registry, keep: int) -> dict[NamedVersion, dict[str, None]]:
    """The versions that must stay, each with its reasons in order."""
    why: defaultdict[NamedVersion, dict[str, None]] = defaultdict(dict)
    for name in registry.names():
        for alias, pointed in sorted(registry.aliases(name).items()):
            why[name, pointed.version][f"{alias} points at it"] = None
            before = pointed.trail[:-1]
            for move in before[max(0, len(before) - keep) :]:
                why[name, move.version][f"{alias} can be rolled back to it"] = None
        why[name, registry.versions(name)[-1]]["the highest version"] = None
    for lease in read_leases(registry.root)[0]:
        why[lease.name, lease.version][f"in use by {lease}"] = None
    return why


def _leased_versions(registry: Registry) -> set[NamedVersion]:
    return {(lease.name, lease.version) for lease in read_leases(registry.root)[0]}


def _move(registry: Registry, items: tuple[Gone, ...], now: datetime) -> tuple[Gone, ...]:
    """Move versions to the trash; return those that are there now."""
    if not items:
        return ()
    trash = registry.root / TRASH_NAME
    if trash.is_symlink():
        raise WorkbenchError(f"{trash} is a symbolic link", hint="remove it: the trash lies in the registry")
    trash.mkdir(exist_ok=True)
    # The record comes first, so that no number can be given again.
    for name in dict.fromkeys(item.name for item in items):
        _record(registry, name, [item.version for item in items if item.name == name], now)
    moved = []
    for item in items:
        target = trash / f"{item.name}@{item.version}@{now.strftime(_TIME)}@{token()}"
        os.rename(item.path, target)
        # A server that takes a lease now waits for the lock, then checks that its version is there. A lease
        # of a server that could not wait is found here.
        if (item.name, item.version) in _leased_versions(registry):
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
            digest = None  # damaged, and moved all the same
        known[version] = RetiredVersion(at=now, manifest_sha256=digest)
    write_record(registry.root / name / COLLECTED_NAME, RetiredFile(versions=known))


def _trash(folder: Path) -> Iterator[Gone]:
    """The versions in the trash, without other files that lie there."""
    for path in children(folder):
        try:
            name, version, at, _ = path.name.split("@")
            moved = datetime.strptime(at, _TIME).replace(tzinfo=UTC)
        except ValueError:
            continue
        if is_version(version):
            yield _gone(name, version, path, moved)


def _gone(name: str, version: str, path: Path, moved: datetime) -> Gone:
    return Gone(name, version, bytes_of(path), str(path), _iso(moved + GRACE))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
