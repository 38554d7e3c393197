"""An environment is made whole or not at all, twice the same, and changes nothing of this one."""

import base64
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.builders import error_of, small_disk
from workbench.errors import Unsuited, WorkbenchError
from workbench.system.child import call
from workbench.system.environments import MadeEnvironment, VirtualEnvironment, locked, read_lock
from workbench.system.environments.installer import explain, nearest
from workbench.system.environments.maker import make
from workbench.system.packages import versions
from workbench.system.records import dotted

TINY = VirtualEnvironment("tiny-1.0", ("tiny==1.0",), about_bytes=0)
NEWER = VirtualEnvironment("tiny-1.1", ("tiny==1.1",), about_bytes=0)
ABSENT = VirtualEnvironment("tiny-2.0", ("other==3.1", "tiny==2.0"), about_bytes=0)
MAKE = """
import sys
from pathlib import Path
from workbench.system.environments import VirtualEnvironment
from workbench.system.environments.maker import make
make(VirtualEnvironment("tiny-1.0", ("tiny==1.0",), about_bytes=0), wheels=Path(sys.argv[1]))
"""


def wheel(folder: Path, version: str, size: int = 0) -> None:
    """Of a package `tiny` with a script. size: bytes of a file that do not compress."""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny/__init__.py": f"__version__ = {version!r}\n".encode(),
        "tiny/data.bin": os.urandom(size) if size else b"data",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\ntiny = tiny:main\n",
    }
    record = f"{info}/RECORD"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as archive:
        for name, data in {**files, record: "\n".join([*lines, f"{record},,", ""]).encode()}.items():
            archive.writestr(name, data)


def packages_here() -> dict[str, str]:
    return {found.metadata["Name"]: found.version for found in distributions()}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "1.1"):
        wheel(folder, version)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(cache))


@pytest.fixture(scope="module")
def made(cache: Path, wheels: Path) -> list[MadeEnvironment]:
    """What two makers got that began at once."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("KRISHI_CACHE", str(cache))
        before = packages_here()
        found = list(pool.map(lambda _: make(TINY, wheels=wheels), range(2)))
        assert packages_here() == before
    return found


def test_of_two_makers_at_once_one_makes_it_and_nothing_else_is_left(
    made: list[MadeEnvironment], cache: Path
) -> None:
    assert made[0] == made[1] == TINY.made()
    assert made[0].packages == {"tiny": "1.0"}
    assert {path.name for path in (cache / "environments").iterdir() if path.is_dir()} == {TINY.folder.name}
    # A script would name the temporary folder.
    assert all(path.name.startswith("python") for path in (TINY.folder / "bin").iterdir())
    assert made[0].size_bytes > 0


def test_made_again_elsewhere_it_has_the_same_digest(
    made: list[MadeEnvironment], wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path))
    monkeypatch.setenv("KRISHI_WHEELS", str(wheels))
    again = make(TINY)
    assert again.digest == made[0].digest
    assert again.made_at != made[0].made_at


@pytest.mark.usefixtures("made")
def test_a_process_in_it_has_its_packages_and_our_code_and_nothing_of_this_environment(
    tmp_path: Path,
) -> None:
    log, in_it = tmp_path / "log.txt", {"timeout_s": 30.0, "label": "the build", "environment": TINY}
    assert call(versions, "tiny", "numpy", "pydantic", log=log, **in_it) == {"tiny": "1.0"}
    assert call(find_spec, "numpy", log=log, **in_it) is None


@pytest.mark.usefixtures("made")
def test_what_cannot_start_in_it_is_told_with_its_name(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    error = error_of(
        lambda: call(dotted, ("a",), log=log, timeout_s=30.0, label="the build", environment=TINY)
    )
    assert (
        error.message
        == "the build in the environment tiny-1.0 failed: ModuleNotFoundError: No module named 'pydantic'"
    )


def test_what_is_not_made_is_said_with_the_command_and_never_made_by_use(
    tmp_path: Path, wheels: Path
) -> None:
    assert wheels.is_dir()
    error = error_of(
        lambda: call(versions, "tiny", log=tmp_path / "l", timeout_s=9.0, label="it", environment=NEWER)
    )
    assert isinstance(error, Unsuited)
    assert error.message == "`krishi-bench run RECIPE --yes` makes the environment tiny-1.1, which it needs"
    assert not NEWER.folder.exists()


def test_a_maker_that_is_killed_leaves_nothing_half_made(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path))
    command = [sys.executable, "-c", MAKE, str(wheels)]
    with subprocess.Popen(
        command, start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as maker:
        while not list(tmp_path.glob("environments/.tmp-*/pyvenv.cfg")):
            assert maker.poll() is None
            time.sleep(0.01)
        os.killpg(maker.pid, signal.SIGKILL)
    assert TINY.made() is None
    assert not TINY.folder.exists()
    assert make(TINY, wheels=wheels).packages == {"tiny": "1.0"}
    assert not list(tmp_path.glob("environments/.tmp-*"))


@pytest.mark.usefixtures("made")
def test_one_that_others_can_enter_is_not_run(wheels: Path, tmp_path: Path) -> None:
    TINY.folder.chmod(0o755)
    try:
        error = error_of(lambda: make(TINY, wheels=wheels))
        assert "an environment is code, and is not run" in error.message
        log = tmp_path / "log.txt"
        error_of(lambda: call(versions, "tiny", log=log, timeout_s=9.0, label="it", environment=TINY))
        assert not log.exists()
    finally:
        TINY.folder.chmod(0o700)


def test_every_wheel_that_is_missing_is_named_with_the_command_that_fetches_it(wheels: Path) -> None:
    error = error_of(lambda: make(ABSENT, wheels=wheels))
    assert "lacks wheels of the environment tiny-2.0" in error.message
    assert error.message.endswith("`other==3.1`, `tiny==2.0`")
    assert "pip download --no-deps --only-binary :all: -d wheels other==3.1 tiny==2.0" in (error.hint or "")
    assert "is no folder" in error_of(lambda: make(ABSENT, wheels=wheels / "none")).message


def test_a_version_that_does_not_exist_is_answered_with_the_nearest(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As pip is configured, and not by our `--wheels`.
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    absent = VirtualEnvironment("tiny-1.0.5", ("tiny==1.0.5",), about_bytes=0)
    error = error_of(lambda: make(absent))
    assert error.message.startswith("tiny 1.0.5 does not exist, or has no wheel for cpython-3")
    assert error.hint == "nearest that have one: 1.0 and 1.1"
    assert not absent.folder.exists()


def test_the_nearest_versions_stand_around_the_one_asked_for() -> None:
    known = ["1.9.0", "1.10.0", "1.11.0rc1", "1.11.0", "1.12.0", "1.13.0"]
    assert nearest("1.10.5", known) == ["1.9.0", "1.10.0", "1.11.0"]
    assert nearest("9.0", known) == ["1.12.0", "1.13.0"]
    assert nearest("0.1", known) == ["1.9.0", "1.10.0", "1.11.0"]


def test_without_a_network_all_that_is_needed_is_named() -> None:
    printed = "WARNING: Retrying ... NewConnectionError(...)\nERROR: Could not find a version that satisfies "
    printed += "the requirement other==3.1 (from versions: none)\nERROR: No matching distribution found"
    error = explain(ABSENT, printed, Path("log.txt"))
    assert "there is no network here to get them: `other==3.1` and" not in error.message
    assert error.message.endswith("`other==3.1`, `tiny==2.0`")
    assert "--wheels wheels" in (error.hint or "")


HALF_DONE = """#!/bin/sh
cd "$(dirname "$4")"/../lib/python*/site-packages
mkdir tiny-1.0.dist-info
printf 'Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n' > tiny-1.0.dist-info/METADATA
exit 2
"""


def test_what_an_installer_has_left_half_done_is_not_taken_for_installed(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(HALF_DONE)
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=os.pathsep)
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    make(TINY, wheels=wheels)
    (data,) = TINY.folder.rglob("tiny/data.bin")
    assert data.read_bytes() == b"data"


def test_a_disk_that_fills_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "1.0", size=900_000)
    with small_disk(tmp_path / "disk", 600) as disk:
        monkeypatch.setenv("KRISHI_CACHE", str(disk))
        error = error_of(lambda: make(TINY, wheels=folder))
        assert "disk was full" in error.message or "No space left" in error.message
        assert "KRISHI_CACHE" in (error.hint or "")
        assert not [path for path in (disk / "environments").iterdir() if path.is_dir()]
        large = VirtualEnvironment("large", TINY.pins, about_bytes=10**15)
        assert "takes about 1000000000 MB" in error_of(lambda: make(large, wheels=folder)).message


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (["tiny==1.0", "Tiny==1.1"], "tiny 1.0 and 1.1: a process has one version of a package"),
        (["tiny>=1.0"], "`tiny>=1.0` does not say which version"),
        (["tiny==1.*"], "does not say which version"),
        (["tiny @ file:///x.whl"], "does not say which version"),
        (["tiny==1 ==2 x"], "is no package"),
    ],
)
def test_a_list_that_is_not_locked_is_refused(pins: list[str], message: str) -> None:
    assert message in error_of(lambda: locked("mine", pins)).message


def test_a_lock_is_read_with_comments_and_markers_and_completed_with_what_our_processes_import(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "mine.txt"
    lock.write_text(
        "# what it needs\ntiny==1.0  # small\n\nnumpy==1.26.4\nother==1; sys_platform == 'win32'\n"
    )
    found = locked("mine", read_lock(lock), ours=["onnx", "no-such-package", "absent==2", "packaging==1"])
    pinned = dict(pin.split("==") for pin in found.pins)
    assert (pinned["absent"], pinned["packaging"]) == ("2", versions("packaging")["packaging"])
    assert (pinned["tiny"], pinned["numpy"]) == ("1.0", "1.26.4")
    assert pinned["pydantic"] == versions("pydantic")["pydantic"]
    assert not pinned.keys() & {"other", "no-such-package"}
    assert found == locked("mine", list(reversed(found.pins)))
    assert found.key != locked("mine", ["tiny==1.1"]).key


def test_an_error_that_is_none_of_these_is_the_first_that_pip_printed() -> None:
    error = explain(TINY, "blah\nERROR: wheel is broken\nERROR: more", Path("log.txt"))
    assert isinstance(error, WorkbenchError)
    assert error.message == "the environment tiny-1.0 could not be made: wheel is broken"
    assert error.hint == "see log.txt"
