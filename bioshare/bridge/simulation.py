"""The sleep of every single neuron of a layer: with noise, or in another engine than the exact one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from bioshare.bridge.changes import Change
from bioshare.bridge.lattice import SharingModule
from bioshare.checks import Array
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Engine
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import derived

BYTES_PER_WEIGHT = 120
"""What the exact engine holds for a weight with noise, in float64: itself, its change and momentum, and inputs."""


@dataclass(frozen=True)
class Simulation(Change):
    """A sleep that is simulated neuron by neuron, a number of output channels at a time.

    Modules with the same number of neurons are simulated together. The output channels of one position see the same
    noise, so that it doesn't matter how many fit into memory.

    Attributes:
        patterns: (P, K).
        noise: standard deviation of what every position adds to them.
        seed: of the noise.
        memory: bytes that a simulation may take.
    """

    patterns: Array
    circuit: Circuit
    rule: Hebbian
    noise: float
    seed: int
    engine: Engine
    memory: float
    progress: bool

    def __call__(
        self, weight: Tensor, modules: Sequence[SharingModule]
    ) -> Iterator[tuple[SharingModule, Tensor, Tensor]]:
        alike = sorted(modules, key=lambda module: module.neurons)
        for neurons, group in groupby(alike, key=lambda module: module.neurons):
            together, seed = list(group), derived(self.seed, neurons)
            shape = len(together), weight.shape[2], neurons, self.patterns.shape[1]
            after = weight.new_empty(shape, dtype=torch.promote_types(weight.dtype, torch.float32))
            channels = self._channels(together)
            for part, slept in zip(weight.split(channels, 2), after.split(channels, 1), strict=True):
                before = torch.stack([module.groups(part).cpu()[..., module.seen.argsort()] for module in together])
                slept.copy_(self._slept(before.double(), seed))
            for module, slept in zip(together, after, strict=True):
                yield module, module.groups(weight), slept[..., module.seen.to(slept.device)]

    def _channels(self, modules: Sequence[SharingModule]) -> int:
        """How many output channels of some modules fit into memory, one at the least."""
        numbers = sum(module.neurons * module.seen.numel() for module in modules)
        return max(1, int(self.memory // (BYTES_PER_WEIGHT * numbers)))

    def _slept(self, weights: Tensor, seed: int) -> Tensor:
        """Weights (modules, channels, N, K) after sleep, their inputs in the order of the pattern.

        All modules see the same patterns, without a copy for each, and every module has noise of its own.
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
        if outcome.presentations < problem.presentations:  # a sleep cut short must not pass for a whole one
            raise KeyboardInterrupt
        return torch.from_numpy(outcome.weights.reshape(weights.shape))
