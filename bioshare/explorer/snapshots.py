"""The engine "exact" with snapshots of the weights, for the saved page."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.exact.engine import RECORDED, Exact, chunk_length, groups_for
from bioshare.circuit.problem import Outcome, Problem, Progress, measure_weights, reported

NEURONS, INPUTS = 24, 9
"""Number of neurons and inputs of a snapshot."""

MAX_PRESENTATIONS = 64
"""Largest number of presentations between two calls of ``progress``."""


@dataclass
class SnapshotEngine:
    """An engine for `bioshare.simulate` with a single record at the end.

    A group with diverging weights does not stop the other groups: no DivergenceError is raised. The curves of a
    diverged group are NaN, and the weights return to the weights before sleep.

    Args:
        presentation: number of presentations before each snapshot, (R,), from 0 to the end of the sleep.

    Attributes:
        curves: -log SNR, norm of the mean and drift of the mean at the snapshots, (3, B, R).
        weights: weights of the first neurons and inputs, (R, B, n, m).
        diverged: mask of the diverged groups, (B,).
    """

    presentation: NDArray[np.int64]
    curves: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty(0))
    diverged: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate a checked sleep."""
        engine = Exact(threads=torch.get_num_threads() if problem.per_neuron else None)
        groups = groups_for(problem, engine)
        self.diverged = np.zeros(len(problem.weights), bool)
        self.curves = np.full((3, len(self.diverged), len(self.presentation)), np.nan)
        self.weights = np.zeros((len(self.presentation), *problem.weights[:, :NEURONS, :INPUTS].shape))
        mean = problem.weights.mean(-2)  # before sleep, (B, K)
        inputs, length = problem.drawn(1), min(MAX_PRESENTATIONS, chunk_length(problem))
        times = {*self.presentation.tolist(), *range(0, problem.presentations, length)}
        snapshot = {presentation: i for i, presentation in enumerate(self.presentation.tolist())}
        end = problem.weights, problem.weights[..., 0], problem.weights[:, 0, 0]
        with engine.torch_threads(problem.weights.size), reported(progress, problem.presentations) as tell:
            state = groups.at_rest()
            for start, stop in [(0, 0), *pairwise(sorted(times))]:
                if stop:
                    x = np.concatenate([x for _, x in islice(inputs, stop - start)], 1)  # (S, T, K) or (S, T, N, K)
                    state, within, *_ = groups.advance(state, x, start, [])
                    self.diverged |= ~np.asarray(within).all(1)
                    tell(stop)
                if stop in snapshot:
                    weights, r, r_inh = map(np.asarray, groups.end(state))
                    end = np.where(self.diverged[:, None, None], problem.weights, weights), r, r_inh
                    measured = list(measure_weights(end[0], mean).values())
                    self.curves[..., snapshot[stop]] = np.where(self.diverged, np.nan, measured)
                    self.weights[snapshot[stop]] = end[0][:, :NEURONS, :INPUTS]
                if self.diverged.all():
                    break
            tell(problem.presentations)
        records: dict[str, Array] = dict(zip(RECORDED, self.curves[..., [0, -1]], strict=True))
        return Outcome(*end, records, problem.presentations)
