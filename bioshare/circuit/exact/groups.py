"""Groups with a shared stimulus in blocks of presentations, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bioshare.checks import Array
from bioshare.circuit.exact.blocks import Vectors, blocks
from bioshare.circuit.exact.stepping import Constants
from bioshare.circuit.problem import Problem

BLOCK, FEW, LONG_BLOCK = 16, 2, 64
"""Presentations per block where weights are recorded; with few groups blocks are longer, to hide Python's time."""

State = tuple[Vectors, Vectors]
"""Deviations from the mean, and the mean."""


class SharedGroups:
    """Groups with a shared stimulus for any device, and for groups too large for the processor's cache.

    The deviations have the virtual neurons of `bioshare.circuit.exact.compiled.CompiledGroups`.
    """

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        self.problem, self.tensor, self.constants = problem, tensor, Constants.of(problem, tensor)
        self.weights, self.rates = tensor(problem.weights), tensor(problem.rates)
        self.mean_init = tensor(problem.mean_init)
        deviation, self.rotation = self.weights - self.mean_init, None
        if deviation.shape[1] > deviation.shape[2]:
            self.rotation, deviation = torch.linalg.qr(deviation)  # (B, N, K), (B, K, K)
        self.deviation_init = deviation.mT.contiguous()

    def at_rest(self) -> State:
        mean = Vectors.at_rest(self.mean_init.mT.contiguous(), -self.constants.bias)
        return Vectors.at_rest(self.deviation_init), mean

    def advance(
        self, state: State, x: Array, start: int, recorded: Sequence[int]
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        deviation, mean = state
        held = self.tensor(x[self.problem.stimulus_of])  # (B, T, K)
        length = BLOCK if len(self.weights) > FEW and recorded else LONG_BLOCK
        within, means, spreads = [], [], []
        every_block = blocks(self.constants, held, self.rates[start : start + held.shape[1]], length)
        for number, block in enumerate(every_block):
            traces = deviation.solve(block, block.maps.deviation), mean.solve(block, block.maps.mean)
            within.append(block.moves(*traces) < self.problem.bound)
            if inside := [t - number * length for t in recorded if t // length == number]:
                means += [vectors[..., 0].clone() for vectors in mean.trajectory(block, traces[1], inside)]
                spreads += [vector_norm(vectors, dim=-1) for vectors in deviation.trajectory(block, traces[0], inside)]
            deviation, mean = deviation.after(block, traces[0]), mean.after(block, traces[1])
        none = self.mean_init.mT[..., :0]
        return (deviation, mean), torch.cat(within, 1), torch.cat([none, *means], -1), torch.cat([none, *spreads], -1)

    def end(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        deviation, mean = state
        added, response = (
            deviation.v,
            deviation.state[:, :1],
        )  # (B, K, n) and (B, 1, n), rotated to (B, K, N), (B, 1, N)
        if self.rotation is not None:
            added, response = added @ self.rotation.mT, response @ self.rotation.mT
        r = response[:, 0] + mean.state[:, 0] + self.constants.bias
        return self.weights + (added + mean.v).mT, r, mean.state[:, 1, 0]


class IdentityGroups(SharedGroups):
    """The columns of the identity as deviations and as means: the sleep of the identity is the map of all sleeps."""

    def at_rest(self) -> State:
        groups, _, inputs = self.weights.shape
        identity = torch.eye(inputs, dtype=self.rates.dtype, device=self.rates.device).repeat(groups, 1, 1)
        mean = Vectors.at_rest(torch.nn.functional.pad(identity, (0, 1)))
        mean.state[:, 0, -1] = -self.constants.bias[:, 0]  # the last virtual neuron has no weights: it carries c
        return Vectors.at_rest(identity), mean

    def end(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """A and B (B, K, K) and c (B, K) of `SleepMap`."""
        deviation, mean = state
        after = mean.w_init + mean.v
        return deviation.w_init + deviation.v, after[..., :-1], after[..., -1]
