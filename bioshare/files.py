"""Paths of users, files that are never half written, and folders of one process at a time."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
"""Errors of a file system that has no fsync; a full or broken disk has other numbers."""


def expanded(path: os.PathLike[str] | str) -> Path:
    """A path with a leading ~ replaced by the home folder, and $NAME or ${NAME} by variables of the environment.

    Raises:
        ValueError: the path names a user or a variable that does not exist.
    """
    text = os.path.expandvars(os.path.expanduser(path))
    unknown = re.search(r"^~[^/\\]*|\$(\w+|\{\w+\})", text)
    if unknown:
        raise ValueError(
            f"path must name users and variables that exist; {path} has {unknown[0]}. Write the folder out"
        )
    return Path(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces ``path`` at the end of the block, unless an error is raised.

    The data are on the disk before the name changes, so that a kill or a power cut leaves the old file or the new.
    File systems without permissions or without fsync are allowed.

    Raises:
        OSError: the file can't be written; the message names ``path``, and the old file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    finally:
        with suppress(OSError):
            temporary.unlink()


def os_error(error: Exception) -> OSError:
    """The error of the operating system in the message of a library in Rust, "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder from other processes that use this lock, until the end of the block or of this process.

    Raises:
        ValueError: another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"folder must have no other process training in it; there is one in {folder}. Wait for it, or take "
                    "another folder"
                ) from None
            except OSError:  # a file system without locks
                pass
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps open files
                path.unlink()


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
