"""`HebbianSharing`: the ideal plasticity of Eq. 4 on batches of patterns, a fixed number of updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.dose import PerInput, count_for, power, refuse_arrays, rule_for
from bioshare.bridge.lattice import Border, inputs_of, refuse_border, refuse_dilation, sharing_layers
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

SHARED = 0.4
"""The share s of the deviations along an input of mean size that an update removes, unless told otherwise."""

Key = tuple[int, torch.device, torch.dtype]
"""K, and where a map lies."""


@dataclass(frozen=True)
class HebbianSharing:
    """A few weight updates, each for a whole batch of patterns: gradient descent on Eq. 4's objective, in place.

    The circuit is at its fixed point throughout. As in a `Sleep`, layers with K inputs per neuron see the same
    patterns, each module in its own order.

    By default ten updates with K Gaussian patterns each: an update lowers -log SNR by about 0.65, as the squared
    deviations shrink to 1 - 2 s + s^2 (1 + (K + 1) / M) of what they were, at s = 0.4. With cycles of the grid, whole
    ones in every batch, they shrink to (1 - s)^2.

    Args:
        updates: how many.
        batch_size: M, patterns for an update; or a callable that takes K to it.
        rule: `Hebbian`, or a callable that takes K to one. Its learning rate must mostly stay below 2 (1 + momentum) /
            (largest eigenvalue of the batch's mean x x^T + gamma), which for standard Gaussian inputs is about
            (1 + sqrt(K / M))^2. None for a rate of s = 0.4 over the stimulus' mean square per input, without pull or
            momentum, so that neither its amplitude nor K matters.
        stimulus: without noise.
        alpha: strength of the inhibition; infinite for the ideal circuit.
        border, moments: as for `Sleep`.
    """

    updates: int = 10
    batch_size: int | Callable[[int], int] = field(default_factory=lambda: PerInput(1))
    rule: Hebbian | Callable[[int], Hebbian] | None = None
    stimulus: Stimulus = field(default_factory=gaussian)
    alpha: float = math.inf
    border: Border = "share"
    moments: Treatment = "keep"

    def __post_init__(self) -> None:
        whole("updates", self.updates, "a number of updates", at_least=1)
        if not callable(self.batch_size):
            whole("batch_size", self.batch_size, "a number of patterns or a callable", at_least=1)
        if self.rule is not None and not callable(self.rule) and not isinstance(self.rule, Hebbian):
            raise TypeError(f"rule must be a Hebbian, a callable that takes K to one, or None; got {self.rule!r}")
        if not isinstance(self.stimulus, Stimulus):
            raise TypeError(f"stimulus must be a Stimulus; got {self.stimulus!r}")
        if self.stimulus.noise:
            raise ValueError(f"stimulus must have no noise; got {self.stimulus!r}. Sleep has a form for it")
        refuse_arrays(SteadyState(self.alpha))
        if isinstance(self.rule, Hebbian):
            refuse_arrays(self.rule)
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
            TypeError, ValueError: a layer's dilation shares a factor with its kernel size, ``batch_size`` returns no
                number of patterns or ``rule`` no Hebbian, or most learning rates are above a layer's limit.
            DivergenceError: the weights would grow without bound. In all cases no weight was changed.
        """
        whole("seed", seed, "a non-negative integer", at_least=0)
        follow = Moments.of(self.moments, optimizer)
        found = sharing_layers(model)
        for name, layer in found:
            refuse_dilation(name, layer)
            self._size(inputs_of(layer))
            self._rule_for(inputs_of(layer))
        maps: dict[Key, LinearSleep] = {}
        seconds = 0.0

        def change_of(layer: LocallyConnected2d, index: int) -> LinearSleep:
            nonlocal seconds
            if not maps:  # all of them, before any weight changes
                start = time.perf_counter()
                self._fill(maps, found, seed)
                seconds = time.perf_counter() - start
            return maps[_key(layer)]

        layers, kept = change_layers(model, change_of, border=self.border, moments=follow, measured=measure, keep=keep)
        return SleepReport(layers, len(maps), seconds, kept=kept)

    def _fill(self, maps: dict[Key, LinearSleep], layers: Sequence[tuple[str, LocallyConnected2d]], seed: int) -> None:
        """Make the maps of all layers."""
        for name, layer in layers:
            if _key(layer) not in maps:
                try:
                    maps[_key(layer)] = self._map(layer, seed)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}: {error}") from error

    def _map(self, layer: LocallyConnected2d, seed: int) -> LinearSleep:
        """The change of layers with as many inputs per neuron."""
        inputs, weight = inputs_of(layer), layer.weight
        size = self._size(inputs)
        patterns = self.stimulus.draw(self.updates * size, inputs, seed=derived(seed, inputs))
        batches = patterns.reshape(self.updates, size, inputs)
        circuit, engine = SteadyState(self.alpha), Exact(device=str(weight.device))
        return LinearSleep.of(batch_map(batches, circuit, self._rule_for(inputs), engine=engine), weight)

    def _rule_for(self, inputs: int) -> Hebbian:
        """The rule of layers with K inputs per neuron."""
        if self.rule is None:
            return Hebbian(gamma=0.0, momentum=0.0, learning_rate=SHARED * inputs / power(self.stimulus, inputs))
        return rule_for(self.rule, inputs)

    def _size(self, inputs: int) -> int:
        """M for layers with K inputs per neuron."""
        return count_for("batch_size", self.batch_size, inputs, "a number of patterns")


def _key(layer: LocallyConnected2d) -> Key:
    """What a map depends on in a call."""
    return inputs_of(layer), layer.weight.device, layer.weight.dtype
