"""Leases: how a running server says which version it uses, so that nobody collects it.

<registry>/.leases/<token>.json    {name, version, at, host, pid}, under a shared flock while it counts

The kernel ends the lock with the process, however that ends: a lease is never stale, it is held or it is not.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from workbench.errors import WorkbenchError
from workbench.system.files import token
from workbench.system.records import Record, parse_record

LEASES_NAME = ".leases"

# Where a lease cannot be had, a server works all the same: it has read its model by then.
_CANNOT = frozenset(
    {
        errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ENOLCK, errno.ENOSYS,
        errno.EOPNOTSUPP, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOENT,
    }
)  # fmt: skip


class Lease(Record):
    """Who uses which version. at: since when; host, pid: for people, nothing is decided by them."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    at: datetime
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


@dataclass(frozen=True, slots=True)
class Leases:
    """held: those in use; ended: the files of those whose process is gone."""

    held: tuple[Lease, ...]
    ended: tuple[Path, ...]


@contextmanager
def hold(root: Path, name: str, version: str) -> Iterator[bool]:
    """Hold a lease during the block; False where the folder cannot be written."""
    folder = root / LEASES_NAME
    mark = token()
    path = folder / f"{mark}.json"
    try:
        handle = _announce(path, folder / f".{mark}", name, version)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        handle = None
    try:
        yield handle is not None
    finally:
        if handle is not None:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno not in _CANNOT:  # The next collection removes what is no longer locked.
                    raise
            finally:
                os.close(handle)


def read_leases(root: Path) -> Leases:
    """Raises WorkbenchError where one is held that cannot be read: what it protects is not known."""
    held: list[Lease] = []
    ended: list[Path] = []
    folder = root / LEASES_NAME
    if folder.is_symlink() or not folder.is_dir():
        return Leases((), ())
    for path in sorted(folder.glob("[!.]*.json")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            lease = _held(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WorkbenchError(f"the lease {path} cannot be read: {error.strerror}") from error
        if lease is None:
            ended.append(path)
        else:
            held.append(lease)
    return Leases(tuple(held), tuple(ended))


def _announce(path: Path, temporary: Path, name: str, version: str) -> int:
    """The open handle of a lease that appears written and locked: nobody sees one that is not yet."""
    path.parent.mkdir(exist_ok=True)
    lease = Lease(
        name=name, version=version, at=datetime.now(UTC), host=socket.gethostname(), pid=os.getpid()
    )
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        os.write(handle, lease.model_dump_json().encode())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        os.close(handle)
        raise
    return handle


def _held(path: Path) -> Lease | None:
    """The lease in a file, None where nobody holds it any more."""
    try:
        # NFS grants an exclusive lock only to who may write.
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        hint = "stop the server that holds it, or collect with the version of krishi-bench it runs"
        return parse_record(file.read(), path, Lease, what="lease", hint=hint)
