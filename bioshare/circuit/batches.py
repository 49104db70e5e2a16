"""Ideal and steady-state plasticity on batches of patterns: Eq. 4 with the covariance of a batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from bioshare.circuit.checks import finite_array
from bioshare.circuit.circuits import SteadyState
from bioshare.circuit.exact import Exact, SleepMap
from bioshare.circuit.problem import DIVERGED, DivergenceError
from bioshare.circuit.rules import Hebbian


@torch.no_grad()
def batch_map(stimuli: ArrayLike, circuit: SteadyState, rule: Hebbian, *, engine: Exact | None = None) -> SleepMap:
    """A sleep whose weights are updated once for a batch of patterns, as one linear map.

    dw_i = eta_k ( -mean_m (r_im - b) x_m - gamma (w_i - w_i^init) ), with momentum: Eq. 4 with C = mean_m x_m x_m^T.
    With v = w - w^init this is v -> C (w^init + v) + gamma v for deviations, and C / (1 + alpha) for the mean.

    Args:
        stimuli: (updates, M, K), M patterns for each update, the same for all neurons.
        circuit: its alpha is one number.
        rule: its gamma and momentum are single numbers; k counts updates.
        engine: precision and device; None for float64 on the CPU.

    Returns:
        The map, with c = 0.

    Raises:
        DivergenceError: the weights grow without bound: the learning rate is above 2 (1 + momentum) / (the largest
            eigenvalue of C + gamma).
    """
    engine = engine or Exact()
    batches = finite_array("stimuli", stimuli, "(updates, M, K)")
    if batches.ndim != 3:
        raise ValueError(f"stimuli must have the axes (updates, M, K); got shape {batches.shape}")
    scalars = circuit.alpha, rule.gamma, rule.momentum
    if any(np.ndim(scalar) for scalar in scalars):
        raise ValueError(f"alpha, gamma and momentum must be single numbers; got {circuit!r}, {rule!r}")
    x, identity = engine.tensor(batches), engine.tensor(np.eye(batches.shape[-1]))
    v, m = torch.zeros(2, 2, *identity.shape, dtype=x.dtype, device=x.device)  # of deviations, and of the mean
    feedforward = x.new_tensor([1.0, 1 / (1 + float(scalars[0]))])[:, None, None] / x.shape[1]
    for update, eta in enumerate(rule.rates(len(batches))):
        response = x[update] @ (identity + v)
        m = rule.momentum * m - eta * (feedforward * (x[update].mT @ response) + rule.gamma * v)
        v = v + m
        if not v.abs().max() < DIVERGED:
            told = f"the weights diverged in update {update}, at the learning rate {eta:.3g}: lower learning_rate"
            raise DivergenceError(told, update)
    A, B = (identity + v).cpu().numpy()
    return SleepMap(A, B, np.zeros(batches.shape[-1]))
