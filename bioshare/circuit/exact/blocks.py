"""Groups with a shared stimulus in blocks of presentations: the weights are read and moved once a block.

A *block* of T presentations needs only the products of the weights with the T inputs. Let P(s, t) be the product of
the pulls from before presentation s to before presentation t (symbols as in stepping.py). Then

    (u_t, q_t) = P(0, t) (v . x_t, m . x_t) + sum_{s<t} (x_s . x_t) P(s+1, t) (phi_s, psi_s),

with v and m at the start of the block, and a_t = M_t (u_t, q_t, c_t, r_{t-1}, r_inh_{t-1}) for all t is a unit lower
triangular system for the T traces. After the block

    (v, m) <- P(0, T) (v, m) + sum_s P(s+1, T) (phi_s, psi_s) x_s.

Axes: B groups, P or T presentations, K inputs, n weight vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.linalg import vector_norm

from bioshare.checks import Array
from bioshare.circuit.exact.stepping import Constants, PresentationMaps, presentation_maps
from bioshare.circuit.problem import Problem

PHI, PSI, R, R_INH = range(4)
"""Rows of a trace and of a presentation map."""

CACHE = 2**18
"""Number of weights in memory at once while the SNR is recorded."""

BLOCK, FEW, LONG_BLOCK = 16, 2, 64
"""Presentations per block where weights are recorded; with few groups blocks are longer, to hide Python's time."""


def products(pull: Tensor) -> Tensor:
    """Pulls over several presentations: (..., T, 2, 2) to (..., T + 1, T + 1, 2, 2).

    Element [s, t] leads from before presentation s to before presentation t >= s, and is 0 for t < s.
    """
    *lead, length, _, _ = pull.shape
    # P(t, t) = I
    product = torch.zeros(*lead, length + 1, length + 1, 2, 2, dtype=pull.dtype, device=pull.device)
    product.diagonal(dim1=-4, dim2=-3).copy_(torch.eye(2, dtype=pull.dtype, device=pull.device)[..., None])
    for t in range(length):  # P(s, t + 1) = p_t P(s, t) for all s <= t
        torch.matmul(pull[..., t, None, :, :], product[..., : t + 1, t, :, :], out=product[..., : t + 1, t + 1, :, :])
    return product


class Block:
    """The common parts of a block for all weight vectors: inputs, Gram matrix, pulls between presentations.

    Attributes:
        x: (B, T, K).
        maps: presentation maps.
        pull_to: (B, T + 1, 2, 2): from the start of the block to before presentation t.
        pull_from: (B, T, T, 2, 2): [:, s, t] from after presentation s to after presentation t >= s, else 0.
        felt: (B, T - 1, 2, 2 (T - 1)): parts of (u_t, q_t) from (phi_s, psi_s) of the presentations s < t.
    """

    def __init__(self, x: Tensor, maps: PresentationMaps, pulls: Tensor) -> None:
        self.x, self.maps = x, maps
        self.pull_to, self.pull_from = pulls[:, 0], pulls[:, 1:, 1:]
        # (x_s . x_t) P(s+1, t) of s < t, (B, s, t, 2, 2)
        gram = x @ x.mT
        felt = self.pull_from[:, :-1, :-1] * gram[:, :-1, 1:, None, None]
        self.felt = rearrange(felt, "b s t to of -> b t to (s of)")

    def moves(self, *traces: Tensor) -> Tensor:
        """Largest movement of a weight vector in each presentation, (B, T), from traces of `Vectors.solve`."""
        # |phi_t| |x_t|, the largest over all vectors
        largest = [vector_norm(part[:, :, PHI], torch.inf, dim=-1) for part in traces]
        return torch.stack(largest).amax(0) * vector_norm(self.x, dim=-1)


def blocks(constants: Constants, x: Tensor, rates: Tensor, length: int) -> Iterator[Block]:
    """The presentations of x (B, P, K) at the learning rates (P, updates), in blocks of ``length``."""
    maps = presentation_maps(constants, vector_norm(x, dim=-1).square_(), rates)
    full = x.shape[1] // length * length
    pulls = list(products(maps.pull[:, :full].unflatten(1, (-1, length))).unbind(1)) if full else []
    if full < x.shape[1]:
        pulls.append(products(maps.pull[:, full:]))
    for t, pull in zip(range(0, x.shape[1], length), pulls, strict=True):
        part = slice(t, t + length)
        yield Block(x[:, part], PresentationMaps(*(each[:, part] for each in maps)), pull)


class Vectors(NamedTuple):
    """Weight vectors with the same presentation maps.

    Attributes:
        w_init, v, m: weights before sleep, change of the weights, and momentum, (B, K, n).
        state: r - b and r_inh, (B, 2, n).
    """

    w_init: Tensor
    v: Tensor
    m: Tensor
    state: Tensor

    @staticmethod
    def at_rest(w_init: Tensor, response: Tensor | float = 0.0) -> Vectors:
        """Vectors at the start of a sleep, with r - b = ``response``, broadcast to (B, n)."""
        state = torch.zeros(w_init.shape[0], 2, w_init.shape[2], dtype=w_init.dtype, device=w_init.device)
        state[:, 0] = response
        return Vectors(w_init, torch.zeros_like(w_init), torch.zeros_like(w_init), state)

    def solve(self, block: Block, maps: Tensor) -> Tensor:
        """The traces of the block's presentations, (phi, psi, r - b, r_inh): (B, T, 4, n)."""
        # v . x_t, m . x_t, c_t = w_init . x_t, each (B, T, n)
        u, q, c = block.x @ self.v, block.x @ self.m, block.x @ self.w_init
        # M_t (P(0, t) (u, q), c): the traces without the presentations before, (B, T, 4, n)
        arrive = torch.cat([maps[..., :2] @ block.pull_to[:, :-1], maps[..., 2:3]], -1)
        to_u, to_q, to_c = arrive[..., None].unbind(3)
        traces = (to_u * u[:, :, None]).addcmul_(to_q, q[:, :, None]).addcmul_(to_c, c[:, :, None])
        # the first presentation begins from (r, r_inh) at the start of the block
        traces[:, 0] += maps[:, 0, :, 3:] @ self.state
        # the unit lower triangular system of the traces, (B, 4T, 4T)
        batch, length = maps.shape[:2]
        system = torch.zeros(batch, length, 4, length, 4, dtype=maps.dtype, device=maps.device)
        # -M_t (u, q) from (phi_s, psi_s) of s < t, and -M_t (r, r_inh) from presentation t - 1
        system[:, 1:, :, :-1, :R] = -(maps[:, 1:, :, :2] @ block.felt).unflatten(-1, (-1, 2))
        torch.neg(maps[:, 1:, :, 3:].movedim(1, 3), out=system[:, :, :, :, R:].diagonal(-1, dim1=1, dim2=3))
        matrix = system.flatten(3).flatten(1, 2)
        solved = torch.linalg.solve_triangular(matrix, traces.flatten(1, 2), upper=False, unitriangular=True)
        return solved.view_as(traces)

    def trajectory(self, block: Block, traces: Tensor, recorded: list[int]) -> Iterator[Tensor]:
        """The weights after the recorded presentations of the block, in order, a few at a time: (B, K, G, n).

        The next weights overwrite the tensor: fresh memory for each would cost more than the arithmetic.
        """
        phi, psi = traces[:, :, None, PHI], traces[:, :, None, PSI]
        # upper rows of P(s+1, g) and P(0, g), which lead to v: (B, T, G, 1, 2) and (B, 1, G, 1, 2)
        carry = block.pull_from[:, :, recorded, 0, None]
        pull = block.pull_to[:, None, 1:, 0, None][:, :, recorded]
        w_init, v, m = (vectors[:, :, None] for vectors in (self.w_init, self.v, self.m))
        together = min(len(recorded), max(1, CACHE // self.w_init.numel()))
        moved = w_init.new_empty(*self.w_init.shape[:2], together, self.w_init.shape[2])
        for first in range(0, len(recorded), together):
            part = slice(first, first + together)
            seen = recorded[part][-1] + 1
            (carry_phi, carry_psi), (pull_v, pull_m) = carry[:, :seen, part].unbind(-1), pull[:, :, part].unbind(-1)
            # coefficients of x_s, (B, s, G, n)
            push = (phi[:, :seen] * carry_phi).addcmul_(psi[:, :seen], carry_psi)
            if push.shape[2] < together:
                moved = moved[:, :, : push.shape[2]].contiguous()
            # w_init + P(0, g) (v, m) + sum_s P(s+1, g) (phi_s, psi_s) x_s
            torch.addcmul(w_init, v, pull_v, out=moved).addcmul_(m, pull_m)
            moved.flatten(2).baddbmm_(block.x[:, :seen].mT, push.flatten(2))
            yield moved

    def after(self, block: Block, traces: Tensor) -> Vectors:
        """The vectors after the block."""
        phi, psi = traces[:, :, PHI], traces[:, :, PSI]
        moved = []
        for row in (PHI, PSI):  # v, then m: P(0, T) (v, m) + sum_s P(s+1, T) (phi_s, psi_s) x_s
            pull_v, pull_m = block.pull_to[:, -1, row, :, None, None].unbind(1)
            carry_phi, carry_psi = block.pull_from[:, :, -1, row, :, None].unbind(2)
            push = (carry_phi * phi).addcmul_(carry_psi, psi)
            moved.append((pull_v * self.v).addcmul_(pull_m, self.m).baddbmm_(block.x.mT, push))
        return self._replace(v=moved[0], m=moved[1], state=traces[:, -1, R:])


State = tuple[Vectors, Vectors]
"""Deviations from the mean, and the mean."""


class SharedGroups:
    """Groups with a shared stimulus for any device, and for groups too large for the processor's cache.

    The deviations have the virtual neurons of `bioshare.circuit.exact.compiled.CompiledGroups`.
    """

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        self.tensor, self.constants = tensor, Constants.of(problem, tensor)
        self.stimulus_of, self.bound = problem.stimulus_of, problem.bound
        self.weights, self.rates = tensor(problem.weights), tensor(problem.rates)
        self.mean_init, self.initial_response = tensor(problem.mean_init), tensor(problem.initial_response)
        deviation, self.rotation = self.weights - self.mean_init, None
        if deviation.shape[1] > deviation.shape[2]:
            self.rotation, deviation = torch.linalg.qr(deviation)  # (B, N, K), (B, K, K)
        self.deviation_init = deviation.mT.contiguous()

    def at_rest(self) -> State:
        mean = Vectors.at_rest(self.mean_init.mT.contiguous(), self.initial_response[:, None])
        return Vectors.at_rest(self.deviation_init), mean

    def advance(
        self, state: State, x: Array, start: int, recorded: Sequence[int]
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        deviation, mean = state
        held = self.tensor(x[self.stimulus_of])  # (B, T, K)
        length = BLOCK if len(self.weights) > FEW and recorded else LONG_BLOCK
        within, means, spreads = [], [], []
        every_block = blocks(self.constants, held, self.rates[start : start + held.shape[1]], length)
        for number, block in enumerate(every_block):
            traces = deviation.solve(block, block.maps.deviation), mean.solve(block, block.maps.mean)
            within.append(block.moves(*traces) < self.bound)
            if inside := [t - number * length for t in recorded if t // length == number]:
                means += [vectors[..., 0].clone() for vectors in mean.trajectory(block, traces[1], inside)]
                spreads += [vector_norm(vectors, dim=-1) for vectors in deviation.trajectory(block, traces[0], inside)]
            deviation, mean = deviation.after(block, traces[0]), mean.after(block, traces[1])
        none = self.mean_init.mT[..., :0]
        return (deviation, mean), torch.cat(within, 1), torch.cat([none, *means], -1), torch.cat([none, *spreads], -1)

    def end(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        deviation, mean = state
        # (B, K, n) and (B, 1, n), rotated to (B, K, N), (B, 1, N)
        added, response = deviation.v, deviation.state[:, :1]
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
        mean.state[:, 0, -1] = self.initial_response  # the last virtual neuron has no weights: it carries c
        return Vectors.at_rest(identity), mean

    def end(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """A and B (B, K, K) and c (B, K) of `SleepMap`."""
        deviation, mean = state
        after = mean.w_init + mean.v
        return deviation.w_init + deviation.v, after[..., :-1], after[..., -1]
