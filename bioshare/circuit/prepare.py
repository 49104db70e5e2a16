"""The checks of a sleep before any work starts: shapes, parameters, and the stability of the learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, check_memory, choice, finite_array, leading_axes, shown, takes, whole
from bioshare.circuit import theory
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.problem import Problem, Progress
from bioshare.circuit.recording import RECORDABLE, Sampling
from bioshare.circuit.rules import Gated, Hebbian
from bioshare.circuit.stimuli import Stimulus, as_stimulus

TOGETHER = 2**18
"""Number of stability limits in memory at once."""


def prepare_sleep(
    weights: ArrayLike,
    stimuli: ArrayLike | Stimulus | Callable[..., ArrayLike],
    circuit: Circuit,
    rule: Hebbian,
    *,
    record_every: int = 1,
    presentations: int | None = None,
    seed: int | None = None,
    noise: float | None = None,
    record: str | Sequence[str] = (),
    sample_every: int | None = None,
) -> Problem:
    """Check the arguments of `bioshare.simulate` and broadcast the leading axes; the errors are listed there.

    With ``noise``, ``stimuli`` are an array (..., P, K), and every neuron adds independent noise, drawn from the seed,
    anew for every leading entry of the stimuli.
    """
    if not isinstance(circuit, RateCircuit | SteadyState):
        raise TypeError(f"circuit must be a RateCircuit or a SteadyState; got {shown(circuit)}")
    if not isinstance(rule, Hebbian):
        raise TypeError(f"rule must be a Hebbian(gamma, momentum, learning_rate=...); got {shown(rule)}")
    weights = finite_array("weights", weights, "(..., N, K), neurons by inputs")
    record_every = whole("record_every", record_every, "a number of presentations between two records", at_least=1)
    lead, (neurons, inputs) = weights.shape[:-2], weights.shape[-2:]
    stimuli = as_stimulus(stimuli, "stimuli") if callable(stimuli) else stimuli
    if isinstance(stimuli, Stimulus):
        if presentations is None or seed is None:
            raise TypeError(f"presentations and seed are needed to draw from {stimuli!r}")
        array, noise = stimuli.draw(presentations, inputs, seed=seed, batch=lead), stimuli.noise
    else:
        array = _check_stimuli(stimuli, weights.shape, presentations, seed if noise is None else None)
    own = 2 if array.ndim <= len(lead) + 2 else 3  # axes (P, K) if shared, (P, N, K) if not
    batch = _batch_of(lead, array.shape[:-own], circuit, rule)
    array = array.reshape((1,) * (len(batch) + own - array.ndim) + array.shape)
    length, steps = array.shape[len(batch)], circuit.updates_per_presentation
    check_memory("presentations", length * steps, f"learning rates of {steps} updates each")
    problem = Problem(
        weights=np.broadcast_to(weights, (*batch, neurons, inputs)).reshape(-1, neurons, inputs),
        stimuli=array,
        noise=noise or 0.0,
        circuit=circuit,
        rule=rule,
        rates=rule.rates(length * steps).reshape(length, steps),  # (P, updates per presentation)
        record_every=record_every,
        batch=batch,
        stimulus_batch=array.shape[: len(batch)],
        stimulus=stimuli if isinstance(stimuli, Stimulus) else None,
        seed=seed,
        sampling=_checked_sampling(record, sample_every, record_every * steps),
    )
    _check_learning_rates(problem)
    return problem


def _checked_sampling(record: str | Sequence[str], sample_every: int | None, usual: int) -> Sampling:
    """The quantities to record in time, every ``usual`` weight updates by default."""
    if not isinstance(record, str | list | tuple):
        raise TypeError(f"record must be names among {', '.join(RECORDABLE)}; got {shown(record)}")
    names = (record,) if isinstance(record, str) else tuple(record)
    for name in names:
        choice("record", name, RECORDABLE)
    if sample_every is None:
        return Sampling(names, usual)
    if not names:
        raise TypeError("sample_every needs a quantity to record, as in record=('r', 'r_inh', 'weights')")
    return Sampling(names, whole("sample_every", sample_every, "a number of weight updates", at_least=1))


def check_progress(progress: Progress) -> None:
    """Raise TypeError unless ``progress`` is True, False or a function."""
    if not isinstance(progress, bool) and not takes(progress, 1):
        raise TypeError(
            f"progress must be True, False or a function of a number of presentations; got {shown(progress)}"
        )


def largest_learning_rate(problem: Problem, power: ArrayLike) -> Array:
    """`theory.max_learning_rate` for the circuit and the rule; ``power`` is |x|^2 of shape (*batch, ...)."""
    rule, power = problem.rule, np.asarray(power, float)
    axes = (1,) * max(power.ndim - len(problem.batch), 0)
    scalars = rule.gamma, rule.momentum, problem.circuit.dt_over_tau
    return theory.max_learning_rate(power, *(np.reshape(scalar, np.shape(scalar) + axes) for scalar in scalars))


def _check_stimuli(stimuli: ArrayLike, weights: tuple[int, ...], presentations: int | None, seed: int | None) -> Array:
    """The stimuli as an array; raises where the array fits weights (*lead, N, K) in no way, or in two."""
    if presentations is not None or seed is not None:
        raise TypeError("presentations and seed belong to a Stimulus; an array of stimuli has its own length")
    array = finite_array("stimuli", stimuli, "(..., P, K) or (..., P, N, K)")
    *axes, neurons, inputs = weights
    shape = array.shape
    shared = f"(..., P, {inputs}) for one input shared by all neurons"
    private = f"({'..., ' if axes else ''}P, {neurons}, {inputs}) for one per neuron"
    message = f"stimuli must have shape {shared}, or {private}; got {shape} for weights {weights}"
    if shape[-1] != inputs or len(shape) > len(weights) + 1:
        raise ValueError(message)
    if len(shape) == len(weights) + 1 and shape[-2] != neurons:
        raise ValueError(
            f"{message}. To sleep with several stimuli, give the weights as many leading axes: weights[None]"
        )
    widened = any(given > lead for given, lead in zip(shape[:-2], axes, strict=False))
    if len(shape) == len(weights) and shape[-2] == neurons and widened:
        raise ValueError(
            f"{message}. It may be the stimuli of {shape[-3]} groups, or one for each of the {neurons} neurons: add "
            "the axis that is missing, to weights or stimuli"
        )
    return array


def _batch_of(
    lead: tuple[int, ...], stimulus_batch: tuple[int, ...], circuit: Circuit, rule: Hebbian
) -> tuple[int, ...]:
    """The broadcast leading axes of weights, stimuli and parameters."""
    shapes = {"weights": lead, "stimuli": stimulus_batch}
    shapes |= {name: np.shape(v) for name, v in (circuit.fields() | rule.fields()).items() if not callable(v)}
    return leading_axes(shapes)


def _check_learning_rates(problem: Problem) -> None:
    """Raise where a gate belongs to another circuit, or the learning rate must make the sleep diverge.

    With `SteadyState` one update above the limit overshoots at once. In the rate circuit instability is a slowly
    growing oscillation, and a schedule may pass through instability, as in Fig. 4B: the error comes when the mean
    rate of most presentations is above the limit.
    """
    gate, steps = problem.rule.learning_rate, problem.circuit.updates_per_presentation
    if isinstance(gate, Gated) and gate.held != steps:
        raise ValueError(
            f"learning_rate waits {gate.wait} of held={gate.held} updates, but a presentation of {problem.circuit!r} "
            f"has {steps}. Take held={steps}, with the wait in proportion"
        )
    # |x|^2 with the expected power of the noise, (*batch, P), of the neuron with the longest input
    power = np.einsum("...k,...k", problem.stimuli, problem.stimuli) + problem.weights.shape[-1] * problem.noise**2
    if power.ndim > len(problem.batch) + 1:
        power = power.max(-1)
    rate = problem.rates.mean(-1)  # of every presentation, (P,)
    length = max(1, TOGETHER // math.prod(problem.batch))  # a part after another, to save memory
    parts = [slice(start, start + length) for start in range(0, problem.presentations, length)]
    unstable = [rate[part] >= largest_learning_rate(problem, power[..., part]) for part in parts]
    share = np.max(sum(part.sum(-1) for part in unstable)) / problem.presentations
    if share <= (0.5 if isinstance(problem.circuit, RateCircuit) else 0.0):
        return
    limit = largest_learning_rate(problem, power)
    worst = np.argmax((rate / limit).reshape(-1, problem.presentations).max(0))
    lowest = limit.reshape(-1, problem.presentations)[:, worst].min()
    raise ValueError(
        f"learning_rate is above the stability limit in {math.ceil(100 * share)} % of the presentations: in "
        f"presentation {worst} it is {rate[worst]:.3g} and must stay below {lowest:.3g} for inputs of that "
        f"length. Divide the learning rate by {1.1 * rate[worst] / lowest:.2g} or more, or shorten the inputs"
    )
