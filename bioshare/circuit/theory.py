"""Closed forms of Pogodin 2021: responses, fixed points, signal-to-noise ratio, stability limits, Theorem 1.

Shapes: weights are (..., N, K), neurons by inputs; C = E[x x^T] is (..., K, K). Leading axes broadcast, and
``alpha``, ``gamma`` and all scalars may be arrays over the leading axes.

All functions raise TypeError or ValueError for an argument that is no array of finite real numbers of the shape and
sign in the docstring; an infinite ``alpha`` is the ideal circuit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, finite_array, leading_axes, whole
from bioshare.circuit import arguments
from bioshare.circuit.arguments import lift, mean_and_variance
from bioshare.circuit.mirror.theory import *  # noqa: F403  closed forms of the weight mirror


def response(weights: ArrayLike, x: ArrayLike, alpha: ArrayLike = math.inf, bias: ArrayLike = 0.0) -> Array:
    """The fixed point of the circuit: r_i = b + z_i - alpha / (1 + alpha) mean_j z_j with z_i = w_i . x (Eq. 9).

    ``alpha = inf`` gives Eq. 7 (with ``bias`` 0). The input x is (..., K), the responses are (..., N).
    """
    z, gain, bias = (
        arguments.drives(weights, x),
        mean_gain(alpha),
        arguments.scalar_or_array("bias", bias, "a finite rate"),
    )
    leading_axes({"weights, x": z.shape[:-1], "alpha": gain.shape, "bias": bias.shape})
    # b + z_i - alpha / (1 + alpha) mean_j z_j
    return lift(bias, 1) + z - (1 - lift(gain, 1)) * z.mean(-1, keepdims=True)


def inhibition(weights: ArrayLike, x: ArrayLike, alpha: ArrayLike, inhibitory_bias: ArrayLike = 0.0) -> Array:
    """The fixed point of the inhibitory neuron: r_inh = mean_j z_j / (1 + alpha) + ``inhibitory_bias``.

    In Eq. 8 as printed the inhibitory neuron has no bias, and r_inh has the sign of the mean drive whatever b. With
    ``RateCircuit(inhibitory_bias=True)`` the bias is b. The input x is (..., K), r_inh is (...).
    """
    z, gain = arguments.drives(weights, x), mean_gain(alpha)
    bias = arguments.scalar_or_array("inhibitory_bias", inhibitory_bias, "a finite rate")
    leading_axes({"weights, x": z.shape[:-1], "alpha": gain.shape, "inhibitory_bias": bias.shape})
    return gain * z.mean(-1) + bias


def min_bias(weights: ArrayLike, x: ArrayLike, alpha: ArrayLike = math.inf) -> Array:
    """The smallest b at which no neuron of the circuit with a bias in the inhibitory neuron settles below 0.

    The maximum over the neurons of alpha / (1 + alpha) mean_j z_j - z_i, and of -mean_j z_j / (1 + alpha) for the
    inhibitory neuron. On the way to the fixed point rates ring and may be lower (`max_dt`). The input x is (..., K),
    the bias is (...).
    """
    lowest = response(weights, x, alpha).min(-1)
    return np.maximum(-np.minimum(lowest, inhibition(weights, x, alpha)), 0.0)


def mean_gain(alpha: ArrayLike) -> Array:
    """The factor 1 / (1 + alpha) of the mean drive of a group under inhibition (Eq. 9)."""
    return 1 / (1 + arguments.inhibition_strength(alpha))


def fixed_point(
    w_init: ArrayLike, covariance: ArrayLike, gamma: ArrayLike, alpha: ArrayLike = math.inf, noise: ArrayLike = 0.0
) -> Array:
    """The fixed point of sleep: the weights w_i* with a mean update of zero.

    mu* = gamma (C / (1 + alpha) + gamma I)^-1 mu,
    w_i* = mu* + gamma (C + gamma I)^-1 (w_i^init - mu),

    equal to Eq. 24, and for ``alpha = inf`` to Eq. 5, but with all digits of the deviations from the mean. Independent
    noise pulls every neuron to 0: with standard deviation sigma, gamma in both inverses becomes gamma + s^2, where
    s^2 = sigma^2 (1 - alpha / ((1 + alpha) N)). The paper has noise only in the bound of Theorem 1.

    Args:
        w_init: weights before sleep, (..., N, K).
        covariance: C = E[x x^T] of the shared input, (..., K, K).
        gamma: strength of the pull to w_init, positive.
        alpha: strength of the inhibition.
        noise: sigma, the standard deviation of every neuron's noise.

    Returns:
        Weights (..., N, K).

    Raises:
        ValueError: ``gamma`` is not positive: without the pull, the fixed point of a finite alpha is 0, and a
            rank-deficient C has many.
    """
    w_init, covariance = arguments.neurons_by_inputs("w_init", w_init), arguments.covariance_matrix(covariance)
    gamma, gain, noise = arguments.positive_pull(gamma), mean_gain(alpha), arguments.deviation("noise", noise)
    neurons, inputs = w_init.shape[-2:]
    if covariance.shape[-1] != inputs:
        given = f"{covariance.shape} for w_init {w_init.shape}"
        raise ValueError(f"covariance must be (..., {inputs}, {inputs}); got {given}")
    scalars = {"gamma": gamma.shape, "alpha": gain.shape, "noise": noise.shape}
    leading_axes({"w_init": w_init.shape[:-2], "covariance": covariance.shape[:-2]} | scalars)
    pull = lift(gamma, 2)
    # s^2 = sigma^2 (1 - alpha / ((1 + alpha) N)), then (gamma + s^2) I
    private = noise**2 * (1 - (1 - gain) / neurons)
    leak = lift(gamma + private, 2) * np.eye(inputs)
    mean = w_init.mean(-2, keepdims=True)
    # mu*, (..., K, 1), and the deviations, (..., K, N)
    shrunk = np.linalg.solve(lift(gain, 2) * covariance + leak, pull * mean.mT)
    deviations = np.linalg.solve(covariance + leak, pull * (w_init - mean).mT)
    return shrunk.mT + deviations.mT


def while_settling(alpha: ArrayLike, gamma: ArrayLike, dt_over_tau: ArrayLike, updates: int) -> tuple[Array, Array]:
    """The alpha and gamma of the steady state that sleeps like a rate circuit which learns while its rates settle.

    At update j of a presentation, the deviations of the rates have come 1 - (1 - h)^j of the way to those of the
    drives. The mean rate tends to 1 / (1 + alpha) of the mean drive, and overshoots, since inhibition follows later.
    With g_d and g_m, the means of both over all updates of a presentation, the deviations of the weights sleep with the
    drive g_d C, and their mean with g_m C. That is Eq. 24 with alpha' = g_d / g_m - 1 and gamma' = gamma / g_d, for
    small learning rates and independent inputs of mean zero. A rule that waits until the rates have settled
    (`bioshare.rules.Gated`) needs none of this. Not in the paper.

    Args:
        alpha: strength of the inhibition, finite.
        gamma: strength of the pull to w_init.
        dt_over_tau: h, above 0 and below 2 / (1 + alpha), where the circuit is stable.
        updates: number of updates in a presentation, ``RateCircuit.updates_per_presentation``.

    Returns:
        alpha' and gamma', in the broadcast shape of the arguments.

    Raises:
        ValueError: the circuit is unstable.

    Example:
        >>> alpha, gamma = while_settling(10.0, 0.1, dt_over_tau=1 / 30, updates=150)
        >>> f"{alpha:.2f}, {gamma:.3f}"
        '6.57, 0.124'
    """
    alpha = arguments.scalar_or_array("alpha", alpha, "a finite strength of inhibition >= 0", at_least=0)
    gamma = arguments.scalar_or_array("gamma", gamma, "a finite number >= 0", at_least=0)
    h = arguments.scalar_or_array("dt_over_tau", dt_over_tau, "a ratio between 0 and 2", above=0, below=2)
    updates = whole("updates", updates, "a number of weight updates in a presentation", at_least=1)
    leading_axes({"alpha": alpha.shape, "gamma": gamma.shape, "dt_over_tau": h.shape})
    if (h * (1 + alpha) >= 2).any():
        raise ValueError("dt_over_tau must be below 2 / (1 + alpha), or the circuit is unstable (`max_dt`)")
    # the mean over j of 1 - L^j for the eigenvalue L = 1 - h of the deviations, and L = 1 - h (1 + i sqrt(alpha)) of
    # the mean and the inhibition, whose step response is (1 - Re(L^j (1 - i sqrt(alpha)))) / (1 + alpha)
    deviations = 1 - _mean_power(1 - h, updates)
    turning = 1 + 1j * np.sqrt(alpha)
    mean = (1 - (_mean_power(1 - h * turning, updates) * np.conj(turning)).real) / (1 + alpha)
    settling = deviations / mean - 1
    alpha, gamma = np.broadcast_arrays(np.where(abs(settling) < 1e-12, 0.0, settling), gamma / deviations)
    return alpha, gamma


def _mean_power(base: Any, updates: int) -> Any:
    """The mean of L^j over j = 1 to the number of updates."""
    return base * (1 - base**updates) / (updates * (1 - base))


def fixed_point_white(w_init: ArrayLike, gamma: ArrayLike, alpha: ArrayLike = math.inf) -> Array:
    """The fixed point for white inputs, C = I: Eq. 25, and for ``alpha = inf`` Eq. 20.

    w_i* = gamma / (1 + gamma) ( alpha / (1 + gamma (1 + alpha)) mu + w_i^init ), arguments as in `fixed_point`.
    """
    w_init, gamma, gain = (
        arguments.neurons_by_inputs("w_init", w_init),
        arguments.positive_pull(gamma),
        mean_gain(alpha),
    )
    leading_axes({"w_init": w_init.shape[:-2], "gamma": gamma.shape, "alpha": gain.shape})
    gamma, gain = lift(gamma, 2), lift(gain, 2)
    mean = w_init.mean(-2, keepdims=True)  # mu, (..., 1, K)
    # alpha / (1 + alpha) over 1 / (1 + alpha) + gamma is alpha / (1 + gamma (1 + alpha))
    return gamma / (1 + gamma) * ((1 - gain) / (gain + gamma) * mean + w_init)


def snr(weights: ArrayLike) -> Array:
    """The SNR_w as printed in Eq. 6: mean_j( mean_i(w_ij)^2 / var_i(w_ij) ), population variance. Shape (...).

    Infinite where an input has no variance.
    """
    mean, variance = mean_and_variance(weights)
    return np.divide(mean**2, variance, out=np.full_like(mean, np.inf), where=variance > 0).mean(-1)


def inverse_snr(weights: ArrayLike) -> Array:
    """The ratio in the figures: mean_j( var_i(w_ij) / mean_i(w_ij)^2 ). Shape (...).

    Not 1 / `snr`: the ratio is inverted inside the mean over inputs. An input without variance adds nothing.
    """
    mean, variance = mean_and_variance(weights)
    with np.errstate(divide="ignore"):
        return np.divide(variance, mean**2, out=np.zeros_like(mean), where=variance > 0).mean(-1)


def neg_log_snr(weights: ArrayLike) -> Array:
    """The -log SNR of Figs. 4, 5 and 6: the natural logarithm of `inverse_snr`. Shape (...).

    Minus infinity for equal weights, and so for a single neuron.

    Example:
        >>> float(neg_log_snr([[1.0, 2.0], [3.0, 6.0]]).round(6))
        -1.386294
    """
    with np.errstate(divide="ignore"):
        return np.log(inverse_snr(weights))


def min_neg_log_snr(
    gamma: ArrayLike, covariance: ArrayLike | None = None, mean: ArrayLike = 1.0, std: ArrayLike = 1.0
) -> Array:
    """The lowest -log SNR of the ideal circuit (appendix A.5; the dotted lines of Fig. 4A).

    C = I gives 2 log(gamma / (1 + gamma)). For any C, initial weights with independent components of the
    given mean and std end with var_j = (std gamma)^2 [(C + gamma I)^-2]_jj around an unchanged mean.

    Args:
        gamma: strength of the pull to w_init, shape (...).
        covariance: C, (..., K, K); None for C = I.
        mean, std: moments of the initial weights.

    Returns:
        -log SNR_min, shape (...).

    Raises:
        ValueError: ``gamma`` is not positive.

    Example:
        >>> min_neg_log_snr([0.1, 0.01, 0.001]).round(2)
        array([ -4.8 ,  -9.23, -13.82])
    """
    gamma = arguments.positive_pull(gamma)
    mean = np.abs(arguments.scalar_or_array("mean", mean, "a finite number other than 0"))
    arguments.scalar_or_array("mean", mean, "a number other than 0", above=0)
    std = arguments.scalar_or_array("std", std, "a positive standard deviation", above=0)
    covariance = None if covariance is None else arguments.covariance_matrix(covariance)
    shapes = {"gamma": gamma.shape, "mean": mean.shape, "std": std.shape}
    leading_axes(shapes | {"covariance": () if covariance is None else covariance.shape[:-2]})
    spread = 2 * (np.log(std) - np.log(mean))
    if covariance is None:
        return spread + 2 * np.log(gamma / (1 + gamma))
    # var_j = (std gamma)^2 [(C + gamma I)^-2]_jj; the mean over j of var_j / mean^2
    inverse = np.linalg.inv(covariance + lift(gamma, 2) * np.eye(covariance.shape[-1]))
    return spread + np.log(gamma**2 * (inverse**2).sum(-1).mean(-1))


def max_dt(alpha: ArrayLike, tau: ArrayLike) -> Array:
    """The time step beyond the stability of forward Euler of Eq. 8: 2 tau / (1 + alpha), in the unit of tau.

    The result for a tau with a unit is in milliseconds.

    The mean of the responses and r_inh rotate with eigenvalues (-1 +- i sqrt(alpha)) / tau.
    """
    alpha, tau = arguments.inhibition_strength(alpha), arguments.positive_time("tau", tau)
    leading_axes({"alpha": alpha.shape, "tau": tau.shape})
    return 2 * tau / (1 + alpha)


def max_alpha(dt: ArrayLike, tau: ArrayLike) -> Array:
    """The inhibition beyond the stability of forward Euler of Eq. 8 with the step ``dt``: 2 tau / dt - 1.

    A limit of 0 or less, for a step of 2 tau or more, leaves no inhibition that is stable.
    """
    dt, tau = arguments.positive_time("dt", dt), arguments.positive_time("tau", tau)
    leading_axes({"dt": dt.shape, "tau": tau.shape})
    return 2 * tau / dt - 1


def max_learning_rate(
    power: ArrayLike, gamma: ArrayLike, momentum: ArrayLike = 0.0, dt_over_tau: ArrayLike = 1.0
) -> Array:
    """The constant learning rate beyond which the deviations from the mean along a held input grow.

    For `SteadyState`, where the response follows at once: 2 (1 + beta) / (|x|^2 + gamma). In the rate circuit
    the response lags, r <- r + h (z - r) with h = dt / tau, and the deviations along x obey

        (L - beta)(L - 1)(L - 1 + h) + eta |x|^2 h L^2 + eta gamma L (L - 1 + h) = 0.

    The limit is where a root L leaves the unit circle, at -1 or as a pair (Jury's criterion); h = 1 is the
    steady state.

    Args:
        power: |x|^2 of the input held.
        gamma: strength of the pull to w_init.
        momentum: beta.
        dt_over_tau: h, in (0, 2).

    Returns:
        The limit, in the broadcast shape of the arguments; inf where there is none.
    """
    power = arguments.scalar_or_array("power", power, "a square >= 0", at_least=0)
    gamma = arguments.scalar_or_array("gamma", gamma, "a finite number >= 0", at_least=0)
    beta = arguments.scalar_or_array("momentum", momentum, "in [0, 1)", at_least=0, below=1)
    h = arguments.scalar_or_array("dt_over_tau", dt_over_tau, "a ratio between 0 and 2", above=0, below=2)
    leading_axes({"power": power.shape, "gamma": gamma.shape, "momentum": beta.shape, "dt_over_tau": h.shape})
    rho = 1 - h
    # Jury's criterion: a root at -1 (flip), or a pair at the unit circle (turn), where lag changes sign
    lag = rho * (beta * h * power - gamma * (1 - beta))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        flip = 2 * (1 + beta) * (2 - h) / (h * power + (2 - h) * gamma)
        ahead = (1 - beta) * (1 - rho) * (1 - beta * rho) / lag
        behind = (1 + beta) * (1 + rho) * (1 - beta * rho) / -lag
    turn = np.where(lag > 0, ahead, np.where(lag < 0, behind, np.inf))
    return np.minimum(flip, turn)


def input_moment(patterns: ArrayLike, sigma: ArrayLike) -> Array:
    """c_xe of Eq. 29 for Gaussian noise: E|x + xi|^4 = (|x|^2 + K s^2)^2 + 4 s^2 |x|^2 + 2 K s^4, the mean over x.

    The M patterns are (..., M, K), s is the standard deviation of the noise of every component, c_xe is (...).
    """
    patterns = finite_array("patterns", patterns, "(..., M, K), patterns by inputs")
    sigma = arguments.deviation("sigma", sigma)
    leading_axes({"patterns": patterns.shape[:-2], "sigma": sigma.shape})
    power, variance, inputs = (patterns**2).sum(-1), lift(sigma, 1) ** 2, patterns.shape[-1]
    return ((power + inputs * variance) ** 2 + 4 * variance * power + 2 * inputs * variance**2).mean(-1)


def noisy_convergence_bound(
    w_init: ArrayLike,
    patterns: ArrayLike,
    gamma: ArrayLike,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
) -> Array:
    """The bound of Theorem 1, by recursion: an upper bound on E |W^k - W*|_F^2 for every update k (Eq. 53-54).

    The sleep is ideal (alpha = inf), without momentum; each presentation is a pattern out of M, chosen uniformly,
    and every neuron adds Gaussian noise of standard deviation sigma. With c = `input_moment`, W* of Eq. 5 and
    C the patterns' second moment,

        e_0     = |W^init - W*|^2
        e_(k+1) = (1 - gamma eta_k + 8 eta_k^2 (2 c + gamma^2)) e_k + eta_k sigma^2 |W*|^2
                  + eta_k^2 (8 (2 c + gamma^2) |W*|^2 + 4 gamma^2 |W^init|^2).

    Args:
        w_init: weights before sleep, (..., N, K).
        patterns: the M inputs, (..., M, K).
        gamma: strength of the pull to w_init, positive.
        sigma: standard deviation of the noise.
        learning_rate: eta_k, shape (P,).

    Returns:
        The bound before the first update and after each: (..., P + 1).
    """
    w_init, gamma = arguments.neurons_by_inputs("w_init", w_init), arguments.positive_pull(gamma)
    patterns = finite_array("patterns", patterns, "(..., M, K), patterns by inputs")
    sigma = arguments.deviation("sigma", sigma)
    rates = np.atleast_1d(
        arguments.scalar_or_array("learning_rate", learning_rate, "an array (P,) of rates >= 0", at_least=0)
    )
    if patterns.shape[-1] != w_init.shape[-1] or rates.ndim > 1:
        given = f"patterns {patterns.shape} and learning_rate {rates.shape} for w_init {w_init.shape}"
        raise ValueError(f"patterns must be (..., M, {w_init.shape[-1]}) and learning_rate (P,); got {given}")
    axes = {"w_init": w_init.shape[:-2], "patterns": patterns.shape[:-2]}
    leading_axes(axes | {"gamma": gamma.shape, "sigma": sigma.shape})
    # C = mean_m x_m x_m^T, (..., K, K)
    covariance = patterns.mT @ patterns / patterns.shape[-2]
    w_star = fixed_point(w_init, covariance, gamma)
    # 8 (2 c + gamma^2), |W*|^2 and |W^init|^2
    growth = 8 * (2 * input_moment(patterns, sigma) + gamma**2)
    size, start = (w_star**2).sum((-2, -1)), (w_init**2).sum((-2, -1))
    bound = [((w_init - w_star) ** 2).sum((-2, -1))]
    # e_(k+1) from e_k, each (...)
    for eta in rates:
        floor = eta * sigma**2 * size + eta**2 * (growth * size + 4 * gamma**2 * start)
        bound.append((1 - gamma * eta + eta**2 * growth) * bound[-1] + floor)
    return np.stack(np.broadcast_arrays(*bound), axis=-1)
