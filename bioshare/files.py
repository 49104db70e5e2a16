"""Files that are never half written, and folders of one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces ``path`` at the end of the block, unless an error is raised.

    The data are on the disk before the name changes, so that a kill or a power cut leaves the old file or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files for their owner only
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
            path.unlink(missing_ok=True)


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
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
