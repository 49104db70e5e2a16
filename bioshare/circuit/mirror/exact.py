"""Engine "exact" of a mirror, and whole mirrors as linear maps.

The rates are filtered inputs: y - beta = W u, above - beta = W v and below - beta = s, with u, v and s of K numbers. So
B_T = kept B_0 + W S, where S is the sum of v s^T over all time steps, less the decay since. From a presentation S gets
H^T G H: H (4, K) has u, v and s before the presentation and the input x, and G (4, 4) depends on the circuit alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, check_memory, finite_array, leading_axes, whole
from bioshare.circuit.arguments import neurons_by_inputs
from bioshare.circuit.mirror.circuit import MirrorCircuit
from bioshare.circuit.mirror.problem import Inputs, MirrorProblem, MirrorState, feedback_like, prepare_mirror
from bioshare.circuit.stimuli import Stimulus, as_stimulus

FORWARD, ABOVE, BELOW, INPUT = range(4)
"""Rows of H: u, v, s and x."""

TOGETHER = 256
"""Number of presentations in a matrix product."""


class MirrorMap(NamedTuple):
    """A whole mirror as a linear map: B_T = kept B_0 + W S, for any number of neurons and any weights.

    Attributes:
        kept: part of B_0 that is left, (...).
        S: (..., K, K).
    """

    kept: Array
    S: Array

    def __call__(self, weights: ArrayLike, feedback: ArrayLike | None = None) -> Array:
        """B (..., N, K) after the mirror, from W (..., N, K) and B before the mirror, 0 by default."""
        weights = neurons_by_inputs("weights", weights)
        if weights.shape[-1] != self.S.shape[-1]:
            raise ValueError(f"weights must have {self.S.shape[-1]} inputs as this map; got shape {weights.shape}")
        before = feedback_like(feedback, weights)
        leading_axes({"weights": weights.shape[:-2], "feedback": before.shape[:-2], "the map": self.S.shape[:-2]})
        return self.kept[..., None, None] * before + weights @ self.S


def mirror_map(
    stimuli: Inputs,
    circuit: MirrorCircuit,
    *,
    inputs: int | None = None,
    presentations: int | None = None,
    seed: int | None = None,
) -> MirrorMap:
    """Simulate a mirror once for all possible weights.

    Args:
        stimuli: (..., P, K), or a noiseless Stimulus or function.
        circuit: a `MirrorCircuit`.
        inputs: K, needed with a Stimulus.
        presentations, seed: needed with a Stimulus.

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> mirror_map(np.eye(3), MirrorCircuit(rate=0.02, decay=0.0, gate=50.0)).S.round(3)  # nearly I
        array([[0.977, 0.023, 0.   ],
               [0.   , 0.977, 0.023],
               [0.   , 0.   , 0.977]])
    """
    stimuli = as_stimulus(stimuli, "stimuli") if callable(stimuli) else stimuli
    if isinstance(stimuli, Stimulus):
        if inputs is None:
            raise TypeError("inputs, the number K of weights per neuron, is needed with a Stimulus in stimuli")
    elif inputs is None:
        inputs = finite_array("stimuli", stimuli, "(..., P, K)").shape[-1]
    inputs = whole("inputs", inputs, "a number of weights per neuron", at_least=1)
    problem = prepare_mirror(np.zeros((1, inputs)), stimuli, circuit, presentations=presentations, seed=seed)
    *_, (_, mirror, _) = _maps(replace(problem, stops=problem.stops[-1:]))
    return mirror


def mirror_exact(problem: MirrorProblem) -> Iterator[tuple[int, MirrorState]]:
    """Yield (presentations, state) at every stop."""
    beta = np.reshape(problem.circuit.baseline, (*np.shape(problem.circuit.baseline), 1))
    for stop, mirror, filtered in _maps(problem):
        y, above = (np.einsum("...nk,...k->...n", problem.weights, filtered[..., row, :]) for row in (FORWARD, ABOVE))
        below = np.broadcast_to(filtered[..., BELOW, :], problem.batch + filtered.shape[-1:])
        yield stop, MirrorState(mirror(problem.weights, problem.feedback), y + beta, below + beta, above + beta)


def _maps(problem: MirrorProblem) -> Iterator[tuple[int, MirrorMap, Array]]:
    """Yield (presentations, map until then, filtered inputs (..., 3, K)) at every stop."""
    circuit, stimuli = problem.circuit, problem.stimuli
    step, product, kept = presentation_map(circuit)
    lead, inputs = np.broadcast_shapes(stimuli.shape[:-2], kept.shape), stimuli.shape[-1]
    check_memory("stimuli", math.prod(lead) * inputs**2, f"{math.prod(lead)} maps of {inputs} x {inputs} numbers")
    filtered, total, start = np.zeros((*lead, 3, inputs)), np.zeros((*lead, inputs, inputs)), 0
    for stop in problem.stops:
        while start < stop:
            length = min(TOGETHER, stop - start)
            held = np.empty((*lead, length, 4, inputs))  # H of every presentation
            for t in range(length):
                held[..., t, :INPUT, :], held[..., t, INPUT, :] = filtered, stimuli[..., start + t, :]
                filtered = step @ held[..., t, :, :]
            # G H times the part that later presentations keep
            later = kept[..., None] ** np.arange(length)[::-1]
            weighted = later[..., None, None] * (product[..., None, :, :] @ held)
            flat = (*lead, 4 * length, inputs)
            total = kept[..., None, None] ** length * total + held.reshape(flat).mT @ weighted.reshape(flat)
            start += length
        yield stop, MirrorMap(kept**stop, total), filtered


def presentation_map(circuit: MirrorCircuit) -> tuple[Array, Array, Array]:
    """The map (..., 3, 4) from H to the next (u, v, s), G (..., 4, 4), and the part of B kept (...)."""
    scalars = circuit.dt / circuit.tau, circuit.dt / circuit.tau_crosstalk, circuit.rate * circuit.dt
    h, h_crosstalk, rate, decay = np.broadcast_arrays(*scalars, circuit.decay_per_step)
    # a time step of H: u from x, s from x, and v from the new u
    step = np.zeros((*h.shape, 4, 4))
    step[..., FORWARD, FORWARD], step[..., FORWARD, INPUT] = 1 - h, h
    step[..., BELOW, BELOW], step[..., BELOW, INPUT] = 1 - h_crosstalk, h_crosstalk
    step[..., ABOVE, :] = h_crosstalk[..., None] * step[..., FORWARD, :]
    step[..., ABOVE, ABOVE] = 1 - h_crosstalk
    step[..., INPUT, INPUT] = 1
    state, product = np.broadcast_to(np.eye(4), step.shape), np.zeros_like(step)
    for number in range(circuit.steps):
        state = step @ state
        if number >= circuit.steps - circuit.updates_per_presentation:
            hebb = state[..., ABOVE, :, None] * state[..., BELOW, None, :]
            product = (1 - decay)[..., None, None] * product + rate[..., None, None] * hebb
    return state[..., :INPUT, :], product, (1 - decay) ** circuit.updates_per_presentation
