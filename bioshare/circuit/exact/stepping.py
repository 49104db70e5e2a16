"""Presentations propagated whole: the mathematics of the engine "exact", and the steps in torch.

While an input x is held the circuit is linear, and only the component of each weight vector along x feels the input.
Write v = w - w_init, m for the momentum, r for r - b and r_inh for the distance from r_inh without input, and let v_0,
m_0 be v and m before the presentation. After some of the weight updates

    v = p_vv v_0 + p_vm m_0 + phi x,    m = p_mv v_0 + p_mm m_0 + psi x,

with p = I and phi = psi = 0 at first. One update, with u = v_0 . x, q = m_0 . x, c = w_init . x, is

    z = p_vv u + p_vm q + c + |x|^2 phi
    r, r_inh: a step of Eq. 8, or Eq. 9, under the drive z
    psi <- beta psi - eta r - eta gamma phi,    phi <- phi + psi
    (p_mv, p_mm) <- beta (p_mv, p_mm) - eta gamma (p_vv, p_vm),    (p_vv, p_vm) <- (p_vv, p_vm) + (p_mv, p_mm).

The 2 x 2 *pull* p is the same for every neuron. The *trace* a = (phi, psi, r, r_inh) at the end of the presentation
is M (u, q, c, r, r_inh at the start), with a 4 x 5 *presentation map* M, a function of |x|^2 and the learning rates
alone. Split a group into the mean, the drive of r_inh, and the deviations from the mean, without inhibition
(alpha = 0): each part has a map, the same for all weight vectors of the part. Only the maps are stepped, for many
presentations at once: by Numba on the CPU (compiled.py), by torch elsewhere.

Axes: B groups, P or T presentations, K inputs, n weight vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.problem import Problem


class Constants(NamedTuple):
    """Parameters of a problem as tensors of shape (B, 1), against presentations or neurons.

    ``h`` is dt / tau, None for `SteadyState`.
    """

    alpha: Tensor
    gamma: Tensor
    momentum: Tensor
    bias: Tensor
    h: Tensor | None

    @staticmethod
    def of(problem: Problem, tensor: Callable[..., Tensor]) -> Constants:
        """Read the parameters of a problem; ``tensor`` makes a tensor of an array."""
        circuit, rule = problem.circuit, problem.rule
        lifted = lambda value: tensor(problem.flat(value))[:, None]
        bias, h = (circuit.bias, lifted(circuit.dt_over_tau)) if isinstance(circuit, RateCircuit) else (0.0, None)
        return Constants(lifted(circuit.alpha), lifted(rule.gamma), lifted(rule.momentum), lifted(bias), h)


def hold_input(
    constants: Constants,
    alpha: Tensor,
    r: Tensor,
    r_inh: Tensor,
    drive: Callable[[Tensor], Tensor],
    power: Tensor,
    rates: Tensor,
    mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hold an input through all weight updates (Eq. 4, 8 or 9).

    Args:
        constants: parameters.
        alpha: strength of the inhibition, to broadcast against ``r``.
        r, r_inh: r - b and r_inh before the presentation.
        drive: takes (p_vv, p_vm), shape (2, ...), to the drive without the updates of this presentation,
            p_vv u + p_vm q + c.
        power: |x|^2.
        rates: learning rates, the updates along the first axis.
        mean: the mean over the neurons of a group.

    Returns:
        phi, psi, r - b in the shape of r; r_inh; and the pull p, (2, 2, ...).
    """
    gamma, momentum, h = constants.gamma, constants.momentum, constants.h
    phi, psi = torch.zeros_like(r), torch.zeros_like(r)
    pull = torch.zeros(2, 2, *(gamma * rates[0]).shape, dtype=power.dtype, device=power.device)
    pull[0, 0], pull[1, 1] = 1.0, 1.0
    for eta in rates:
        z = torch.addcmul(drive(pull[0]), power, phi)  # z = p_vv u + p_vm q + c + |x|^2 phi
        if h is None:  # Eq. 9: r - b = z - mean(z) + r_inh, r_inh = mean(z) / (1 + alpha)
            r_inh = mean(z) / (1 + alpha)
            r = z - mean(z) + r_inh
        else:  # Eq. 8, forward Euler from the old r and r_inh
            r, r_inh = r + h * (z - alpha * r_inh - r), r_inh + h * (mean(r) - r_inh)
        psi = momentum * psi - eta * r - gamma * eta * phi
        phi = phi + psi
        pull_m = momentum * pull[1] - gamma * eta * pull[0]  # (p_mv, p_mm), then (p_vv, p_vm)
        pull = torch.stack([pull[0] + pull_m, pull_m])
    return phi, psi, r, r_inh, pull


class PresentationMaps(NamedTuple):
    """Maps of presentations: ``pull`` p (B, P, 2, 2), and (B, P, 4, 5) for the deviations and for the mean.

    A (4, 5) map takes (u, q, c, r - b, r_inh) to (phi, psi, r - b, r_inh).
    """

    pull: Tensor
    deviation: Tensor
    mean: Tensor


def step_maps(constants: Constants, power: Tensor, rates: Tensor) -> PresentationMaps:
    """The maps of presentations with |x|^2 = ``power`` (B, P) and learning rates (P, updates), on any device."""
    # The 5 columns of both maps side by side, (column, part, B, P): every unit vector (u, q, c, r, r_inh) is stepped.
    unit = torch.eye(5, dtype=power.dtype, device=power.device)[:, :, None, None, None]
    unit = unit.expand(5, 5, 2, *power.shape)
    alpha = torch.stack([torch.zeros_like(constants.alpha), constants.alpha])  # (part, B, 1): deviations, mean
    received = unit[2].clone()

    def drive(pull: Tensor) -> Tensor:
        received[:2] = pull[:, None]  # column u receives p_vv, column q p_vm, column c 1
        return received

    # A weight vector is its own mean.
    *trace, pull = hold_input(constants, alpha, unit[3], unit[4], drive, power, rates.T, mean=lambda values: values)
    deviation, mean = rearrange(torch.stack(trace), "row column part b p -> part b p row column").contiguous()
    return PresentationMaps(rearrange(pull, "i j b p -> b p i j").contiguous(), deviation, mean)


def presentation_maps(constants: Constants, power: Tensor, rates: Tensor) -> PresentationMaps:
    """The maps of `step_maps`, by Numba on the CPU."""
    if power.device.type != "cpu":
        return step_maps(constants, power, rates)
    from bioshare.circuit.exact.compiled import step_map_columns

    alpha, gamma, momentum, _, h = constants
    parameters = torch.cat([alpha, gamma, momentum, torch.ones_like(alpha) if h is None else h], 1)
    maps, pull = power.new_empty(len(power), 2, 4, 5, power.shape[1]), power.new_empty(len(power), 2, 2, power.shape[1])
    by_update = rates.T.contiguous().numpy()
    for of_group in zip(power, parameters, pull, maps, strict=True):
        step_map_columns(h is not None, by_update, *(part.numpy() for part in of_group))
    deviation, mean = rearrange(maps, "b part row column p -> part b p row column").contiguous()
    return PresentationMaps(rearrange(pull, "b i j p -> b p i j").contiguous(), deviation, mean)
