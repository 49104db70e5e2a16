"""The engine "exact", which also writes down what the page shows of a sleep on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bioshare.circuit.checks import Array
from bioshare.circuit.exact import RECORDED, Exact, groups_of
from bioshare.circuit.problem import Outcome, Problem, measure
from bioshare.circuit.progress import Progress, telling

NEURONS, INPUTS = 30, 9
"""Weights that are written down: of the first neurons, from the first inputs."""

TOGETHER = 64
"""Presentations that are computed at once."""


@dataclass
class Watching:
    """An engine for `bioshare.simulate`, with ``record_every`` all presentations.

    Args:
        presentation: when to write down, (R,), from 0 to the last.

    Attributes:
        curves: -log SNR, norm of the mean and its drift, (3, B, R).
        weights: of the first neurons and inputs, (R, B, n, m).
    """

    presentation: NDArray[np.int64]
    curves: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty(0))

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Propagate a checked sleep."""
        engine = Exact(threads=torch.get_num_threads() if problem.per_neuron else None)
        curves: list[list[Array]] = []
        weights: list[Array] = []
        last = problem.weights, problem.weights[..., 0], problem.weights[:, 0, 0]
        with engine.torch_threads(problem.weights.size), telling(progress, problem.presentations) as tell:
            for last in self._visited(problem, engine, tell):
                curves.append(list(measure(last[0], problem.weights.mean(-2)).values()))
                weights.append(last[0][:, :NEURONS, :INPUTS].copy())
        self.curves, self.weights = np.moveaxis(np.array(curves), 0, -1), np.array(weights)
        ends: dict[str, Array] = dict(zip(RECORDED, self.curves[..., [0, -1]], strict=True))
        return Outcome(*last, ends, problem.presentations)

    def _visited(
        self, problem: Problem, engine: Exact, tell: Callable[[int], object]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Weights (B, N, K), r (B, N) and r_inh (B,) after every presentation that is written down."""
        groups, visited = groups_of(problem, engine), set(self.presentation.tolist())
        inputs = (problem.drawn if problem.per_neuron else problem.blocks)(1)
        state = groups.at_rest()
        yield _arrays(*groups.end(state))
        for start, stop in pairwise(sorted(visited | set(range(0, problem.presentations, TOGETHER)))):
            x = np.concatenate([x for _, x in islice(inputs, stop - start)], 1)
            state, _ = groups.live(state, engine.tensor(x), start)
            tell(stop)
            if stop in visited:
                yield _arrays(*groups.end(state))


def _arrays(weights: Tensor, r: Tensor, r_inh: Tensor) -> tuple[Array, Array, Array]:
    return weights.numpy(), r.numpy(), r_inh.numpy()
