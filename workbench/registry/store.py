"""The registry of published models.

<registry>/<name>/<version>/       a bundle, never changed after its publication
<registry>/<name>/aliases.json     the version each alias points at, replaced as a whole
<registry>/<name>/collected.json   the versions that were collected, whose numbers stay taken
<registry>/.lock, <registry>/.tmp/ the lock of writers, and the folders they write
<registry>/.leases/                the versions that running servers use
<registry>/.trash/                 collected versions, deleted a day later
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.errors import Refused, WorkbenchError, one_line
from workbench.registry.bundle import Bundle, Problem, load_bundle, seal
from workbench.registry.leases import hold, read_leases
from workbench.registry.manifest import (
    MANIFEST_NAME,
    NAME_PATTERN,
    Draft,
    check_alias,
    check_name,
)
from workbench.registry.records import (
    ALIASES_NAME,
    COLLECTED_NAME,
    Alias,
    AliasFile,
    AliasMove,
    RetiredFile,
    RetiredVersion,
)
from workbench.registry.semver import is_version, parse
from workbench.system.files import fsync_path, is_junk, new_folder, translated_os_errors, unreadable
from workbench.system.records import read_record, write_record

LEFTOVER_AGE_S = 24 * 3600
PATIENCE_S = 5.0
RECORDS = (ALIASES_NAME, COLLECTED_NAME)
TEMPORARY = tuple(f".{record}." for record in RECORDS)


class Registry:
    """A folder of published models. Readers need no lock: all that they find is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The models that have a version."""
        names = [path.name for path in _folders(self.root)]
        return [name for name in names if NAME_PATTERN.fullmatch(name) and self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """The versions of a model in ascending SemVer precedence."""
        found = [path.name for path in _folders(self._folder(name)) if is_version(path.name)]
        return sorted(found, key=lambda version: (parse(version).precedence, version))

    def aliases(self, name: str) -> dict[str, Alias]:
        """The aliases of a model. Raises WorkbenchError where `aliases.json` is not valid."""
        path = self._folder(name) / ALIASES_NAME
        hint = "bring it back from a copy; without one, remove it and `promote` the versions that serve"
        return (
            read_record(path, AliasFile, what="list of aliases", hint=hint).aliases if _exists(path) else {}
        )

    def pointed(self, name: str, alias: str) -> Alias | None:
        """The record of an alias, if it exists. Its version is not checked."""
        return self.aliases(name).get(check_alias(alias))

    def alias_of(self, name: str, alias: str, device_class: str | None) -> str:
        """`alias@class` where the model has that alias, else `alias`."""
        own = f"{alias}@{device_class}"
        return own if device_class is not None and own in self.aliases(name) else alias

    def alias_stamp(self, name: str) -> tuple[int, int, int] | None:
        """What changes whenever an alias of the model moves: time in ns, inode and size of `aliases.json`."""
        path = self._folder(name) / ALIASES_NAME
        status = _status(path)
        return (status.st_mtime_ns, status.st_ino, status.st_size) if status else None

    def retired(self, name: str) -> dict[str, RetiredVersion]:
        """The versions that were collected. Raises WorkbenchError where `collected.json` is not valid."""
        path = self._folder(name) / COLLECTED_NAME
        if not _exists(path):
            return {}
        return read_record(path, RetiredFile, what="list of versions").versions

    def model_name(self, name: str | None) -> str:
        """`name`, or that of the only model. Raises WorkbenchError where there is none or several."""
        if name is not None:
            return check_name(name, "a model")
        only, *others = self._require_names()
        if others:
            listed = ", ".join([only, *others])
            raise WorkbenchError(f"{self.root} holds several models: {listed}", hint="name one of them")
        return only

    @contextmanager
    def lease(self, bundle: Bundle) -> Iterator[bool]:
        """Keep a version from garbage collection during the block; take it before the model is read.

        Yields False where the registry cannot be written, such as on a read-only mount. Raises WorkbenchError
        where the version was collected or changed.
        """
        with hold(self.root, bundle.manifest.name, bundle.version) as held:
            # A collection may have read the leases before this one was written.
            self._wait_for_writer()
            self._check_unchanged(bundle)
            yield held

    def refusal(
        self, name: str, version: str, reason: str, next_try_at: datetime
    ) -> AbstractContextManager[bool]:
        """Have `models` and `verify` say during the block that this process wants a version in vain."""
        return hold(self.root, name, version, refused=reason, next_try_at=next_try_at)

    def bundle(self, name: str, version: str) -> Bundle:
        """A version, with its files not verified. Raises WorkbenchError where it is missing or not valid."""
        parse(version)
        folder = self._folder(name) / version
        if not _exists(folder):
            known = f"it has {', '.join(self.versions(name)) or 'none'}"
            if (retired := self.retired(name).get(version)) is not None:
                raise WorkbenchError(f"version {version} of `{name}` {retired}", hint=known)
            raise WorkbenchError(f"{self.root} has no version {version} of `{name}`", hint=known)
        bundle = load_bundle(folder)
        if (bundle.manifest.name, bundle.version) != (name, version):
            raise WorkbenchError(f"{folder} holds {bundle.manifest.name} {bundle.version}: it was moved")
        return bundle

    def resolve(self, name: str | None, alias: str) -> Bundle:
        """The version that an alias points at, with its files not verified. name: None for the only model.

        Raises WorkbenchError where there is no such registry, model or alias, where `name` is None and there
        are several models, or where the manifest was changed.
        """
        name = self.model_name(name)
        pointed = self._find_alias(name, alias)
        bundle = self.bundle(name, pointed.version)
        if bundle.digest != pointed.manifest_sha256:
            raise WorkbenchError(
                f"{bundle.folder / MANIFEST_NAME} is not the manifest that `{alias}` was pointed at",
                hint="it was changed since; `krishi-bench rollback` returns to the version before",
            )
        return bundle

    def publish(self, draft: Draft, build: Callable[[Path], None]) -> Bundle:
        """Publish the files that `build` writes into its folder as a new version, whole or not at all.

        Raises Refused where a version of this precedence exists, WorkbenchError where the draft does not
        describe the files or the registry cannot be written.
        """
        self._check_free(draft)
        final = self._folder(draft.name) / draft.version
        # The lock is released after the rename, which happens when new_folder ends.
        with ExitStack() as stack:
            try:
                with new_folder(final, scratch=self.root / ".tmp") as folder:
                    build(folder)
                    seal(draft, folder)
                    stack.enter_context(self.locked())
                    self._check_free(draft)
            except FileExistsError as error:
                raise Refused(f"{draft.name} {draft.version} exists already in {self.root}") from error
            with translated_os_errors(self.root):
                fsync_path(self.root)
        return self.bundle(draft.name, draft.version)

    def point(self, name: str, alias: str, version: str, *, reason: str, expected: int | None) -> Alias:
        """Verify a version and point an alias at it.

        expected: the alias's generation when it was read (0: it did not exist); None to move it regardless.
        Nothing changes where it points at the version already. Raises Refused where it moved meanwhile.
        """
        return self._move(name, alias, self.bundle(name, version), reason, expected, steps_back=0)

    def rollback(self, name: str, alias: str, *, past_damaged: bool = False) -> Bundle:
        """Point an alias at its previous version; a second rollback goes back to the one before that.

        past_damaged: pass over versions that are damaged or were collected; the recorded reason names them.
        Raises Refused where there is no version to return to, or one would be passed over.
        """
        pointed = self._find_alias(name, alias)
        passed: list[str] = []
        for steps_back, before in enumerate(reversed(pointed.trail[:-1]), start=1):
            try:
                bundle = self.bundle(name, before.version)
                if bundle.digest != before.manifest_sha256:
                    raise WorkbenchError("its manifest was changed")
                bundle.verify()
            except WorkbenchError as error:
                passed.append(f"{before.version} ({error.message.splitlines()[-1].strip()})")
                continue
            if passed and not past_damaged:
                raise Refused(
                    f"`{alias}` pointed before at what cannot be returned to: {'; '.join(passed)}",
                    hint=f"repair it, or `krishi-bench rollback --past-damaged` returns to {before.version}",
                )
            over = f", passing over {'; '.join(passed)}" if passed else ""
            reason = f"rollback from {pointed.version}{over}"
            self._move(name, alias, bundle, reason, pointed.generation, steps_back=steps_back)
            return bundle
        what = f"`{alias}` pointed at nothing before {pointed.version}"
        if passed:
            what = f"no version `{alias}` pointed at before can be returned to: {'; '.join(passed)}"
        hint = "`krishi-bench models` lists what there is; `promote` points the alias at another"
        raise Refused(what, hint=hint)

    def verify(self) -> list[Problem]:
        """Every difference from what was published. Hashes every file."""
        if not self.root.is_dir():
            raise WorkbenchError(f"there is no registry at {self.root}")
        problems = leftovers(self.root / ".tmp")
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(".") or is_junk(path.name):
                continue
            if _is_folder(path) and NAME_PATTERN.fullmatch(path.name):
                problems += self._verify_model(path)
            else:
                problems.append(Problem(path, "does not belong to a registry"))
        refusals = [lease for lease in read_leases(self.root)[0] if lease.refused]
        return problems + [Problem(self.root / one.name / one.version, one.state) for one in refusals]

    def _verify_model(self, folder: Path) -> list[Problem]:
        problems = leftovers(folder)
        for path in sorted(folder.iterdir()):
            if path.name in RECORDS or path.name.startswith(TEMPORARY) or is_junk(path.name):
                continue
            if not (_is_folder(path) and is_version(path.name)):
                problems.append(Problem(path, "does not belong to a registry"))
                continue
            with _collect_error(problems, path):
                problems += self.bundle(folder.name, path.name).problems()
        with _collect_error(problems, folder / COLLECTED_NAME):
            self.retired(folder.name)
        path = folder / ALIASES_NAME
        with _collect_error(problems, path):
            for alias in self.aliases(folder.name):
                with _collect_error(problems, path, f"`{alias}`: "):
                    self.resolve(folder.name, alias)
        return problems

    def _move(
        self, name: str, alias: str, bundle: Bundle, reason: str, expected: int | None, *, steps_back: int
    ) -> Alias:
        check_alias(alias)
        bundle.verify()
        with self.locked():
            self._check_unchanged(bundle)
            aliases = self.aliases(name)
            before = aliases.get(alias)
            generation = before.generation if before else 0
            if expected not in (None, generation):
                raise _move_error(alias, before)
            target: dict[str, Any] = {"version": bundle.version, "manifest_sha256": bundle.digest}
            if before and before.model_dump(include=set(target)) == target and not steps_back:
                return before
            move = AliasMove(**target, at=datetime.now(UTC), reason=reason, steps_back=steps_back)
            history = (*(before.history if before else ()), move)
            after = Alias(**target, generation=generation + 1, history=history)
            write_record(self._folder(name) / ALIASES_NAME, AliasFile(aliases={**aliases, alias: after}))
        return after

    def _check_unchanged(self, bundle: Bundle) -> None:
        """Raise WorkbenchError where a version was changed or removed after it was read."""
        if self.bundle(bundle.manifest.name, bundle.version).digest != bundle.digest:
            raise WorkbenchError(f"{bundle.folder} was changed meanwhile")

    def _folder(self, name: str) -> Path:
        folder = self.root / check_name(name, "a model")
        if (status := _status(folder)) and stat.S_ISLNK(status.st_mode):
            raise WorkbenchError(f"{folder} is a symbolic link")
        return folder

    def _require_names(self) -> list[str]:
        if not (names := self.names()):
            state = "holds no model yet" if self.root.is_dir() else "does not exist"
            hint = "publish one with `krishi-bench promote`"
            raise WorkbenchError(f"the registry {self.root.absolute()} {state}", hint=hint)
        return names

    def _find_alias(self, name: str, alias: str) -> Alias:
        if (pointed := self.pointed(name, alias)) is None:
            if not self.versions(name):
                known = ", ".join(f"`{other}`" for other in self._require_names())
                raise WorkbenchError(f"{self.root} has no model `{name}`", hint=f"it has {known}")
            known = ", ".join(f"`{other}`" for other in sorted(self.aliases(name))) or "none yet"
            raise WorkbenchError(f"`{name}` in {self.root} has no alias `{alias}`", hint=f"it has {known}")
        return pointed

    def _check_free(self, draft: Draft) -> None:
        """Raise Refused for a number in use. Build metadata makes no other version (SemVer, rule 10)."""
        precedence = parse(draft.version).precedence
        taken: dict[str, RetiredVersion | None] = {**self.retired(draft.name)}
        for version, retired in (taken | dict.fromkeys(self.versions(draft.name))).items():
            if parse(version).precedence == precedence:
                there = (
                    f"existed in {self.root} and {retired}" if retired else f"exists already in {self.root}"
                )
                hint = "a number is never given twice; choose a higher one"
                raise Refused(f"{draft.name} {version} {there}", hint=hint)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of writers. The kernel releases it when the process dies."""
        path = self.root / ".lock"
        with ExitStack() as stack:
            with translated_os_errors(path):
                file = stack.enter_context(path.open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _wait_for_writer(self) -> None:
        """Wait for a writer, but not for long: one that hangs must not stop a server."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            with (self.root / ".lock").open("rb") as file:
                while time.monotonic() < deadline:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        return
                    except BlockingIOError:
                        time.sleep(0.01)
        except OSError:
            return  # Without a lock file there is no writer on this machine.


@contextmanager
def _collect_error(problems: list[Problem], path: Path, prefix: str = "") -> Iterator[None]:
    """Append a WorkbenchError of the block to the problems."""
    try:
        yield
    except WorkbenchError as error:
        problems.append(Problem(path, f"{prefix}{one_line(error)}"))


def _move_error(alias: str, now: Alias | None) -> Refused:
    if now is None:
        return Refused(f"`{alias}` was expected to exist, and does not")
    last = now.history[-1]
    return Refused(
        f"`{alias}` moved to {now.version} meanwhile ({last.at:%Y-%m-%d %H:%M:%S} UTC: {last.reason})",
        hint="look at what it serves now and start again",
    )


def _status(path: Path) -> os.stat_result | None:
    """That of the path itself, if it exists. Raises WorkbenchError where it cannot be looked at."""
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise unreadable(path, error) from error


def _exists(path: Path) -> bool:
    return _status(path) is not None


def _is_folder(path: Path) -> bool:
    return (status := _status(path)) is not None and stat.S_ISDIR(status.st_mode)


def _folders(parent: Path) -> list[Path]:
    try:
        found = sorted(parent.iterdir())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise unreadable(parent, error) from error
    return [path for path in found if _is_folder(path)]


def leftovers(folder: Path) -> list[Problem]:
    """Temporary files of interrupted writers in a model's folder or `.tmp`; of a day, none is in use."""
    oldest_s = time.time() - LEFTOVER_AGE_S
    prefix = ("",) if folder.name == ".tmp" else TEMPORARY
    return [
        Problem(path, "was left by an interrupted write; `krishi-bench gc --delete` removes it")
        for path in children(folder)
        if path.name.startswith(prefix) and os.lstat(path).st_mtime < oldest_s
    ]


def children(folder: Path) -> list[Path]:
    """The entries of a folder; none where it is missing, or a link."""
    try:
        return sorted(folder.iterdir()) if stat.S_ISDIR(os.lstat(folder).st_mode) else []
    except FileNotFoundError:
        return []
