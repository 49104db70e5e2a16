"""`HebbianSharing`: the ideal plasticity of Eq. 4 on batches of patterns, a fixed number of updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.dose import PerInput
from bioshare.bridge.lattice import Border, refuse_border, refuse_dilation, sharing_layers
from bioshare.bridge.moments import Moments, Treatment, refuse_treatment
from bioshare.bridge.report import SleepReport
from bioshare.bridge.seeds import derived
from bioshare.bridge.walk import change_layers
from bioshare.circuit.batches import batch_map
from bioshare.circuit.checks import whole
from bioshare.circuit.circuits import SteadyState
from bioshare.circuit.exact import Exact
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus, gaussian
from bioshare.nn import LocallyConnected2d


@dataclass(frozen=True)
class HebbianSharing:
    """A few weight updates, each for a whole batch of patterns: gradient descent on Eq. 4's objective, in place.

    The circuit is at its fixed point throughout. As in a `Sleep`, layers with K inputs per neuron see the same
    patterns, each module in its own order.

    By default ten updates with K Gaussian patterns each: an update lowers -log SNR by about 0.65, as the squared
    deviations shrink to 1 - 2 eta + eta^2 (1 + (K + 1) / M) of what they were.

    Args:
        updates: how many.
        batch_size: M, patterns for an update; or a callable that takes K to it.
        rule: `Hebbian`; its learning rate must stay below 2 (1 + momentum) / (largest eigenvalue of the batch's
            mean x x^T + gamma), which for Gaussian inputs is about (1 + sqrt(K / M))^2.
        stimulus: without noise.
        alpha: strength of the inhibition; infinite for the ideal circuit.
        border, moments: as for `Sleep`.
    """

    updates: int = 10
    batch_size: int | Callable[[int], int] = field(default_factory=lambda: PerInput(1))
    rule: Hebbian = field(default_factory=lambda: Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.4))
    stimulus: Stimulus = field(default_factory=gaussian)
    alpha: float = math.inf
    border: Border = "share"
    moments: Treatment = "keep"

    def __post_init__(self) -> None:
        whole("updates", self.updates, "a number of updates", at_least=1)
        if not callable(self.batch_size):
            whole("batch_size", self.batch_size, "a number of patterns or a callable", at_least=1)
        if not isinstance(self.rule, Hebbian):
            raise TypeError(f"rule must be a Hebbian; got {self.rule!r}")
        if not isinstance(self.stimulus, Stimulus):
            raise TypeError(f"stimulus must be a Stimulus; got {self.stimulus!r}")
        if self.stimulus.noise:
            raise ValueError(f"stimulus must have no noise; got {self.stimulus!r}. Sleep has a form for it")
        SteadyState(self.alpha)
        refuse_border(self.border)
        refuse_treatment(self.moments)

    def __call__(
        self,
        model: nn.Module,
        seed: int = 0,
        progress: bool = True,
        measure: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        keep: tuple[str, int] | None = None,
    ) -> SleepReport:
        """Share the weights of every locally connected layer; the arguments are those of `Sleep`'s call.

        Raises:
            TypeError, ValueError: a layer's dilation shares a factor with its kernel size, or ``batch_size`` returns no
                number of patterns. No weight was changed.
            DivergenceError: the learning rate is too high. Layers before the one that diverges have changed.
        """
        whole("seed", seed, "a non-negative integer", at_least=0)
        follow = Moments.of(self.moments, optimizer)
        for name, layer in sharing_layers(model):
            refuse_dilation(name, layer)
            self._size(layer.weight[0, 0, 0].numel())
        maps: dict[tuple, LinearSleep] = {}
        seconds = 0.0

        def change_of(layer: LocallyConnected2d, index: int) -> LinearSleep:
            nonlocal seconds
            inputs, weight = layer.weight[0, 0, 0].numel(), layer.weight
            key = inputs, weight.device, weight.dtype
            if key not in maps:
                start = time.perf_counter()
                maps[key] = self._map(inputs, seed, weight)
                seconds += time.perf_counter() - start
            return maps[key]

        layers, kept = change_layers(model, change_of, border=self.border, moments=follow, measured=measure, keep=keep)
        return SleepReport(layers, len(maps), seconds, kept=kept)

    def _map(self, inputs: int, seed: int, weight: torch.Tensor) -> LinearSleep:
        """The change of layers with K inputs per neuron."""
        size = self._size(inputs)
        patterns = self.stimulus.draw(self.updates * size, inputs, seed=derived(seed, inputs))
        batches = patterns.reshape(self.updates, size, inputs)
        engine = Exact(device=str(weight.device))
        return LinearSleep.of(batch_map(batches, SteadyState(self.alpha), self.rule, engine=engine), weight)

    def _size(self, inputs: int) -> int:
        """M for layers with K inputs per neuron."""
        size = self.batch_size(inputs) if callable(self.batch_size) else self.batch_size
        return whole("batch_size", size, "a number of patterns", at_least=1)
