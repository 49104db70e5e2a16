"""Rates and weights in time: samples of a sleep after every n-th weight update, in every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bioshare.checks import Array

if TYPE_CHECKING:
    from bioshare.circuit.problem import Problem

RECORDABLE = ("r", "r_inh", "weights")
"""Quantities that `bioshare.simulate` can record in time."""


@dataclass(frozen=True)
class Sampling:
    """The quantities to record, before sleep and after every n-th weight update.

    Attributes:
        names: any of `RECORDABLE`.
        every: number of weight updates between two samples.
    """

    names: tuple[str, ...] = ()
    every: int = 1

    def bytes(self, problem: Problem) -> int:
        """Memory of all samples of a sleep."""
        groups, neurons, inputs = problem.weights.shape
        numbers = {"r": neurons, "r_inh": 1, "weights": neurons * inputs}
        return 8 * groups * (1 + problem.rates.size // self.every) * sum(numbers[name] for name in self.names)


NO_SAMPLES = Sampling()


class Recording:
    """Samples of a sleep, in arrays allocated before the sleep; the first sample is the state before sleep.

    Attributes:
        arrays: r (B, samples, N), r_inh (B, samples) and weights (B, samples, N, K), the recorded among them.
    """

    def __init__(self, problem: Problem) -> None:
        groups, neurons, inputs = problem.weights.shape
        self.every, self.taken = problem.sampling.every, 0
        samples = 1 + problem.rates.size // self.every
        shapes = {"r": (neurons,), "r_inh": (), "weights": (neurons, inputs)}
        try:
            self.arrays = {name: np.empty((groups, samples, *shapes[name])) for name in problem.sampling.names}
        except MemoryError:
            needed = problem.sampling.bytes(problem)
            raise MemoryError(
                f"record needs {needed:.1e} bytes: take fewer quantities, or a larger sample_every"
            ) from None
        if self.arrays:
            resting = problem.flat(problem.circuit.resting_inhibition)
            self.add(problem.weights, resting[:, None], resting)

    def due(self, updates: int) -> bool:
        """True if the state after a number of weight updates is to be recorded."""
        return bool(self.arrays) and updates % self.every == 0

    def add(self, weights: Array, r: Array, r_inh: Array) -> None:
        """Record a state: weights (B, N, K), r (B, N) and r_inh (B,)."""
        for name, values in {"weights": weights, "r": r, "r_inh": r_inh}.items():
            if name in self.arrays:
                self.arrays[name][:, self.taken] = values
        self.taken += 1

    def until(self, updates: int) -> dict[str, Array]:
        """The samples of the first ``updates`` weight updates."""
        return {name: values[:, : 1 + updates // self.every] for name, values in self.arrays.items()}
