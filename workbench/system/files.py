"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


LFS_HEAD = b"version https://git-lfs.github.com/spec/"
SYSTEM = (Path("/dev"), Path("/proc"), Path("/sys"))  # whose names are devices and settings, no files
ELSEWHERE = "choose another folder"
LONGEST_NAME = 180  # bytes; file systems take 255, and temporary files add to the name
# Files and folders that programs leave by themselves, in lower case: who leaves them, and their names.
JUNK = {
    "macOS": (
        *(".ds_store", "._*", "__macosx", ".spotlight-v100", ".fseventsd", ".appledouble", ".trashes"),
        *(".temporaryitems", ".documentrevisions-v100", ".lsoverride", ".apdisk", ".localized", "icon\r"),
        *(".volumeicon.icns", ".metadata_never_index", "network trash folder", "temporary items"),
    ),
    "Windows": (
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "~$*"),
        *("$recycle.bin", "recycler", "system volume information", "iconcache.db", "*:zone.identifier"),
    ),
    "a NAS": (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb", "@__thumb"),
        *(
            "@tmp",
            "@syno*",
            ".synoworkingdirectory",
            ".snapshot",
            ".snapshots",
            ".zfs",
            ".nfs*",
            ".smbdelete*",
        ),
    ),
    "Linux": ("lost+found", ".trash", ".trash-*", ".directory", ".fuse_hidden*", ".thumbnails"),
    "notebooks and editors": (
        *(".ipynb_checkpoints", "__pycache__", ".idea", ".vscode", ".virtual_documents", "*.swp", "*.swo"),
        *("*~", ".#*", "#*#"),
    ),
    "git": (
        *(".git", ".gitkeep", ".gitignore", ".gitattributes", ".gitmodules", ".keep", ".svn", ".hg"),
        *(".dvc", ".dvcignore", "*.dvc", ".cvsignore"),
    ),
    "downloads and copies": (
        "*.tmp",
        "*.temp",
        "*.part",
        "*.partial",
        "*.crdownload",
        "*.filepart",
        ".~lock.*",
    ),
    "synchronisers": (".dropbox", ".dropbox.attr", ".dropbox.cache", ".stfolder", ".stversions"),
}


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """sha256 of `value` as canonical JSON (sorted keys, no spaces), as 64 hex digits."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def token() -> str:
    """8 random hex digits, for names that must not meet."""
    return os.urandom(4).hex()


def file_name(name: str) -> str:
    """A variant's name as a file name: brackets, commas and slashes travel badly, and so does length."""
    plain = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in name).rstrip("_")
    if len(plain.encode()) <= LONGEST_NAME:
        return plain
    return f"{plain.encode()[:LONGEST_NAME].decode(errors='ignore')}-{sha256_bytes(name.encode())[:8]}"


def junk_owner(name: str) -> str | None:
    """Who leaves files or folders of this name beside a user's own (`macOS`); None for others' names."""
    low = name.lower()
    return next((owner for owner, names in JUNK.items() if any(fnmatchcase(low, n) for n in names)), None)


def is_junk(name: str) -> bool:
    """Whether a program leaves files or folders of this name beside a user's own."""
    return junk_owner(name) is not None


def fsync_path(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves in the place of one that Git LFS has not fetched."""
    with path.open("rb") as file:
        return file.read(len(LFS_HEAD)) == LFS_HEAD


def refuse_lfs_pointer(path: Path, field: str | None = None) -> None:
    """Raise WorkbenchError where the file is a Git LFS pointer. field: of krishi.yaml, that names it."""
    if is_lfs_pointer(path):
        raise WorkbenchError(
            f"{f'{field}: ' if field else ''}{path} is a Git LFS pointer: `git lfs pull`",
            hint="run `git lfs pull` where it was cloned: it fetches the file itself",
        )


def make_folder(path: Path) -> None:
    """Create a folder and those above it. Raises WorkbenchError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # as below /proc
        raise WorkbenchError(f"cannot write {path}: no folder can be made there", hint=ELSEWHERE) from None
    except (FileExistsError, NotADirectoryError):
        raise WorkbenchError(
            f"cannot write {path}: Not a directory",
            hint="a file is where a folder should be: move it away, or choose another folder",
        ) from None


def write_atomic(path: Path, data: bytes, *, rights: int = 0o666) -> None:
    """Write a file whole or not at all. rights: of a new file, less what the umask takes."""
    with new_file(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights)
        with os.fdopen(handle, "wb") as file:
            file.write(data)


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """A path to write to, which becomes `final` when the block ends well, and vanishes when it does not.

    Raises WorkbenchError for a folder or device, and where it cannot be written.
    """
    # To put a file in the place of /dev/null would harm every program.
    if final.exists() and not final.is_file():
        raise WorkbenchError(f"cannot write {final}: it is no file", hint="name a file of your own")
    if final.absolute().parent in SYSTEM:
        raise WorkbenchError(f"cannot write {final}: the folder is the system's", hint=ELSEWHERE)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.{token()}")
    with translated_os_errors(final):
        make_folder(final.parent)
        try:
            yield temporary
            fsync_path(temporary)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(final.parent)


def write_arrays(path: Path, **arrays: "NDArray[Any]") -> None:
    """Write an .npz whole or not at all."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


@contextmanager
def exclusive(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file that one process of this machine holds at a time; calls `waiting` before a wait."""
    make_folder(lock.parent)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(final: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends well, and vanishes when it does not.

    scratch: where it lives, on the same file system. Raises FileExistsError where `final` exists by then.
    """
    parent = scratch or final.parent
    temporary = parent / f".tmp-{final.name}-{os.getpid()}-{token()}"
    with translated_os_errors(final):
        make_folder(parent)
        make_folder(final.parent)
        temporary.mkdir()
        try:
            yield temporary
            for path in sorted(temporary.rglob("*")):
                fsync_path(path)
            fsync_path(temporary)
            try:
                # rename(2) would silently replace an empty folder.
                if final.exists():
                    raise FileExistsError(errno.EEXIST, "already exists", str(final))
                os.rename(temporary, final)
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    raise FileExistsError(errno.EEXIST, "already exists", str(final)) from error
                raise
            fsync_path(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_of(path: Path) -> int:
    """Size of a file, or of the files below a folder; no link is followed."""
    if path.is_symlink() or not path.is_dir():
        return os.lstat(path).st_size
    return sum(os.lstat(Path(folder, file)).st_size for folder, _, files in os.walk(path) for file in files)


@contextmanager
def translated_os_errors(path: Path) -> Iterator[None]:
    """Raise WorkbenchError with the path and a remedy for a full disk or a folder without write access."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                hint = "free some space, or point `results`, `registry` or KRISHI_CACHE at another disk"
            case errno.EACCES | errno.EPERM:
                hint = "give yourself the right to write there, or choose another folder"
            case errno.EROFS:
                hint = f"the file system is read-only: {ELSEWHERE}"
            case _:
                raise
        problem = f"cannot write {error.filename or path}: {os.strerror(error.errno)}"
        raise WorkbenchError(problem, hint=hint) from error


def unreadable(path: Path, error: OSError) -> WorkbenchError:
    """The error for a file or folder that cannot be read; where rights are missing, with which and whose."""
    message = f"{path} cannot be read: {error.strerror}"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return WorkbenchError(message)
    for place in (path, *path.parents):  # the first of which anything is known stands in the way
        with suppress(OSError):
            status = place.stat()
            kind, rights = ("folder", "rX") if stat.S_ISDIR(status.st_mode) else ("file", "r")
            whose = f"the {kind} {place.name} has the mode {stat.S_IMODE(status.st_mode):04o} and the owner "
            hint = f"`chmod -R a+{rights} {place.name}`, or run as its owner"
            return WorkbenchError(
                f"{message} ({whose}{status.st_uid}; this is user {os.geteuid()})", hint=hint
            )
    return WorkbenchError(message)


def open_plain(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. Raises WorkbenchError for a link, a device or a file not there."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise WorkbenchError(f"{path} is a symbolic link") from error
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise WorkbenchError(f"{path} is not a plain file")
    return os.fdopen(handle, "rb")


def read_plain(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read()


def load_arrays(path: Path, data: bytes, *names: str) -> "list[NDArray[Any]]":
    """The named arrays of an .npz. path: for messages. Raises WorkbenchError."""
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"{path} does not hold the arrays {', '.join(names)}: {error}") from error


def cache_folder() -> Path:
    """Where build outputs and decoded pixels live: `$KRISHI_CACHE`, else in the user's cache."""
    if chosen := os.environ.get("KRISHI_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krishi-bench"
