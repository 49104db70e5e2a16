"""Checked arguments of the closed forms in `bioshare.circuit.theory`, as float64 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, finite_array, leading_axes, real


def drives(weights: ArrayLike, x: ArrayLike) -> Array:
    """The drives z_i = w_i . x, (..., N)."""
    weights, x = neurons_by_inputs("weights", weights), finite_array("x", x, "(..., K)", ndim=1)
    if x.shape[-1] != weights.shape[-1]:
        raise ValueError(f"x must be (..., {weights.shape[-1]}), as many inputs as weights has; got {x.shape}")
    leading_axes({"weights": weights.shape[:-2], "x": x.shape[:-1]})
    return np.einsum("...nk,...k->...n", weights, x)


def covariance_matrix(covariance: ArrayLike) -> Array:
    """A covariance (..., K, K): symmetric, without a negative eigenvalue beyond rounding."""
    covariance = finite_array("covariance", covariance, "(..., K, K)")
    if covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must have the axes (..., K, K); got shape {covariance.shape}")
    tolerance = 1e-6 * np.abs(covariance).max((-2, -1))
    asymmetry = np.abs(covariance - covariance.mT).max((-2, -1))
    if (asymmetry > tolerance).any() or (np.linalg.eigvalsh(covariance)[..., 0] < -tolerance).any():
        raise ValueError("covariance must be symmetric without negative eigenvalues, as E[x x^T] is")
    return covariance


def inhibition_strength(alpha: ArrayLike) -> Array:
    """The strength of the inhibition, perhaps infinite."""
    return scalar_or_array("alpha", alpha, "a strength of inhibition >= 0", at_least=0, infinite=True)


def positive_pull(gamma: ArrayLike) -> Array:
    """The strength of the pull to the initial weights, above 0."""
    return scalar_or_array("gamma", gamma, "positive: without the pull no end is unique", above=0)


def positive_time(name: str, time: ArrayLike) -> Array:
    """A time in milliseconds, perhaps given with a unit."""
    return scalar_or_array(name, time, "a positive time in milliseconds", above=0, milliseconds=True)


def scalar_or_array(name: str, value: ArrayLike, expected: str, **bounds: Any) -> Array:
    """A number, or numbers over leading axes, as a float64 array; see `bioshare.checks.real`."""
    return np.asarray(real(name, value, expected, **bounds))


def deviation(name: str, value: ArrayLike) -> Array:
    """A standard deviation, or deviations over leading axes."""
    return scalar_or_array(name, value, "a standard deviation >= 0", at_least=0)


def neurons_by_inputs(name: str, value: ArrayLike) -> Array:
    """Weights (..., N, K)."""
    return finite_array(name, value, "(..., N, K), neurons by inputs")


def mean_and_variance(weights: ArrayLike) -> tuple[Array, Array]:
    """Mean and population variance over the neurons, in two passes: near convergence var is 1e-12 of mean^2."""
    weights = neurons_by_inputs("weights", weights)
    first = weights[..., :1, :]
    deviation = weights - first  # equal weights deviate by exactly 0
    return first[..., 0, :] + deviation.mean(-2), deviation.var(-2)


def lift(scalar: Array, axes: int) -> Array:
    """Append axes of length 1 to an array over the leading axes, to broadcast against (..., N, K)."""
    return scalar.reshape(scalar.shape + (1,) * axes)
