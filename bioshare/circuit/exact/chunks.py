"""Presentations in pieces, so that rates and weights can be recorded in time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bioshare.checks import Array
from bioshare.circuit.problem import Problem


def pieces_per_presentation(problem: Problem) -> int:
    """Number of pieces of a presentation, so that every sample lies at the end of a piece; 1 without samples."""
    updates = problem.rates.shape[1]
    return updates // math.gcd(problem.sampling.every, updates) if problem.sampling.names else 1


def pieces(problem: Problem, split: int, length: int) -> Iterator[tuple[int, Array]]:
    """The inputs as from `Problem.drawn`, every presentation ``split`` times: (first piece, (S, T, [N,] K)).

    An input that is held is the same input presented several times, for fewer updates. A chunk ends at every sample
    and, unless samples have whole presentations between, at the end of every presentation.
    """
    if not problem.sampling.names:
        yield from problem.drawn(length)
        return
    together = problem.sampling.every * split // problem.rates.shape[1]  # pieces from sample to sample
    for start, x in problem.drawn(length):
        first, last = start * split, (start + x.shape[1]) * split
        while first < last:
            stop = min(last, first + together - first % together)
            stop = min(stop, first + split - first % split) if together % split else stop
            yield first, x[:, np.arange(first, stop) // split - start]
            first = stop
