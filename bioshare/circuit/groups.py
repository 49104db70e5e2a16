"""Groups that live through a sleep, for the engine "exact": with a shared stimulus, and with noise of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from bioshare.circuit.presentations import Constants, Response, Vectors, blocks, hold
from bioshare.circuit.problem import Problem, divergence

State = TypeVar("State")
SharedState = tuple[Vectors, Vectors]
NoisyState = tuple[Tensor, Tensor, Tensor, Tensor]


def _norm(vectors: Tensor, order: float = 2, dim: int = -1) -> Tensor:
    return torch.linalg.vector_norm(vectors, order, dim=dim)


def refuse_divergence(problem: Problem, fine: Tensor, start: int) -> None:
    """Stop at the first presentation from ``start`` that moved the weights too far; ``fine`` is (B, P)."""
    if not fine.all():
        presentation, group = (~fine).T.nonzero()[0].tolist()
        raise divergence(problem, start + presentation, group)


class Groups(ABC, Generic[State]):
    """All groups of a problem; ``tensor`` makes a tensor of an array.

    Attributes:
        lost: which groups have diverged, (B,), if the others are to live on; None if a divergence ends the sleep.
    """

    lost: Tensor | None = None

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        self.problem, self.constants = problem, Constants.of(problem, tensor)
        self.weights, self.rates = tensor(problem.weights), tensor(problem.rates)
        first = self.weights[:, :1]
        self.mean_init = first + (self.weights - first).mean(1, keepdim=True)  # equal weights deviate by exactly 0

    @abstractmethod
    def at_rest(self) -> State:
        """The state before the first presentation."""

    def before(self) -> Tensor:
        """The record before sleep, (3, B, 1): -log SNR, norm of the mean, and its drift."""
        return self._measure(_norm(self.weights - self.mean_init, dim=1)[..., None], self.mean_init.mT)

    @abstractmethod
    def live(self, state: State, x: Tensor, start: int) -> tuple[State, list[Tensor]]:
        """Live through the inputs x from presentation ``start``: the state after, and the records (3, B, G).

        The state before is left as it was until the next call.
        """

    def _check(self, fine: Tensor, start: int) -> None:
        """Stop where the weights moved too far, or note in which groups they did; ``fine`` is (B, T)."""
        if self.lost is None:
            refuse_divergence(self.problem, fine, start)
        else:
            self.lost |= ~fine.all(1)

    @abstractmethod
    def end(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, N, K), r (B, N) and r_inh (B,)."""

    def _recorded(self, start: int, length: int) -> list[int]:
        """Which of the ``length`` presentations from ``start`` are recorded, counted from ``start``."""
        every = self.problem.record_every
        return list(range(every - 1 - start % every, length, every))

    def _measure(self, spread: Tensor, mean: Tensor) -> Tensor:
        """The records (3, B, G) from the deviations' norms over the neurons, (B, K, G), and the means, (B, K, G)."""
        ratio = torch.where(spread == 0, 0.0, spread / mean)
        inverse_snr = ratio.square().mean(1) / self.weights.shape[1]
        drift = mean - self.mean_init.mT
        return torch.stack([inverse_snr.log(), _norm(mean, dim=1), _norm(drift, dim=1)])


class SharedGroups(Groups[SharedState]):
    """All neurons of a group see the same input: a group is its mean and its deviations.

    The variances depend on the deviations (K, N) only through their Gram matrix. With more neurons than inputs,
    K virtual neurons that have the same Gram matrix take their place, and are rotated back after sleep.
    """

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        super().__init__(problem, tensor)
        self.deviation_init, self.rotation = (self.weights - self.mean_init).mT.contiguous(), None
        if self.weights.shape[1] > self.weights.shape[2]:
            self.rotation, virtual = torch.linalg.qr(self.deviation_init.mT)
            self.deviation_init = virtual.mT.contiguous()

    def at_rest(self) -> SharedState:
        mean = Vectors.at_rest(self.mean_init.mT.contiguous(), -self.constants.bias)
        return Vectors.at_rest(self.deviation_init), mean

    def live(self, state: SharedState, x: Tensor, start: int) -> tuple[SharedState, list[Tensor]]:
        deviation, mean = state
        records = []
        for block in blocks(self.constants, x, self.rates[start : start + x.shape[1]]):
            traces = deviation.solve(block, block.maps.deviation), mean.solve(block, block.maps.mean)
            self._check(block.moves(*traces) < self.problem.bound, start)
            if recorded := self._recorded(start, block.x.shape[1]):
                spread = [_norm(vectors) for vectors in deviation.trajectory(block, traces[0], recorded)]
                means = [vectors[..., 0].clone() for vectors in mean.trajectory(block, traces[1], recorded)]
                records.append(self._measure(torch.cat(spread, -1), torch.cat(means, -1)))
            deviation, mean = deviation.after(block, traces[0]), mean.after(block, traces[1])
            start += block.x.shape[1]
        return (deviation, mean), records

    def end(self, state: SharedState) -> tuple[Tensor, Tensor, Tensor]:
        deviation, mean = state
        added, response = deviation.v, deviation.state[:, :1]
        if self.rotation is not None:
            added, response = added @ self.rotation.mT, response @ self.rotation.mT
        r = response[:, 0] + mean.state[:, 0] + self.constants.bias
        return self.weights + (added + mean.v).mT, r, mean.state[:, 1, 0]


class NoisyGroups(Groups[NoisyState]):
    """Every neuron sees its own input: (phi, psi) are stepped for every neuron, its K weights are not.

    The state is v and m (B, N, K), r - b (B, N) and r_inh (B, 1). Inputs come as they are drawn, (S, T, N, K).
    """

    def __init__(self, problem: Problem, tensor: Callable[..., Tensor]) -> None:
        super().__init__(problem, tensor)
        self.stimulus_of = torch.tensor(problem.stimulus_of, device=self.weights.device)

    def at_rest(self) -> NoisyState:
        v, m = self.weights.new_zeros(2, *self.weights.shape)
        return v, m, (-self.constants.bias).repeat(1, v.shape[1]), torch.zeros_like(self.constants.bias)

    def live(self, state: NoisyState, x: Tensor, start: int) -> tuple[NoisyState, list[Tensor]]:
        recorded, records = set(self._recorded(start, x.shape[1])), []
        for t, held in enumerate(x.unbind(1)):
            state = self._hold(state, held[self.stimulus_of], self.rates[start + t])
            largest = _norm(state[0].flatten(1), torch.inf)[:, None]
            self._check(largest < self.problem.bound, start + t)
            if t in recorded:
                records.append(self._record(self.weights + state[0]))
        return state, records

    def _hold(self, state: NoisyState, x: Tensor, rates: Tensor) -> NoisyState:
        """One presentation of x, (B, N, K)."""
        v, m, r, r_inh = state
        response = Response(self.constants, self.constants.alpha, r.clone(), r_inh.clone())
        u, q, received = ((vectors * x).sum(-1) for vectors in (v, m, self.weights))
        drive = lambda pull: received + pull[0] * u + pull[1] * q
        phi, psi, pull = hold(self.constants, response, drive, x.square().sum(-1), rates)
        pull = pull[..., None]
        v, m = (pull[i, 0] * v + pull[i, 1] * m + push[..., None] * x for i, push in enumerate((phi, psi)))
        return v, m, response.r, response.r_inh

    def _record(self, weights: Tensor) -> Tensor:
        mean = weights.mean(1, keepdim=True)
        return self._measure(_norm(weights - mean, dim=1)[..., None], mean.mT)

    def end(self, state: NoisyState) -> tuple[Tensor, Tensor, Tensor]:
        v, _, r, r_inh = state
        return self.weights + v, r + self.constants.bias, r_inh[:, 0].clone()
