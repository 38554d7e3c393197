"""What nothing needs goes to the trash and then for good; what something needs stays."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.versions import publish, workspace_folder
from workbench.cli import main
from workbench.errors import Refused, WorkbenchError
from workbench.registry import gc
from workbench.registry.gc import Reclaimed, collect
from workbench.registry.leases import hold
from workbench.registry.store import Registry
from workbench.report.registry import collection

DAY = timedelta(hours=25)
VERSIONS = ("0.9.0", "1.0.0", "1.1.0", "1.2.0", "1.3.0", "2.0.0")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """`production` walked from 1.0.0 to 1.3.0; 0.9.0 and 2.0.0 were never pointed at."""
    registry = Registry(tmp_path / "registry")
    for version in VERSIONS:
        publish(registry, version)
    for version in VERSIONS[1:-1]:
        registry.point("leaf", "production", version, reason="promote", expected=None)
    return registry


def snapshot(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*")}


def moved(reclaimed: Reclaimed) -> list[str]:
    return [gone.version for gone in reclaimed.moved]


def in_trash(registry: Registry) -> list[str]:
    return sorted(path.name.split("@")[1] for path in (registry.root / ".trash").iterdir())


def test_without_delete_nothing_is_changed_and_it_is_said_what_would_be(registry: Registry) -> None:
    before = snapshot(registry.root)
    said = collect(registry, keep=1)
    assert snapshot(registry.root) == before
    assert moved(said) == ["0.9.0", "1.0.0", "1.1.0"]
    sizes = [sum(file.stat().st_size for file in Path(gone.path).iterdir()) for gone in said.moved]
    assert [gone.size_bytes for gone in said.moved] == sizes
    text = collection(said)
    assert "would be moved to the trash: leaf 0.9.0" in text
    assert text.endswith("nothing was changed: `krishi-bench gc --delete` does it")


def test_what_an_alias_a_rollback_a_server_or_a_number_needs_is_kept_with_the_reason(
    registry: Registry,
) -> None:
    registry.point("leaf", "canary", "1.0.0", reason="try", expected=0)
    with registry.lease(registry.bundle("leaf", "0.9.0")) as held:
        assert held
        kept = {item.version: item.why for item in collect(registry, keep=1).kept}
    assert kept == {
        "0.9.0": (f"in use by process {os.getpid()} of {os.uname().nodename}",),
        "1.0.0": ("canary points at it",),
        "1.2.0": ("production can be rolled back to it",),
        "1.3.0": ("production points at it",),
        "2.0.0": ("the highest version",),
    }


def test_collected_versions_wait_in_the_trash_for_a_day_and_then_go_for_good(registry: Registry) -> None:
    now = datetime.now(UTC)
    first = collect(registry, keep=3, delete=True, now=now)
    assert (moved(first), first.freed_bytes, in_trash(registry)) == (["0.9.0"], 0, ["0.9.0"])
    assert registry.verify() == []
    (waiting,) = collect(registry, delete=True, now=now + timedelta(hours=23)).waiting
    until = (now + timedelta(hours=24)).isoformat(timespec="seconds")
    assert (waiting.version, waiting.until) == ("0.9.0", until)
    last = collect(registry, delete=True, now=now + DAY)
    assert [gone.version for gone in last.deleted] == ["0.9.0"]
    assert last.freed_bytes == first.moved[0].size_bytes > 0
    assert in_trash(registry) == []


def test_a_clock_that_goes_backwards_deletes_nothing_early(registry: Registry) -> None:
    now = datetime.now(UTC)
    collect(registry, delete=True, now=now)
    assert collect(registry, delete=True, now=now - timedelta(days=9)).deleted == ()


def test_what_was_collected_can_be_put_back_by_hand(registry: Registry) -> None:
    collect(registry, delete=True)
    (path,) = (registry.root / ".trash").iterdir()
    path.rename(registry.root / "leaf" / "0.9.0")
    registry.bundle("leaf", "0.9.0").verify()
    assert registry.verify() == []


def test_the_number_of_a_collected_version_is_never_given_again(registry: Registry) -> None:
    collect(registry, keep=0, delete=True)
    collect(registry, keep=0, delete=True, now=datetime.now(UTC) + DAY)
    for version in ("1.0.0", "1.0.0+again"):
        with pytest.raises(Refused, match=r"leaf 1\.0\.0 existed in .* and was collected"):
            publish(registry, version)
    with pytest.raises(WorkbenchError, match=r"version 1\.0\.0 of `leaf` was collected") as caught:
        registry.bundle("leaf", "1.0.0")
    assert caught.value.hint == "it has 1.3.0, 2.0.0"


def test_rollback_reaches_what_was_kept_and_then_says_what_was_collected(registry: Registry) -> None:
    collect(registry, keep=1, delete=True)
    assert registry.rollback("leaf", "production").version == "1.2.0"
    with pytest.raises(Refused) as caught:
        registry.rollback("leaf", "production")
    assert caught.value.message.startswith("no version `production` pointed at before can be returned to: ")
    assert "1.1.0 (version 1.1.0 of `leaf` was collected by `krishi-bench gc` on 20" in caught.value.message
    assert "1.0.0 (" in caught.value.message
    assert registry.resolve("leaf", "production").version == "1.2.0"


def test_the_highest_version_stays_even_where_nothing_points_anywhere(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version in ("1.0.0", "1.1.0-rc.1", "1.1.0"):
        publish(registry, version)
    assert moved(collect(registry, keep=0, delete=True)) == ["1.0.0", "1.1.0-rc.1"]
    assert registry.versions("leaf") == ["1.1.0"]


def test_a_damaged_version_that_nothing_needs_goes_too(registry: Registry) -> None:
    manifest = registry.bundle("leaf", "0.9.0").folder / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert moved(collect(registry, delete=True)) == ["0.9.0"]
    assert registry.retired("leaf")["0.9.0"].manifest_sha256 is None


def test_links_are_never_followed(registry: Registry, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("precious")
    old = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    (registry.root / "leaf" / "0.1.0").symlink_to(mine)
    (registry.root / ".tmp" / "link").symlink_to(mine)
    os.utime(registry.root / ".tmp" / "link", (old, old), follow_symlinks=False)
    collect(registry, keep=0, delete=True)
    (inside,) = (registry.root / ".trash").glob("*@0.9.0@*")
    (inside / "link").symlink_to(mine)
    (registry.root / ".trash" / "leaf@0.2.0@20200101T000000Z@0").symlink_to(mine)
    collect(registry, keep=0, delete=True, now=datetime.now(UTC) + DAY)
    assert (mine / "file").read_text() == "precious"
    assert list((registry.root / ".trash").iterdir()) == list((registry.root / ".tmp").iterdir()) == []
    assert (registry.root / "leaf" / "0.1.0").is_symlink()


def test_a_trash_that_is_a_link_takes_nothing(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (registry.root / ".trash").symlink_to(tmp_path / "mine")
    with pytest.raises(WorkbenchError, match="is a symbolic link"):
        collect(registry, delete=True)
    assert registry.versions("leaf") == list(VERSIONS)


def test_old_leftovers_go_and_young_ones_stay(registry: Registry) -> None:
    for name in (".tmp/old", ".tmp/young", "leaf/.aliases.json.old", "leaf/.collected.json.old"):
        path = registry.root / name
        path.write_text("half")
        if "old" in name:
            os.utime(path, (1e9, 1e9))
    assert len(registry.verify()) == 3
    done = collect(registry, delete=True)
    assert len(done.leftovers) == 3
    assert [path.name for path in (registry.root / ".tmp").iterdir()] == ["young"]
    assert registry.verify() == []


def test_where_an_alias_file_cannot_be_read_nothing_is_collected(registry: Registry) -> None:
    publish(registry, "1.0.0", name="apple")
    publish(registry, "2.0.0", name="apple")
    (registry.root / "leaf" / "aliases.json").write_text("{")
    with pytest.raises(WorkbenchError, match="is not JSON"):
        collect(registry, delete=True)
    assert registry.versions("apple") == ["1.0.0", "2.0.0"]


def test_a_registry_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="there is no registry at"):
        collect(Registry(tmp_path / "nowhere"), delete=True)
    assert not (tmp_path / "nowhere").exists()


# Leases


HOLD = """
import sys
from pathlib import Path
from workbench.registry.store import Registry
registry = Registry(Path(sys.argv[1]))
with registry.lease(registry.bundle("leaf", "0.9.0")) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_lease_ends_with_its_process_however_that_ends(registry: Registry, end: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(registry.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with server:
        assert server.stdout is not None and server.stdin is not None
        assert server.stdout.readline() == "True\n"
        (lease,) = (registry.root / ".leases").iterdir()
        told = json.loads(lease.read_text())
        assert (told["name"], told["version"], told["pid"]) == ("leaf", "0.9.0", server.pid)
        assert moved(collect(registry, delete=True)) == []
        if end == "kill":
            server.kill()
    assert moved(collect(registry, delete=True)) == ["0.9.0"]
    assert list((registry.root / ".leases").iterdir()) == []
    assert registry.verify() == []


def test_versions_in_the_trash_that_a_server_uses_are_not_deleted(registry: Registry) -> None:
    collect(registry, delete=True)
    tomorrow = datetime.now(UTC) + DAY
    with hold(registry.root, "leaf", "0.9.0"):  # a lease that the first collection did not find
        later = collect(registry, delete=True, now=tomorrow)
        assert (later.deleted, [gone.version for gone in later.waiting]) == ((), ["0.9.0"])
    assert [gone.version for gone in collect(registry, delete=True, now=tomorrow).deleted] == ["0.9.0"]


def test_a_lease_that_cannot_be_read_stops_the_collection(registry: Registry) -> None:
    (registry.root / ".leases").mkdir()
    path = registry.root / ".leases" / "x.json"
    path.write_text("{}")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(WorkbenchError, match=r"x\.json has schema_version None") as caught:
            collect(registry, delete=True)
        assert "stop the server that holds it" in str(caught.value.hint)
    assert moved(collect(registry, delete=True)) == ["0.9.0"]


def test_where_no_lease_can_be_had_the_server_works_without(registry: Registry) -> None:
    (registry.root / ".leases").write_text("in the way")
    with registry.lease(registry.bundle("leaf", "0.9.0")) as held:
        assert held is False


def test_a_lease_on_a_version_that_is_gone_is_an_error_and_leaves_nothing(registry: Registry) -> None:
    bundle = registry.bundle("leaf", "0.9.0")
    collect(registry, delete=True)
    with pytest.raises(WorkbenchError, match="was collected"), registry.lease(bundle):
        raise AssertionError
    assert list((registry.root / ".leases").iterdir()) == []


# Collection at the worst moment


@pytest.fixture
def at_the_worst_moment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Registry], None]:
    """Collect right after a version was verified, before the alias moves."""

    def arrange(registry: Registry) -> None:
        locked = Registry.locked

        def late(of: Registry) -> AbstractContextManager[None]:
            monkeypatch.undo()
            collect(registry, keep=0, delete=True)
            return locked(of)

        monkeypatch.setattr(Registry, "locked", late)

    return arrange


@pytest.mark.parametrize(
    ("version", "move"),
    [
        ("0.9.0", lambda it: it.point("leaf", "production", "0.9.0", reason="late", expected=None)),
        ("1.1.0", lambda it: it.point("leaf", "production", "1.1.0", reason="late", expected=None)),
        ("1.2.0", lambda it: it.rollback("leaf", "production")),
    ],
)
def test_a_promotion_or_rollback_whose_version_is_collected_meanwhile_is_an_error(
    registry: Registry,
    version: str,
    move: Callable[[Registry], object],
    at_the_worst_moment: Callable[[Registry], None],
) -> None:
    at_the_worst_moment(registry)
    with pytest.raises(WorkbenchError, match=f"version {version} of `leaf` was collected"):
        move(registry)
    assert registry.resolve("leaf", "production").version == "1.3.0"
    assert registry.verify() == []


def test_a_lease_taken_while_versions_are_moved_brings_its_version_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = gc._record
    with ExitStack() as server:

        def meanwhile(*arguments: Any) -> None:
            server.enter_context(hold(registry.root, "leaf", "0.9.0"))
            record(*arguments)

        monkeypatch.setattr(gc, "_record", meanwhile)
        assert moved(collect(registry, keep=1, delete=True)) == ["1.0.0", "1.1.0"]
    registry.bundle("leaf", "0.9.0").verify()
    assert in_trash(registry) == ["1.0.0", "1.1.0"]


# The command


def test_the_command_says_and_does(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The fixture's registry lies where a workspace expects it.
    command = ["gc", "--workspace", str(workspace_folder(tmp_path)), "--keep", "2"]
    assert main(command) == 0
    assert "would be moved to the trash: leaf 1.0.0" in capsys.readouterr().out
    assert main([*command, "--delete", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["done"], answer["keep"], answer["freed_bytes"]) == (True, 2, 0)
    assert [gone["version"] for gone in answer["moved"]] == ["0.9.0", "1.0.0"]
    assert registry.versions("leaf") == list(VERSIONS[2:])
