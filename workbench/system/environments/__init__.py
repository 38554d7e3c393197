"""Virtual environments of their own: what a step or a runtime needs and this environment must not have.

<cache>/environments/<name>-<12 hex digits>/
    bin/python, lib/, pyvenv.cfg    a virtual environment of this Python
    environment.json                what is in it; written last, so that without it there is none

A process in one imports its packages and our own code, and nothing of this environment. Bytes, numbers and
plain records cross. `environments.maker` makes one, which nothing here does.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from workbench.errors import Unsuited, WorkbenchError
from workbench.system.files import cache_folder, digest_of
from workbench.system.packages import versions
from workbench.system.records import Record, read_record

FOLDER = "environments"
RECORD = "environment.json"
ABOUT_BYTES = 200_000_000  # what a version of onnxruntime and what our processes import take
# What our own code imports in a build or a measuring process, whatever it builds or measures.
PROCESS = (
    "annotated-types", "numpy", "packaging", "pillow", "psutil", "pydantic", "pydantic-core",
    "typing-extensions", "typing-inspection",
)  # fmt: skip
# Our code is found where it lies, without the folder around it, which may be this environment's packages.
START = """\
import importlib, importlib.util, sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
spec = importlib.util.spec_from_file_location(
    "workbench", f"{root}/__init__.py", submodule_search_locations=[root]
)
sys.modules["workbench"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
importlib.import_module(module).main()
"""


class MadeEnvironment(Record):
    """`environment.json`. packages: versions by name. digest: of Python, platform and every file installed.

    seconds: that making it took.
    """

    schema_version: Literal[1] = 1
    name: str
    pins: tuple[str, ...]
    python: str
    packages: dict[str, str]
    digest: str
    size_bytes: int
    seconds: float
    made_at: datetime


@dataclass(frozen=True, slots=True)
class VirtualEnvironment:
    """Packages at one version each, in a virtual environment of this Python (see `locked`).

    name: for messages and the folder, such as `onnxruntime-1.26.0`. pins: `name==version`, sorted, all that
    is installed. about_bytes: on disk, a guess to tell before it is made.
    """

    name: str
    pins: tuple[str, ...]
    about_bytes: int = ABOUT_BYTES

    def __str__(self) -> str:
        return f"the environment {self.name}"

    @property
    def key(self) -> str:
        """64 hex digits of the packages, this Python and this platform."""
        return digest_of([list(self.pins), *platform_tags()])

    @property
    def folder(self) -> Path:
        return cache_folder() / FOLDER / f"{self.name}-{self.key[:12]}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def made(self) -> MadeEnvironment | None:
        """Its record, or None where it is not made, its Python is gone, or others can write to it."""
        with suppress(WorkbenchError, OSError):
            if self.python.exists() and is_private(self.folder):
                return read_record(self.folder / RECORD, MadeEnvironment, what="environment")
        return None

    def unmade(self) -> str | None:
        """None where it is made; else that it is not, and the command that makes it."""
        if self.made() is not None:
            return None
        # The command first: a table cuts reasons off.
        return f"`krishi-bench run RECIPE --yes` makes {self}, which it needs"

    def command(self, module: str, *arguments: str) -> list[str]:
        """Runs `main` of a module of ours in it. Raises Unsuited where it is not made."""
        if (reason := self.unmade()) is not None:
            raise Unsuited(reason)
        with suppress(OSError):
            os.utime(self.folder / RECORD)  # `storage` goes by when it was last used
        root = Path(__file__).parents[2]  # the package `workbench`
        return [str(self.python), "-I", "-c", START, str(root), module, *arguments]


def locked(
    name: str, pins: Iterable[str], *, ours: Sequence[str] = (), about_bytes: int = ABOUT_BYTES
) -> VirtualEnvironment:
    """An environment with these packages, and with what a process of ours imports.

    pins: `name==version` each, with an environment marker if need be; what they need in turn too, as nothing
    is added to them. ours: distributions to have at the version installed here, where `pins` has none; of
    those that are not installed here, `name==version` has that one, and a name alone is left out. Raises
    WorkbenchError for what is no pin, and for two versions of one package.
    """
    found: dict[str, str] = {}
    for pin in pins:
        if (package := _pinned(name, pin)) is None:
            continue
        distribution, version = package
        if found.setdefault(distribution, version) != version:
            both = f"{distribution} {found[distribution]} and {version}"
            raise WorkbenchError(
                f"the environment {name} is asked for {both}: a process has one version of a package",
                hint="name one of them; variants that differ in it are processes of their own",
            )
    fallback = dict(each.split("==") for each in ours if "==" in each)
    here = fallback | versions(*PROCESS, *(each.partition("==")[0] for each in ours))
    # Without `+cpu` and the like: which build it is, is for the index to say that pip is configured for.
    added = {each: version.partition("+")[0] for each, version in here.items() if each not in found}
    listed = sorted(f"{each}=={version}" for each, version in {**added, **found}.items())
    return VirtualEnvironment(name, tuple(listed), about_bytes)


def is_private(folder: Path) -> bool:
    """Whether it is a real folder that this user alone can enter: what lies in it is run."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def read_lock(path: Path) -> tuple[str, ...]:
    """The pins of a requirements file, one `name==version` a line; `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)


def platform_tags() -> tuple[str, str]:
    """What wheels are made for here: `cpython-311`, `linux-x86_64`."""
    import sys
    import sysconfig

    return sys.implementation.cache_tag, sysconfig.get_platform()


def _pinned(name: str, pin: str) -> tuple[str, str] | None:
    """The distribution and its version; None where its marker is for other systems."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(pin)
    except InvalidRequirement as error:
        raise WorkbenchError(f"the environment {name}: `{pin}` is no package: {error}") from error
    only = [each for each in wanted.specifier if each.operator == "==" and "*" not in each.version]
    if len(wanted.specifier) != 1 or not only or wanted.url or wanted.extras:
        raise WorkbenchError(
            f"the environment {name}: `{pin}` does not say which version",
            hint="write `name==1.2.3`, with all that it needs in lines of their own, as `pip freeze` does",
        )
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    return _normalized(wanted.name), only[0].version


def _normalized(distribution: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(distribution)
