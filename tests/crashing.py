"""What is done to a registry, and what can happen to it at every step: run as a program, in one thread.

python -m tests.crashing kill|full|forbidden OPERATION FOLDER    at each file-system call in turn
python -m tests.crashing disk|mount OPERATION FOLDER             on a disk that is really full, or read-only
python -m tests.crashing race|race-numbers|race-first FOLDER     two promotions at once

Every child is a fork: an interpreter each would take minutes. It says what it saw; what is wrong ends it.
"""

import ctypes
import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import workbench.registry.store
import workbench.registry.trial_start
from tests.registry.test_bundle_writer import Bench, Model
from tests.versions import publish
from workbench.errors import Refused, WorkbenchError
from workbench.registry.batch_gain import Batching
from workbench.registry.gc import TRASH_NAME, collect
from workbench.registry.store import Registry

DONE, REFUSED, TOLD, BROKEN, DONE_WITHOUT = 0, 1, 3, 4, 5
OLD = "1.2.0"
CREATED = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir", "os.link", "os.truncate"}
# A full disk still lets go of what it has.
ALLOCATING = {"open", "os.rename", "os.mkdir", "fsync"}


# What is done


class Scene:
    """A workspace: versions up to 1.2.0, `production` moved along them, and runs that could be promoted."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder)
        self.registry = self.bench.registry

    def build(self) -> None:
        for version in ("0.1.0", "0.2.0"):
            publish(self.registry, version)
        for version in ("1.0.0", "1.1.0", OLD):
            publish(self.registry, version)
            self.registry.point("leaf", "production", version, reason="promote", expected=None)
        # 0.1.0 lies in the trash for two days.
        self.registry.point("leaf", "old", "0.2.0", reason="keep", expected=None)
        collect(self.registry, delete=True, now=datetime.now(UTC) - timedelta(days=2))
        publish(self.registry, "0.3.0")
        for number in (1, 2):
            run = self.bench.run(Model(data=b"candidate %d" % number))
            run.path.rename(run.path.with_name(f"2026010{number}-000000"))

    def promote(self, number: int = 1, **choice: Any) -> None:
        # The trial start is a process of its own, which has nothing to do with the registry's files.
        workbench.registry.trial_start.call = lambda _, *arguments, **__: (
            workbench.registry.trial_start.start(*arguments)
        )  # type: ignore[attr-defined]
        # Nor does what it measures, which takes its time.
        unmeasured = Batching(size=1, photos_per_s={}, why="not measured")
        workbench.registry.trial_start.batching_of = lambda *_, **__: unmeasured  # type: ignore[attr-defined]
        run = workbench.results.folder.RunFolder(self.bench.results / f"2026010{number}-000000")
        self.bench.promote_run(run, **choice)

    def publish(self) -> None:
        if "2.0.0" not in self.registry.versions("leaf"):
            publish(self.registry, "2.0.0")

    def point(self) -> None:
        self.registry.point("leaf", "production", "0.3.0", reason="promote", expected=None)

    def rollback(self) -> None:
        if self.production == OLD:
            self.registry.rollback("leaf", "production")

    def gc(self) -> None:
        collect(self.registry, keep=1, delete=True)

    def lease(self) -> None:
        with self.registry.lease(self.registry.bundle("leaf", "0.3.0")):
            pass

    @property
    def production(self) -> str:
        return self.registry.resolve("leaf", "production").version

    def contents(self) -> dict[str, str]:
        """The manifest's digest of every version."""
        versions = self.registry.versions("leaf")
        return {version: self.registry.bundle("leaf", version).digest for version in versions}


AFTER = {"promote": "2.0.0", "publish": OLD, "point": "0.3.0", "rollback": "1.1.0", "gc": OLD, "lease": OLD}


# What happens


def watch(root: Path, before: Callable[[str], None]) -> None:
    """Have `before` called with the name of every call that changes something below `root`."""
    prefix = str(root)

    def concerns(arguments: tuple[Any, ...]) -> bool:
        paths = [os.fsdecode(each) for each in arguments if isinstance(each, str | bytes | os.PathLike)]
        inside = isinstance(arguments[-1], int) and arguments[-1] >= 0  # relative to an open folder
        return any(path.startswith(prefix) for path in paths) or inside

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and os.fsdecode(path).startswith(prefix) and flags & CREATED:
                before("open")
        elif event == "fcntl.flock" or (event in CHANGING and concerns(arguments)):
            before(event)

    def fsync(fd: object) -> None:
        before("fsync")  # What is killed loses nothing that was written: no need to wait for the disk.

    os.fsync = fsync
    sys.addaudithook(hook)


def kill_at(step: int) -> Callable[[str], None]:
    left = [step]

    def before(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def fail_from(step: int, number: int, concerned: Callable[[str], bool]) -> Callable[[str], None]:
    left = [step]

    def before(event: str) -> None:
        if concerned(event):
            left[0] -= 1
            if left[0] <= 0:
                failed.append(event)
                raise OSError(number, os.strerror(number))

    return before


failed: list[str] = []  # in the fork it happened to

HAPPENINGS: dict[str, Callable[[int], Callable[[str], None]]] = {
    "kill": kill_at,
    "full": lambda step: fail_from(step, errno.ENOSPC, ALLOCATING.__contains__),
    "forbidden": lambda step: fail_from(step, errno.EROFS, lambda event: event != "fcntl.flock"),
}


# What must hold


def attempt(work: Callable[[], object]) -> NoReturn:
    """Do it and end this process: DONE, DONE_WITHOUT what failed, REFUSED, TOLD (a clear error) or BROKEN."""
    code = BROKEN
    try:
        work()
        code = DONE_WITHOUT if failed else DONE
    except Refused as error:
        say(f"refused: {error.message}")
        code = REFUSED
    except WorkbenchError as error:
        assert error.message and error.hint, error
        say(f"told: {error.message}")
        code = TOLD
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork(work: Callable[[], object]) -> int:
    """The process id of a fork that does `work`."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        attempt(work)
    return child


def wait_for(child: int) -> int:
    """The exit code of a fork; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(scene: Scene, operation: str, contents: dict[str, str]) -> None:
    """The registry is valid, every alias points at the old or the new version, and no number was reused."""
    problems = [problem for problem in scene.registry.verify() if "interrupted write" not in problem.what]
    assert problems == [], problems
    assert scene.production in (OLD, AFTER[operation]), scene.production
    assert set(scene.registry.aliases("leaf")) == {"production", "old"}
    for alias in scene.registry.aliases("leaf"):
        scene.registry.resolve("leaf", alias).verify()
    now = scene.contents()
    changed = {version for version in contents.keys() & now.keys() if contents[version] != now[version]}
    assert not changed, changed
    if operation != "gc":
        assert contents.keys() <= now.keys(), contents.keys() - now.keys()
        assert len(now.keys() - contents.keys()) <= 1
    contents.update(now)


def check_redone(scene: Scene, operation: str, contents: dict[str, str]) -> None:
    """The same thing done again succeeds, and a collection then leaves nothing of what was interrupted."""
    getattr(scene, operation)()
    check(scene, operation, contents)
    assert scene.production == AFTER[operation]
    if operation == "gc":
        assert sorted(scene.registry.versions("leaf")) == ["0.2.0", "1.1.0", OLD]
        assert not [path for path in (scene.registry.root / TRASH_NAME).iterdir() if "0.1.0" in path.name]
    collect(scene.registry, keep=9, delete=True)
    assert scene.registry.verify() == []
    assert list((scene.registry.root / ".tmp").iterdir()) == []


def leftovers(registry: Registry) -> list[str]:
    """Temporary files, and the leases nobody holds."""
    hidden = [
        path
        for path in registry.root.rglob(".*")
        if path.name not in (".tmp", ".leases", ".lock", TRASH_NAME)
    ]
    return [str(path) for path in (*hidden, *(registry.root / ".tmp").iterdir())]


def everywhere(happening: str, operation: str, folder: Path) -> None:
    """Let it happen at the first call, the second, and so on until the operation completes."""
    Scene(folder / "0").build()
    template = Scene(folder / "0").contents()
    for step in range(1, 1000):
        scene = Scene(folder / str(step))
        shutil.copytree(folder / "0", folder / str(step), copy_function=shutil.copy)
        contents = dict(template)

        def work(scene: Scene = scene, step: int = step) -> None:
            watch(scene.registry.root, HAPPENINGS[happening](step))
            getattr(scene, operation)()

        code = wait_for(fork(work))
        # A server works without a lease where it cannot have one.
        harmed = DONE_WITHOUT if operation == "lease" else TOLD
        assert code in (DONE, -signal.SIGKILL if happening == "kill" else harmed), code
        check(scene, operation, contents)
        say(f"step {scene.production}")
        if happening == "full":
            assert leftovers(scene.registry) == []
        if code == DONE:
            say(f"steps {step}")
            return
        check_redone(scene, operation, contents)
        shutil.rmtree(scene.bench.registry.root.parent)
    raise AssertionError("it never completed")


# On real file systems

NEW_NAMESPACE, PRIVATE, RECURSIVE, REMOUNT, READ_ONLY = 0x20000, 0x40000, 0x4000, 32, 1


def call_libc(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount 2 MB of memory on `folder`, for this process alone; it goes with it."""
    call_libc("unshare", NEW_NAMESPACE)
    call_libc("mount", b"none", b"/", None, PRIVATE | RECURSIVE, None)
    call_libc("mount", b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=2m")
    try:
        yield
    finally:
        call_libc("umount2", str(folder).encode(), 2)


def can_mount() -> bool:
    try:
        call_libc("unshare", NEW_NAMESPACE)
        call_libc("mount", b"none", b"/", None, PRIVATE | RECURSIVE, None)
    except OSError:
        return False
    return True


def on_full_disk(operation: str, folder: Path) -> None:
    """With no page left, with one, and so on until the operation completes."""
    Scene(folder / "0").build()
    disk = folder / "disk"
    disk.mkdir()
    with small_disk(disk):
        for pages in range(100):
            scene = Scene(disk / "w")
            shutil.copytree(folder / "0", disk / "w", copy_function=shutil.copy)
            contents = scene.contents()
            ballast = fill(disk / "ballast", pages)
            code = wait_for(fork(getattr(scene, operation)))
            left = leftovers(scene.registry)
            ballast.unlink()
            assert code in (DONE, TOLD), code
            check(scene, operation, contents)
            assert left == [], left
            say(f"step {scene.production}")
            if code == TOLD:
                check_redone(scene, operation, contents)
            shutil.rmtree(disk / "w")
            if code == DONE:
                say(f"steps {pages}")
                return
    raise AssertionError("it never completed")


def fill(path: Path, pages: int) -> Path:
    """Fill the disk up to the given number of pages of 4 KB."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(0, file.tell() - 4096 * pages))
    return path


def on_read_only_disk(operation: str, folder: Path) -> None:
    Scene(folder / "0").build()
    disk = folder / "disk"
    disk.mkdir()
    with small_disk(disk):
        shutil.copytree(folder / "0", disk / "w", copy_function=shutil.copy)
        scene = Scene(disk / "w")
        contents = scene.contents()
        call_libc("mount", b"tmpfs", str(disk).encode(), None, REMOUNT | READ_ONLY, None)
        code = wait_for(fork(getattr(scene, operation)))
        assert code == (DONE if operation == "lease" else TOLD), code
        check(scene, operation, contents)
        assert scene.production == OLD
        assert collect(scene.registry, keep=1).moved  # What a collection would do can be said all the same.
        with scene.registry.lease(scene.registry.bundle("leaf", OLD)) as held:
            assert held is False
        say("steps 1")


# Two at once


def race(folder: Path, *, versions: tuple[str | None, str | None], first: bool) -> None:
    """Two promotions that have both looked at the registry before either writes."""
    scene = Scene(folder)
    scene.build()
    if first:
        shutil.rmtree(scene.registry.root)
    ready, go = os.pipe(), os.pipe()
    publish_now = Registry.publish

    def publish_together(*arguments: Any) -> Any:
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        return publish_now(*arguments)

    Registry.publish = publish_together  # type: ignore[method-assign,assignment]
    numbered = enumerate(versions, start=1)
    children = [fork(partial(scene.promote, number, version=version)) for number, version in numbered]
    for _ in children:
        os.read(ready[0], 1)
    os.write(go[1], b"go")
    codes = sorted(map(wait_for, children))
    assert codes == [DONE, REFUSED], codes
    assert scene.registry.verify() == []
    say(f"won {scene.production} of {' '.join(scene.registry.versions('leaf'))}")


def race_with_gc(folder: Path) -> None:
    """Collections, one after the other, while aliases move, versions appear and servers come and go."""
    scene = Scene(folder)
    scene.build()
    registry, rounds = scene.registry, 25

    def collects() -> None:
        for _ in range(rounds):
            collect(registry, keep=0, delete=True)

    def moves() -> None:
        point = partial(registry.point, "leaf", "production", reason="r", expected=None)
        for number in range(rounds):
            version = f"3.{number}.0"
            publish(registry, version)
            for step in (
                partial(point, "0.3.0"),
                partial(point, version),
                partial(registry.rollback, "leaf", "production"),
            ):
                try:
                    step()
                except WorkbenchError:
                    say("told")
            scene.registry.resolve("leaf", "production").verify()

    def serves() -> None:
        for number in range(rounds):
            try:
                versions = registry.versions("leaf")
                bundle = registry.bundle("leaf", versions[number % len(versions)])
                with registry.lease(bundle) as held:
                    assert held
                    for _ in range(20):
                        bundle.verify()
                say("served")
            except WorkbenchError as error:
                assert "is not what was published" not in error.message, error.message

    children = [fork(work) for work in (collects, moves, serves)]
    codes = list(map(wait_for, children))
    assert codes == [DONE] * 3, codes
    problems = [problem for problem in registry.verify() if "interrupted write" not in problem.what]
    assert problems == [], problems
    scene.registry.resolve("leaf", "production").verify()
    say(f"steps {rounds}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(what: str, *rest: str) -> None:
    if what != "race-gc":
        workbench.registry.store.LEFTOVER_AGE_S = -1  # Everything an interrupted write leaves is looked at.
    *operations, last = rest
    signal.alarm(60)  # A child that is waited for may have ended otherwise.
    for operation in operations:
        signal.alarm(60)
        say(f"operation {operation}")
        (folder := Path(last) / operation).mkdir(parents=True)
        if what in HAPPENINGS:
            everywhere(what, operation, folder)
        else:
            ON_DISK[what](operation, folder)
    if what in RACES:
        RACES[what](Path(last))
    elif not operations:
        say(str(can_mount()))


ON_DISK = {"disk": on_full_disk, "mount": on_read_only_disk}
RACES: dict[str, Callable[[Path], None]] = {
    "race": partial(race, versions=(None, None), first=False),
    "race-numbers": partial(race, versions=("2.5.0", "2.6.0"), first=False),
    "race-first": partial(race, versions=(None, None), first=True),
    "race-gc": race_with_gc,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
