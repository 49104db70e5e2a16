"""Ideal and steady-state plasticity on batches of patterns: Eq. 4 with the covariance of a batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bioshare.checks import finite_array
from bioshare.circuit.circuits import SteadyState
from bioshare.circuit.exact.engine import Exact, SleepMap
from bioshare.circuit.problem import DIVERGED, DivergenceError
from bioshare.circuit.rules import Hebbian


@torch.no_grad()
def batch_map(stimuli: ArrayLike, circuit: SteadyState, rule: Hebbian, *, engine: Exact | None = None) -> SleepMap:
    """A sleep whose weights are updated once for a batch of patterns, as one linear map.

    dw_i = eta_k ( -mean_m (r_im - b) x_m - gamma (w_i - w_i^init) ), with momentum: Eq. 4 with C = mean_m x_m x_m^T.
    With v = w - w^init the gradient is C (w^init + v) + gamma v for deviations, with C / (1 + alpha) for the mean.

    Args:
        stimuli: (updates, M, K), M patterns for each update, the same for all neurons.
        circuit: a SteadyState with a single number alpha.
        rule: plasticity with single numbers gamma and momentum; k counts updates.
        engine: precision, device and threads; None for float64 on the CPU.

    Returns:
        The map, with c = 0.

    Raises:
        ValueError: in most updates the learning rate is not below 2 (1 + momentum) / (the largest eigenvalue of
            C + gamma).
        DivergenceError: the weights grow without bound nevertheless, through momentum, where C or the rate goes up
            and down.
    """
    engine = engine or Exact()
    batches = finite_array("stimuli", stimuli, "(updates, M, K)")
    if batches.ndim != 3:
        raise ValueError(f"stimuli must have the axes (updates, M, K); got shape {batches.shape}")
    scalars = circuit.alpha, rule.gamma, rule.momentum
    if any(np.ndim(scalar) for scalar in scalars):
        raise ValueError(f"alpha, gamma and momentum must be single numbers; got {circuit!r}, {rule!r}")
    with engine.torch_threads(2 * batches.shape[-1] ** 2):
        x = engine.tensor(batches)
        _check_batch_rates(x, rule)
        A, B = _batch_map(x, float(scalars[0]), rule).cpu().numpy()
    return SleepMap(A, B, np.zeros(batches.shape[-1]))


def _batch_map(x: Tensor, alpha: float, rule: Hebbian) -> Tensor:
    """A and B, (2, K, K), of batches x (updates, M, K)."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    # v and m of the identity's columns, as deviations and as the mean, (2, K, K)
    v, m = torch.zeros(2, 2, *identity.shape, dtype=x.dtype, device=x.device)
    # the mean feels C / (1 + alpha)
    feedforward = x.new_tensor([1.0, 1 / (1 + alpha)])[:, None, None] / x.shape[1]
    for update, eta in enumerate(rule.rates(len(x))):
        # z (2, M, K), then m <- beta m - eta (mean_m z_m x_m^T + gamma v), v <- v + m
        response = x[update] @ (identity + v)
        m = rule.momentum * m - eta * (feedforward * (x[update].mT @ response) + rule.gamma * v)
        v = v + m
        if not v.abs().max() < DIVERGED:
            message = f"the weights diverged in update {update}, at the learning rate {eta:.3g}: lower learning_rate"
            raise DivergenceError(message, update)
    return identity + v


def _check_batch_rates(x: Tensor, rule: Hebbian) -> None:
    """Raise where most updates of the batches x (updates, M, K) overshoot by more than the distance to the fixed point.

    A single update may overshoot: of few random patterns some batch is far above the rest, and later batches correct
    the error.
    """
    rates, limit = rule.rates(len(x)), 2 * (1 + float(rule.momentum))
    # largest eigenvalue of the mean x x^T of every batch, from the smaller of x x^T and x^T x
    gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
    largest = torch.linalg.eigvalsh(gram)[:, -1].double().cpu().numpy() / x.shape[1]
    with np.errstate(over="ignore"):
        steepness = rates * (largest + float(rule.gamma))
    share = float((steepness >= limit).mean())
    if share > 0.5:
        worst = int(np.argmax(steepness))
        highest = limit / (largest[worst] + float(rule.gamma))
        raise ValueError(
            f"learning_rate is above the stability limit in {math.ceil(100 * share)} % of the updates: in update "
            f"{worst} it is {rates[worst]:.3g} and must stay below {highest:.3g}, for a mean x x^T "
            f"whose largest eigenvalue is {largest[worst]:.3g}. Lower it, or take more or shorter patterns"
        )
