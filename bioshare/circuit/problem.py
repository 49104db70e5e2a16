"""A checked sleep: the arguments and the result of an engine, and the errors on the way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from bioshare.checks import Array
from bioshare.circuit import theory
from bioshare.circuit.circuits import Circuit, RateCircuit
from bioshare.circuit.recording import NO_SAMPLES, Sampling
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus, generators
from bioshare.progress import shows_bar

DIVERGED = 1e8
"""Growth of a weight, as a multiple of the largest initial weight, beyond which a sleep has diverged."""

Progress = bool | Callable[[int], object]
"""True for a bar, False for nothing, or a function of the number of complete presentations."""


class DivergenceError(ArithmeticError):
    """The weights of a sleep grew without bound. The message says when and why.

    Attributes:
        presentation: index of the presentation, from 0.
    """

    def __init__(self, message: str, presentation: int) -> None:
        super().__init__(message, presentation)
        self.presentation = presentation

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Problem:
    """One sleep of B groups, all parameters checked, the leading axes flattened to one of length B.

    Attributes:
        weights: before sleep, (B, N, K).
        stimuli: shared (..., P, K) or per neuron (..., P, N, K); leading axes broadcast against ``batch``.
        noise: standard deviation of every neuron's noise on a shared stimulus.
        rates: learning rates, (P, updates per presentation).
        batch: the leading axes before flattening.
        stimulus_batch: the leading axes of independent draws of stimulus and noise.
        sampling: the quantities to record in time.
    """

    weights: Array
    stimuli: Array
    noise: float
    circuit: Circuit
    rule: Hebbian
    rates: Array
    record_every: int
    batch: tuple[int, ...]
    stimulus_batch: tuple[int, ...]
    stimulus: Stimulus | None
    seed: int | None
    sampling: Sampling = NO_SAMPLES

    @property
    def presentations(self) -> int:
        """Number of presentations, P."""
        return self.rates.shape[0]

    @property
    def records(self) -> int:
        """Number of records of the SNR of an engine, the record before sleep included."""
        return 1 + self.presentations // self.record_every

    @cached_property
    def bound(self) -> float:
        """Largest size of a weight in a sleep without divergence."""
        return DIVERGED * (1 + float(np.abs(self.weights).max()))

    @cached_property
    def mean_init(self) -> Array:
        """Mean of the weights of a group, (B, 1, K); equal weights deviate from the mean by exactly 0."""
        first = self.weights[:, :1]
        return first + (self.weights - first).mean(1, keepdims=True)

    @property
    def per_neuron(self) -> bool:
        """True if the neurons of a group see different inputs."""
        return self.noise > 0 or self.stimuli.ndim == len(self.stimulus_batch) + 3

    @property
    def initial_response(self) -> Array:
        """The response r - b of every neuron at the start of a sleep, (B,): 0, or -b in Eq. 8 as printed."""
        circuit = self.circuit
        bias = circuit.bias if isinstance(circuit, RateCircuit) else 0.0
        return -(self.flat(bias) - self.flat(circuit.resting_inhibition))

    def flat(self, scalar: ArrayLike) -> Array:
        """A parameter as one number per group, (B,)."""
        return np.broadcast_to(np.asarray(scalar, float), self.batch).reshape(-1)

    @cached_property
    def stimulus_of(self) -> NDArray[np.int64]:
        """Index of the drawn stimulus of every group, (B,)."""
        numbers = np.arange(math.prod(self.stimulus_batch)).reshape(self.stimulus_batch)
        return np.broadcast_to(numbers, self.batch).flatten()

    def drawn(self, length: int) -> Iterator[tuple[int, Array]]:
        """The inputs of the S stimuli, in consecutive chunks: (first presentation, (S, T, K) or (S, T, N, K)).

        T <= length. The noise is drawn presentation by presentation, with the same bytes for every ``length``.
        """
        neurons, inputs = self.weights.shape[1:]
        rng = generators(self.seed or 0)[1]
        axis = len(self.stimulus_batch)
        for start in range(0, self.presentations, length):
            stop = min(start + length, self.presentations)
            x = self.stimuli[(slice(None),) * axis + (slice(start, stop),)]
            if self.noise:  # x_i = x + sigma xi_i, (..., T, N, K)
                xi = rng.standard_normal((stop - start, *self.stimulus_batch, neurons, inputs))
                xi *= self.noise  # in place: fresh memory takes as long as the arithmetic
                xi += np.moveaxis(x, axis, 0)[..., None, :]
                x = np.moveaxis(xi, 0, axis)
            yield start, x.reshape(-1, *x.shape[axis:])

    def blocks(self, length: int) -> Iterator[tuple[int, Array]]:
        """The inputs of the B groups, in chunks as from `drawn`: (first presentation, (B, T, K) or (B, T, N, K))."""
        for start, x in self.drawn(length):
            yield start, x if len(x) == len(self.weights) else x[self.stimulus_of]


@dataclass
class Outcome:
    """Result of an engine: weights (B, N, K), r (B, N), r_inh (B,), records (B, records) by name.

    ``presentations`` is smaller than the number of the problem after an interruption. ``recorded`` has the samples
    (B, samples, ...) of ``Problem.sampling`` by name, as of `bioshare.circuit.recording.Recording`.
    """

    weights: Array
    r: Array
    r_inh: Array
    records: dict[str, Array]
    presentations: int
    seconds: dict[str, float] = field(default_factory=dict)
    recorded: dict[str, Array] = field(default_factory=dict)


class Engine(Protocol):
    """A simulator of checked sleeps: `Exact`, `Brian2`, `Loop`, or an engine of your own."""

    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate; after KeyboardInterrupt, return the complete presentations if there are any."""
        ...


@contextlib.contextmanager
def reported(progress: Progress, presentations: int) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of complete presentations; an error in the function ends the sleep."""
    if not isinstance(progress, bool):
        yield progress
        return
    with tqdm(total=presentations, delay=2, disable=not shows_bar(progress), unit="presentation") as bar:
        yield lambda done: bar.update(done - bar.n)


def measure_weights(weights: Array, mean_init: Array) -> dict[str, Array]:
    """The recorded quantities of weights (B, N, K), each (B,): -log SNR, norm and drift of the mean."""
    mean = weights.mean(-2)  # (B, K)
    return {
        "neg_log_snr": theory.neg_log_snr(weights),
        "mean_norm": np.linalg.norm(mean, axis=-1),
        "mean_drift": np.linalg.norm(mean - mean_init, axis=-1),
    }


def divergence(problem: Problem, presentation: int, entry: int, last: int | None = None) -> DivergenceError:
    """The error of a sleep with a divergence in a presentation of a batch entry.

    With ``last``, the presentation lies between ``presentation`` and ``last``, and the message names the likeliest.
    """
    scalars = [problem.flat(s)[entry] for s in (problem.rule.gamma, problem.rule.momentum, problem.circuit.dt_over_tau)]
    likeliest, rate, limit, power = presentation, 0.0, np.inf, 0.0
    for start, x in islice(problem.blocks(1), 1 + (presentation if last is None else last)):
        if start >= presentation:
            new_power = float((x[entry, 0] ** 2).sum(-1).max())  # |x|^2, of the neuron with the longest input
            new_rate, new_limit = problem.rates[start].max(), float(theory.max_learning_rate(new_power, *scalars))
            if new_rate / new_limit > rate / limit:
                likeliest, rate, limit, power = start, new_rate, new_limit, new_power
    if rate >= limit:
        why = f"its learning rate reaches {rate:.3g}, the limit for |x|^2 = {power:.3g} is {limit:.3g}: lower it"
    else:
        why = (
            f"its learning rate {rate:.3g} is below the limit {limit:.3g} for a held input, so an earlier "
            "presentation or the loop through the inhibitory neuron started it: lower learning_rate or alpha"
        )
    where = tuple(int(i) for i in np.unravel_index(entry, problem.batch)) if problem.batch else ()
    at = f" of batch entry {where}" if where else ""
    return DivergenceError(f"the weights diverged in presentation {likeliest}{at}; {why}", likeliest)
