"""`fleet up` and `fleet down`: Ray on this machine and on the devices that say `ray`.

A token is always asked for and every connection is encrypted, with keys of a CA that is made here. There is
no dashboard, no jobs server and no telemetry, and nothing listens but on the address that was named.
"""

import ipaddress
import os
import platform
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from workbench.errors import WorkbenchError
from workbench.fleet.openssh import archive, check_ssh, explain, ssh_command, ssh_program
from workbench.fleet.spec import SETUP_PYTHON, DeviceSettings, FleetFile, remote_word
from workbench.system.files import cache_folder, make_folder, write_atomic
from workbench.system.packages import require, versions
from workbench.system.records import Record, read_record, write_record

PORT = 6389
STORE_BYTES = 80_000_000  # of Ray's object store, near its least: files travel by content, not through it
START_S = 90.0
DAYS = 825
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
REMOTE = "$HOME/.krishi-bench/ray"  # of the token and the certificate on a device
NO_RAY = "none"
ASK_VERSIONS = """
import platform
try:
    from importlib.metadata import version
    print(platform.python_version(), version("ray"))
except ImportError:
    print(platform.python_version(), "none")
"""
# Ray's own switches; each is set on every node.
FIXED = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # 3.11.7 and 3.11.9 speak to each other: what travels are texts, numbers and bytes.
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
    # On a slow radio five missed answers are no death.
    "RAY_health_check_failure_threshold": "12",
}


class RayHead(Record):
    """`head.json`: the head node on this machine. pid: of the process that holds it."""

    schema_version: Literal[1] = 1
    address: str
    pid: int


def ray_folder() -> Path:
    return cache_folder() / "fleet" / "ray"


def read_head() -> RayHead:
    """Raises WorkbenchError where no fleet is up."""
    path = ray_folder() / "head.json"
    if not path.exists():
        raise WorkbenchError("Ray is not up", hint="`krishi-bench fleet up --interface ADDRESS`")
    return read_record(path, RayHead, what="record of Ray's head")


def ray_environment(folder: str) -> dict[str, str]:
    """What a process needs to speak to the cluster. folder: of the token, the certificate and its key."""
    return {
        **FIXED,
        "RAY_AUTH_TOKEN_PATH": f"{folder}/token",
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": f"{folder}/node.crt",
        "RAY_TLS_SERVER_KEY": f"{folder}/node.key",
        "RAY_TLS_CA_CERT": f"{folder}/ca.crt",
    }


def up(fleet: FleetFile, interface: str | None) -> dict[str, str]:
    """Start the head here and a raylet on each device that `ray` gives an address of. Raises WorkbenchError.

    interface: the address of this machine that the devices see. Returns what was done, by device.
    """
    devices = {name: device for name, device in fleet.devices.items() if device.ray}
    if not devices:
        return {"fleet": "no device says `ray`: nothing is to be started; `fleet status` asks them all"}
    address = _checked_address(interface)
    require("ray", extra="fleet")
    folder, head = ray_folder(), f"{address}:{PORT}"
    if (folder / "head.json").exists() and _runs(read_head().pid):
        found = {"head": f"is up at {(head := read_head().address)}"}
    else:
        found = {"head": _start_head(folder, address)}
    for name, device in devices.items():
        if isinstance(device.ray, str):
            found[name] = _start_raylet(name, device, head, folder)
        else:
            found[name] = f"starts its own raylet, with the label krishi.device={name}"
    return found


def down(fleet: FleetFile) -> dict[str, str]:
    """End the raylets that `up` has started, and the head."""
    head, folder, found = read_head(), ray_folder(), dict[str, str]()
    for name, device in fleet.devices.items():
        pid_file = folder / f"{name}.pid"
        if isinstance(device.ray, str) and pid_file.exists():
            ended = _over_ssh(device.ray, f"kill -TERM -- -{int(pid_file.read_text())}", b"")
            found[name] = "was ended" if ended.returncode == 0 else "had ended by itself, or is away"
            pid_file.unlink()
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGTERM)
    for file in ("head.json", "token", "node.key", "ca.key"):
        (folder / file).unlink(missing_ok=True)
    return {**found, "head": f"at {head.address} was ended; a raylet without it ends within a minute"}


def _start_head(folder: Path, address: str) -> str:
    """A process of its own session, which outlives this one."""
    make_secrets(folder, address)
    with (folder / "head.txt").open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *head_words(address)],
            env={**os.environ, **ray_environment(str(folder))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _wait_for_head(process, address, folder / "head.txt")
    write_record(folder / "head.json", RayHead(address=f"{address}:{PORT}", pid=process.pid))
    return f"is up at {address}:{PORT}"


def _start_raylet(name: str, device: DeviceSettings, head: str, folder: Path) -> str:
    """Bring the token and a certificate of its own to a device, and start its raylet there."""
    assert isinstance(device.ray, str)
    if (problem := _unlike_here(device, device.ray)) is not None:
        return f"was not started: {problem}"
    address = _address_of(device.ray)
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch)
        make_certificate(folder, own, address)
        files = [folder / "token", folder / "ca.crt", own / "node.crt", own / "node.key"]
        data = archive(files)
    words = shlex.join(node_words(name, device.device_class, head, address))
    # Set by the shell there, as its home is known there alone.
    settings = " ".join(f'{key}="{value}"' for key, value in ray_environment(REMOTE).items())
    program = remote_word(str(PurePosixPath(device.python or SETUP_PYTHON).with_name("ray")))
    script = (
        f'umask 077; mkdir -p "{REMOTE}" && tar -x -f - -C "{REMOTE}" && '
        f'{{ {settings} setsid {program} {words} > "{REMOTE}/raylet.txt" 2>&1 < /dev/null & echo $!; }}'
    )
    done = _over_ssh(device.ray, script, data)
    if done.returncode != 0:
        return f"was not started: {explain(done.stderr.decode(errors='replace'), done.returncode)}"
    (folder / f"{name}.pid").write_text(done.stdout.decode().strip())
    return f"joins from {address}"


def _unlike_here(device: DeviceSettings, host: str) -> str | None:
    """Why Ray there and Ray here would not speak to each other; None where they do."""
    program = remote_word(device.python or SETUP_PYTHON)
    done = _over_ssh(host, f"{program} -c {shlex.quote(ASK_VERSIONS)}", b"")
    if done.returncode != 0:
        return explain(done.stderr.decode(errors="replace"), done.returncode)
    there, theirs = done.stdout.decode().split()[-2:]
    here, ours = platform.python_version(), versions("ray").get("ray", NO_RAY)
    if there.split(".")[:2] == here.split(".")[:2] and theirs == ours != NO_RAY:
        return None
    return (
        f"it has Python {there} and Ray {theirs}, this machine Python {here} and Ray {ours}: Ray wants the "
        "same of both, but for the last number of Python; or reach it by `ssh`"
    )


def _over_ssh(host: str, script: str, data: bytes) -> "subprocess.CompletedProcess[bytes]":
    check_ssh()
    command = ssh_command(host, script)
    return subprocess.run(command, input=data, capture_output=True, timeout=START_S, check=False)


def _address_of(host: str) -> str:
    """What ssh connects to, as numbers. Raises WorkbenchError."""
    import socket

    shown = subprocess.run([*ssh_program(), "-G", "--", host], capture_output=True, text=True, check=False)
    named = re.search(r"^hostname (\S+)$", shown.stdout, re.MULTILINE)
    try:
        return socket.gethostbyname(named[1] if named else host)
    except OSError as error:
        raise WorkbenchError(f"{host} has no address: {error.strerror}") from error


def head_words(address: str) -> list[str]:
    where = ["--head", f"--node-ip-address={address}", f"--port={PORT}", "--include-dashboard=false"]
    return ["start", *where, *_quiet({"krishi.role": "head"}), "--block"]


def node_words(device: str, device_class: str, head: str, address: str) -> list[str]:
    """What starts a device's raylet. address: the device's own."""
    labels = {"krishi.device": device, "krishi.class": device_class}
    where = [f"--address={head}", f"--node-ip-address={address}", '--resources={"krishi_device": 1}']
    return ["start", *where, *_quiet(labels), "--block"]


def _quiet(labels: Mapping[str, str]) -> list[str]:
    named = ",".join(f"{key}={value}" for key, value in labels.items())
    return [
        *(f"--labels={named}", "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}"),
        *("--include-log-monitor=false", "--disable-usage-stats"),
    ]


def _checked_address(interface: str | None) -> str:
    if interface is None:
        raise WorkbenchError(
            "say on which of this machine's addresses Ray may listen", hint="--interface 10.0.0.1"
        )
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        raise WorkbenchError(f"`{interface}` is not an address", hint="--interface 10.0.0.1") from None
    if address.is_unspecified:
        raise WorkbenchError(
            f"{interface} is every network that this machine is in", hint="name one of its addresses"
        )
    return str(address)


def make_secrets(folder: Path, address: str) -> None:
    """A token, a CA, and this node's certificate, readable by this user alone."""
    make_folder(folder)
    folder.chmod(0o700)
    write_atomic(folder / "token", secrets.token_hex(32).encode(), rights=0o600)
    ca = ("-subj", "/CN=krishi-bench fleet", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
    _openssl("req", "-x509", *NEW_KEY, "-days", str(DAYS), *ca)
    make_certificate(folder, folder, address)
    (folder / "ca.key").chmod(0o600)


def make_certificate(ca: Path, folder: Path, address: str) -> None:
    """`node.key` and `node.crt` of an address, signed by the CA."""
    request, names = f"{folder}/node.csr", f"{folder}/node.ext"
    Path(names).write_text(
        f"subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n"
    )
    _openssl("req", *NEW_KEY, "-subj", f"/CN={address}", "-keyout", f"{folder}/node.key", "-out", request)
    signed = ("-CA", f"{ca}/ca.crt", "-CAkey", f"{ca}/ca.key", "-CAcreateserial", "-extfile", names)
    _openssl("x509", "-req", "-in", request, "-days", str(DAYS), *signed, "-out", f"{folder}/node.crt")
    (folder / "node.key").chmod(0o600)


def _openssl(*words: str) -> None:
    try:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise WorkbenchError("`openssl` is not installed here", hint="apt-get install openssl") from None
    if done.returncode != 0:
        raise WorkbenchError(f"openssl could not make a certificate: {done.stderr.strip().splitlines()[-1]}")


def _wait_for_head(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    import socket

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((address, PORT), timeout=1.0):
            return
        time.sleep(0.5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    raise WorkbenchError(f"Ray's head did not start at {address}:{PORT}", hint=f"see {log}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
