"""Registries as they lie about: junk, odd modes, owners and places, read-only mounts, damaged versions."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serving import encoded, noise, not_ready, publish, ready, running, wait_for
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.registry.store import Registry
from workbench.system.files import is_junk

pytestmark = pytest.mark.integration

Ran = tuple[int, str, str]
Run = Callable[..., Ran]
NOBODY = 65534
JUNK = [
    ".DS_Store", "._model.onnx", ".AppleDouble", ".Spotlight-V100", "__MACOSX", "Icon\r", ".Trashes",
    "Thumbs.db", "THUMBS.DB", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "@eaDir", "#recycle", "@Recycle",
    ".@__thumb", ".nfs000000000a3f", ".smbdeleteAAA0001", ".fuse_hidden0000000a", "lost+found", ".Trash-1000",
    ".directory", ".ipynb_checkpoints", ".snapshot",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace of the model `leaf` whose production went from 1.0.0 over 1.1.0 to 1.2.0."""
    (tmp_path / "krishi.yaml").write_text(
        "name: leaf\nmodel: {checkpoint: s.ckpt}\ndata: {validation: val}\n"
    )
    (tmp_path / "s.ckpt").touch()
    (tmp_path / "val").mkdir()
    for seed, version in enumerate(("1.0.0", "1.1.0", "1.2.0")):
        publish(tmp_path / "registry", version=version, seed=seed)
    return tmp_path


@pytest.fixture
def run(root: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in the workspace; returns the exit code and what it printed."""

    def call(*arguments: str) -> Ran:
        code = main([*arguments, "--workspace", str(root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def folder(root: Path, version: str) -> Path:
    return root / "registry" / "leaf" / version


def flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


# Rolling back past what is damaged


def test_rollback_refuses_a_damaged_version_and_names_it_and_the_way_past_it(root: Path, run: Run) -> None:
    flip_a_bit(folder(root, "1.1.0") / "model.onnx")
    code, _, said = run("rollback")
    assert code == 1, said
    assert "1.1.0 (" in said
    assert "model.onnx: was changed since it was published" in said
    assert "`krishi-bench rollback --past-damaged` returns to 1.0.0" in said
    assert Registry(root / "registry").aliases("leaf")["production"].version == "1.2.0"


@pytest.mark.parametrize(
    "harm",
    [
        lambda at: flip_a_bit(at / "golden.npz"),
        lambda at: (at / "model.onnx").unlink(),
        lambda at: flip_a_bit(at / "manifest.json"),
        lambda at: at.rename(at.parent.parent.parent / "away"),
        lambda at: (at / "model.onnx").rename(at / "model.onnx.bak"),
    ],
)
def test_past_damaged_passes_over_it_and_says_which_and_why(
    root: Path, run: Run, harm: Callable[[Path], object]
) -> None:
    harm(folder(root, "1.1.0"))
    assert run("rollback")[0] == 1
    code, said, _ = run("rollback", "--past-damaged", "--format", "json")
    answer = json.loads(said)
    assert (code, answer["version"]) == (0, "1.0.0")
    assert answer["reason"].startswith("rollback from 1.2.0, passing over 1.1.0 (")


def test_past_damaged_where_nothing_is_damaged_goes_one_back(run: Run) -> None:
    assert (
        run("rollback", "--past-damaged")[1]
        == "production of leaf points at 1.1.0 again: rollback from 1.2.0\n"
    )


# What lies beside the files


def test_junk_of_other_systems_is_no_fault_of_a_version(root: Path, run: Run) -> None:
    for place in (folder(root, "1.2.0"), folder(root, "1.2.0").parent, root / "registry"):
        for name in JUNK:
            assert is_junk(name), name
            (place / name).mkdir() if name in ("@eaDir", "lost+found") else (place / name).write_bytes(b"x")
    assert run("verify") == (0, "3 versions, every file as it was published\n", "")
    with ready(Settings(registry=root / "registry")) as server:
        assert server.post(encoded(noise(1))).json()["model_version"] == "1.2.0"
    assert run("rollback")[0] == 0


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "model.onnx.bak", "thumbs", "DS_Store"])
def test_another_file_is_named_with_what_to_do(root: Path, name: str) -> None:
    (folder(root, "1.2.0") / name).write_text("x")
    with running(Settings(registry=root / "registry")) as server:
        said = not_ready(server.client, "bad-model")
    assert f"1.2.0/{name}: is not in the manifest: move it elsewhere" in said


# Modes, owners, mounts


@pytest.mark.parametrize(("mode", "who"), [(0o664, "its group"), (0o666, "anybody"), (0o777, "anybody")])
def test_a_mode_that_a_volume_gives_is_noted_and_not_refused(
    root: Path, run: Run, mode: int, who: str
) -> None:
    for path in folder(root, "1.2.0").iterdir():
        path.chmod(mode)
    code, said, _ = run("verify")
    assert code == 0
    assert f"model.onnx: can be written by {who}; unless you mean that: `chmod go-w`" in said
    with ready(Settings(registry=root / "registry")) as server:
        assert server.client.get("/readyz").json()["version"] == "1.2.0"


@contextmanager
def published_for_all() -> Iterator[Path]:
    """A registry in a folder that every user can reach; pytest's own belong to one."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        publish(Path(name) / "registry")
        yield Path(name) / "registry"


def resolve_as_another(registry: Path) -> str:
    """What another user gets who reads the production version; where root does not test, the same user."""
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(NOBODY)
    try:
        with (found := Registry(registry)).lease(bundle := found.resolve("leaf", "production")):
            bundle.verify()
            return "as published"
    except WorkbenchError as error:
        return f"{error.message} ({error.hint}) {os.geteuid()}"
    finally:
        if as_root:
            os.seteuid(0)


def test_what_another_user_published_can_be_served_if_it_can_be_read() -> None:
    with published_for_all() as registry:
        assert resolve_as_another(registry) == "as published"


@pytest.mark.parametrize(
    ("place", "mode", "named"),
    [
        ("leaf/1.0.0/model.onnx", 0o000, "the file model.onnx has the mode 0000"),
        ("leaf/1.0.0/manifest.json", 0o000, "the file manifest.json has the mode 0000"),
        ("leaf/1.0.0", 0o000, "the folder 1.0.0 has the mode 0000"),
        ("leaf/aliases.json", 0o000, "the file aliases.json has the mode 0000"),
        ("leaf", 0o000, "the folder leaf has the mode 0000"),
        (".", 0o000, "has the mode 0000"),
    ],
)
def test_a_missing_right_names_the_file_its_mode_and_owner_and_the_remedy(
    place: str, mode: int, named: str
) -> None:
    with published_for_all() as registry:
        before = (registry / place).stat().st_mode & 0o7777
        (registry / place).chmod(mode)
        try:
            said = resolve_as_another(registry)
        finally:
            (registry / place).chmod(before)
    assert "cannot be read: Permission denied" in said
    assert named in said
    assert f"the owner {os.geteuid()}; this is user {NOBODY if os.geteuid() == 0 else os.geteuid()})" in said
    assert "`chmod -R a+r" in said


@contextmanager
def read_only(registry: Path) -> Iterator[Path]:
    """A read-only mount of it, or skip."""
    at = registry.parent / "mounted"
    at.mkdir()
    commands = (["mount", "--bind", registry, at], ["mount", "-o", "remount,ro,bind", at])
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_a_read_only_mount_is_served_and_followed(root: Path) -> None:
    with read_only(root / "registry") as mounted:
        with pytest.raises(WorkbenchError, match="cannot write"):
            Registry(mounted).rollback("leaf", "production")
        with ready(Settings(registry=mounted, watch_s=0.05)) as server:
            assert server.client.get("/readyz").json()["version"] == "1.2.0"
            Registry(root / "registry").rollback("leaf", "production")
            wait_for(lambda: server.client.get("/readyz").json()["version"] == "1.1.0")


@pytest.mark.parametrize("name", ["with spaces", "Pfl\u00e4nzchen", "Pfla\u0308nzchen", "linked"])
def test_a_registry_of_any_name_and_behind_a_link_is_served_and_written(root: Path, name: str) -> None:
    place = root / name / "registry"
    if name == "linked":
        (root / name).symlink_to(root)
    else:
        place.parent.mkdir()
        (root / "registry").rename(place)
    with ready(Settings(registry=place, watch_s=0.05)) as server:
        Registry(place).rollback("leaf", "production")
        wait_for(lambda: server.client.get("/readyz").json()["version"] == "1.1.0")
    assert Registry(place).verify() == []


# What running servers do, as the registry knows it


def test_models_verify_and_promote_tell_what_a_server_refuses_and_when_it_tries_again(
    root: Path, run: Run
) -> None:
    registry = Registry(root / "registry")
    at = datetime.now(UTC) + timedelta(minutes=1)
    with registry.refusal("leaf", "1.2.0", "no GPU here", at):
        _, said, _ = run("models")
        assert f"leaf 1.2.0: process {os.getpid()} of " in said
        assert f"cannot load it: no GPU here; it tries again at {at:%H:%M:%S} UTC" in said
        entries = json.loads(run("models", "--format", "json")[1])
        assert [len(entry["servers"]) for entry in entries] == [0, 0, 1]
        code, said, _ = run("verify")
        assert code == 1
        assert "cannot load it: no GPU here" in said
    assert run("verify") == (0, "3 versions, every file as it was published\n", "")
    assert "cannot load it" not in run("models")[1]


def test_one_damaged_manifest_hides_no_other_version(root: Path, run: Run) -> None:
    manifest = folder(root, "1.1.0") / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:100])
    code, said, _ = run("models")
    assert code == 0
    assert [line.split()[1] for line in said.splitlines()[1:4]] == ["1.0.0", "1.1.0", "1.2.0"]
    assert f"leaf 1.1.0: {manifest} is not JSON" in said
    assert "; bring it back from a copy; without one, " in said
    damaged = json.loads(run("models", "--format", "json")[1])[1]
    assert (damaged["version"], damaged["variant"], damaged["top1"]) == ("1.1.0", None, None)
    code, said, _ = run("verify")
    assert code == 1
    assert said.startswith(f"{manifest} is not JSON")
    assert said.count(str(manifest)) == 1
    assert "; bring it back from a copy; " in said
    with ready(Settings(registry=root / "registry")) as server:
        assert server.client.get("/readyz").json()["version"] == "1.2.0"


def test_a_damaged_manifest_is_not_served_and_the_server_says_what_helps(root: Path) -> None:
    (folder(root, "1.2.0") / "manifest.json").unlink()
    with running(Settings(registry=root / "registry")) as server:
        said = not_ready(server.client, "no-model")
    assert "leaf/1.2.0/manifest.json cannot be read" in said
    assert "`krishi-bench rollback` leaves this version" in said


def test_a_damaged_list_of_aliases_hides_no_version(root: Path, run: Run) -> None:
    (folder(root, "1.2.0").parent / "aliases.json").write_bytes(b"{")
    code, said, fault = run("models")
    assert code == 0
    assert [line.split()[1:3] for line in said.splitlines()[1:]] == [[f"1.{n}.0", "?"] for n in range(3)]
    assert "aliases.json is not JSON" in fault
    assert "bring it back from a copy" in fault


def test_models_sees_a_file_that_is_gone_without_a_server(root: Path, run: Run) -> None:
    (folder(root, "1.2.0") / "model.onnx").unlink()
    code, said, _ = run("models")
    assert code == 0
    assert "leaf 1.2.0: model.onnx is missing" in said
