"""The engine "exact", which also writes down what the page shows of a sleep on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.exact.engine import RECORDED, Exact, chunk_length, groups_for
from bioshare.circuit.problem import Outcome, Problem, Progress, measure_weights, reported

NEURONS, INPUTS = 24, 9
"""Weights that are written down: of the first neurons, from the first inputs."""

TOGETHER, NUMBERS = 64, 2**23
"""Presentations, and numbers, that are computed at once, at most: progress is told some times a second."""


@dataclass
class Watching:
    """An engine for `bioshare.simulate`, with ``record_every`` all presentations.

    Where the weights of a group diverge, the others live on: no DivergenceError is raised. What the run holds of a
    group that is lost is NaN, but for its weights, which are those before sleep.

    Args:
        presentation: when to write down, (R,), from 0 to the last.

    Attributes:
        curves: -log SNR, norm of the mean and its drift, (3, B, R); NaN from where a group was found lost.
        weights: of the first neurons and inputs, (R, B, n, m).
        lost: which groups have diverged, (B,).
    """

    presentation: NDArray[np.int64]
    curves: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty(0))
    lost: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Propagate a checked sleep."""
        engine = Exact(threads=torch.get_num_threads() if problem.per_neuron else None)
        self.lost = np.zeros(len(problem.weights), bool)
        self.curves = np.full((3, len(self.lost), len(self.presentation)), np.nan)
        self.weights = np.zeros((len(self.presentation), *problem.weights[:, :NEURONS, :INPUTS].shape))
        mean = problem.weights.mean(-2)
        last = problem.weights, problem.weights[..., 0], problem.weights[:, 0, 0]
        with engine.torch_threads(problem.weights.size), reported(progress, problem.presentations) as tell:
            for i, end in enumerate(self._visited(problem, engine, tell)):
                weights, r, r_inh = map(np.asarray, end)
                lost = self.lost[:, None, None]
                last = np.where(lost, problem.weights, weights), r, r_inh
                self.curves[..., i] = np.where(self.lost, np.nan, list(measure_weights(last[0], mean).values()))
                self.weights[i] = last[0][:, :NEURONS, :INPUTS]
        ends: dict[str, Array] = dict(zip(RECORDED, self.curves[..., [0, -1]], strict=True))
        return Outcome(*last, ends, problem.presentations)

    def _visited(self, problem: Problem, engine: Exact, tell: Callable[[int], object]) -> Iterator[Any]:
        """Weights (B, N, K), r (B, N) and r_inh (B,) after every presentation that is written down."""
        groups, visited = groups_for(problem, engine), set(self.presentation.tolist())
        inputs = problem.drawn(1)
        together = _together(problem)
        state = groups.at_rest()
        yield groups.end(state)
        for start, stop in pairwise(sorted(visited | set(range(0, problem.presentations, together)))):
            if self.lost.all():
                break
            x = np.concatenate([x for _, x in islice(inputs, stop - start)], 1)
            state, within, *_ = groups.advance(state, x, start, [])
            self.lost |= ~np.asarray(within).all(1)
            tell(stop)
            if stop in visited:
                yield groups.end(state)
        tell(problem.presentations)


def _together(problem: Problem) -> int:
    """How many presentations are computed at once."""
    if problem.per_neuron:
        return min(TOGETHER, chunk_length(problem))
    groups, neurons, inputs = problem.weights.shape
    return max(1, min(TOGETHER, NUMBERS // (groups * min(neurons, inputs) * inputs)))
