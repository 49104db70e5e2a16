"""Files of users: regular, of a bounded size, and with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_IMAGE_BYTES = 2**28
"""Largest file of one image, 256 MB."""
MOST_TEXT_BYTES = 2**24
"""Largest list of classes or annotations, 16 MB."""


@contextmanager
def naming(name: object, fault: str, remedy: str = "Fetch it again") -> Iterator[None]:
    """Turn an error of a library in the block into a ValueError: name, fault, the library's words, remedy."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow, zipfile, tarfile and NumPy raise a dozen types for damaged files
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} {fault}: {words}. {remedy}") from error


def check_regular(path: str | Path) -> None:
    """Check that a file is a regular file: a named pipe or a device would be waited for without end."""
    if not Path(path).is_file():
        raise ValueError("there is no regular file" if Path(path).exists() else "no such file")


def check_size(name: object, size: int, most: int) -> None:
    """Check the size of a file before the file is read into memory."""
    if size > most:
        raise ValueError(f"{name} must have at most {most} bytes; got {size}. Fetch the source again")


def text_in(name: object, data: bytes) -> str:
    """The text in a file's bytes, UTF-8."""
    check_size(name, len(data), MOST_TEXT_BYTES)
    with naming(name, "is no text in UTF-8", "Fetch the source again"):
        return data.decode("utf-8")


def text_file(path: Path) -> str:
    """The text in a regular file, UTF-8."""
    with naming(path, "can't be read", "Fetch the source again"):
        check_regular(path)
    check_size(path, path.stat().st_size, MOST_TEXT_BYTES)
    return text_in(path, path.read_bytes())
