"""`HebbianSharing`: a fixed number of updates by the ideal plasticity of Eq. 4, each for a batch of patterns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.geometry import Border, Chosen, inputs_of
from bioshare.bridge.map_sharing import MapSharing
from bioshare.bridge.moments import Treatment
from bioshare.bridge.scaling import PerInput, check_scalars, mean_power
from bioshare.checks import takes, whole
from bioshare.circuit.circuits import SteadyState
from bioshare.circuit.exact import Exact
from bioshare.circuit.exact.batches import batch_map
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus, as_stimulus, derived, gaussian
from bioshare.nn import LocallyConnected2d

SHARE = 0.4
"""Default share s of the deviations along an input of mean size removed by an update."""


@dataclass(frozen=True)
class HebbianSharing(MapSharing):
    """A few weight updates, each for a whole batch of patterns: gradient descent on Eq. 4's objective, in place.

    The circuit stays at the fixed point. As in a `Sleep`, layers with K inputs per neuron see the same patterns,
    each module in an order given by the position.

    The default is ten updates with K Gaussian patterns each: an update lowers -log SNR by about 0.65, as the squared
    deviations shrink by a factor of 1 - 2 s + s^2 (1 + (K + 1) / M) at s = 0.4; with whole cycles of the grid in
    every batch, by (1 - s)^2.

    Args:
        updates: number of updates.
        batch_size: M, number of patterns for an update; or a function of K that returns M.
        rule: `Hebbian`, or a function of K that returns a `Hebbian`. Most learning rates must stay below
            2 (1 + momentum) / (largest eigenvalue of the batch's mean x x^T + gamma); for standard Gaussian inputs
            this eigenvalue is about (1 + sqrt(K / M))^2. None: a rate of s = 0.4 over the stimulus' mean square per
            input, without pull or momentum, so neither amplitude nor K matters.
        stimulus: a stimulus without noise.
        alpha: strength of the inhibition; infinite for the ideal circuit.
        border, moments, layers, feedback: as for `Sleep`.

    A call raises TypeError or ValueError, before any weight changes, if a layer's dilation shares a factor with the
    kernel size, ``batch_size`` returns no number of patterns, ``rule`` returns no Hebbian, or most learning rates are
    above a layer's limit; and `DivergenceError` if the weights would grow without bound.
    """

    updates: int = 10
    batch_size: int | Callable[[int], int] = field(default_factory=lambda: PerInput(1))
    rule: Hebbian | Callable[[int], Hebbian] | None = None
    stimulus: Stimulus = field(default_factory=gaussian)
    alpha: float = math.inf
    border: Border = "share"
    moments: Treatment = "keep"
    layers: Chosen = None
    feedback: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("updates", self.updates, "a number of updates", at_least=1)
        if not takes(self.batch_size, 1):
            whole("batch_size", self.batch_size, "a number of patterns or a callable", at_least=1)
        if self.rule is not None and not takes(self.rule, 1) and not isinstance(self.rule, Hebbian):
            raise TypeError(f"rule must be a Hebbian, a callable that takes K to one, or None; got {self.rule!r}")
        if callable(self.stimulus) or isinstance(self.stimulus, list | tuple) or hasattr(self.stimulus, "shape"):
            object.__setattr__(self, "stimulus", as_stimulus(self.stimulus, "stimulus"))
        if not isinstance(self.stimulus, Stimulus):
            raise TypeError(f"stimulus must be a Stimulus; got {self.stimulus!r}")
        if self.stimulus.noise:
            raise ValueError(f"stimulus must have no noise; got {self.stimulus!r}. Sleep has a form for it")
        check_scalars(SteadyState(self.alpha))
        if isinstance(self.rule, Hebbian):
            check_scalars(self.rule)

    def rule_for(self, inputs: int) -> Hebbian:
        """Return the rule of layers with K inputs per neuron."""
        if self.rule is None:
            return Hebbian(gamma=0.0, momentum=0.0, learning_rate=SHARE * inputs / mean_power(self.stimulus, inputs))
        return super().rule_for(inputs)

    def length(self, inputs: int) -> int:
        """Return M, the number of patterns for an update of layers with K inputs per neuron."""
        size = self.batch_size(inputs) if callable(self.batch_size) else self.batch_size
        return whole("batch_size", size, "a number of patterns", at_least=1)

    def _map(self, layer: LocallyConnected2d, seed: int, progress: bool, map_seconds: list[float]) -> LinearSleep:
        start, inputs, weight = time.perf_counter(), inputs_of(layer), layer.weight
        shape = self.updates, self.length(inputs), inputs
        patterns = self.stimulus.draw(shape[0] * shape[1], inputs, seed=derived(seed, inputs)).reshape(shape)
        circuit, engine = SteadyState(self.alpha), Exact(device=str(weight.device))
        sleep = LinearSleep.of(batch_map(patterns, circuit, self.rule_for(inputs), engine=engine), weight)
        map_seconds.append(time.perf_counter() - start)
        return sleep
