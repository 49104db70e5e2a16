"""Closed forms of the weight mirror (Akrout et al. 2019): scale, angle and lag of B, and the circuit in time.

B <- (1 - L) B + rate mean(y x^T) over the inputs x of an update, with y = phi(W x), W (N, K) and x ~ N(0, std^2 I).
A `bioshare.Mirror` makes updates from ``samples`` inputs; in a `bioshare.MirrorCircuit` a presentation is an update
from a single input. Both know L as ``forgetting``. Arguments may be arrays and broadcast.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, choice, finite_array, real, shown, whole
from bioshare.circuit.arguments import deviation, drives, neurons_by_inputs, positive_time, scalar_or_array
from bioshare.circuit.mirror.circuit import MirrorCircuit

__all__ = [
    "mirror_angle",
    "mirror_baseline",
    "mirror_gain",
    "mirror_gain_coloured",
    "mirror_gaussian_baseline",
    "mirror_lag",
    "mirror_samples",
    "mirror_scale",
]
_cdf = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[float])


def mirror_scale(
    rate: ArrayLike, forgetting: ArrayLike, std: ArrayLike = 1.0, activation: str = "relu", bias: ArrayLike = 0.0
) -> Array:
    """The factor c of c W, the mean of B in the end: c = rate std^2 E[phi'] / L (Akrout's Eq. 11).

    E[phi'] is 1 for linear neurons and the chance to be active, Phi(bias / (std |w|)), for rectified neurons, exactly
    for Gaussian inputs of any size (Price's theorem).

    Args:
        rate: learning rate of an update.
        forgetting: L, in (0, 1].
        std: standard deviation of the inputs.
        activation: phi, "relu" or "linear".
        bias: bias of a rectified neuron, in units of std |w|, the standard deviation of the drive.

    Example:
        >>> float(mirror_scale(0.1, 0.05)), float(mirror_scale(0.1, 0.5))  # the two readings of Eq. 18
        (1.0, 0.1)
    """
    choice("activation", activation, ("relu", "linear"))
    rate = scalar_or_array("rate", rate, "a positive learning rate", above=0)
    active = _cdf(scalar_or_array("bias", bias, "a finite number")) if activation == "relu" else 1.0
    return rate * deviation("std", std) ** 2 * active / _forgetting(forgetting)


def mirror_angle(
    samples: ArrayLike,
    inputs: ArrayLike,
    forgetting: ArrayLike = 1.0,
    updates: ArrayLike = math.inf,
    activation: str = "relu",
    centred: bool = True,
) -> Array:
    """The angle between B and W in degrees for Gaussian inputs, from B = 0: tan^2 = v / n.

    v is the sum of the variances of all entries of y x^T over the squared norm of the mean: K + 1 for linear neurons,
    (2 - 2 / pi)(K + 2) - 1 for rectified neurons with the mean activity taken off, and 2 K + 3 without. The number of
    inputs that B remembers is

        n = samples (2 - L) / L (1 - (1 - L)^updates) / (1 + (1 - L)^updates),

    ``samples`` at L = 1. The number of neurons has no effect; the errors are assumed orthogonal to W, so that the angle
    of a K below 30 is off by up to a degree. Inputs at P positions with shared weights count as P samples,
    and so does the mean of B over P neurons with the same W.

    Args:
        samples: number of inputs of an update.
        inputs: K.
        forgetting: L, in (0, 1].
        updates: number of updates.
        activation: "relu" or "linear".
        centred: True where the mean activity of a rectified neuron is taken off.

    Example:
        >>> float(mirror_angle(2048, 144).round(2)), float(mirror_angle(256, 256, forgetting=0.05).round(2))
        (17.27, 10.62)
    """
    expected = "a positive number of inputs"
    samples, forget = scalar_or_array("samples", samples, expected, above=0), _forgetting(forgetting)
    updates = _whole_numbers("updates", updates, infinite=True)
    with np.errstate(divide="ignore"):
        lost = -np.expm1(updates * np.log1p(-forget))  # 1 - (1 - L)^updates
    remembered = samples * (2 - forget) / forget * lost / (2 - lost)
    return np.degrees(np.arctan(np.sqrt(_variance(inputs, activation, centred) / remembered)))


def mirror_samples(
    angle: ArrayLike, inputs: ArrayLike, forgetting: ArrayLike = 1.0, activation: str = "relu", centred: bool = True
) -> Array:
    """The number of inputs of an update for an angle in degrees in the end: the inverse of `mirror_angle`.

    Example:
        >>> float(mirror_samples(5.0, 576).round(-2))
        102800.0
    """
    tangent = np.tan(np.radians(scalar_or_array("angle", angle, "between 0 and 90 degrees", above=0, below=90)))
    forget = _forgetting(forgetting)
    return _variance(inputs, activation, centred) / tangent**2 * forget / (2 - forget)


def mirror_lag(forgetting: ArrayLike, turn: ArrayLike) -> Array:
    """The angle in degrees by which B is behind a W that turns by ``turn`` degrees before every update.

    B is a mean of earlier W with the weights L (1 - L)^k, so that for a W that goes on turning in a plane

        tan(lag) = (1 - L) sin(turn) / (1 - (1 - L) cos(turn)),

    about (1 - L) / L turn for small turns. Turns in changing directions add up to less.
    """
    turn = np.radians(scalar_or_array("turn", turn, "between 0 and 180 degrees", at_least=0, below=180))
    kept = 1 - _forgetting(forgetting)
    return np.degrees(np.arctan2(kept * np.sin(turn), 1 - kept * np.cos(turn)))


def mirror_gain(circuit: MirrorCircuit, age_above: int = 0, age_below: int = 0) -> Array:
    """The mean of (above - beta)(below - beta)^T over the time in which B changes, as a factor of W x x^T.

    With q = 1 - dt / tau and r = 1 - dt / tau_crosstalk, n steps after the start of an input

        below - beta = (1 - r^n) x,    above - beta = (1 - q^n - (1 - q) r (q^n - r^n) / (q - r)) W x.

    Traces of earlier inputs are left: the factor of W x x'^T, with x from ``age_above`` and x' from ``age_below``
    presentations ago, is the cross-talk of the two. The sum over equal ages, times std^2 / decay, is the scale of B for
    independent inputs.

    Args:
        circuit: times and gate; the learning rate has no effect.
        age_above, age_below: numbers of presentations between an input and the rates above and below.

    Returns:
        The factor, over the leading axes of the time constants.

    Example:
        >>> gain, crosstalk = (mirror_gain(MirrorCircuit(tau_crosstalk=1.0), age_above=age) for age in (0, 1))
        >>> float(gain.round(2)), float(np.degrees(np.arctan(crosstalk / gain)).round(1))
        (0.81, 13.3)
    """
    if not isinstance(circuit, MirrorCircuit):
        raise TypeError(f"circuit must be a MirrorCircuit; got {shown(circuit)}")
    given = {"age_above": age_above, "age_below": age_below}
    ages = [whole(name, age, "a number of presentations", at_least=0) for name, age in given.items()]
    q, r = (1 - circuit.dt / np.asarray(time)[..., None] for time in (circuit.tau, circuit.tau_crosstalk))
    equal = np.isclose(q, r, rtol=0, atol=1e-7)
    steps = 1 + np.arange(circuit.steps - circuit.updates_per_presentation, circuit.steps, dtype=np.float64)

    def settled(n: Array) -> tuple[Array, Array]:
        """The parts of W x above and of x below, n steps after the start of x."""
        difference = np.where(equal, n * ((q + r) / 2) ** (n - 1), (q**n - r**n) / np.where(equal, 1, q - r))
        return 1 - q**n - (1 - q) * r * difference, 1 - r**n

    def left(age: int, row: int) -> Array:
        """The part that is left of the input of ``age`` presentations ago, above (row 0) or below (row 1)."""
        n = steps + age * circuit.steps
        return settled(n)[row] - (settled(n - circuit.steps)[row] if age else 0)

    return (left(ages[0], 0) * left(ages[1], 1)).mean(-1)


def mirror_gain_coloured(tau: ArrayLike, tau_crosstalk: ArrayLike, tau_noise: ArrayLike) -> Array:
    """The factor of W in the mean of (above - beta)(below - beta)^T for Ornstein-Uhlenbeck noise of variance 1.

    With a = tau / tau_noise and c = tau_crosstalk / tau_noise

        kappa = (a + c + a c) / ((a + c)(1 + a)(1 + c)),

    (2 + a) / (2 (1 + a)^2) for c = a: the noise, with correlations exp(-|t| / tau_noise), passes tau and
    tau_crosstalk on the way up, and tau_crosstalk alone below, in continuous time.

    Example:
        >>> mirror_gain_coloured([30.0, 30.0, 3.0], [30.0, 30.0, 3.0], [6.0, 15.0, 10.0]).round(3)
        array([0.097, 0.222, 0.68 ])
    """
    noise = positive_time("tau_noise", tau_noise)
    a, c = positive_time("tau", tau) / noise, positive_time("tau_crosstalk", tau_crosstalk) / noise
    return (a + c + a * c) / ((a + c) * (1 + a) * (1 + c))


def mirror_baseline(weights: ArrayLike, x: ArrayLike) -> Array:
    """The smallest beta at which no rate of a `bioshare.MirrorCircuit` is below 0, however long the presentations.

    The maximum of 0, -x_j and -w_i . x over cells and inputs: all rates are means of present and earlier drives. For
    a positive grid, x = amplitude I, this is the amplitude times the size of the most negative weight.

    Args:
        weights: W, (..., N, K).
        x: all inputs, (..., P, K).

    Returns:
        The baseline, (...).
    """
    weights, x = neurons_by_inputs("weights", weights), finite_array("x", x, "(..., P, K)")
    drive = drives(weights[..., None, :, :], x)  # w_i . x, (..., P, N)
    return np.maximum(np.maximum(-x.min((-2, -1)), -drive.min((-2, -1))), 0.0)


def mirror_gaussian_baseline(weights: ArrayLike, std: ArrayLike = 1.0, chance: float = 1e-3) -> Array:
    """The beta at which every rate, at the end of long presentations of Gaussian inputs, is below 0 with small chance.

    beta = std max(1, |w_i|) Phi^-1(1 - chance), with the maximum over neurons: inputs without bounds have no baseline
    that is always enough.

    Args:
        weights: W, (..., N, K).
        std: standard deviation of the inputs.
        chance: chance of the cell with the largest variation, in (0, 1/2).
    """
    norms = np.linalg.norm(neurons_by_inputs("weights", weights), axis=-1).max(-1)
    chance = float(real("chance", chance, "a chance between 0 and 1/2", above=0, below=0.5, array=False))
    return deviation("std", std) * np.maximum(norms, 1.0) * -NormalDist().inv_cdf(chance)


def _variance(inputs: ArrayLike, activation: str, centred: bool) -> Array:
    """The sum of variances of `mirror_angle`."""
    choice("activation", activation, ("relu", "linear"))
    choice("centred", centred, (True, False))
    number = _whole_numbers("inputs", inputs)
    if activation == "linear":
        return number + 1
    return (2 - 2 / math.pi) * (number + 2) - 1 if centred else 2 * number + 3


def _whole_numbers(name: str, value: ArrayLike, infinite: bool = False) -> Array:
    expected = "whole numbers of at least 1"
    numbers = scalar_or_array(name, value, expected, at_least=1, infinite=infinite)
    if (numbers != np.floor(numbers)).any():
        raise ValueError(f"{name} must be {expected}; got {shown(value)}")
    return numbers


def _forgetting(forgetting: ArrayLike) -> Array:
    value = scalar_or_array("forgetting", forgetting, "a fraction above 0, at most 1", above=0)
    if (value > 1).any():
        raise ValueError(f"forgetting must be a fraction above 0, at most 1; got {value.max():g}")
    return value
