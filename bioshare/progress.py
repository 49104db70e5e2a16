"""Progress and errors on the standard error stream: bars in a terminal, lines in a log."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from tqdm import tqdm


def shows_bar(progress: bool = True) -> bool:
    """True if progress is wanted, and the error stream is a terminal, where a bar can move."""
    return is_wanted(progress) and sys.stderr.isatty()


def shows_lines(progress: bool = True) -> bool:
    """True if progress is wanted, and the error stream is a file or a pipe, where a bar would fill page after page."""
    return is_wanted(progress) and not sys.stderr.isatty()


def is_wanted(progress: bool = True) -> bool:
    """True if progress is wanted, by an argument and by TQDM_DISABLE in the environment."""
    return progress and not os.environ.get("TQDM_DISABLE") and sys.stderr is not None


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; the last line alone if another process has sent a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "Traceback (most recent call last)" in str(error) else " ".join(lines)


def say(text: str) -> None:
    """Write a line to the error stream, above any bars; a terminal that was closed or a full disk are no errors."""
    with suppress(OSError):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
