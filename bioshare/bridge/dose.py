"""How strongly and how long a layer sleeps, whatever the number K of inputs to its neurons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bioshare.checks import real, whole
from bioshare.circuit.circuits import Circuit, RateCircuit
from bioshare.circuit.rules import Gated, Hebbian, InverseSqrtDecay
from bioshare.circuit.stimuli import Stimulus
from bioshare.circuit.theory import max_dt

TAU, HELD, WAIT = 30.0, 150.0, 100.0
"""Membrane time constant, time of a presentation, and of the part of it in which the circuit settles: milliseconds."""

MOMENTUM = 0.95
"""Appendix A.5."""


@dataclass(frozen=True)
class PerInput:
    """Presentations for every input of a neuron.

    Args:
        times: how many; 1 is one cycle of the grid.

    Example:
        >>> PerInput(5)(144)
        720
    """

    times: float

    def __post_init__(self) -> None:
        real("times", self.times, "a positive number of presentations per input", above=0, array=False)

    def __call__(self, inputs: int) -> int:
        """Presentations of a layer with so many inputs per neuron."""
        return max(1, round(self.times * inputs))


@dataclass(frozen=True)
class Dose:
    """A Hebbian rule whose learning rate makes one presentation equally strong for every number of inputs.

    The learning rates of a presentation, summed and times |x|^2 / (1 - momentum), are its *strength* s. Along x the
    mean shrinks to about exp(-s / (1 + alpha)); deviations from it to about 1 - s in a single update, and between that
    and exp(-s) in the rate circuit, where the response and the momentum lag behind.

    Args:
        strength: s, below 2: a single update would overshoot by more than there was, and the rate circuit rings.
        circuit: a `RateCircuit` learns only in the last third of every presentation, when it has settled, and not in
            the first one: a sleep starts at r = 0, away from the bias, and the weights would learn that. Let
            `Sleep.silence` be 1, or the first pattern is lost. The silence alone would not do: with noise, neurons
            have inputs in it.
        stimulus: has the mean of |x|^2, noise included.
        gamma, momentum: as for `bioshare.Hebbian`. Momentum spreads what a presentation does over some
            1 / (1 - momentum) updates after it, and a sleep that ends before them loses the rest.

    Example:
        >>> from bioshare.circuit.circuits import SteadyState
        >>> from bioshare.circuit.stimuli import grid
        >>> round(Dose(0.5, SteadyState(), grid(), momentum=0.9)(144).learning_rate, 3)
        0.05
    """

    strength: float
    circuit: Circuit
    stimulus: Stimulus
    gamma: float = 0.0
    momentum: float = MOMENTUM

    def __post_init__(self) -> None:
        real("strength", self.strength, "a positive number below 2", above=0, below=2, array=False)
        Hebbian(self.gamma, self.momentum, learning_rate=0.0)

    def __call__(self, inputs: int) -> Hebbian:
        """The rule of a layer with so many inputs per neuron."""
        rate = self.strength * (1 - self.momentum) / power(self.stimulus, inputs)
        if isinstance(self.circuit, RateCircuit):
            held = self.circuit.updates_per_presentation
            wait = round(held * WAIT / HELD)
            return Hebbian(self.gamma, self.momentum, learning_rate=Gated(rate / (held - wait), wait, held))
        return Hebbian(self.gamma, self.momentum, learning_rate=rate)


@dataclass(frozen=True)
class PaperRule:
    """The rule of Fig. 4B; beyond its largest K, 81, the learning rate falls as 1 / K, since |x|^2 grows as K.

    Example:
        >>> PaperRule()(162).learning_rate.scale
        0.00015
    """

    gamma: float = 0.01

    def __call__(self, inputs: int) -> Hebbian:
        """The rule of a layer with so many inputs per neuron."""
        return Hebbian(self.gamma, MOMENTUM, learning_rate=InverseSqrtDecay(3e-4 * min(1, 81 / inputs), 2, 50))


def power(stimulus: Stimulus, inputs: int) -> float:
    """The mean of |x|^2, noise included, for K inputs.

    Raises:
        ValueError: it is 0, so that no learning rate would do anything.
    """
    found = stimulus.power(inputs) + inputs * stimulus.noise**2
    if not found > 0:
        raise ValueError(f"stimulus must have inputs other than 0; got {stimulus!r}")
    return found


def count_for(name: str, count: int | Callable[[int], int], inputs: int, expected: str) -> int:
    """A number of presentations or patterns that may depend on K, or what is wrong with it."""
    return whole(name, count(inputs) if callable(count) else count, expected, at_least=1)


def rule_for(rule: Hebbian | Callable[[int], Hebbian], inputs: int) -> Hebbian:
    """A rule that may depend on K.

    Raises:
        TypeError, ValueError: it is no Hebbian, or has different parameters for different groups.
    """
    found = rule if isinstance(rule, Hebbian) else rule(inputs)
    if not isinstance(found, Hebbian):
        raise TypeError(f"rule must return a Hebbian for {inputs} inputs; got {found!r}")
    refuse_arrays(found)
    return found


def refuse_arrays(parameters: Circuit | Hebbian) -> None:
    """Refuse parameters that differ between the groups of a model."""
    for name, value in parameters.fields().items():
        if np.ndim(value) and not callable(value):
            raise ValueError(f"{name} must be one number for all groups of a model; got shape {np.shape(value)}")


def settling_circuit(alpha: float) -> RateCircuit:
    """The circuit of the paper at any alpha, at a time step short enough for Euler's method to settle as time does.

    At the largest stable step the inhibition rings for ever; at a fifth of it, hardly longer than in continuous time.

    Example:
        >>> settling_circuit(10.0).dt, settling_circuit(50.0).dt
        (1.0, 0.2)
    """
    alpha = float(real("alpha", alpha, "a finite strength of inhibition >= 0", at_least=0, array=False))
    parts = math.ceil(5 / float(max_dt(alpha, TAU)))
    return RateCircuit(alpha=alpha, tau=TAU, dt=1 / parts, duration=HELD)
