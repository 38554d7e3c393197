"""Runs pip, or uv, for a new environment, and puts in one sentence what went wrong."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from workbench.errors import WorkbenchError, some
from workbench.system.environments import VirtualEnvironment, platform_tags
from workbench.system.files import cache_folder, write_atomic
from workbench.system.packages import versions

# What pip knows of where packages come from. uv reads none of it, so it is used where there is none.
CONFIGURED = re.compile(r"^\S*\b(index-url|extra-index-url|find-links|no-index|constraint)=", re.MULTILINE)
NO_VERSION = re.compile(r"that satisfies the requirement (\S+?)==(\S+) \(from versions: ([^)]*)\)")
NO_NETWORK = re.compile(
    r"name resolution|Name or service not known|NewConnectionError|ConnectTimeout|Connection refused|"
    r"Network is unreachable|Max retries exceeded|ProxyError|Read timed out|Could not fetch URL"
)
NEAREST = 3
RETRIES = 2


def install(environment: VirtualEnvironment, python: Path, wheels: Path | None) -> None:
    """Install the pins into the environment of `python`, and nothing that they do not name.

    wheels: the one folder to take them from. What is printed is kept in the cache's logs. Raises
    WorkbenchError.
    """
    source = ["--no-index", "--find-links", str(wheels.absolute())] if wheels is not None else []
    # Wheels alone: a source archive runs code of its own to be installed, and may give something else here.
    asked = ["--no-deps", "--only-binary", ":all:", *source, *environment.pins]
    done = _run(_installer(python, wheels), asked, wheels)
    if done.returncode and _has_pip() and "uv" in Path(done.args[0]).name:
        # It tells which versions there are. What uv has left half done is not installed.
        done = _run(_pip(python), ["--ignore-installed", *asked], wheels)
    log = cache_folder() / "logs" / f"environment-{environment.folder.name}.txt"
    printed = f"{done.stdout}\n{done.stderr}"
    with suppress(WorkbenchError):  # as on a full disk, which is told below
        write_atomic(log, printed.encode())
    if done.returncode:
        raise explain(environment, printed, log)


def _run(
    installer: Sequence[str], asked: Sequence[str], wheels: Path | None
) -> "subprocess.CompletedProcess[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if wheels is not None:
        # That folder and no other: nothing of what pip is configured for.
        environ = {name: value for name, value in environ.items() if not name.startswith(("PIP_", "UV_"))}
        environ["PIP_CONFIG_FILE"] = os.devnull
    command = [*installer, *asked]
    return subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace", check=False)


def _installer(python: Path, wheels: Path | None) -> list[str]:
    """uv, where it takes packages from where pip would; else pip."""
    uv = shutil.which("uv")
    if not _has_pip():
        if uv is None:
            raise WorkbenchError(
                "neither pip nor uv is here to install packages with", hint=f"{sys.executable} -m ensurepip"
            )
        return _uv(uv, python)
    return _uv(uv, python) if uv and (wheels is not None or not _configured()) else _pip(python)


def _has_pip() -> bool:
    # Not by looking for the module: setuptools takes that for a start of pip, and removes modules of its own.
    return bool(versions("pip"))


def _uv(uv: str, python: Path) -> list[str]:
    return [uv, "pip", "install", "--python", str(python), "--compile-bytecode"]


def _pip(python: Path) -> list[str]:
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", str(RETRIES)]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet]


def _configured() -> bool:
    listed = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    return bool(CONFIGURED.search(done.stdout)) or done.returncode != 0


def explain(environment: VirtualEnvironment, printed: str, log: Path) -> WorkbenchError:
    """The error for what pip or uv printed."""
    if "No space left on device" in printed or "Disk quota exceeded" in printed:
        return WorkbenchError(
            f"the disk was full before {environment} was made; nothing of it is left",
            hint="free some space (`krishi-bench storage`), or point KRISHI_CACHE at another disk",
        )
    found = NO_VERSION.search(printed)
    if found and found[3] != "none":
        return _no_such_version(found[1], found[2], found[3].split(", "))
    if NO_NETWORK.search(printed):
        pins = environment.pins
        return WorkbenchError(
            f"{environment} needs packages, and there is no network here to get them: {some(pins, most=99)}",
            hint=f"where there is one, with this Python ({' on '.join(platform_tags())}): {fetching(pins)}; "
            "then `--wheels wheels` here",
        )
    if found:
        return WorkbenchError(f"{environment}: there is no package `{found[1]}` where pip looks for it")
    errors = [line.strip() for line in printed.splitlines() if line.lower().startswith("error")]
    reason = errors[0].partition(":")[2].strip() if errors else "it printed no reason"
    return WorkbenchError(f"{environment} could not be made: {reason}", hint=f"see {log}")


def fetching(pins: Sequence[str]) -> str:
    """The command that puts the wheels of these packages into the folder `wheels`."""
    return f"`pip download --no-deps --only-binary :all: -d wheels {' '.join(pins)}`"


def _no_such_version(name: str, asked: str, known: Sequence[str]) -> WorkbenchError:
    python, platform = platform_tags()
    close = " and ".join(nearest(asked, known))
    return WorkbenchError(
        f"{name} {asked} does not exist, or has no wheel for {python} on {platform}",
        hint=f"nearest that have one: {close}" if close else None,
    )


def nearest(asked: str, known: Sequence[str]) -> list[str]:
    """The versions around the one asked for, in order; final releases where there are some."""
    from packaging.version import Version

    versions = sorted({Version(each) for each in known})
    final = [each for each in versions if not each.is_prerelease] or versions
    wanted = Version(asked)
    below = [each for each in final if each < wanted][-(NEAREST - 1) :]
    above = [each for each in final if each > wanted][: NEAREST - len(below)]
    return [str(each) for each in (*below, *above)]
