"""Changes of a layer's sharing groups: by means, a linear map or a simulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from bioshare.bridge.geometry import GroupMeans, SharingModule
from bioshare.checks import Array
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.exact import SleepMap
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Engine
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import derived

SUMMED_AT_ONCE = 64
"""Number of neurons whose copies in float64 a CPU holds at a time."""

BYTES_PER_WEIGHT = 120
"""Memory of the exact engine for a weight with noise, in float64: the weight, change, momentum and inputs."""

ChangedModule = tuple[SharingModule, Tensor, Tensor]
"""A module with the groups (out, N, K) before and after a change."""


class Change(ABC):
    """A change of the sharing groups of a layer."""

    @abstractmethod
    def __call__(self, weight: Tensor, modules: Sequence[SharingModule]) -> Iterator[ChangedModule]:
        """Yield every module with the groups before and after; the caller may write into ``weight`` meanwhile."""

    def apply_to(self, weight: Tensor, modules: Sequence[SharingModule]) -> None:
        """Change a weight in place, with the same bits as module by module."""
        for module, _, after in self(weight, modules):
            module.write(weight, after)

    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        """Apply the linear part of an affine change to a tensor in the shape of a weight, in place.

        A moment of an optimiser is a difference of weights, and differences obey the linear part.
        """
        raise NotImplementedError("the change is not affine")


@dataclass(frozen=True)
class Averaging(Change):
    """Every deviation from the mean mu of the group shrinks to a fraction, w_i = mu + spread (w_i - mu)."""

    group_means: GroupMeans
    spread: float = 0.0

    def __call__(self, weight: Tensor, modules: Sequence[SharingModule]) -> Iterator[ChangedModule]:
        means = self.group_means.means(weight)
        for module, mean in zip(modules, means, strict=False):  # means of single positions follow after the modules
            before = module.groups(weight)
            mean = mean.view(len(before), 1, -1).expand_as(before)
            yield module, before, torch.lerp(mean, before.to(mean), self.spread) if self.spread else mean

    def apply_to(self, weight: Tensor, modules: Sequence[SharingModule]) -> None:
        if self.spread:
            super().apply_to(weight, modules)
        else:
            self.group_means.average(weight)

    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        self.apply_to(moment, modules)


@dataclass(frozen=True)
class LinearSleep(Change):
    """A whole sleep as a linear map, w_i = mu' + A (w_i^init - mu) with mu' = B mu + c.

    The mean must survive the sleep and costs little: B mu + c is computed in float64, whatever precision
    ``torch.set_float32_matmul_precision`` allows for the deviations, and rounded when added to the deviations.

    Attributes:
        A: (K, K), inputs in the order of the pattern.
        B: (K, K), in float64 where the device supports float64.
        c: (K,), in the precision of B.
    """

    A: Tensor
    B: Tensor
    c: Tensor

    @classmethod
    def of(cls, sleep: SleepMap, weight: Tensor) -> LinearSleep:
        """Place a map on the device of a weight, A in the precision of the weight but at least float32."""
        narrow = torch.promote_types(weight.dtype, torch.float32)
        wide = torch.float32 if weight.device.type == "mps" else torch.float64  # mps has no float64
        dtypes = narrow, wide, wide
        return cls(
            *(torch.from_numpy(part).to(dtype).to(weight.device) for part, dtype in zip(sleep, dtypes, strict=True))
        )

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and c."""
        return self.A, self.B, self.c

    @property
    def bytes(self) -> int:
        """Memory of the map in bytes."""
        return sum(part.numel() * part.element_size() for part in self.tensors)

    def __call__(self, weight: Tensor, modules: Sequence[SharingModule]) -> Iterator[ChangedModule]:
        for module in modules:
            before = module.groups(weight)
            yield module, before, self.apply(module, before, self.c)

    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        zero = torch.zeros_like(self.c)
        for module in modules:
            module.write(moment, self.apply(module, module.groups(moment), zero))

    def apply(self, module: SharingModule, groups: Tensor, c: Tensor) -> Tensor:
        """Map the groups (out, N, K) of a module.

        The map is permuted to the order of the module's taps, which costs less than to permute all weights.
        """
        taps, _ = module.taps(groups.device)
        neurons = groups.transpose(0, 1).to(self.A.dtype)  # w_i^init, (N, out, K) as in memory
        parts = neurons.split(SUMMED_AT_ONCE) if neurons.device.type == "cpu" else [neurons]
        total = torch.stack([part.sum(0, dtype=self.B.dtype) for part in parts]).sum(0)
        mean = total / len(neurons)  # mu, (out, K), taps of the module
        slept_mean = self.mean_after(module, mean, c)  # mu', (out, K)
        deviations = (neurons - mean.to(neurons.dtype)).flatten(0, 1) @ self.A[taps][:, taps].mT  # A (w_i^init - mu)
        return deviations.view_as(neurons).add_(slept_mean.to(neurons.dtype)).transpose(0, 1)  # (out, N, K)

    def mean_after(self, module: SharingModule, mean: Tensor, c: Tensor) -> Tensor:
        """Map the group means (out, K) of a module, taps in memory order: mu' = B mu + c."""
        taps, back = module.taps(mean.device)
        return (mean[:, back] @ self.B.mT + c)[:, taps]


@dataclass(frozen=True)
class Simulation(Change):
    """A sleep simulated neuron by neuron, a few output channels at a time; no weight is written before the end.

    Modules with equal numbers of neurons are simulated together. The output channels of a position see the same
    noise, so the result does not depend on the number of channels that fit into memory.

    Attributes:
        patterns: (P, K).
        noise: standard deviation of the noise that every position adds to the patterns.
        seed: seed of the noise.
        memory: largest number of bytes for a simulation.
    """

    patterns: Array
    circuit: Circuit
    rule: Hebbian
    noise: float
    seed: int
    engine: Engine
    memory: float
    progress: bool

    def __call__(self, weight: Tensor, modules: Sequence[SharingModule]) -> Iterator[ChangedModule]:
        slept: list[tuple[SharingModule, Tensor]] = []
        neurons_of = lambda module: module.neurons
        for neurons, group in groupby(sorted(modules, key=neurons_of), key=neurons_of):
            alike, seed = list(group), derived(self.seed, neurons)
            shape = len(alike), weight.shape[2], neurons, self.patterns.shape[1]
            after = weight.new_empty(shape, dtype=torch.promote_types(weight.dtype, torch.float32))
            channels = max(1, int(self.memory // (BYTES_PER_WEIGHT * len(alike) * neurons * shape[-1])))
            for part, target in zip(weight.split(channels, 2), after.split(channels, 1), strict=True):
                before = torch.stack([module.groups(part).cpu()[..., module.seen.argsort()] for module in alike])
                target.copy_(self.simulate(before.double(), seed))
            slept += zip(alike, after, strict=True)
        for module, after in slept:
            yield module, module.groups(weight), after[..., module.seen.to(after.device)]

    def simulate(self, weights: Tensor, seed: int) -> Tensor:
        """Simulate weights (modules, channels, N, K), inputs in the order of the pattern, and return the new weights.

        All modules see the same patterns, and every module adds separate noise.
        """
        problem = prepare_sleep(
            weights.numpy(),
            np.broadcast_to(self.patterns, (len(weights), 1, *self.patterns.shape)),
            self.circuit,
            self.rule,
            record_every=len(self.patterns),
            noise=self.noise,
            seed=seed,
        )
        outcome = self.engine.run(problem, self.progress)
        if outcome.presentations < problem.presentations:  # an interrupted sleep must not pass for a complete sleep
            raise KeyboardInterrupt
        return torch.from_numpy(outcome.weights.reshape(weights.shape))
