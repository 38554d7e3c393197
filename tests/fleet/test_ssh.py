"""A worker over OpenSSH: an sshd on the loopback, with keys made here."""

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from workbench.fleet.lease import FOLDER_VARIABLE, DeviceLock
from workbench.fleet.link import DeviceGone, ProcessLink
from workbench.fleet.openssh import SSH_VARIABLE
from workbench.fleet.reach import open_link
from workbench.fleet.session import DeviceSession
from workbench.fleet.spec import DeviceSettings

pytestmark = pytest.mark.integration

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
DEVICE = {"class": "board", "ssh": "board", "python": sys.executable}


class Board(NamedTuple):
    folder: Path
    device: DeviceSettings


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd is installed here: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("ssh")
    for key in ("host", "mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/mine.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"AcceptEnv {FOLDER_VARIABLE} KRISHI_CACHE\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    trust(folder, port, "host")
    (folder / "ssh_config").write_text(
        f"Host board\nHostName 127.0.0.1\nPort {port}\nUser {pwd.getpwuid(os.geteuid()).pw_name}\n"
        f"IdentityFile {folder}/mine\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        f"GlobalKnownHostsFile none\nStrictHostKeyChecking yes\nSendEnv {FOLDER_VARIABLE} KRISHI_CACHE\n"
    )
    sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SSH_VARIABLE, f"ssh -F {shlex.quote(str(folder / 'ssh_config'))}")
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.setenv("KRISHI_CACHE", str(folder / "cache"))
        wait_for_port(port)
        yield Board(folder, DeviceSettings.model_validate(DEVICE))
    sshd.terminate()
    sshd.wait()


def trust(folder: Path, port: int, key: str) -> None:
    public = (folder / f"{key}.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")


def wait_for_port(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")


def test_a_worker_answers_over_ssh_and_its_lease_ends_with_the_client(board: Board) -> None:
    link = open_link("board", board.device, board.folder / "log.txt")
    assert isinstance(link, ProcessLink)
    with link:
        session = DeviceSession(link)
        facts, holder = session.hello()
        assert facts.bits == 64 and holder is None
        session.lease("driver", "run-1", wait_s=0.0)
        payload = board.folder / "host.pub"
        from workbench.system.files import sha256_file

        assert session.send({sha256_file(payload): payload}) == payload.stat().st_size
        assert session.send({sha256_file(payload): payload}) == 0
        assert DeviceLock(board.folder).holder() is not None
        link.process.kill()
        with pytest.raises(DeviceGone):
            session.hello()
    for _ in range(100):
        if DeviceLock(board.folder).holder() is None:
            return
        time.sleep(0.05)
    raise AssertionError("the lease outlived its driver")


def test_a_changed_host_key_is_named(board: Board) -> None:
    known = (board.folder / "known_hosts").read_text()
    other = " ".join((board.folder / "other.pub").read_text().split()[:2])
    (board.folder / "known_hosts").write_text(f"{known.split()[0]} {other}\n")
    try:
        assert "host key has changed" in reason_of(board)
    finally:
        (board.folder / "known_hosts").write_text(known)


def test_a_refused_key_and_a_missing_python_are_named(board: Board) -> None:
    text = (board.folder / "ssh_config").read_text()
    (board.folder / "ssh_config").write_text(text.replace(f"{board.folder}/mine", f"{board.folder}/other"))
    try:
        assert "refuses the key" in reason_of(board)
    finally:
        (board.folder / "ssh_config").write_text(text)
    nowhere = board.device.model_copy(update={"python": "/no such/python"})
    assert "krishi-bench is not installed there" in reason_of(Board(board.folder, nowhere))


def reason_of(board: Board) -> str:
    with open_link("board", board.device, board.folder / "log.txt") as link:
        with pytest.raises(DeviceGone) as caught:
            DeviceSession(link).hello()
        return caught.value.message
