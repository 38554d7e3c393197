"""Frames, objects and the lease: what a driver and a worker rely on."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import error_of
from workbench.fleet.frames import (
    GREETING,
    NOISE_BYTES,
    FrameError,
    read_frame,
    read_greeting,
    write_frame,
)
from workbench.fleet.lease import DeviceLock
from workbench.fleet.link import DeviceGone
from workbench.fleet.objects import ObjectStore
from workbench.fleet.openssh import explain
from workbench.fleet.reach import open_link
from workbench.fleet.spec import DeviceSettings
from workbench.system.files import sha256_bytes

DATA = bytes(range(256)) * 10
DIGEST = sha256_bytes(DATA)


def test_a_frame_is_read_as_it_was_written() -> None:
    stream = io.BytesIO()
    write_frame(stream, {"op": "put", "text": "ä"}, DATA)
    stream.seek(0)
    assert read_frame(stream) == ({"op": "put", "text": "ä"}, DATA)
    with pytest.raises(EOFError):
        read_frame(stream)


@pytest.mark.parametrize("noise", [b"\xff" * 8, b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\2\0\0\0\0{x"])
def test_what_is_no_frame_is_refused(noise: bytes) -> None:
    with pytest.raises(FrameError):
        read_frame(io.BytesIO(noise))


def test_what_a_login_shell_prints_is_passed_over() -> None:
    stream = io.BytesIO(b"Welcome to Debian\nlast login: today\n" + GREETING + b"rest")
    read_greeting(stream)
    assert stream.read() == b"rest"
    with pytest.raises(FrameError):
        read_greeting(io.BytesIO(b"x" * (NOISE_BYTES + 2)))
    with pytest.raises(EOFError):
        read_greeting(io.BytesIO(b"bash: python: command not found\n"))


def test_an_object_that_came_in_part_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    assert store.missing([DIGEST]) == {DIGEST: 0}
    store.add(DIGEST, 0, DATA[:100], last=False)
    assert ObjectStore(tmp_path / "objects").missing([DIGEST]) == {DIGEST: 100}
    store.add(DIGEST, 100, DATA[100:], last=True)
    assert store.missing([DIGEST]) == {}
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_damaged_object_never_appears(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    assert "damaged" in error_of(lambda: store.add(DIGEST, 0, DATA[:-1] + b"x", last=True)).message
    assert store.missing([DIGEST]) == {DIGEST: 0}
    assert "missing" in error_of(lambda: store.add(DIGEST, 5, DATA, last=True)).message


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "0" * 63])
def test_only_a_digest_names_an_object(tmp_path: Path, name: str) -> None:
    assert "is not a sha256" in error_of(lambda: ObjectStore(tmp_path).missing([name])).message


def test_a_full_disk_is_said_with_a_remedy(small_disk: Path) -> None:
    error = error_of(lambda: ObjectStore(small_disk).add(DIGEST, 0, b"x" * 200_000, last=False))
    assert "No space left on device" in error.message and error.hint


def test_a_lease_is_of_one_driver_until_it_lets_go(tmp_path: Path) -> None:
    mine, yours = DeviceLock(tmp_path), DeviceLock(tmp_path)
    assert mine.holder() is None
    assert mine.take("me", "run-1") is None
    held = yours.take("you", "run-2")
    assert held is not None and str(held).startswith("me has it for run run-1 since ")
    assert yours.holder() == held
    mine.release()
    assert yours.holder() is None and yours.take("you", "run-2") is None


def test_the_lease_of_a_killed_process_ends_by_itself(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from workbench.fleet.lease import DeviceLock\n"
        f"lock = DeviceLock(Path({str(tmp_path)!r})); lock.take('it', 'r'); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert DeviceLock(tmp_path).take("me", "r") is not None
        os.kill(process.pid, signal.SIGKILL)
    mine = DeviceLock(tmp_path)
    assert mine.take("me", "r") is None
    mine.release()


@pytest.mark.parametrize(
    ("said", "code", "meant"),
    [
        ("@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@\nHost key verification failed.", 255, "has changed"),
        ("Host key verification failed.", 255, "is not known"),
        ("pi@x: Permission denied (publickey).", 255, "refuses the key"),
        ("ssh: Could not resolve hostname x: Name or service not known", 255, "leads to no address"),
        ("ssh: connect to host 10.0.0.9 port 22: Connection timed out", 255, "cannot be reached"),
        ("client_loop: send disconnect: Broken pipe", 255, "connection to it was lost"),
        ("", 255, "connection to it was lost"),
        ("sh: 1: exec: /home/pi/.krishi-bench/bin/python: not found", 127, "fleet setup"),
        ("/usr/bin/python3: No module named workbench", 1, "fleet setup"),
        ("a line\nsomething else", 3, "its worker ended with exit code 3: something else"),
        ("", None, "its worker fell silent"),
    ],
)
def test_why_a_connection_ended_is_said_in_words(said: str, code: int | None, meant: str) -> None:
    assert meant in explain(said, code)


def test_a_program_that_cannot_be_started_is_said_and_ends_no_other_device(tmp_path: Path) -> None:
    device = DeviceSettings.model_validate({"class": "dev", "local": True, "python": "/no/python"})
    error = error_of(lambda: open_link("here", device, tmp_path / "log.txt"))
    assert isinstance(error, DeviceGone)
    assert error.message == "`/no/python` cannot be started on this machine: No such file or directory"
