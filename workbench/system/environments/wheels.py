"""A folder of wheels, to make environments from without the network."""

from collections.abc import Iterator
from pathlib import Path

from workbench.errors import WorkbenchError, some
from workbench.system.environments import VirtualEnvironment, platform_tags
from workbench.system.environments.installer import fetching


def refuse_missing(environment: VirtualEnvironment, folder: Path) -> None:
    """Raise WorkbenchError with every package that has no wheel for this Python in the folder."""
    refuse_no_folder(folder)
    there = set(_usable(folder))
    if missing := [pin for pin in environment.pins if _key(pin) not in there]:
        python, platform = platform_tags()
        raise WorkbenchError(
            f"{folder} lacks wheels of {environment} for {python} on {platform}: {some(missing, most=99)}",
            hint=f"with network: {fetching(missing)}",
        )


def refuse_no_folder(folder: Path) -> None:
    """Raise WorkbenchError where wheels cannot be in it, as it is no folder."""
    if not folder.is_dir():
        raise WorkbenchError(f"{folder} is no folder", hint="`--wheels` takes a folder of .whl files")


def _usable(folder: Path) -> Iterator[tuple[str, str]]:
    """The packages and versions that have a wheel for this Python."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    here = frozenset(sys_tags())
    for path in folder.glob("*.whl"):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if tags & here:
            yield str(name), version.public


def _key(pin: str) -> tuple[str, str]:
    from packaging.version import Version

    name, _, version = pin.partition("==")
    return name, Version(version).public
