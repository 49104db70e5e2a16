"""`HebbianSharing`: the ideal plasticity of Eq. 4 on batches of patterns, a fixed number of updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.dose import PerInput, count_for, power, refuse_arrays, rule_for
from bioshare.bridge.lattice import Border, Kind, Layers, inputs_of, kind_of, refuse_border, refuse_dilation
from bioshare.bridge.moments import Treatment, refuse_treatment
from bioshare.bridge.sharing import Changes, Costs, Sharing
from bioshare.checks import whole
from bioshare.circuit.batches import batch_map
from bioshare.circuit.circuits import SteadyState
from bioshare.circuit.exact import Exact
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus, derived, gaussian
from bioshare.nn import LocallyConnected2d

SHARED = 0.4
"""The share s of the deviations along an input of mean size that an update removes, unless told otherwise."""


@dataclass(frozen=True)
class HebbianSharing(Sharing):
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

    A call raises TypeError or ValueError, before any weight changes, if a layer's dilation shares a factor with its
    kernel size, ``batch_size`` returns no number of patterns or ``rule`` no Hebbian, or most learning rates are above a
    layer's limit; and `DivergenceError` if the weights would grow without bound.
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

    def _changes(self, layers: Layers, seed: int, progress: bool) -> Changes:
        return _Batches(self, layers, seed)

    def map_of(self, layer: LocallyConnected2d, seed: int) -> LinearSleep:
        """The change of layers with as many inputs per neuron."""
        inputs, weight = inputs_of(layer), layer.weight
        size = self.size(inputs)
        patterns = self.stimulus.draw(self.updates * size, inputs, seed=derived(seed, inputs))
        batches = patterns.reshape(self.updates, size, inputs)
        circuit, engine = SteadyState(self.alpha), Exact(device=str(weight.device))
        return LinearSleep.of(batch_map(batches, circuit, self.rule_for(inputs), engine=engine), weight)

    def rule_for(self, inputs: int) -> Hebbian:
        """The rule of layers with K inputs per neuron."""
        if self.rule is None:
            return Hebbian(gamma=0.0, momentum=0.0, learning_rate=SHARED * inputs / power(self.stimulus, inputs))
        return rule_for(self.rule, inputs)

    def size(self, inputs: int) -> int:
        """M for layers with K inputs per neuron."""
        return count_for("batch_size", self.batch_size, inputs, "a number of patterns")


class _Batches(Changes):
    """The maps of one call: all are made before any weight changes."""

    def __init__(self, sharing: HebbianSharing, layers: Layers, seed: int) -> None:
        self.sharing, self.layers, self.seed = sharing, layers, seed
        self.maps: dict[Kind, LinearSleep] = {}
        self.seconds = 0.0

    def check(self) -> None:
        for name, layer in self.layers:
            refuse_dilation(name, layer)
            self.sharing.size(inputs_of(layer))
            self.sharing.rule_for(inputs_of(layer))

    def change_of(self, layer: LocallyConnected2d, index: int) -> LinearSleep:
        if not self.maps:
            start = time.perf_counter()
            self._fill()
            self.seconds = time.perf_counter() - start
        return self.maps[kind_of(layer)]

    def costs(self) -> Costs:
        return Costs(len(self.maps), self.seconds)

    def _fill(self) -> None:
        """Make the maps of all layers."""
        for name, layer in self.layers:
            if kind_of(layer) not in self.maps:
                try:
                    self.maps[kind_of(layer)] = self.sharing.map_of(layer, self.seed)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}: {error}") from error
