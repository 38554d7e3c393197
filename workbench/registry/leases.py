"""Leases keep the version that a running server uses from garbage collection.

<registry>/.leases/<token>.json    {name, version, at, host, pid}, valid while its process holds a flock

A server that cannot load a version it wants says so in one too, with `refused` and `next_try_at`.

The kernel releases the lock when the process ends, however it ends, so no lease is stale.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from workbench.errors import WorkbenchError
from workbench.system.files import token
from workbench.system.records import Record, parse_record

LEASES_NAME = ".leases"

# Errors of a registry that cannot be written. A server works without a lease.
_NOT_WRITABLE = frozenset(
    {
        errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ENOLCK, errno.ENOSYS,
        errno.EOPNOTSUPP, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOENT,
    }
)  # fmt: skip


class Lease(Record):
    """The use of a version by a process. at: its start. host, pid: shown to users only.

    refused: why the process cannot load the version, which it wants. next_try_at: of it, in UTC.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    at: datetime
    host: str
    pid: int
    refused: str | None = None
    next_try_at: datetime | None = None

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"

    @property
    def state(self) -> str:
        """What the process does with the version."""
        if self.refused is None:
            return f"{self} serves it"
        again = f"; it tries again at {self.next_try_at:%H:%M:%S} UTC" if self.next_try_at else ""
        return f"{self} cannot load it: {self.refused}{again}"


@contextmanager
def hold(
    root: Path, name: str, version: str, *, refused: str | None = None, next_try_at: datetime | None = None
) -> Iterator[bool]:
    """Hold a lease during the block; yields False where the folder cannot be written."""
    lease = Lease(
        name=name,
        version=version,
        at=datetime.now(UTC),
        host=socket.gethostname(),
        pid=os.getpid(),
        refused=refused,
        next_try_at=next_try_at,
    )
    path = root / LEASES_NAME / f"{token()}.json"
    handle = None
    with _suppress_not_writable():
        handle = _write(path, lease)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)
            with _suppress_not_writable():  # The next collection removes a file without a lock.
                path.unlink(missing_ok=True)


@contextmanager
def _suppress_not_writable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise


def read_leases(root: Path) -> tuple[list[Lease], list[Path]]:
    """The leases in use, and the files of ended ones. Raises WorkbenchError for one that cannot be read."""
    held, ended = list[Lease](), list[Path]()
    folder = root / LEASES_NAME
    if folder.is_symlink() or not folder.is_dir():
        return held, ended
    for path in sorted(folder.glob("[!.]*.json")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            if (lease := _read(path)) is None:
                ended.append(path)
            else:
                held.append(lease)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WorkbenchError(f"the lease {path} cannot be read: {error.strerror}") from error
    return held, ended


def _write(path: Path, lease: Lease) -> int:
    """The open handle of a new lease. Its file appears under `path` complete and locked."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.stem}")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        # Without what is not set: an older krishi-bench reads no other fields.
        os.write(handle, lease.model_dump_json(exclude_none=True).encode())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        os.close(handle)
        raise
    return handle


def _read(path: Path) -> Lease | None:
    """The lease in a file; None where its process has ended."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, os.O_RDWR | flags)  # NFS locks exclusively only a file open for writing.
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        handle = os.open(path, os.O_RDONLY | flags)
    with os.fdopen(handle, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        hint = "stop the server that holds it, or collect with the version of krishi-bench it runs"
        return parse_record(file.read(), path, Lease, what="lease", hint=hint)
