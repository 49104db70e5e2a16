"""A sleep whose input has been checked: what `simulate` hands to an engine, and what an engine hands back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioshare.checks import Array, finite_array, whole
from bioshare.circuit import theory
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.progress import Progress
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.shapes import is_shared, leading_axes, refuse_misfit
from bioshare.circuit.stimuli import Stimulus, generators

DIVERGED = 1e8
"""How many times their size weights may move in a sleep; beyond it the sleep has diverged."""


class DivergenceError(ArithmeticError):
    """A sleep whose weights grew without bound. The message says at which presentation and why.

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
        noise: standard deviation of the noise that every neuron adds to a shared stimulus.
        rates: learning rates, (P, updates per presentation).
        batch: the leading axes before they were flattened.
        stimulus_batch: the leading axes over which stimulus and noise are drawn independently.
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

    @property
    def presentations(self) -> int:
        """P."""
        return self.rates.shape[0]

    @property
    def records(self) -> int:
        """How many times the SNR is recorded, before sleep included."""
        return 1 + self.presentations // self.record_every

    @cached_property
    def bound(self) -> float:
        """The size of a weight beyond which the sleep has diverged."""
        return DIVERGED * (1 + float(np.abs(self.weights).max()))

    @property
    def per_neuron(self) -> bool:
        """Whether the neurons of a group see different inputs."""
        return self.noise > 0 or self.stimuli.ndim == len(self.stimulus_batch) + 3

    def flat(self, scalar: ArrayLike) -> Array:
        """A parameter as one number per group, (B,)."""
        return np.broadcast_to(np.asarray(scalar, float), self.batch).reshape(-1)

    @cached_property
    def stimulus_of(self) -> NDArray[np.int64]:
        """Which of the stimuli that are drawn each group sees, (B,)."""
        numbers = np.arange(math.prod(self.stimulus_batch)).reshape(self.stimulus_batch)
        return np.broadcast_to(numbers, self.batch).reshape(-1)

    def drawn(self, length: int) -> Iterator[tuple[int, Array]]:
        """The inputs of the S stimuli, in consecutive blocks: (first presentation, (S, T, K) or (S, T, N, K)).

        T <= length. The noise is drawn presentation by presentation, so its bytes do not depend on ``length``.
        """
        neurons, inputs = self.weights.shape[1:]
        rng = generators(self.seed or 0)[1]
        axis = len(self.stimulus_batch)
        for start in range(0, self.presentations, length):
            stop = min(start + length, self.presentations)
            x = self.stimuli[(slice(None),) * axis + (slice(start, stop),)]
            if self.noise:
                xi = rng.standard_normal((stop - start, *self.stimulus_batch, neurons, inputs))
                x = x[..., None, :] + self.noise * np.moveaxis(xi, 0, axis)
            yield start, x.reshape(-1, *x.shape[axis:])

    def blocks(self, length: int) -> Iterator[tuple[int, Array]]:
        """What `drawn` yields as every group sees it: (first presentation, (B, T, K) or (B, T, N, K))."""
        for start, x in self.drawn(length):
            yield start, x if len(x) == len(self.weights) else x[self.stimulus_of]


@dataclass
class Outcome:
    """What an engine computed: weights (B, N, K), r (B, N), r_inh (B,), records (B, records) by name.

    ``presentations`` is smaller than the problem's when the sleep was interrupted.
    """

    weights: Array
    r: Array
    r_inh: Array
    records: dict[str, Array]
    presentations: int
    seconds: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """What simulates a checked sleep: `Exact`, `Brian2`, `Loop`, or one of your own."""

    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate; after KeyboardInterrupt, return what was computed if that is anything."""
        ...


def measure(weights: Array, mean_init: Array) -> dict[str, Array]:
    """The recorded quantities of weights (B, N, K), each (B,): -log SNR, norm of the mean and its drift."""
    mean = weights.mean(-2)
    return {
        "neg_log_snr": theory.neg_log_snr(weights),
        "mean_norm": np.linalg.norm(mean, axis=-1),
        "mean_drift": np.linalg.norm(mean - mean_init, axis=-1),
    }


def prepare(
    weights: ArrayLike,
    stimuli: ArrayLike | Stimulus,
    circuit: Circuit,
    rule: Hebbian,
    *,
    record_every: int = 1,
    presentations: int | None = None,
    seed: int | None = None,
    noise: float | None = None,
) -> Problem:
    """Check a sleep before any work starts; see `bioshare.simulate` for the arguments and errors.

    With ``noise``, ``stimuli`` are an array (..., P, K) to which every neuron adds its own, drawn from the seed,
    independently for every leading entry of the stimuli.
    """
    if not isinstance(circuit, RateCircuit | SteadyState):
        raise TypeError(f"circuit must be a RateCircuit or a SteadyState; got {circuit!r}")
    if not isinstance(rule, Hebbian):
        raise TypeError(f"rule must be a Hebbian(gamma, momentum, learning_rate=...); got {rule!r}")
    weights = finite_array("weights", weights, "(..., N, K), neurons by inputs")
    record_every = whole("record_every", record_every, "a number of presentations between two records", at_least=1)
    lead, (neurons, inputs) = weights.shape[:-2], weights.shape[-2:]
    stimulus = stimuli if isinstance(stimuli, Stimulus) else None
    array = _inputs(stimuli, (*lead, neurons, inputs), presentations, seed if noise is None else None)
    own = 2 if is_shared(array, lead) else 3
    batch = leading_axes(lead, array.shape[:-own], circuit, rule)
    array = array.reshape((1,) * (len(batch) + own - array.ndim) + array.shape)
    length, steps = array.shape[len(batch)], circuit.updates_per_presentation
    problem = Problem(
        weights=np.broadcast_to(weights, (*batch, neurons, inputs)).reshape(-1, neurons, inputs),
        stimuli=array,
        noise=stimulus.noise if stimulus else noise or 0.0,
        circuit=circuit,
        rule=rule,
        rates=rule.rates(length * steps).reshape(length, steps),
        record_every=record_every,
        batch=batch,
        stimulus_batch=array.shape[: len(batch)],
        stimulus=stimulus,
        seed=seed,
    )
    _refuse_unstable_rates(problem)
    return problem


def _inputs(
    stimuli: ArrayLike | Stimulus, weights: tuple[int, ...], presentations: int | None, seed: int | None
) -> Array:
    """Draw a Stimulus for weights of the shape (*lead, N, K), or check an array of stimuli against it."""
    *_, inputs = weights
    lead = weights[:-2]
    if callable(stimuli):
        raise TypeError(f"stimuli must be an array or a Stimulus, such as stimuli.gaussian(); got {stimuli!r}")
    if isinstance(stimuli, Stimulus):
        if presentations is None or seed is None:
            raise TypeError(f"presentations and seed are needed to draw from {stimuli!r}")
        return stimuli.draw(presentations, inputs, seed=seed, batch=lead)
    if presentations is not None or seed is not None:
        raise TypeError("presentations and seed belong to a Stimulus; an array of stimuli has its own length")
    array = finite_array("stimuli", stimuli, "(..., P, K) or (..., P, N, K)")
    refuse_misfit(array.shape, weights)
    return array


def largest_learning_rate(problem: Problem, power: ArrayLike) -> Array:
    """`theory.max_learning_rate` for this circuit and rule; ``power`` is |x|^2 of shape (*batch, ...)."""
    rule, power = problem.rule, np.asarray(power, float)
    axes = (1,) * max(power.ndim - len(problem.batch), 0)
    scalars = rule.gamma, rule.momentum, problem.circuit.dt_over_tau
    return theory.max_learning_rate(power, *(np.reshape(scalar, np.shape(scalar) + axes) for scalar in scalars))


def _refuse_unstable_rates(problem: Problem) -> None:
    """Raise where the learning rate must make the sleep diverge.

    With `SteadyState` one update above the limit overshoots at once. In the rate circuit instability is a
    slowly growing oscillation, and a schedule may pass through it, as that of Fig. 4B does: it is refused when
    the mean rate of most presentations is above the limit.
    """
    power = np.einsum("...k,...k", problem.stimuli, problem.stimuli) + problem.weights.shape[-1] * problem.noise**2
    if power.ndim > len(problem.batch) + 1:
        power = power.max(-1)
    limit = largest_learning_rate(problem, power)
    rate = problem.rates.mean(-1)
    unstable = (rate >= limit).reshape(-1, problem.presentations)
    share = unstable.mean(-1).max()
    if share <= (0.5 if isinstance(problem.circuit, RateCircuit) else 0.0):
        return
    worst = np.argmax((rate / limit).reshape(-1, problem.presentations).max(0))
    lowest = limit.reshape(-1, problem.presentations)[:, worst].min()
    raise ValueError(
        f"learning_rate is above the stability limit in {math.ceil(100 * share)} % of the presentations: in "
        f"presentation {worst} it is {rate[worst]:.3g} and must stay below {lowest:.3g} for inputs of that "
        f"length. Divide the learning rate by {1.1 * rate[worst] / lowest:.2g} or more, or shorten the inputs"
    )


def divergence(problem: Problem, presentation: int, entry: int, last: int | None = None) -> DivergenceError:
    """The error of a sleep that grew without bound in one presentation of one batch entry.

    Where it is only known that this was between ``presentation`` and ``last``, the likeliest of them is told.
    """
    scalars = [problem.flat(s)[entry] for s in (problem.rule.gamma, problem.rule.momentum, problem.circuit.dt_over_tau)]
    told, rate, limit, power = presentation, 0.0, np.inf, 0.0
    for start, x in islice(problem.blocks(1), 1 + (presentation if last is None else last)):
        if start >= presentation:
            its_power = float((x[entry, 0] ** 2).sum(-1).max())
            its_rate, its_limit = problem.rates[start].max(), float(theory.max_learning_rate(its_power, *scalars))
            if its_rate / its_limit > rate / limit:
                told, rate, limit, power = start, its_rate, its_limit, its_power
    if rate >= limit:
        why = f"its learning rate reaches {rate:.3g}, the limit for |x|^2 = {power:.3g} is {limit:.3g}: lower it"
    else:
        why = (
            f"its learning rate {rate:.3g} is below the limit {limit:.3g} for a held input, so an earlier "
            "presentation or the loop through the inhibitory neuron started it: lower learning_rate or alpha"
        )
    where = tuple(int(i) for i in np.unravel_index(entry, problem.batch)) if problem.batch else ()
    at = f" of batch entry {where}" if where else ""
    return DivergenceError(f"the weights diverged in presentation {told}{at}; {why}", told)
