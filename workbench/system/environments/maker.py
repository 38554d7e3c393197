"""Makes virtual environments with pip, whole or not at all. It is never done unasked."""

import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.system.environments import (
    RECORD,
    MadeEnvironment,
    VirtualEnvironment,
    is_private,
    platform_tags,
)
from workbench.system.environments.installer import install
from workbench.system.environments.wheels import refuse_missing
from workbench.system.files import bytes_of, digest_of, exclusive, new_folder
from workbench.system.records import write_record

WHEELS = "KRISHI_WHEELS"  # a folder of wheels to install from, instead of the index
# Files beside the packages' own that tell how and from where they were installed, and not what they are.
HOW = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD"})


def make(
    environment: VirtualEnvironment,
    *,
    wheels: Path | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> MadeEnvironment:
    """Make it, unless it is made; of several makers at once one does, and the others wait.

    wheels: a folder of wheels to install from, without the network; `$KRISHI_WHEELS` by default, else what
    pip is configured for. waiting: is called before a wait. Raises WorkbenchError, and leaves nothing behind,
    where a package does not exist for this Python, the network or a wheel is missing, or the disk is full.
    """
    if wheels is None and (folder := os.environ.get(WHEELS)):
        wheels = Path(folder)
    final = environment.folder
    with exclusive(lock_of(final), waiting):
        if (made := environment.made()) is not None:
            return made
        if final.is_symlink() or (final.exists() and not is_private(final)):
            raise WorkbenchError(
                f"{final} is a link, or not yours alone: an environment is code, and is not run",
                hint="move it away, or point KRISHI_CACHE at a folder of yours",
            )
        for left in leftovers(final):
            remove(left)
        if wheels is not None:
            refuse_missing(environment, wheels)
        _refuse_full_disk(environment)
        return _make(environment, wheels)


def lock_of(folder: Path) -> Path:
    """The file that whoever makes or deletes this environment holds."""
    return folder.with_name(f"{folder.name}.lock")


def leftovers(final: Path) -> list[Path]:
    """What makers that were killed left, and the environment itself where it has no record or no Python.

    To be asked under the lock.
    """
    stale = [final] if final.exists() else []
    return [*stale, *final.parent.glob(f".tmp-{final.name}-*")]


def remove(folder: Path) -> None:
    """Delete an environment: its record first, so that half of one is none."""
    import shutil

    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _make(environment: VirtualEnvironment, wheels: Path | None) -> MadeEnvironment:
    import venv

    began = time.monotonic()
    with new_folder(environment.folder) as folder:
        folder.chmod(0o700)
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
        install(environment, folder / "bin" / "python", wheels)
        _drop_scripts(folder)
        packages = _installed(environment, folder)
        made = MadeEnvironment(
            name=environment.name,
            pins=environment.pins,
            python=_version_of(folder / "bin" / "python"),
            packages={found.metadata["Name"]: found.version for found in packages},
            digest=digest_of([*platform_tags(), [_contents(each) for each in packages]]),
            size_bytes=bytes_of(folder),
            seconds=time.monotonic() - began,
            made_at=datetime.now(UTC),
        )
        write_record(folder / RECORD, made)
    return made


def _drop_scripts(folder: Path) -> None:
    # They name the temporary folder in their first line; all that is run here is run by `python`.
    for script in (folder / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()


def _installed(environment: VirtualEnvironment, folder: Path) -> list[Distribution]:
    """What is in it, by name. Raises WorkbenchError where that is not what was asked for."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    (site,) = (folder / "lib").glob("python*/site-packages")
    found = sorted(distributions(path=[str(site)]), key=lambda each: canonicalize_name(each.metadata["Name"]))
    have = {canonicalize_name(each.metadata["Name"]): Version(each.version).public for each in found}
    asked = {name: Version(version).public for name, version in map(_split, environment.pins)}
    if have != asked:
        wrong = sorted({*have.items()} ^ {*asked.items()}, key=str)
        listed = ", ".join(f"{name} {version}" for name, version in wrong)
        raise WorkbenchError(f"{environment} did not become what was asked for: {listed}")
    return found


def _split(pin: str) -> tuple[str, str]:
    name, _, version = pin.partition("==")
    return name, version


def _contents(package: Distribution) -> list[str]:
    """The files of a package with their digests, without how they came here and what was compiled here."""
    kept = (
        f"{file} {file.hash.value if file.hash else ''}"
        for file in package.files or ()
        if file.suffix != ".pyc" and file.parts[0] != ".." and file.name not in HOW
    )
    return [package.metadata["Name"], package.version, *sorted(kept)]


def _version_of(python: Path) -> str:
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkbenchError(f"the Python of a new environment does not start: {done.stderr.strip()}")
    return done.stdout.strip()


def _refuse_full_disk(environment: VirtualEnvironment) -> None:
    import shutil

    place = next(folder for folder in environment.folder.parents if folder.exists())
    if (free := shutil.disk_usage(place).free) < environment.about_bytes:
        raise WorkbenchError(
            f"{environment} takes about {environment.about_bytes / 1e6:.0f} MB; {place} has {free / 1e6:.0f}",
            hint="`krishi-bench storage` shows what can be taken away, or point KRISHI_CACHE at another disk",
        )
