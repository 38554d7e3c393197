"""Published models: immutable versions, aliases that point at them, and proof that nothing was changed since.

<registry>/<name>/<version>/       a bundle, never changed once it is there
<registry>/<name>/aliases.json     what each alias points at, replaced as a whole
<registry>/<name>/collected.json   the versions that were taken away, whose numbers stay given
<registry>/.lock, <registry>/.tmp/ held by writers; folders being written
<registry>/.leases/                what running servers use
<registry>/.trash/                 collected versions, deleted a day later
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from workbench.errors import Refused, WorkbenchError
from workbench.registry.bundle import Bundle, Problem, check_golden, compare_logits, load_bundle
from workbench.registry.leases import hold
from workbench.registry.manifest import (
    CARD_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    NAME_PATTERN,
    Draft,
    FileEntry,
    Golden,
    Manifest,
    Provenance,
    check_name,
    parse_manifest,
)
from workbench.registry.records import (
    ALIASES_NAME,
    COLLECTED_NAME,
    Alias,
    AliasMove,
    RetiredVersion,
    read_aliases,
    read_retired,
    write_aliases,
)
from workbench.registry.semver import is_version, parse
from workbench.system.files import fsync_path, new_folder, sha256_file, translated_os_errors
from workbench.system.records import problems_of, to_json

__all__ = [
    "ALIASES_NAME",
    "CARD_NAME",
    "GOLDEN_NAME",
    "MANIFEST_NAME",
    "Alias",
    "AliasMove",
    "Bundle",
    "Draft",
    "FileEntry",
    "Golden",
    "Manifest",
    "Problem",
    "Provenance",
    "Registry",
    "check_golden",
    "check_name",
    "compare_logits",
    "parse",
]

LEFTOVER_AGE_S = 24 * 3600
PATIENCE_S = 5.0
RECORDS = (ALIASES_NAME, COLLECTED_NAME)
TEMPORARY = tuple(f".{record}." for record in RECORDS)


class Registry:
    """A folder of published models. Readers need no lock: whatever they see is whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The models that have a version."""
        folders = [path for path in _folders(self.root) if NAME_PATTERN.fullmatch(path.name)]
        return [path.name for path in folders if self._versions(path)]

    def versions(self, name: str) -> list[str]:
        """In ascending SemVer precedence; empty where there is no such model."""
        return self._versions(self._folder(name))

    def aliases(self, name: str) -> dict[str, Alias]:
        """Raises WorkbenchError where `aliases.json` cannot be used; empty where there is none."""
        return read_aliases(self._folder(name))

    def pointed(self, name: str, alias: str) -> Alias | None:
        """What an alias says, without looking at the version; None where there is no such alias."""
        return self.aliases(name).get(check_name(alias, "an alias"))

    def alias_stamp(self, name: str) -> tuple[int, int, int] | None:
        """Something that changes whenever an alias of the model moves, for the price of one `lstat`.

        The time of the last change in ns, inode and size of `aliases.json`; None where there is none.
        """
        path = self._folder(name) / ALIASES_NAME
        try:
            status = os.lstat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise WorkbenchError(f"{path} cannot be looked at: {error.strerror}") from error
        return status.st_mtime_ns, status.st_ino, status.st_size

    def retired(self, name: str) -> dict[str, RetiredVersion]:
        """The versions garbage collection took away. Raises WorkbenchError where the list cannot be used."""
        return read_retired(self._folder(name))

    def model_name(self, name: str | None) -> str:
        """`name`, or that of the only model. Raises WorkbenchError where there is none or several."""
        return self._only_name() if name is None else check_name(name, "a model")

    @contextmanager
    def lease(self, bundle: Bundle) -> Iterator[bool]:
        """Say that this process uses a version, so that it is not collected; it ends with the process.

        Take it before the model is read. Yields False where the registry cannot be written, as from a
        read-only mount: then nobody is told. Raises WorkbenchError where the version is no longer there.
        """
        with hold(self.root, bundle.manifest.name, bundle.version) as held:
            # A collection may have looked at the leases before this one was there.
            self._wait_for_writer()
            self._check_there(bundle)
            yield held

    def bundle(self, name: str, version: str) -> Bundle:
        """A version, its manifest read but its files not verified. Raises WorkbenchError."""
        parse(version)
        folder = self._folder(name) / version
        if not folder.is_symlink() and not folder.is_dir():
            known = f"it has {', '.join(self.versions(name)) or 'none'}"
            if (retired := self.retired(name).get(version)) is not None:
                raise WorkbenchError(f"version {version} of `{name}` {retired}", hint=known)
            raise WorkbenchError(f"{self.root} has no version {version} of `{name}`", hint=known)
        bundle = load_bundle(folder)
        if (bundle.manifest.name, bundle.version) != (name, version):
            raise WorkbenchError(f"{folder} holds {bundle.manifest.name} {bundle.version}: it was moved")
        return bundle

    def resolve(self, name: str | None, alias: str) -> Bundle:
        """What an alias points at; its files are not verified.

        name: None for the only model there is. Raises WorkbenchError where there is no such registry, model
        or alias, where no name was given and there are several, or where the manifest is not the one the
        alias was pointed at.
        """
        name = self.model_name(name)
        if (pointed := self.pointed(name, alias)) is None:
            aliases = self.aliases(name)
            self._check_known(name)
            raise WorkbenchError(
                f"`{name}` in {self.root} has no alias `{alias}`",
                hint=f"it has {', '.join(f'`{known}`' for known in sorted(aliases)) or 'none yet'}",
            )
        bundle = self.bundle(name, pointed.version)
        if bundle.digest != pointed.manifest_sha256:
            raise WorkbenchError(
                f"{bundle.folder / MANIFEST_NAME} is not the manifest that `{alias}` was pointed at",
                hint="it was changed since; `krishi-bench rollback` returns to the version before",
            )
        return bundle

    def publish(self, draft: Draft, build: Callable[[Path], None]) -> Bundle:
        """Make a new version of the files that `build` writes into the folder it is given.

        The version appears whole or not at all, its files read-only, and nothing points at it yet.
        Raises Refused where a version of this precedence exists, WorkbenchError where the draft does not
        describe what was built or the registry cannot be written.
        """
        self._check_free(draft)
        self._prepare()
        final = self._folder(draft.name) / draft.version
        # The lock is let go after the rename, which happens when new_folder ends.
        with ExitStack() as held:
            try:
                with new_folder(final, scratch=self.root / ".tmp") as folder:
                    build(folder)
                    _seal(draft, folder)
                    held.enter_context(self.locked())
                    self._check_free(draft)
            except FileExistsError as error:
                raise Refused(f"{draft.name} {draft.version} exists already in {self.root}") from error
            with translated_os_errors(self.root):
                fsync_path(self.root)
        return self.bundle(draft.name, draft.version)

    def point(self, name: str, alias: str, version: str, *, reason: str, expected: int | None) -> Alias:
        """Point an alias at a version, once the version's files are verified.

        expected: the generation the alias was seen at (0: it did not exist), None to move it regardless.
        Pointing at what it points at already changes nothing. Raises Refused where it moved meanwhile.
        """
        return self._move(name, alias, self.bundle(name, version), reason, expected, steps_back=0)

    def rollback(self, name: str, alias: str) -> Bundle:
        """Return an alias to where it pointed before; called again, to where it pointed before that.

        A version that is damaged or collected by now is passed over, and the recorded reason says so; the
        version it leaves is not looked at. Raises Refused where nothing is left to return to.
        """
        check_name(alias, "an alias")
        self._check_known(name)
        if (pointed := self.pointed(name, alias)) is None:
            raise WorkbenchError(f"`{name}` in {self.root} has no alias `{alias}`")
        passed: list[str] = []
        for steps_back, before in enumerate(reversed(pointed.trail[:-1]), start=1):
            try:
                bundle = self._intact(name, before)
            except WorkbenchError as error:
                passed.append(f"{before.version} ({error.message.splitlines()[-1].strip()})")
                continue
            reason = f"rollback from {pointed.version}"
            reason += f", passing over {'; '.join(passed)}" if passed else ""
            self._move(name, alias, bundle, reason, pointed.generation, steps_back=steps_back)
            return bundle
        if passed:
            raise Refused(
                f"no version `{alias}` pointed at before can be returned to: {'; '.join(passed)}",
                hint="`krishi-bench models` lists what there is; `promote` points the alias at another",
            )
        raise Refused(f"`{alias}` pointed at nothing before {pointed.version}")

    def verify(self) -> list[Problem]:
        """Everything in the registry that is not as it was published. Hashes every file."""
        if not self.root.is_dir():
            raise WorkbenchError(f"there is no registry at {self.root}")
        problems = leftovers(self.root / ".tmp")
        for path in sorted(self.root.iterdir()):
            if path.name.startswith("."):
                continue
            if _is_folder(path) and NAME_PATTERN.fullmatch(path.name):
                problems += self._verify_model(path)
            else:
                problems.append(Problem(path, "does not belong to a registry"))
        return problems

    def _verify_model(self, folder: Path) -> list[Problem]:
        problems = leftovers(folder)
        for path in sorted(folder.iterdir()):
            if path.name in RECORDS or path.name.startswith(TEMPORARY):
                continue
            if not (_is_folder(path) and is_version(path.name)):
                problems.append(Problem(path, "does not belong to a registry"))
                continue
            try:
                problems += self.bundle(folder.name, path.name).problems()
            except WorkbenchError as error:
                problems.append(Problem(path, error.message))
        return problems + self._verify_aliases(folder)

    def _verify_aliases(self, folder: Path) -> list[Problem]:
        path = folder / ALIASES_NAME
        problems = []
        try:
            self.retired(folder.name)
        except WorkbenchError as error:
            problems.append(Problem(folder / COLLECTED_NAME, error.message))
        try:
            aliases = self.aliases(folder.name)
        except WorkbenchError as error:
            return [*problems, Problem(path, error.message)]
        for alias in aliases:
            try:
                self.resolve(folder.name, alias)
            except WorkbenchError as error:
                problems.append(Problem(path, f"`{alias}`: {error.message}"))
        return problems

    def _move(
        self, name: str, alias: str, bundle: Bundle, reason: str, expected: int | None, *, steps_back: int
    ) -> Alias:
        check_name(alias, "an alias")
        bundle.verify()
        self._prepare()
        with self.locked():
            self._check_there(bundle)
            aliases = self.aliases(name)
            before = aliases.get(alias)
            generation = before.generation if before else 0
            if expected not in (None, generation):
                raise _lost(alias, before)
            target = (bundle.version, bundle.digest)
            if before and (before.version, before.manifest_sha256) == target and not steps_back:
                return before
            move = AliasMove(
                version=bundle.version,
                manifest_sha256=bundle.digest,
                at=datetime.now(UTC),
                reason=reason,
                steps_back=steps_back,
            )
            after = Alias(
                version=bundle.version,
                manifest_sha256=bundle.digest,
                generation=generation + 1,
                history=(*(before.history if before else ()), move),
            )
            write_aliases(self._folder(name), {**aliases, alias: after})
        return after

    def _intact(self, name: str, before: AliasMove) -> Bundle:
        bundle = self.bundle(name, before.version)
        if bundle.digest != before.manifest_sha256:
            raise WorkbenchError("its manifest was changed")
        bundle.verify()
        return bundle

    def _check_there(self, bundle: Bundle) -> None:
        """Raises WorkbenchError where a version that was looked at a moment ago is another one or gone."""
        if self.bundle(bundle.manifest.name, bundle.version).digest != bundle.digest:
            raise WorkbenchError(f"{bundle.folder} was changed meanwhile")

    def _folder(self, name: str) -> Path:
        folder = self.root / check_name(name, "a model")
        if folder.is_symlink():
            raise WorkbenchError(f"{folder} is a symbolic link")
        return folder

    @staticmethod
    def _versions(folder: Path) -> list[str]:
        found = [path.name for path in _folders(folder) if is_version(path.name)]
        return sorted(found, key=lambda version: (parse(version).precedence, version))

    def _only_name(self) -> str:
        names = self.names()
        if len(names) > 1:
            raise WorkbenchError(
                f"{self.root} holds several models: {', '.join(names)}", hint="name one of them"
            )
        if not names:
            raise self._empty()
        return names[0]

    def _check_known(self, name: str) -> None:
        if not self.versions(name):
            if not (names := self.names()):
                raise self._empty()
            known = ", ".join(f"`{other}`" for other in names)
            raise WorkbenchError(f"{self.root} has no model `{name}`", hint=f"it has {known}")

    def _empty(self) -> WorkbenchError:
        there = "holds no model yet" if self.root.is_dir() else "does not exist"
        return WorkbenchError(
            f"the registry {self.root} {there}", hint="publish one with `krishi-bench promote`"
        )

    def _check_free(self, draft: Draft) -> None:
        """Build metadata does not make another version (SemVer, rule 10)."""
        precedence = parse(draft.version).precedence
        for version in self.versions(draft.name):
            if parse(version).precedence == precedence:
                raise Refused(
                    f"{draft.name} {version} exists already in {self.root}",
                    hint="published versions never change; choose a higher number",
                )
        for version, retired in self.retired(draft.name).items():
            if parse(version).precedence == precedence:
                raise Refused(
                    f"{draft.name} {version} existed in {self.root} and {retired}",
                    hint="a number is never given twice; choose a higher one",
                )

    def _prepare(self) -> None:
        try:
            with translated_os_errors(self.root):
                (self.root / ".tmp").mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise WorkbenchError(
                f"{self.root} cannot be a registry: {error.filename} is not a folder"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one writer at a time, and let go by the kernel should it die."""
        path = self.root / ".lock"
        with ExitStack() as held:
            with translated_os_errors(path):
                file = held.enter_context(path.open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _wait_for_writer(self) -> None:
        """Return once no writer is at work, or after a while: one that hangs must not stop a server."""
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
            return  # No lock that can be had, no writer on this machine.


def _seal(draft: Draft, folder: Path) -> None:
    """Write the manifest of what is in `folder` and make every file read-only."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            raise WorkbenchError(f"a bundle holds plain files only, and {path.name} is none")
    try:
        entries = [
            FileEntry(path=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in sorted(folder.iterdir(), key=lambda path: path.name)
        ]
        manifest = Manifest.model_validate({**dict(draft), "files": tuple(entries)})
    except ValidationError as error:
        problems = "\n  ".join(problems_of(error))
        raise WorkbenchError(f"{draft.name} {draft.version} cannot be published\n  {problems}") from error
    path = folder / MANIFEST_NAME
    data = to_json(manifest)
    # Not every value survives JSON (NaN comes back as nothing): what cannot be read again must not appear.
    parse_manifest(data, path)
    path.write_bytes(data)
    for path in folder.iterdir():
        path.chmod(0o444)


def _lost(alias: str, now: Alias | None) -> Refused:
    if now is None:
        return Refused(f"`{alias}` was expected to exist, and does not")
    last = now.history[-1]
    return Refused(
        f"`{alias}` moved to {now.version} meanwhile ({last.at:%Y-%m-%d %H:%M:%S} UTC: {last.reason})",
        hint="look at what it serves now and start again",
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _folders(parent: Path) -> list[Path]:
    try:
        found = sorted(parent.iterdir())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise WorkbenchError(f"{parent} cannot be listed: {error.strerror}") from error
    return [path for path in found if _is_folder(path)]


def leftovers(folder: Path) -> list[Problem]:
    """What an interrupted writer left a day ago or more; younger ones may still be at work.

    folder: a model's, or `.tmp`. No link is followed, neither here nor below.
    """
    now = time.time()
    prefix = ("",) if folder.name == ".tmp" else TEMPORARY
    return [
        Problem(path, "was left by an interrupted write; `krishi-bench gc --delete` removes it")
        for path in children(folder)
        if path.name.startswith(prefix) and now - os.lstat(path).st_mtime > LEFTOVER_AGE_S
    ]


def children(folder: Path) -> list[Path]:
    """What a folder holds; nothing where it is not there, or is a link."""
    try:
        return sorted(folder.iterdir()) if stat.S_ISDIR(os.lstat(folder).st_mode) else []
    except FileNotFoundError:
        return []
