"""The lease of a device: one driver at a time, from the first look at it to the last file.

The kernel holds it as a lock of the worker's, so that it ends with the worker, however that ends; and a
worker ends when its driver does (see `worker`).
"""

import fcntl
import os
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.system.records import Record

LEASE_NAME = "krishi-bench-device.lease"
FOLDER_VARIABLE = "KRISHI_LEASES"


class DeviceLease(Record):
    """Who measures on a device. run: its id. since: in UTC."""

    driver: str
    run: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.driver} has it for run {self.run} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


def driver_name() -> str:
    """Who holds a lease."""
    return f"user {os.geteuid()} of {socket.gethostname()}, process {os.getpid()}"


class DeviceLock:
    """The lock of this machine, whoever its users are. KRISHI_LEASES names another folder than /tmp."""

    def __init__(self, folder: Path | None = None) -> None:
        default = os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir()
        self.path = (folder or Path(default)) / LEASE_NAME
        self._handle: int | None = None

    def take(self, driver: str, run: str) -> DeviceLease | None:
        """Take the lease; where another driver has it, that one's. Raises WorkbenchError."""
        handle = self._open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = _read(handle)
            os.close(handle)
            return held
        mine = DeviceLease(driver=driver, run=run, since=datetime.now(UTC))
        os.ftruncate(handle, 0)
        os.pwrite(handle, mine.model_dump_json().encode(), 0)
        self._handle = handle
        return None

    def holder(self) -> DeviceLease | None:
        """The lease that a driver holds; None where the device is free."""
        if not self.path.exists():
            return None
        handle = self._open()
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(handle)
        finally:
            os.close(handle)
        return None

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        """The lock file, open to every user of the machine: it holds nothing but who measures."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            try:
                # Linux refuses O_CREAT on another user's file in /tmp (fs.protected_regular).
                return os.open(self.path, flags)
            except FileNotFoundError:
                handle = os.open(self.path, flags | os.O_CREAT, 0o666)
                os.fchmod(handle, 0o666)
                return handle
        except OSError as error:
            raise WorkbenchError(
                f"the lease {self.path} cannot be taken: {error.strerror}",
                hint=f"remove it, or name another folder in {FOLDER_VARIABLE}, the same for all users",
            ) from error


def _read(handle: int) -> DeviceLease:
    try:
        return DeviceLease.model_validate_json(os.pread(handle, 4096, 0))
    except ValueError:  # between the lock and the record
        return DeviceLease(driver="another driver", run="unknown", since=datetime.now(UTC))
