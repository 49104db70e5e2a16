"""Groups with a shared stimulus on the CPU, compiled by Numba: one pass over the weights for each presentation.

Symbols as in stepping.py. The presentation maps are stepped side by side, the presentations along the last axis. The
same pass moves the weights by (phi, psi) and projects the moved weights on the next input.

Axes: B groups, S stimuli, T presentations, G recorded presentations, N neurons, K inputs, n weight vectors: the
deviations from the mean, and last the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch

from bioshare.checks import Array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.problem import Problem

R = 2
"""Row of r - b in a presentation map, after phi and psi and before r_inh."""

SPAN = 256
"""Number of presentations whose maps are stepped together: enough lanes for the processor, few enough for its cache."""

ARITHMETIC = {"reassoc", "contract", "arcp", "nsz"}
"""Freedom of the compiler to reorder sums, so that several numbers are computed at once; NaN and infinity stay."""

State = tuple[Array, ...]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk where a place is writable."""
    options: dict[str, Any] = {"nogil": True, "fastmath": ARITHMETIC, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside the file nor in the user's home
        return numba.njit(function, **options)


@compiled
def step_map_columns(timed: bool, rates: Array, power: Array, parameters: Array, pull: Array, maps: Array) -> None:
    """Step the presentation maps of a group through all updates (Eq. 4, and Eq. 8 if ``timed``, else Eq. 9).

    Args:
        timed: True for a `RateCircuit`.
        rates: learning rates, (updates, T).
        power: |x|^2, (T,).
        parameters: alpha, gamma, momentum, h, (4,).
        pull: result, (2, 2, T).
        maps: result, (2, 4, 5, T), for the deviations and the mean: (u, q, c, r, r_inh) to (phi, psi, r, r_inh).
    """
    gamma, momentum, h = parameters[1], parameters[2], parameters[3]
    one, zero = parameters.dtype.type(1), parameters.dtype.type(0)
    # p = I; drive z without |x|^2 phi of every column: p_vv, p_vm, 1, 0, 0
    drive, pull_m = np.zeros((5, len(power)), power.dtype), np.zeros((2, len(power)), power.dtype)
    drive[0], drive[2], pull_m[1] = one, one, one
    # columns r and r_inh begin at 1, all else at 0
    maps[:] = zero
    maps[:, 2, 3], maps[:, 3, 4] = one, one
    for update in range(len(rates)):
        eta = rates[update]
        for part in range(2):
            alpha = parameters[0] if part else zero
            phi, psi, r, r_inh = maps[part, 0], maps[part, 1], maps[part, 2], maps[part, 3]
            for column in range(5):
                for t in range(len(power)):
                    # z = p_vv u + p_vm q + c + |x|^2 phi
                    z = drive[column, t] + power[t] * phi[column, t]
                    if timed:  # both from the old r and r_inh
                        z -= alpha * r_inh[column, t]
                        r_inh[column, t] += h * (r[column, t] - r_inh[column, t])
                        r[column, t] += h * (z - r[column, t])
                    else:
                        r[column, t] = r_inh[column, t] = z / (one + alpha)
                    # Eq. 4 along x: psi, then phi
                    psi[column, t] = momentum * psi[column, t] - eta[t] * (r[column, t] + gamma * phi[column, t])
                    phi[column, t] += psi[column, t]
        # the pull: (p_mv, p_mm), then (p_vv, p_vm)
        for i in range(2):
            for t in range(len(power)):
                pull_m[i, t] = momentum * pull_m[i, t] - gamma * eta[t] * drive[i, t]
                drive[i, t] += pull_m[i, t]
    pull[0], pull[1] = drive[:2], pull_m


@compiled
def apply_maps(maps: Array, t: int, received: Array, r: Array, r_inh: Any, trace: Array) -> None:
    """Write the trace (4, n) of presentation t: phi, psi, r, r_inh of every weight vector."""
    u, q, c, last = received[0], received[1], received[2], len(r) - 1
    for row in range(4):
        to_u, to_q, to_c, to_r = maps[0, row, 0, t], maps[0, row, 1, t], maps[0, row, 2, t], maps[0, row, 3, t]
        for i in range(last):  # the deviations feel no r_inh
            trace[row, i] = to_u * u[i] + to_q * q[i] + to_c * c[i] + to_r * r[i]
        of_mean = maps[1, row, :, t]
        # M (u, q, c, r, r_inh) of the mean
        felt = of_mean[0] * u[last] + of_mean[1] * q[last] + of_mean[2] * c[last]
        trace[row, last] = felt + of_mean[3] * r[last] + of_mean[4] * r_inh


@compiled
def move_and_project(
    w_init: Array, v: Array, m: Array, x: Array, following: Array, trace: Array, pull: Any, received: Array
) -> None:
    """Move the weights (K, n) to the end of a presentation of x, and project the weights on the following input."""
    p_vv, p_vm, p_mv, p_mm = pull
    phi, psi, u, q, c = trace[0], trace[1], received[0], received[1], received[2]
    received[:] = received.dtype.type(0)
    for k in range(len(x)):
        for i in range(len(u)):
            # v = p_vv v_0 + p_vm m_0 + phi x, m = p_mv v_0 + p_mm m_0 + psi x
            new_v = p_vv * v[k, i] + p_vm * m[k, i] + phi[i] * x[k]
            new_m = p_mv * v[k, i] + p_mm * m[k, i] + psi[i] * x[k]
            v[k, i], m[k, i] = new_v, new_m
            # u = v . x, q = m . x, c = w_init . x of the next presentation
            u[i] += following[k] * new_v
            q[i] += following[k] * new_m
            c[i] += following[k] * w_init[k, i]


@compiled
def record_shared(w_init: Array, v: Array, mean: Array, spread: Array) -> None:
    """Write the mean (K,) and the norm of the deviations (K,), from weight vectors (K, n)."""
    last = v.shape[1] - 1
    for k in range(len(v)):
        squares = v.dtype.type(0)
        for i in range(last):
            deviation = w_init[k, i] + v[k, i]
            squares += deviation * deviation
        mean[k], spread[k] = w_init[k, last] + v[k, last], math.sqrt(squares)


@compiled
def present_shared(timed: bool, presented: Any, of_groups: Any) -> None:
    """Present inputs to groups, from the state (v, m, r - b, r_inh), changed in place.

    Args:
        timed: True for a `RateCircuit`.
        presented: inputs (S, T, K); learning rates (T, updates); slots (T,), the index of each presentation among
            the recorded presentations, or -1; and the bound () of a weight.
        of_groups: index of the stimulus (B,); alpha, gamma, momentum, h (B, 4); w_init, v, m (B, K, n); r (B, n);
            r_inh (B,); and the results: means and norms of the deviations (B, G, K), and a flag (B, T) for
            movements below the bound.
    """
    x, rates, slots, bound = presented
    stimulus_of, parameters, w_init, v, m, r, r_inh, means, spreads, within = of_groups
    last, vectors = x.shape[1] - 1, r.shape[1]
    received, trace, one = np.empty((3, vectors), x.dtype), np.empty((4, vectors), x.dtype), x.dtype.type(1)
    for first in range(0, last + 1, SPAN):
        length = min(SPAN, last + 1 - first)
        by_update = np.ascontiguousarray(rates[first : first + length].T)
        pull, maps = np.empty((2, 2, length), x.dtype), np.empty((2, 4, 5, length), x.dtype)
        for b in range(len(v)):
            inputs = x[stimulus_of[b]]
            power = np.empty(length, x.dtype)
            for t in range(length):
                power[t] = 0
                for k in range(x.shape[2]):
                    power[t] += inputs[first + t, k] ** 2
            step_map_columns(timed, by_update, power, parameters[b], pull, maps)
            # an empty presentation, p = I and phi = psi = 0, projects the weights on the first input
            trace[:] = x.dtype.type(0)
            x_0, still = inputs[first], (one, one - one, one - one, one)
            move_and_project(w_init[b], v[b], m[b], x_0, x_0, trace, still, received)
            for t in range(length):
                now = first + t
                apply_maps(maps, t, received, r[b], r_inh[b], trace)
                r[b], r_inh[b] = trace[R], trace[R + 1, vectors - 1]
                near = 0
                for i in range(vectors):
                    near += abs(trace[0, i]) * math.sqrt(power[t]) < bound[()]  # |phi x|
                within[b, now] = near == vectors
                p = pull[0, 0, t], pull[0, 1, t], pull[1, 0, t], pull[1, 1, t]
                move_and_project(w_init[b], v[b], m[b], inputs[now], inputs[min(now + 1, last)], trace, p, received)
                if slots[now] >= 0:
                    record_shared(w_init[b], v[b], means[b, slots[now]], spreads[b, slots[now]])


class Compiled:
    """Base of the groups in compiled code, ``present``, from weights ``w_init`` before sleep."""

    present: Callable[..., None]
    w_init: Array

    def __init__(self, problem: Problem, dtype: str) -> None:
        self.dtype = dtype
        circuit, rule = problem.circuit, problem.rule
        self.timed = isinstance(circuit, RateCircuit)
        parameters = [circuit.alpha, rule.gamma, rule.momentum, circuit.dt_over_tau]
        self.parameters = np.stack([problem.flat(parameter) for parameter in parameters], 1).astype(dtype)
        self.bias = problem.flat(circuit.bias if isinstance(circuit, RateCircuit) else 0.0).astype(dtype)
        self.initial_response = problem.initial_response.astype(dtype)
        self.rates, self.weights = problem.rates.astype(dtype), problem.weights.astype(dtype)
        self.stimulus_of, self.bound = problem.stimulus_of, problem.bound
        self.spare: State | None = None

    def advance(self, state: State, x: Array, start: int, recorded: Sequence[int]) -> tuple[State, Any, Any, Any]:
        groups, _, inputs = self.weights.shape
        length = x.shape[1]
        after = self.spare or tuple(np.empty_like(part) for part in state)  # fresh memory is slow
        for new, old in zip(after, state, strict=True):
            new[...] = old
        means, spreads = np.empty((2, groups, len(recorded), inputs), self.dtype)
        within, slots = np.empty((groups, length), np.bool_), np.full(length, -1)
        slots[recorded] = range(len(recorded))
        rates, bound = self.rates[start : start + length], np.array(self.bound, self.dtype)
        presented = np.require(x, self.dtype, ("C", "W")), rates, slots, bound
        of_groups = self.stimulus_of, self.parameters, self.w_init, *after, means, spreads, within
        # every thread takes some of the groups
        threads = min(torch.get_num_threads(), groups)
        parts = zip(*(np.array_split(part, threads) for part in of_groups), strict=True)
        present = lambda part: type(self).present(self.timed, presented, part)
        if threads == 1:
            present(next(parts))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(present, parts))
        self.spare = state
        return after, within, means.mT, spreads.mT


class CompiledGroups(Compiled):
    """Groups with a shared stimulus, each as a mean and the deviations from the mean.

    The variances depend on the deviations (K, N) only through the Gram matrix. With more neurons than inputs, K
    virtual neurons with the same Gram matrix take the place of the neurons, and are rotated back after sleep.
    """

    present = present_shared

    def __init__(self, problem: Problem, dtype: str) -> None:
        super().__init__(problem, dtype)
        mean = problem.mean_init.astype(dtype)
        vectors, self.rotation = self.weights - mean, None
        if vectors.shape[1] > vectors.shape[2]:
            self.rotation, vectors = np.linalg.qr(vectors)  # (B, N, K), (B, K, K)
        # (B, K, n), with vectors of zeros to fill the registers of the processor
        zeros = np.zeros((len(mean), -(vectors.shape[1] + 1) % 8, mean.shape[2]), dtype)
        self.w_init = np.concatenate([vectors, zeros, mean], 1).mT.copy()

    def at_rest(self) -> State:
        r = np.zeros_like(self.w_init[:, 0])
        r[:, -1] = self.initial_response  # equal in all neurons: the response of the mean
        return np.zeros_like(self.w_init), np.zeros_like(self.w_init), r, np.zeros_like(self.bias)

    def end(self, state: State) -> tuple[Array, Array, Array]:
        v, _, r, r_inh = state
        # (B, K, n) and (B, 1, n) of the deviations, rotated to (B, K, N) and (B, 1, N)
        deviations = min(self.weights.shape[1:])  # without the zeros and the mean
        added, response = v[..., :deviations], r[:, None, :deviations]
        if self.rotation is not None:
            added, response = added @ self.rotation.mT, response @ self.rotation.mT
        return self.weights + (added + v[..., -1:]).mT, response[:, 0] + r[:, -1:] + self.bias[:, None], r_inh.copy()
