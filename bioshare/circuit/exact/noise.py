"""Groups with noise: inputs differ between neurons, and (phi, psi, r - b) are stepped for every neuron.

Symbols as in stepping.py. The K weights of a neuron are read before the updates of a presentation and moved after the
updates: on the CPU in code compiled by Numba, elsewhere in torch.

Axes: B groups, S stimuli, T presentations, G recorded presentations, N neurons, K inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioshare.checks import Array
from bioshare.circuit.exact.compiled import Compiled, State, compiled
from bioshare.circuit.exact.stepping import Constants, hold_input
from bioshare.circuit.problem import Problem

U, Q, C, POWER, PHI, PSI = range(6)
"""Rows of the numbers that the updates of a presentation need of the neurons, beside r - b."""


@compiled
def project_noisy(neurons: Array, w_init: Array, v: Array, m: Array, momentum: Any, x: Array) -> None:
    """Write u = v . x, q = m . x, c = w_init . x and |x|^2 of every neuron for inputs x (N, K); phi = psi = 0."""
    for i in range(x.shape[0]):
        u = q = c = power = x.dtype.type(0)
        for k in range(x.shape[1]):
            u += v[i, k] * x[i, k]
            c += w_init[i, k] * x[i, k]
            power += x[i, k] * x[i, k]
        if momentum:
            for k in range(x.shape[1]):
                q += m[i, k] * x[i, k]
        neurons[U, i], neurons[Q, i], neurons[C, i], neurons[POWER, i] = u, q, c, power
        neurons[PHI, i] = neurons[PSI, i] = 0


@compiled
def hold_timed(neurons: Array, r: Array, r_inh: Any, rates: Array, parameters: Array) -> Any:
    """Hold an input through all updates (Eq. 4, 8): r_inh at the end, and the pull p_vv, p_vm, p_mv, p_mm."""
    u, q, c, power = neurons[U], neurons[Q], neurons[C], neurons[POWER]
    phi, psi = neurons[PHI], neurons[PSI]
    alpha, gamma, momentum, h = parameters[0], parameters[1], parameters[2], parameters[3]
    one, zero = rates.dtype.type(1), rates.dtype.type(0)
    share = one / rates.dtype.type(len(r))
    p_vv, p_vm, p_mv, p_mm = one, zero, zero, one
    mean = share * r.sum()
    for eta in rates:
        # Eq. 8 from the old r_inh and the old mean of r
        inhibition, gamma_eta = alpha * r_inh, gamma * eta
        r_inh += h * (mean - r_inh)
        summed = zero
        for i in range(len(r)):
            # z = p_vv u + p_vm q + c + |x|^2 phi
            z = c[i] + p_vv * u[i] + p_vm * q[i] + power[i] * phi[i]
            r[i] += h * (z - inhibition - r[i])
            # Eq. 4 along x
            psi[i] = momentum * psi[i] - eta * r[i] - gamma_eta * phi[i]
            phi[i] += psi[i]
            summed += r[i]
        mean = share * summed
        # the pull: (p_mv, p_mm), then (p_vv, p_vm)
        p_mv, p_mm = momentum * p_mv - gamma_eta * p_vv, momentum * p_mm - gamma_eta * p_vm
        p_vv, p_vm = p_vv + p_mv, p_vm + p_mm
    return r_inh, (p_vv, p_vm, p_mv, p_mm)


@compiled
def hold_steady(neurons: Array, r: Array, rates: Array, parameters: Array) -> Any:
    """The single update of a presentation at the fixed point (Eq. 4, 9); returns as `hold_timed` does."""
    alpha, gamma, momentum = parameters[0], parameters[1], parameters[2]
    one, eta = rates.dtype.type(1), rates[0]
    # r - b = z - mean(z) + r_inh with z = u + c, r_inh = mean(z) / (1 + alpha)
    for i in range(len(r)):
        r[i] = neurons[C, i] + neurons[U, i]
    mean = r.sum() / rates.dtype.type(len(r))
    r_inh = mean / (one + alpha)
    # one update from p = I: phi = psi = -eta (r - b)
    for i in range(len(r)):
        r[i] += r_inh - mean
        neurons[PHI, i] = neurons[PSI, i] = -eta * r[i]
    return r_inh, (one - gamma * eta, momentum, -gamma * eta, momentum)


@compiled
def move_noisy(v: Array, m: Array, momentum: Any, x: Array, neurons: Array, pull: Any, bound: Any) -> bool:
    """Move the weights (N, K) of a group; True if all changes stay within the bound.

    Without momentum, p_vm = 0 in every presentation: m is never read, and stays as it is.
    """
    p_vv, p_vm, p_mv, p_mm = pull
    phi, psi = neurons[PHI], neurons[PSI]
    within = 0
    for i in range(x.shape[0]):
        # v = p_vv v_0 + p_vm m_0 + phi x, m = p_mv v_0 + p_mm m_0 + psi x
        if momentum:
            for k in range(x.shape[1]):
                old_v, old_m = v[i, k], m[i, k]
                v[i, k] = p_vv * old_v + p_vm * old_m + phi[i] * x[i, k]
                m[i, k] = p_mv * old_v + p_mm * old_m + psi[i] * x[i, k]
                within += abs(v[i, k]) < bound
        else:
            for k in range(x.shape[1]):
                v[i, k] = p_vv * v[i, k] + phi[i] * x[i, k]
                within += abs(v[i, k]) < bound
    return within == v.size


@compiled
def record_noisy(w_init: Array, v: Array, mean: Array, spread: Array) -> None:
    """Write the mean of weights (N, K) over the neurons, and the norm of the deviations from the mean, both (K,)."""
    neurons, inputs = v.shape
    share = mean.dtype.type(1) / mean.dtype.type(neurons)
    for k in range(inputs):
        mean[k] = spread[k] = 0
    # two passes: near convergence the variance is 1e-12 of the squared mean
    for i in range(neurons):
        for k in range(inputs):
            mean[k] += share * (w_init[i, k] + v[i, k])
    for i in range(neurons):
        for k in range(inputs):
            deviation = w_init[i, k] + v[i, k] - mean[k]
            spread[k] += deviation * deviation
    for k in range(inputs):
        spread[k] = math.sqrt(spread[k])


@compiled
def present_noisy(timed: bool, presented: Any, of_groups: Any) -> None:
    """Present inputs (S, T, N, K) to weights w_init, v, m (B, N, K) with r (B, N), else as `present_shared`."""
    x, rates, slots, bound = presented
    stimulus_of, parameters, w_init, v, m, r, r_inh, means, spreads, within = of_groups
    neurons = np.empty((6, x.shape[2]), x.dtype)
    for b in range(len(v)):
        momentum = parameters[b, 2]
        for t in range(x.shape[1]):
            inputs = x[stimulus_of[b], t]
            project_noisy(neurons, w_init[b], v[b], m[b], momentum, inputs)
            if timed:
                r_inh[b], pull = hold_timed(neurons, r[b], r_inh[b], rates[t], parameters[b])
            else:
                r_inh[b], pull = hold_steady(neurons, r[b], rates[t], parameters[b])
            within[b, t] = move_noisy(v[b], m[b], momentum, inputs, neurons, pull, bound[()])
            if slots[t] >= 0:
                record_noisy(w_init[b], v[b], means[b, slots[t]], spreads[b, slots[t]])


class CompiledNoise(Compiled):
    """Groups with noise on the CPU. The state is v and m (B, N, K), r - b (B, N) and r_inh (B,)."""

    present = present_noisy

    def __init__(self, problem: Problem, dtype: str) -> None:
        super().__init__(problem, dtype)
        self.w_init = self.weights

    def at_rest(self) -> State:
        r = np.repeat(self.initial_response[:, None], self.weights.shape[1], 1)
        return np.zeros_like(self.weights), np.zeros_like(self.weights), r, np.zeros_like(self.bias)

    def end(self, state: State) -> tuple[Array, Array, Array]:
        v, _, r, r_inh = state
        return self.weights + v, r + self.bias[:, None], r_inh.copy()


class NoisyGroups:
    """Groups with noise on any device. The state is as in `CompiledNoise`, but r_inh is (B, 1)."""

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        self.tensor, self.constants = tensor, Constants.of(problem, tensor)
        self.stimulus_of, self.bound = problem.stimulus_of, problem.bound
        self.weights, self.rates = tensor(problem.weights), tensor(problem.rates)
        self.initial_response = tensor(problem.initial_response)[:, None]

    def at_rest(self) -> tuple[Tensor, ...]:
        v, m = self.weights.new_zeros(2, *self.weights.shape)
        return v, m, self.initial_response.repeat(1, v.shape[1]), torch.zeros_like(self.constants.bias)

    def advance(
        self, state: tuple[Tensor, ...], x: Array, start: int, recorded: Sequence[int]
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
        drawn, within, means, spreads = self.tensor(x), [], [], []
        for t in range(x.shape[1]):
            state = self._present(state, drawn[self.stimulus_of, t], self.rates[start + t])
            v = state[0]
            within.append(v.abs().amax((1, 2)) < self.bound)
            if t in recorded:
                means.append((self.weights + v).mean(1))
                spreads.append(torch.linalg.vector_norm(self.weights + v - means[-1][:, None], dim=1))
        stacked = lambda rows: torch.stack(rows, -1) if rows else self.weights.mT[..., :0]
        return state, torch.stack(within, -1), stacked(means), stacked(spreads)

    def _present(self, state: tuple[Tensor, ...], x: Tensor, rates: Tensor) -> tuple[Tensor, ...]:
        """Present the inputs x (B, N, K)."""
        v, m, r, r_inh = state
        # u = v . x, q = m . x, c = w_init . x, each (B, N)
        u, q, c = ((vectors * x).sum(-1) for vectors in (v, m, self.weights))
        drive = lambda pull: pull[0] * u + pull[1] * q + c
        mean = lambda values: values.mean(-1, keepdim=True)
        power = x.square().sum(-1)
        phi, psi, r, r_inh, pull = hold_input(self.constants, self.constants.alpha, r, r_inh, drive, power, rates, mean)
        # v = p_vv v_0 + p_vm m_0 + phi x, m = p_mv v_0 + p_mm m_0 + psi x, each (B, N, K)
        pull = pull[..., None]
        v, m = (pull[i, 0] * v + pull[i, 1] * m + push[..., None] * x for i, push in enumerate((phi, psi)))
        return v, m, r, r_inh

    def end(self, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        v, _, r, r_inh = state
        return self.weights + v, r + self.constants.bias, r_inh[:, 0]
