"""How an engine says how far it is: a bar, a function that is told, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

Progress = bool | Callable[[int], object]
"""True for a bar, False for nothing, or a function that is told how many presentations are complete."""


def checked(progress: Progress) -> Progress:
    """The argument ``progress``, or what is wrong with it."""
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function of a number of presentations; got {progress!r}")
    return progress


@contextlib.contextmanager
def telling(progress: Progress, presentations: int) -> Iterator[Callable[[int], object]]:
    """What an engine calls with the number of presentations that are complete; what it raises stops the sleep."""
    if not isinstance(progress, bool):
        yield progress
        return
    with tqdm(total=presentations, delay=2, disable=not progress, unit="presentation") as bar:
        yield lambda done: bar.update(done - bar.n)
