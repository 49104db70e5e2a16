"""The values of the sliders: one sleep of one sharing group through the rate circuit, as in Fig. 4B."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

import numpy as np

from bioshare.checks import Array, Scalar, real, whole
from bioshare.circuit import stimuli, theory
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.rules import Hebbian, InverseSqrtDecay

DT, DURATION, MOMENTUM, PERIOD, START = 1.0, 150.0, 0.95, 2.0, 50
"""Milliseconds, and the plasticity of Fig. 4B (appendix A.5), without sliders."""


@dataclass(frozen=True)
class Slider:
    """The range of a field of `Setting`.

    Attributes:
        name: the field.
        label: symbol of the paper and a description.
        low, high: ends of the slider.
        step: step of a linear slider; 0 for a logarithmic slider with about 100 positions in a factor of ten, each
            rounded to three digits.
    """

    name: str
    label: str
    low: float
    high: float
    step: float = 0.0


SLIDERS = (
    Slider("alpha", "α  inhibition", 0.1, 100.0),
    Slider("gamma", "γ  pull to the weights before sleep", 1e-4, 1.0),
    Slider("tau", "τ  time constant, ms", 5.0, 100.0),
    Slider("bias", "b  rate at rest", 0.0, 5.0, 0.25),
    Slider("k", "k  kernel, K = k² inputs", 1, 9, 1),
    Slider("neurons", "N  neurons", 10, 400, 10),
    Slider("learning_rate", "η  learning rate", 1e-5, 1e-1),
    Slider("noise", "σ  noise of each neuron", 0.0, 1.0, 0.02),
    Slider("presentations", "presentations", 100, 10_000),
    Slider("seed", "seed", 0, 100, 1),
)
SYMBOLS = {slider.name: slider.label.split()[0] for slider in SLIDERS} | {"inhibitory_bias": "bias of r_inh"}
WHOLE = {"k", "neurons", "presentations", "seed"}


@dataclass(frozen=True)
class Unstable:
    """The reason why the sleep of a setting is unstable.

    Attributes:
        name: the slider to move.
        limit: a setting is stable below this value; `Setting.learning_rate_limit` for the learning rate.
        words: both in a sentence.
    """

    name: str
    limit: float
    words: str


@dataclass(frozen=True)
class Setting:
    """A sleep of N neurons with k x k inputs; initial weights 1 + N(0, 1), inputs N(0, 1), as in Fig. 4B.

    Args:
        alpha: strength of the inhibition.
        gamma: strength of the pull to the weights before sleep.
        tau: membrane time constant, milliseconds.
        bias: b, the rate at rest.
        k: kernel size, K = k^2 weights per neuron.
        neurons: N.
        learning_rate: scale of the schedule of Fig. 4B, eta_t = scale / sqrt(1 + t / 2) from 50 ms on.
        noise: standard deviation sigma of the noise of each neuron.
        presentations: inputs, 150 ms each.
        seed: of weights, inputs and noise.
        inhibitory_bias: True for a bias of the inhibitory neuron, too, a checkbox; False for Eq. 8 as printed.

    Raises:
        TypeError, ValueError: a value is no number, or beyond the ends of a slider.
    """

    alpha: float = 10.0
    gamma: float = 0.01
    tau: float = 30.0
    bias: float = 1.0
    k: int = 3
    neurons: int = 100
    learning_rate: float = 3e-4
    noise: float = 0.0
    presentations: int = 2_000
    seed: int = 0
    inhibitory_bias: bool = False

    def __post_init__(self) -> None:
        for slider in SLIDERS:
            value = getattr(self, slider.name)
            expected = f"a number from {slider.low:g} to {slider.high:g}, the ends of its slider"
            if slider.name in WHOLE:
                value = whole(slider.name, value, f"a whole {expected[2:]}", at_least=int(slider.low))
            else:
                value = real(slider.name, value, expected, at_least=slider.low, array=False)
            if value > slider.high:
                raise ValueError(f"{slider.name} must be {expected}; got {value:g}")
            object.__setattr__(self, slider.name, value)
        if not isinstance(self.inhibitory_bias, bool):
            raise TypeError(f"inhibitory_bias must be True or False; got {self.inhibitory_bias!r}")

    def moved(self, **values: Any) -> Setting:
        """Return a setting with some sliders moved."""
        return replace(self, **values)

    def values(self) -> dict[str, float]:
        """The values by field."""
        return asdict(self)

    @property
    def weights(self) -> Array:
        """The weights before sleep, (N, K)."""
        return np.random.default_rng([self.seed, self.k]).normal(1, 1, (self.neurons, self.k**2))

    @property
    def stimulus(self) -> stimuli.Stimulus:
        """The distribution of the inputs."""
        return stimuli.noise(stimuli.gaussian(), self.noise)

    @property
    def circuit(self) -> RateCircuit:
        """The rate circuit (Eq. 8); raises ValueError where alpha is unstable."""
        return self.circuit_at(self.alpha)

    def circuit_at(self, alpha: Scalar) -> RateCircuit:
        """The rate circuit with another alpha, or an array of alphas."""
        return RateCircuit(alpha, self.tau, self.bias, DT, DURATION, self.inhibitory_bias)

    @property
    def rule(self) -> Hebbian:
        """Plasticity (Eq. 4)."""
        return Hebbian(self.gamma, MOMENTUM, learning_rate=InverseSqrtDecay(self.learning_rate, PERIOD, START))

    @property
    def unstable(self) -> Unstable | None:
        """The reason why the circuit is unstable (forward Euler of Eq. 8): dt >= 2 tau / (1 + alpha)."""
        limit = float(theory.max_alpha(DT, self.tau))
        if self.alpha < limit:
            return None
        words = (
            f"Unstable: with α = {self.alpha:.3g}, τ = {self.tau:.3g} ms and steps of {DT:g} ms the responses "
            f"oscillate and grow. Stable below α = 2τ/dt − 1 = {rounded(limit):g}, or with τ above "
            f"{rounded((1 + self.alpha) * DT / 2, up=True):g} ms."
        )
        return Unstable("alpha", limit, words)

    @property
    def learning_rate_limit(self) -> float:
        """The largest learning rate without overshoot in the first updates, for inputs of |x|^2 = K (1 + sigma^2)."""
        power = self.k**2 * (1 + self.noise**2)
        return float(theory.max_learning_rate(power, self.gamma, MOMENTUM, DT / self.tau)) * math.sqrt(
            1 + START / PERIOD
        )

    def diverged(self) -> Unstable:
        """The reason why the weights diverge although the circuit is stable."""
        limit = self.learning_rate_limit
        if self.learning_rate < limit:
            remedy = f"Lower the learning rate, η = {self.learning_rate:.3g}, or the inhibition, α = {self.alpha:.3g}."
        else:
            remedy = (
                f"With τ = {self.tau:.3g} ms and K = {self.k**2} inputs the learning rate η should stay below about "
                f"{rounded(limit, digits=2):g}; it is {self.learning_rate:.3g}."
            )
        return Unstable("learning_rate", limit, f"Unstable: the weights grow without bound. {remedy}")


def rounded(value: float, up: bool = False, digits: int = 3) -> float:
    """Round a positive number down or up to a few significant digits: a rounded limit stays on the stable side."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return float(context.create_decimal(repr(float(value))))
