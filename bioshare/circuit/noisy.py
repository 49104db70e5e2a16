"""What `NoisyGroups` computes, compiled by Numba for the CPU. The only file that imports numba.

Symbols as in presentations.py. A presentation steps (phi, psi, r - b) of N neurons, which is all that its updates need;
the K weights of a neuron are read before them and moved after them.

Axes: B groups, S stimuli, T presentations, G of them recorded, N neurons, K inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from bioshare.checks import Array
from bioshare.circuit.groups import NoisyGroups, NoisyState
from bioshare.circuit.problem import Problem

U, Q, C, POWER, PHI, PSI = range(6)
"""Rows of what the updates of a presentation need of the neurons, beside r - b."""

ARITHMETIC = {"reassoc", "contract", "arcp", "nsz"}
"""What the compiler may do to sums so that it can take several neurons at once; NaN and infinity stay what they are."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk where there is a place for it."""
    options: dict[str, Any] = {"nogil": True, "fastmath": ARITHMETIC, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside this file nor in the user's home
        return numba.njit(function, **options)


@compiled
def receive(neurons: Array, w_init: Array, v: Array, m: Array, x: Array) -> None:
    """Write what the input x (N, K) is to every neuron: u, q, c and |x|^2. The presentation has moved nothing yet."""
    for i in range(x.shape[0]):
        u = q = c = power = x.dtype.type(0)
        for k in range(x.shape[1]):
            u += v[i, k] * x[i, k]
            q += m[i, k] * x[i, k]
            c += w_init[i, k] * x[i, k]
            power += x[i, k] * x[i, k]
        neurons[U, i], neurons[Q, i], neurons[C, i], neurons[POWER, i] = u, q, c, power
        neurons[PHI, i] = neurons[PSI, i] = 0


@compiled
def total(values: Array) -> Any:
    """The sum of some values, in their own precision."""
    found = values.dtype.type(0)
    for i in range(len(values)):
        found += values[i]
    return found


@compiled
def step(neurons: Array, r: Array, r_inh: Any, rates: Array, parameters: Array) -> Any:
    """Hold an input through its updates (Eq. 4, 8): r_inh after them, and the pull p_vv, p_vm, p_mv, p_mm."""
    u, q, c, power = neurons[U], neurons[Q], neurons[C], neurons[POWER]
    phi, psi = neurons[PHI], neurons[PSI]
    alpha, gamma, momentum, h = parameters[0], parameters[1], parameters[2], parameters[3]
    one, zero = rates.dtype.type(1), rates.dtype.type(0)
    share = one / rates.dtype.type(len(r))
    p_vv, p_vm, p_mv, p_mm = one, zero, zero, one
    mean = share * total(r)
    for eta in rates:
        inhibition, gamma_eta = alpha * r_inh, gamma * eta
        r_inh += h * (mean - r_inh)
        summed = zero
        for i in range(len(r)):
            z = c[i] + p_vv * u[i] + p_vm * q[i] + power[i] * phi[i]
            r[i] += h * (z - inhibition - r[i])
            psi[i] = momentum * psi[i] - eta * r[i] - gamma_eta * phi[i]
            phi[i] += psi[i]
            summed += r[i]
        mean = share * summed
        p_mv, p_mm = momentum * p_mv - gamma_eta * p_vv, momentum * p_mm - gamma_eta * p_vm
        p_vv, p_vm = p_vv + p_mv, p_vm + p_mm
    return r_inh, (p_vv, p_vm, p_mv, p_mm)


@compiled
def settle(neurons: Array, r: Array, rates: Array, parameters: Array) -> Any:
    """The one update of a presentation at the fixed point (Eq. 4, 9); returns what `step` does."""
    alpha, gamma, momentum = parameters[0], parameters[1], parameters[2]
    one, eta = rates.dtype.type(1), rates[0]
    for i in range(len(r)):
        r[i] = neurons[C, i] + neurons[U, i]
    mean = total(r) / rates.dtype.type(len(r))
    r_inh = mean / (one + alpha)
    for i in range(len(r)):
        r[i] += r_inh - mean
        neurons[PHI, i] = neurons[PSI, i] = -eta * r[i]
    return r_inh, (one - gamma * eta, momentum, -gamma * eta, momentum)


@compiled
def move(v: Array, m: Array, x: Array, neurons: Array, pull: Any, bound: Any) -> bool:
    """Move the weights of a group, and say whether all of them stay within the bound."""
    p_vv, p_vm, p_mv, p_mm = pull
    phi, psi = neurons[PHI], neurons[PSI]
    within = 0
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            its_v, its_m = v[i, k], m[i, k]
            v[i, k] = p_vv * its_v + p_vm * its_m + phi[i] * x[i, k]
            m[i, k] = p_mv * its_v + p_mm * its_m + psi[i] * x[i, k]
            within += abs(v[i, k]) < bound
    return within == v.size


@compiled
def record(w_init: Array, v: Array, mean: Array, spread: Array) -> None:
    """The mean of a group's weights (K,), and the norm over the neurons of their deviations from it, (K,)."""
    neurons, inputs = v.shape
    share = mean.dtype.type(1) / mean.dtype.type(neurons)
    for k in range(inputs):
        mean[k] = spread[k] = 0
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
def live(
    timed: bool,
    x: Array,
    rates: Array,
    recorded: Array,
    bound: Array,
    stimulus_of: Array,
    parameters: Array,
    w_init: Array,
    v: Array,
    m: Array,
    r: Array,
    r_inh: Array,
    means: Array,
    spreads: Array,
    fine: Array,
) -> None:
    """Let groups live through presentations, from the state (v, m, r - b, r_inh), which is moved in place.

    Args:
        timed: whether the circuit is a `RateCircuit`.
        x: (S, T, N, K).
        rates: (T, updates).
        recorded: (G,), increasing, which of the presentations are recorded.
        bound: (), beyond which a weight has diverged.
        stimulus_of: (B,), which of the stimuli a group sees.
        parameters: (B, 4): alpha, gamma, momentum, h.
        w_init, v, m: (B, N, K).
        r, r_inh: (B, N) and (B,).
        means, spreads: what `record` finds, (B, G, K), is written here.
        fine: (B, T): whether the weights stayed within the bound.
    """
    neurons = np.empty((6, x.shape[2]), x.dtype)
    for b in range(len(v)):
        g = 0
        for t in range(x.shape[1]):
            its_x = x[stimulus_of[b], t]
            receive(neurons, w_init[b], v[b], m[b], its_x)
            if timed:
                r_inh[b], pull = step(neurons, r[b], r_inh[b], rates[t], parameters[b])
            else:
                r_inh[b], pull = settle(neurons, r[b], rates[t], parameters[b])
            fine[b, t] = move(v[b], m[b], its_x, neurons, pull, bound[()])
            if g < len(recorded) and recorded[g] == t:
                record(w_init[b], v[b], means[b, g], spreads[b, g])
                g += 1


class CompiledGroups(NoisyGroups):
    """Every neuron sees its own input, on the CPU, with as many threads as torch has."""

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        super().__init__(problem, tensor)
        alpha, gamma, momentum, _, h = self.constants
        self.timed = h is not None
        self.parameters = torch.cat([alpha, gamma, momentum, torch.ones_like(alpha) if h is None else h], 1)
        self.spare = self.at_rest()

    def live(self, state: NoisyState, x: Tensor, start: int) -> tuple[NoisyState, list[Tensor]]:
        recorded = self._recorded(start, x.shape[1])
        for after, before in zip(self.spare, state, strict=True):  # fresh memory would cost more than the arithmetic
            after.copy_(before)
        v, m, r, r_inh = self.spare
        groups, _, inputs = self.weights.shape
        means, spreads = self.weights.new_empty(2, groups, len(recorded), inputs)
        fine = torch.empty(groups, x.shape[1], dtype=torch.bool, device="cpu")
        rates = self.rates[start : start + x.shape[1]]
        presentations = (
            x,
            rates,
            torch.tensor(recorded, dtype=torch.long, device="cpu"),
            x.new_tensor(self.problem.bound),
        )
        of_groups = self.stimulus_of, self.parameters, self.weights, v, m, r, r_inh[:, 0], means, spreads, fine
        self._compute(presentations, of_groups)
        self._check(fine, start)
        self.spare = state
        return (v, m, r, r_inh), [self._measure(spreads.mT, means.mT)]

    def _compute(self, presentations: Sequence[Tensor], of_groups: Sequence[Tensor]) -> None:
        """Call `live`, in every thread with some of the groups."""
        shared = [part.numpy() for part in presentations]
        threads = min(torch.get_num_threads(), len(self.weights))
        parts = zip(*(np.array_split(part.numpy(), threads) for part in of_groups), strict=True)
        work = lambda part: live(self.timed, *shared, *part)
        if threads == 1:
            work(next(parts))
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
