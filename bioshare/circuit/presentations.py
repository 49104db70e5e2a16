"""Presentations propagated whole: the mathematics of the engine "exact".

While an input x is held the circuit is linear, and only the component of each weight vector along x feels it. Write
v = w - w_init, m for the momentum and r for r - b, and let v_0, m_0 be those before the presentation. After some of
its weight updates

    v = p_vv v_0 + p_vm m_0 + phi x,    m = p_mv v_0 + p_mm m_0 + psi x,

with p = I and phi = psi = 0 at first. One update, with u = v_0 . x, q = m_0 . x, c = w_init . x, is

    z = p_vv u + p_vm q + c + |x|^2 phi
    r, r_inh: one step of Eq. 8, or Eq. 9, under the drive z
    psi <- beta psi - eta r - eta gamma phi,    phi <- phi + psi
    (p_mv, p_mm) <- beta (p_mv, p_mm) - eta gamma (p_vv, p_vm),    (p_vv, p_vm) <- (p_vv, p_vm) + (p_mv, p_mm).

The 2 x 2 *pull* p is the same for every neuron. What the presentation leaves behind, its *trace*
a = (phi, psi, r, r_inh), is M (u, q, c, r, r_inh before it), with a 4 x 5 *presentation map* M that depends only on
|x|^2 and the learning rates. Split a group into its mean, which r_inh answers to, and the deviations from it, which
feel no inhibition (alpha = 0): each part has one map, the same for all its weight vectors. Only these maps are
stepped, those of many presentations at once.

A *block* of T presentations needs of the weights only their products with its T inputs. Let P(s, t) be the product of
the pulls from before presentation s to before presentation t. Then

    (u_t, q_t) = P(0, t) (v . x_t, m . x_t) + sum_{s<t} (x_s . x_t) P(s+1, t) (phi_s, psi_s),

with v and m at the start of the block, and a_t = M_t (u_t, q_t, c_t, r_{t-1}, r_inh_{t-1}) for all t is one unit
lower triangular system for the T traces. After the block

    (v, m) <- P(0, T) (v, m) + sum_s P(s+1, T) (phi_s, psi_s) x_s.

Axes: B groups, P or T presentations, K inputs, n weight vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.problem import Problem

PHI, PSI, R, R_INH = range(4)
"""Rows of a presentation map: what a presentation leaves behind."""

BLOCK = 16
"""Presentations per block where weights are recorded."""

FEW, LONG_BLOCK = 2, 64
"""With so few groups a block takes Python longer than the arithmetic, and is longer."""

CACHE = 2**18
"""Weights that are held at once while the SNR is recorded."""


class Constants(NamedTuple):
    """A problem's parameters as tensors of shape (B, 1), against presentations or neurons.

    ``h`` is dt / tau, None for `SteadyState`.
    """

    alpha: Tensor
    gamma: Tensor
    momentum: Tensor
    bias: Tensor
    h: Tensor | None

    @staticmethod
    def of(problem: Problem, tensor: Callable[..., Tensor]) -> Constants:
        """Read them from a problem; ``tensor`` makes a tensor of an array."""
        circuit, rule = problem.circuit, problem.rule
        timed = isinstance(circuit, RateCircuit)
        bias = circuit.bias if timed else 0.0
        column = lambda value: tensor(problem.flat(value))[:, None]
        values = map(column, (circuit.alpha, rule.gamma, rule.momentum, bias))
        return Constants(*values, h=column(circuit.dt_over_tau) if timed else None)


class Response:
    """The circuit's answer to a held drive: ``r`` (that is, r - b) and ``r_inh``.

    With r - b in the place of r, b drops out of Eq. 8, and a sleep starts at r - b = -b. In time both are updated in
    place; at the fixed point, which is reached once in a presentation, r takes the place of z.
    """

    def __init__(self, constants: Constants, alpha: Tensor, r: Tensor, r_inh: Tensor) -> None:
        self.h, self.alpha, self.r, self.r_inh = constants.h, alpha, r, r_inh

    def to(self, z: Tensor) -> Tensor:
        """One time step, or the fixed point, under the drive z; consumes z."""
        mean = self._mean
        if self.h is None:  # Eq. 9
            self.r_inh = mean(z) / (1 + self.alpha)
            self.r = z.sub_(mean(z)).add_(self.r_inh)
        else:  # Eq. 8, forward Euler
            z.addcmul_(self.r_inh, -self.alpha)
            self.r_inh.lerp_(mean(self.r), self.h)
            self.r.lerp_(z, self.h)
        return self.r

    def _mean(self, values: Tensor) -> Tensor:
        """Over the neurons of a group."""
        return values.mean(-1, keepdim=True)


class VectorResponse(Response):
    """The answer to single weight vectors: each is its own mean."""

    def _mean(self, values: Tensor) -> Tensor:
        return values


def hold(
    constants: Constants, response: Response, drive: Callable[[Tensor], Tensor], power: Tensor, rates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hold an input through its weight updates (Eq. 4, 8).

    Args:
        constants: parameters.
        response: the circuit, left in its state after the presentation.
        drive: takes (p_vv, p_vm), shape (2, ...), to what the neurons receive without this presentation's
            updates: p_vv u + p_vm q + c.
        power: |x|^2.
        rates: learning rates, the updates along the first axis.

    Returns:
        phi and psi in the shape of the response, and p, (2, 2, ...).
    """
    phi, psi, z = torch.zeros_like(response.r), torch.zeros_like(response.r), torch.empty_like(response.r)
    pull = torch.zeros(2, 2, *(constants.gamma * rates[0]).shape, dtype=power.dtype, device=power.device)
    pull[0, 0], pull[1, 1] = 1.0, 1.0
    for eta in rates:
        gamma_eta = -constants.gamma * eta
        r = response.to(torch.addcmul(drive(pull[0]), power, phi, out=z))
        psi.mul_(constants.momentum).addcmul_(r, -eta).addcmul_(phi, gamma_eta)
        phi.add_(psi)
        pull[1].mul_(constants.momentum).addcmul_(pull[0], gamma_eta)
        pull[0].add_(pull[1])
    return phi, psi, pull


class Maps(NamedTuple):
    """Presentation maps: ``pull`` p (B, P, 2, 2), and (B, P, 4, 5) for the deviations and for the mean.

    A (4, 5) map takes (u, q, c, r - b, r_inh) to (phi, psi, r - b, r_inh).
    """

    pull: Tensor
    deviation: Tensor
    mean: Tensor

    @staticmethod
    def of(constants: Constants, power: Tensor, rates: Tensor) -> Maps:
        """The maps of presentations with |x|^2 = ``power`` (B, P) and learning rates (P, updates).

        The columns of both maps are held side by side, those of the deviations without inhibition.
        """
        columns = torch.eye(5, dtype=power.dtype, device=power.device)[:, None, :, None, None]
        columns = columns.expand(5, 2, 5, *power.shape).clone()
        alpha = torch.stack([torch.zeros_like(constants.alpha), constants.alpha])[:, None]
        response = VectorResponse(constants, alpha, r=columns[3], r_inh=columns[4])
        received = columns[2]

        def drive(pull: Tensor) -> Tensor:
            received[:, :2] = pull
            return received

        phi, psi, pull = hold(constants, response, drive, power, rates.T)
        maps = torch.stack([phi, psi, response.r, response.r_inh.expand_as(phi)], 1)
        deviation, mean = maps.permute(0, 3, 4, 1, 2).contiguous()
        return Maps(pull.permute(2, 3, 0, 1).contiguous(), deviation, mean)

    def part(self, presentations: slice) -> Maps:
        """The maps of some of the presentations."""
        return Maps(*(m[:, presentations] for m in self))


def products(pull: Tensor) -> Tensor:
    """Pulls over several presentations: (..., T, 2, 2) to (..., T + 1, T + 1, 2, 2).

    Element [s, t] leads from before presentation s to before presentation t >= s; it is 0 for t < s.
    """
    *lead, length, _, _ = pull.shape
    product = torch.zeros(*lead, length + 1, length + 1, 2, 2, dtype=pull.dtype, device=pull.device)
    product.diagonal(dim1=-4, dim2=-3).copy_(torch.eye(2, dtype=pull.dtype, device=pull.device)[..., None])
    for t in range(length):
        torch.matmul(pull[..., t, None, :, :], product[..., : t + 1, t, :, :], out=product[..., : t + 1, t + 1, :, :])
    return product


class Block:
    """What the weight vectors of a block share: its inputs, their Gram matrix, the pulls between presentations.

    Attributes:
        x: (B, T, K).
        maps: of its presentations.
        pull_to: (B, T + 1, 2, 2): from the start of the block to before presentation t.
        pull_from: (B, T, T, 2, 2): [:, s, t] from after presentation s to after presentation t >= s, else 0.
    """

    def __init__(self, x: Tensor, maps: Maps, pulls: Tensor) -> None:
        self.x, self.maps = x, maps
        self.pull_to, self.pull_from = pulls[:, 0], pulls[:, 1:, 1:]
        gram = x @ x.mT
        felt = self.pull_from[:, :-1, :-1] * gram[:, :-1, 1:, None, None]
        self._felt = felt.permute(0, 2, 3, 1, 4).flatten(3)  # [:, t - 1]: what x_t feels of (phi, psi) of s < t

    def moves(self, *traces: Tensor) -> Tensor:
        """How far each presentation moves the weight vector that it moves most, (B, T), from `Vectors.solve`."""
        largest = [torch.linalg.vector_norm(part[:, :, PHI], torch.inf, dim=-1) for part in traces]
        return torch.stack(largest).amax(0) * torch.linalg.vector_norm(self.x, dim=-1)

    def system(self, maps: Tensor) -> Tensor:
        """The unit lower triangular system (B, 4T, 4T) that the coefficients of the presentations solve."""
        batch, length = maps.shape[:2]
        system = torch.zeros(batch, length, 4, length, 4, dtype=maps.dtype, device=maps.device)
        system[:, 1:, :, :-1, :R] = -(maps[:, 1:, :, :2] @ self._felt).unflatten(-1, (-1, 2))
        torch.neg(maps[:, 1:, :, 3:].movedim(1, 3), out=system[:, :, :, :, R:].diagonal(-1, dim1=1, dim2=3))
        return system.flatten(3).flatten(1, 2)


def blocks(constants: Constants, x: Tensor, rates: Tensor, length: int | None = None) -> Iterator[Block]:
    """The presentations of x (B, P, K) at the learning rates (P, updates), in blocks of that length."""
    length = length or (BLOCK if len(x) > FEW else LONG_BLOCK)
    maps = Maps.of(constants, torch.linalg.vector_norm(x, dim=-1).square_(), rates)
    whole = x.shape[1] // length * length
    pulls = list(products(maps.pull[:, :whole].unflatten(1, (-1, length))).unbind(1)) if whole else []
    if whole < x.shape[1]:
        pulls.append(products(maps.pull[:, whole:]))
    for t, pull in zip(range(0, x.shape[1], length), pulls, strict=True):
        part = slice(t, t + length)
        yield Block(x[:, part], maps.part(part), pull)


class Vectors(NamedTuple):
    """Weight vectors that obey the same presentation maps.

    Attributes:
        w_init, v, m: weights before sleep, what sleep added, and the momentum, (B, K, n).
        state: r - b and r_inh, (B, 2, n).
    """

    w_init: Tensor
    v: Tensor
    m: Tensor
    state: Tensor

    @staticmethod
    def at_rest(w_init: Tensor, response: Tensor | float = 0.0) -> Vectors:
        """Vectors at the start of a sleep, with r - b = ``response``, which broadcasts to (B, n)."""
        state = torch.zeros(w_init.shape[0], 2, w_init.shape[2], dtype=w_init.dtype, device=w_init.device)
        state[:, 0] = response
        return Vectors(w_init, torch.zeros_like(w_init), torch.zeros_like(w_init), state)

    def solve(self, block: Block, maps: Tensor) -> Tensor:
        """The traces of the block's presentations, (phi, psi, r - b, r_inh): (B, T, 4, n)."""
        u, q, c = block.x @ self.v, block.x @ self.m, block.x @ self.w_init
        arrive = torch.cat([maps[..., :2] @ block.pull_to[:, :-1], maps[..., 2:3]], -1)
        to_u, to_q, to_c = arrive[..., None].unbind(3)
        traces = (to_u * u[:, :, None]).addcmul_(to_q, q[:, :, None]).addcmul_(to_c, c[:, :, None])
        traces[:, 0] += maps[:, 0, :, 3:] @ self.state
        system = block.system(maps)
        solved = torch.linalg.solve_triangular(system, traces.flatten(1, 2), upper=False, unitriangular=True)
        return solved.view_as(traces)

    def trajectory(self, block: Block, traces: Tensor, recorded: list[int]) -> Iterator[Tensor]:
        """The weights after the recorded presentations of the block, in order, a few at a time: (B, K, G, n).

        They are overwritten by the next ones: fresh memory for each would cost more than the arithmetic.
        """
        phi, psi = traces[:, :, None, PHI], traces[:, :, None, PSI]
        carry = block.pull_from[:, :, recorded, 0, :, None]
        pull = block.pull_to[:, None, 1:, 0, :, None][:, :, recorded]
        w_init, v, m = (vectors[:, :, None] for vectors in (self.w_init, self.v, self.m))
        together = min(len(recorded), max(1, CACHE // self.w_init.numel()))
        moved = w_init.new_empty(*self.w_init.shape[:2], together, self.w_init.shape[2])
        for first in range(0, len(recorded), together):
            part = slice(first, first + together)
            seen = recorded[part][-1] + 1
            (carry_phi, carry_psi), (pull_v, pull_m) = carry[:, :seen, part].unbind(3), pull[:, :, part].unbind(3)
            push = (phi[:, :seen] * carry_phi).addcmul_(psi[:, :seen], carry_psi)
            if push.shape[2] < together:
                moved = moved[:, :, : push.shape[2]].contiguous()
            torch.addcmul(w_init, v, pull_v, out=moved).addcmul_(m, pull_m)
            moved.flatten(2).baddbmm_(block.x[:, :seen].mT, push.flatten(2))
            yield moved

    def after(self, block: Block, traces: Tensor) -> Vectors:
        """The vectors after the block."""
        phi, psi = traces[:, :, PHI], traces[:, :, PSI]
        moved = []
        for row in (PHI, PSI):
            pull_v, pull_m = block.pull_to[:, -1, row, :, None, None].unbind(1)
            carry_phi, carry_psi = block.pull_from[:, :, -1, row, :, None].unbind(2)
            push = (carry_phi * phi).addcmul_(carry_psi, psi)
            moved.append((pull_v * self.v).addcmul_(pull_m, self.m).baddbmm_(block.x.mT, push))
        return self._replace(v=moved[0], m=moved[1], state=traces[:, -1, R:])
