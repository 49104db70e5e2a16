"""A checked mirror: the arguments and the states of an engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, finite_array, leading_axes, shown, whole
from bioshare.circuit.arguments import neurons_by_inputs
from bioshare.circuit.mirror.circuit import MirrorCircuit
from bioshare.circuit.stimuli import Stimulus, as_stimulus

Inputs = ArrayLike | Stimulus | Callable[..., ArrayLike]


@dataclass(frozen=True)
class MirrorProblem:
    """One mirror, all arguments checked.

    Attributes:
        weights, feedback: W and B before the mirror, (*batch, N, K).
        stimuli: inputs (..., P, K); leading axes broadcast against ``batch``.
        stops: numbers of complete presentations for which an engine yields a state, rising; P is the last.
        stimulus: source of the inputs; None for an array.
    """

    weights: Array
    feedback: Array
    stimuli: Array
    circuit: MirrorCircuit
    stops: tuple[int, ...]
    stimulus: Stimulus | None

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.weights.shape[:-2]


class MirrorState(NamedTuple):
    """State of a mirror between two presentations: B (*batch, N, K), rates (*batch, N) and, below, (*batch, K)."""

    feedback: Array
    y: Array
    below: Array
    above: Array


def prepare_mirror(
    weights: ArrayLike,
    stimuli: Inputs,
    circuit: MirrorCircuit,
    feedback: ArrayLike | None = None,
    record_every: int = 1,
    presentations: int | None = None,
    seed: int | None = None,
) -> MirrorProblem:
    """Check the arguments of `bioshare.simulate_mirror`, draw the inputs, and broadcast the leading axes."""
    if not isinstance(circuit, MirrorCircuit):
        raise TypeError(f"circuit must be a MirrorCircuit; got {shown(circuit)}")
    w = neurons_by_inputs("weights", weights)
    b = feedback_like(feedback, w)
    every = whole("record_every", record_every, "a number of presentations between two records", at_least=1)
    stimuli = as_stimulus(stimuli, "stimuli") if callable(stimuli) else stimuli
    if isinstance(stimuli, Stimulus):
        if presentations is None or seed is None:
            raise TypeError(f"presentations and seed are needed to draw from {stimuli!r}")
        if stimuli.noise:
            raise ValueError(f"stimuli must be the same for all neurons of a layer, without noise; got {stimuli!r}")
        x = stimuli.draw(presentations, w.shape[-1], seed=seed, batch=w.shape[:-2])
    else:
        if presentations is not None or seed is not None:
            raise TypeError("presentations and seed belong to a Stimulus; an array of stimuli has its own length")
        x = finite_array("stimuli", stimuli, "(..., P, K)")
        if x.shape[-1] != w.shape[-1]:
            raise ValueError(f"stimuli must be (..., P, {w.shape[-1]}), as many inputs as weights; got shape {x.shape}")
    shapes = {"weights": w.shape[:-2], "feedback": b.shape[:-2], "stimuli": x.shape[:-2]}
    batch = leading_axes(shapes | {name: np.shape(value) for name, value in circuit.fields().items()})
    return MirrorProblem(
        np.broadcast_to(w, batch + w.shape[-2:]),
        np.broadcast_to(b, batch + b.shape[-2:]),
        x,
        circuit,
        tuple(sorted({*range(every, x.shape[-2] + 1, every), x.shape[-2]})),
        stimuli if isinstance(stimuli, Stimulus) else None,
    )


def feedback_like(feedback: ArrayLike | None, weights: Array) -> Array:
    """B before the mirror, with as many neurons and inputs as the weights; 0 for None."""
    b = np.zeros(weights.shape[-2:]) if feedback is None else neurons_by_inputs("feedback", feedback)
    if b.shape[-2:] != weights.shape[-2:]:
        raise ValueError(f"feedback must be (..., N, K) as weights, {weights.shape[-2:]}; got shape {b.shape}")
    return b


def angle_and_ratio(feedback: Array, weights: Array) -> tuple[Array, Array]:
    """The angle between B and W in degrees, NaN for B = 0, and the norm of B over the norm of W, both (...)."""
    norm = lambda array: np.linalg.norm(array, axis=(-2, -1), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        b, w = feedback / norm(feedback), weights / norm(weights)
        ratio = norm(feedback) / norm(weights)
    half = np.arctan2(norm(b - w), norm(b + w))  # small angles keep their digits
    return 360 / math.pi * half[..., 0, 0], ratio[..., 0, 0]
