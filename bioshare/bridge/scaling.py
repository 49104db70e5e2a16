"""Strength and length of a sleep, independent of the number K of inputs to a neuron."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bioshare.checks import real
from bioshare.circuit.circuits import Circuit, RateCircuit
from bioshare.circuit.rules import Gated, Hebbian, InverseSqrtDecay
from bioshare.circuit.stimuli import Stimulus
from bioshare.circuit.theory import max_dt

TAU, HELD, WAIT = 30.0, 150.0, 100.0
"""Membrane time constant, duration of a presentation, and the time without learning at the start: milliseconds."""

MOMENTUM = 0.95
"""Momentum of the paper's rule (appendix A.5)."""


@dataclass(frozen=True)
class PerInput:
    """A number of presentations proportional to the number of inputs of a neuron.

    Args:
        times: presentations per input; 1 is a cycle of the grid.

    Example:
        >>> PerInput(5)(144)
        720
    """

    times: float

    def __post_init__(self) -> None:
        times = real("times", self.times, "a positive number of presentations per input", above=0, array=False)
        object.__setattr__(self, "times", times)

    def __call__(self, inputs: int) -> int:
        """Return the number of presentations for K inputs per neuron."""
        return max(1, round(self.times * inputs))


@dataclass(frozen=True)
class NormalisedRule:
    """A Hebbian rule with the learning rate over the mean |x|^2, as in normalised LMS: equally strong for every K.

    The learning rates of a presentation, summed and times |x|^2 / (1 - momentum), are the *strength* s. Along x the
    mean shrinks to about exp(-s / (1 + alpha)); deviations shrink to about 1 - s in a single update, and in the rate
    circuit, where response and momentum lag behind, to a factor between 1 - s and exp(-s).

    Args:
        strength: s, below 2: a single update would overshoot the mean by more than the deviation before, and the
            rate circuit would ring.
        circuit: a `RateCircuit` learns only in the last third of every presentation, after settling, and never in
            the first presentation: a sleep starts at r = 0, away from the bias, and the weights would learn this
            difference. `Sleep.silence` should be 1, or the first pattern is lost. Silence alone does not suffice:
            neurons with noise have inputs even then.
        stimulus: the source of the mean of |x|^2, noise included.
        gamma, momentum: as for `bioshare.Hebbian`. Momentum spreads the effect of a presentation over about
            1 / (1 - momentum) later updates; a sleep that ends earlier loses the rest.

    Example:
        >>> from bioshare.circuit.circuits import SteadyState
        >>> from bioshare.circuit.stimuli import grid
        >>> round(NormalisedRule(0.5, SteadyState(), grid(), momentum=0.9)(144).learning_rate, 3)
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
        real("gamma", self.gamma, "one number for all groups of a model", array=False)

    def __call__(self, inputs: int) -> Hebbian:
        """Return the rule for K inputs per neuron."""
        rate = self.strength * (1 - self.momentum) / mean_power(self.stimulus, inputs)
        if isinstance(self.circuit, RateCircuit):
            held = self.circuit.updates_per_presentation
            wait = round(held * WAIT / HELD)
            return Hebbian(self.gamma, self.momentum, learning_rate=Gated(rate / (held - wait), wait, held))
        return Hebbian(self.gamma, self.momentum, learning_rate=rate)


@dataclass(frozen=True)
class PaperRule:
    """The rule of Fig. 4B; above the figure's largest K, 81, the learning rate falls as 1 / K, since |x|^2 grows as K.

    Example:
        >>> PaperRule()(162).learning_rate.scale
        0.00015
    """

    gamma: float = 0.01

    def __post_init__(self) -> None:
        real("gamma", self.gamma, "a finite number >= 0", at_least=0, array=False)

    def __call__(self, inputs: int) -> Hebbian:
        """Return the rule for K inputs per neuron."""
        return Hebbian(self.gamma, MOMENTUM, learning_rate=InverseSqrtDecay(3e-4 * min(1, 81 / inputs), 2, 50))


def mean_power(stimulus: Stimulus, inputs: int) -> float:
    """Return the mean of |x|^2, noise included, for K inputs.

    Raises:
        ValueError: the mean is 0, so no learning rate would have an effect.
    """
    power = stimulus.power(inputs) + inputs * stimulus.noise**2
    if not power > 0:
        raise ValueError(f"stimulus must have inputs other than 0; got {stimulus!r}")
    return power


def check_scalars(parameters: Circuit | Hebbian) -> None:
    """Raise ValueError if a parameter differs between the groups of a model."""
    for name, value in parameters.fields().items():
        if np.ndim(value) and not callable(value):
            raise ValueError(f"{name} must be one number for all groups of a model; got shape {np.shape(value)}")


def settling_circuit(alpha: float) -> RateCircuit:
    """Make the paper's circuit at any alpha, with an Euler step short enough to settle as fast as continuous time.

    At the largest stable step the inhibition rings for ever; at a fifth, hardly longer than in continuous time.

    Example:
        >>> settling_circuit(10.0).dt, settling_circuit(50.0).dt
        (1.0, 0.2)
    """
    expected = "a strength of inhibition from 0 to below 1e6, beyond which time steps are too short"
    alpha = float(real("alpha", alpha, expected, at_least=0, below=1e6, array=False))
    parts = math.ceil(5 / float(max_dt(alpha, TAU)))
    return RateCircuit(alpha=alpha, tau=TAU, dt=1 / parts, duration=HELD)
