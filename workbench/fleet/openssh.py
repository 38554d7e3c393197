"""OpenSSH as the user has set it up: how it is called, and what it means by what it says at the end."""

import io
import os
import re
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import WorkbenchError

SSH_VARIABLE = "KRISHI_SSH"
# No question is asked, a dead connection is noticed within a minute, and host keys are as ssh has them.
SSH_OPTIONS = (
    *("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"),
)
# What ssh says at the end, with its exit code 255, and what to say of it.
SSH_CAUSES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed: another machine answers, or it was set up anew; compare the fingerprint "
        "on the device itself, then `ssh-keygen -R HOST`",
    ),
    (
        r"Host key verification failed",
        "its host key is not known: connect once by hand, `ssh HOST`, and compare the fingerprint",
    ),
    (r"Permission denied", "it refuses the key: `ssh-copy-id HOST`, or start an agent that has the key"),
    (r"Could not resolve hostname", "its name leads to no address"),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable",
        "it cannot be reached: is it on, and does ssh run on it?",
    ),
    (r".", "the connection to it was lost"),
)
NOT_INSTALLED = "krishi-bench is not installed there, or not where `python` says: `krishi-bench fleet setup`"
SHELL_CODES = (126, 127)  # of a shell that cannot start what it is to start


def ssh_command(host: str, command: str) -> list[str]:
    """The user's `ssh`, or what KRISHI_SSH says, as `ssh -F other-config`."""
    return [*ssh_program(), *SSH_OPTIONS, "--", host, command]


def ssh_program() -> list[str]:
    return shlex.split(os.environ.get(SSH_VARIABLE, "ssh"))


def archive(files: Sequence[Path]) -> bytes:
    """A tar of the files without their folders, to be unpacked at the other end."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for file in files:
            tar.add(file, file.name)
    return target.getvalue()


def explain(said: str, code: int | None) -> str:
    """Why a connection ended. said: the last of its stderr; code: of its process, None while it runs."""
    if code == 255:
        return next((words for pattern, words in SSH_CAUSES if re.search(pattern, said)), SSH_CAUSES[-1][1])
    if code in SHELL_CODES or "No module named 'workbench" in said or "No module named workbench" in said:
        return NOT_INSTALLED
    lines = [line for line in said.strip().splitlines() if line.strip()]
    last = f": {lines[-1].strip()[:200]}" if lines else ""
    return f"its worker {'fell silent' if code is None else f'ended with exit code {code}'}{last}"


def check_ssh() -> None:
    """Raise WorkbenchError where there is no ssh here."""
    from shutil import which

    program = ssh_program()[0]
    if which(program) is None:
        raise WorkbenchError(f"`{program}` is not installed here", hint="apt-get install openssh-client")
