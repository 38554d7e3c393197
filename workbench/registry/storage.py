"""What krishi-bench keeps on this machine's disk, and taking away what nothing needs any more.

Runs and published versions are the user's: they are counted and never taken away here (`gc` does the latter).
Everything else is in the cache, and is made again when it is wanted.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from workbench.errors import WorkbenchError, did_you_mean
from workbench.fleet.records import fleet_folders
from workbench.registry.store import Registry, children
from workbench.results.folder import runs
from workbench.system import environments
from workbench.system.environments.maker import lock_of
from workbench.system.files import bytes_of, cache_folder, exclusive, remove_tree, translated_os_errors
from workbench.workspace.workspace import Workspace

Kind = Literal["results", "registry", "models", "engines", "environments", "caches"]
REMOVABLE: tuple[Kind, ...] = ("models", "engines", "environments", "caches")
RECENT_S = 30 * 86400.0
RECENT = "used in the last 30 days"
ARTIFACTS, ENGINES = "artifacts", ("engines", "openvino")
SAMPLE = "sample-"
TEMPORARY = ".tmp-"
MAKING_S = 86400.0  # what is younger may still be in the making


@dataclass(frozen=True, slots=True)
class Stored:
    """Something on disk. needed: why it stays; None where nothing needs it any more."""

    kind: Kind
    name: str
    path: str
    size_bytes: int
    needed: str | None


@dataclass(frozen=True, slots=True)
class Storage:
    """items: all there is. removed: what was taken away, or would be where not `done`."""

    items: tuple[Stored, ...]
    removed: tuple[Stored, ...] = ()
    done: bool = False


def stored(workspace: Workspace, now_s: float | None = None) -> list[Stored]:
    """Everything in the workspace and the cache, kind by kind. now_s: seconds since 1970."""
    now_s = time.time() if now_s is None else now_s
    keys, made = _needed_by_runs(workspace)
    used = _used_environments(workspace, made)
    cache = cache_folder()
    return [
        *(_item("results", path, "a run of yours") for path in _runs(workspace.results)),
        *_registry(workspace),
        *(_item("models", path, keys.get(path.name) or _recent(path, now_s)) for path in _models(cache)),
        *(_item("engines", path, _recent(path, now_s)) for path in _engines(cache)),
        *(_item("environments", path, _keeps(path, used, now_s)) for path in _environments(cache)),
        *(_item("caches", path, _recent(path, now_s)) for path in _caches(cache)),
    ]


def clear(
    workspace: Workspace,
    *,
    remove: Sequence[str] = (),
    unneeded: bool = False,
    delete: bool = False,
    now_s: float | None = None,
) -> Storage:
    """Find what to take away; with `delete`, do it.

    remove: kinds (`environments`), or names of single things; whether or not they are needed. unneeded: all
    that nothing needs. Raises WorkbenchError for a name that is nothing here, for what is the user's, and
    where a run is timing.
    """
    items = stored(workspace, now_s)
    chosen = [item for item in items if unneeded and item.needed is None and item.kind in REMOVABLE]
    for name in remove:
        chosen += _named(items, name)
    storage = Storage(tuple(items), tuple(dict.fromkeys(chosen)))
    if not delete:
        return storage
    with exclusive(cache_folder() / "timing.lock", _refuse), translated_os_errors(cache_folder()):
        for item in storage.removed:
            _remove(item)
    return replace(storage, done=True)


def _refuse() -> None:
    raise WorkbenchError("a run is timing on this machine", hint="wait until it has ended")


def _remove(item: Stored) -> None:
    path = Path(item.path)
    if item.kind != "environments":
        remove_tree(path)
        return
    with exclusive(lock_of(path), lambda: None):
        # Its record first: half an environment is none.
        (path / environments.RECORD).unlink(missing_ok=True)
        remove_tree(path)


def _named(items: Iterable[Stored], name: str) -> list[Stored]:
    """What `--remove NAME` means."""
    found = [item for item in items if name in (item.kind, item.name) or item.name.startswith(f"{name}-")]
    if not found and name not in REMOVABLE:
        known = dict.fromkeys([*REMOVABLE, *(item.name for item in items if item.kind in REMOVABLE)])
        raise WorkbenchError(
            f"there is no `{name}` to remove",
            hint=did_you_mean(name, known) or f"give {', '.join(REMOVABLE)}, or a name that `storage` lists",
        )
    for item in found:
        if item.kind not in REMOVABLE:
            raise WorkbenchError(
                f"{item.path} is not taken away here: it cannot be made again",
                hint="`krishi-bench gc` is for published versions; runs are plain folders",
            )
    return found


def _needed_by_runs(workspace: Workspace) -> tuple[dict[str, str], dict[Path, str]]:
    """Why models (by their key) and environments (by their folder) are needed: a run can be promoted."""
    keys: dict[str, str] = {}
    made: dict[Path, str] = {}
    devices = [run for fleet in fleet_folders(workspace.results) for run in fleet.measured()]
    for run in [*runs(workspace.results), *devices]:
        with suppress(WorkbenchError):  # a run that cannot be read can be promoted no more
            why = f"run {run.run_id} can be promoted"
            keys |= {trial.artifact_key: why for trial in run.trials() if trial.artifact_key is not None}
            made |= _folders(run.info().runtimes.values(), why)
    return keys, made


def _folders(runtimes: Iterable[object], why: str) -> dict[Path, str]:
    from workbench.backends import RuntimeSettings

    found = (each.environment() for each in runtimes if isinstance(each, RuntimeSettings))
    return {each.folder: why for each in found if each is not None}


def _used_environments(workspace: Workspace, made: Mapping[Path, str]) -> dict[Path, str]:
    """Those of runs, and of published versions."""
    used = dict(made)
    registry = Registry(workspace.registry)
    for name in registry.names() if workspace.registry.is_dir() else []:
        for version in registry.versions(name):
            with suppress(WorkbenchError):
                runtime = registry.bundle(name, version).manifest.runtime
                used |= _folders([runtime], f"{name} {version} was published with it")
    return used


def _runs(results: Path) -> list[Path]:
    """The folders of runs of this machine, and of fleets, oldest first."""
    return sorted([*(run.path for run in runs(results)), *(fleet.path for fleet in fleet_folders(results))])


def _registry(workspace: Workspace) -> Iterator[Stored]:
    if workspace.registry.is_dir():
        yield _item("registry", workspace.registry, "published; `krishi-bench gc` takes away old versions")


def _caches(cache: Path) -> Iterator[Path]:
    """The rest of the cache, file by file; the sample's photos as one."""
    for path in children(cache):
        if path.name.startswith(SAMPLE):
            yield path
        elif path.name not in (ARTIFACTS, *ENGINES, environments.FOLDER):
            yield from children(path) if path.is_dir() else []


def _models(cache: Path) -> Iterator[Path]:
    for shelf in children(cache / ARTIFACTS):
        yield from children(shelf)


def _engines(cache: Path) -> Iterator[Path]:
    for kind in ENGINES:
        yield from children(cache / kind)


def _environments(cache: Path) -> Iterator[Path]:
    for path in children(cache / environments.FOLDER):
        if path.is_dir():
            yield path


def _keeps(path: Path, used: Mapping[Path, str], now_s: float) -> str | None:
    """Why an environment stays; nothing needs what has no record, or whose Python is gone."""
    if path.name.startswith(TEMPORARY):
        return "it may be in the making" if now_s - path.stat().st_mtime < MAKING_S else None
    record = path / environments.RECORD
    if not record.exists() or not (path / "bin" / "python").exists():
        return None
    return used.get(path) or _recent(record, now_s)


def _recent(path: Path, now_s: float) -> str | None:
    with suppress(OSError):
        newest = max([path.stat().st_mtime, *(entry.stat().st_mtime for entry in _entries(path))])
        return RECENT if now_s - newest < RECENT_S else None
    return None


def _entries(path: Path) -> list[os.DirEntry[str]]:
    return list(os.scandir(path)) if path.is_dir() else []


def _item(kind: Kind, path: Path, needed: str | None) -> Stored:
    return Stored(kind, path.name, str(path), bytes_of(path), needed)
