"""Paths of users, files that are never half written, and folders of one process at a time."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK)
"""Errors of a file system that has no fsync or no locks; a full or broken disk has other numbers."""


def expanded(path: os.PathLike[str] | str, name: str = "path") -> Path:
    """A path with a leading ~ replaced by the home folder, and $NAME or ${NAME} by variables of the environment.

    Args:
        path: the path.
        name: the argument's name in messages.

    Raises:
        TypeError: the path is neither text nor a `pathlib.Path`.
        ValueError: the path is empty, or names a user or a variable that does not exist.
    """
    given = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(given, str):
        raise TypeError(f"{name} must be text or a pathlib.Path; got {given!r:.80}")
    if not given:
        raise ValueError(f'{name} must not be empty; the current folder is "."')
    text = os.path.expandvars(os.path.expanduser(given))
    unknown = re.search(r"^~[^/\\]*|\$(\w+|\{\w+\})", text)
    if unknown:
        raise ValueError(
            f"{name} must name users and variables that exist; {path} has {unknown[0]}. Write the folder out"
        )
    return Path(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` at the end of the block, unless an error is raised.

    The file lies in a new folder beside ``path``, which no other user can open and whose name nobody can know before.
    The data are on the disk before the name changes, so that a kill or a power cut leaves the old file or the new.
    File systems without permissions or without fsync are allowed.

    Raises:
        OSError: the file can't be written; the message names ``path``, and the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(".tmp", f".{path.name}.", path.parent, ignore_cleanup_errors=True) as folder:
            temporary = Path(folder, path.name)
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            with suppress(OSError):
                temporary.chmod(mode)  # safetensors makes files for their owner only
            _to_disk(temporary)
            os.replace(temporary, path)
        with suppress(OSError):  # Windows and some network drives can't open or flush a folder
            _to_disk(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}, while the file was written", str(path)) from error


def os_error(error: Exception) -> OSError:
    """The error of the operating system in the message of a library in Rust, "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


class FolderInUseError(ValueError):
    """Another process has the lock of a folder."""


@contextmanager
def locked(folder: Path, *names: str, seconds: float = 0.0) -> Iterator[None]:
    """Keep a folder from other processes that use this lock, until the end of the block or of this process.

    On a file system without locks, no process is kept out.

    Args:
        folder: the folder, which is made if missing.
        names: files that are written under this lock alone. Temporary files of killed processes are deleted.
        seconds: time to wait for another process.

    Raises:
        FolderInUseError: another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"folder must have no other process training in it; there is one in {folder}. Wait for it, or take "
            "another folder"
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    try:
        for name in names if lock.is_locked else ():
            for left_over in folder.glob(f".{name}.*.tmp"):
                shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files, which filelock deletes
            Path(lock.lock_file).unlink()  # before the release: filelock does not accept a file without a name
        lock.release()


def check_writable(folder: Path) -> None:
    """Check, before long work, that files can be written to a folder, or the folder made.

    Raises:
        ValueError: the path leads through a file.
        PermissionError: the folder can't be written.
    """
    exists = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not exists.is_dir():
        raise ValueError(f"{folder} can't be a folder: {exists} is a file. Name another one with --to")
    if not os.access(exists, os.W_OK | os.X_OK):
        raise PermissionError(f"{exists} can't be written. Name another folder with --to")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes writable files only
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
