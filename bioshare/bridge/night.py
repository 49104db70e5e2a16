"""One call of a `Sleep`: its stimuli, and the maps that are simulated for it."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from bioshare.bridge.changes import Change, LinearSleep
from bioshare.bridge.dose import Dose
from bioshare.bridge.lattice import Layers, inputs_of, kind_of, refuse_dilation
from bioshare.bridge.relay import Relay
from bioshare.bridge.sharing import Changes, Costs
from bioshare.bridge.simulation import BYTES_PER_WEIGHT, Simulation
from bioshare.checks import Array
from bioshare.circuit.exact import Exact, sleep_map
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Engine
from bioshare.circuit.stimuli import derived
from bioshare.nn import LocallyConnected2d

if TYPE_CHECKING:
    from bioshare.bridge.sleep import Sleep

Key = tuple[int, int, torch.device, torch.dtype]
"""K, the number of the sleep in its pool, and where the map lies."""

Maps = dict[Key, LinearSleep]


class Night(Changes):
    """One call of a `Sleep`: its stimuli, and the maps that were simulated for it."""

    def __init__(self, sleep: Sleep, seed: int, engine: Engine, progress: bool, layers: Layers) -> None:
        self.sleep, self.seed, self.engine, self.progress, self.layers = sleep, seed, engine, progress, layers
        self.rescale = sleep.rescale
        self.maps: Maps = {} if sleep.pool is None and sleep.stimulus.varies else sleep.pooled
        self.drawn: dict[int, Array] = {}  # patterns by K, until they are simulated
        self.simulated, self.seconds = 0, 0.0

    def check(self) -> None:
        """Refuse a model that cannot sleep before any layer has.

        Raises:
            TypeError, ValueError: a setting doesn't suit a layer.
        """
        seen: set[int] = set()
        for name, layer in self.layers:
            refuse_dilation(name, layer)
            inputs = inputs_of(layer)
            if not self.sleep.collapses:
                self._refuse_memory(name, layer)
            if inputs not in seen and self._key(layer) not in self.maps:
                self._check(name, inputs)
            seen.add(inputs)

    @cached_property
    def relay(self) -> Relay | None:
        """Hands on the patterns of the layers, if that is asked for."""
        if self.sleep.patterns == "drawn":
            return None
        longest = max(self.sleep.length(inputs_of(layer)) for _, layer in self.layers)
        return Relay(self.sleep.stimulus, longest, self.sleep.border)

    def costs(self) -> Costs:
        pooled = self.sleep.pooled.values()
        return Costs(self.simulated, self.seconds, len(pooled), sum(one.bytes for one in pooled))

    def change_of(self, layer: LocallyConnected2d, index: int) -> Change:
        """The sleep of one layer."""
        sleep, inputs = self.sleep, inputs_of(layer)
        if not sleep.collapses:
            rule = sleep.rule_for(inputs)
            patterns, noise = self._patterns(layer), sleep.stimulus.noise
            engine, seed = self._engine(layer), derived(self.seed, inputs, index)
            return Simulation(patterns, sleep.circuit, rule, noise, seed, engine, sleep.memory, self.progress)
        return self._simulated(layer) if self.relay else self.map_of(layer)

    def map_of(self, layer: LocallyConnected2d) -> LinearSleep:
        """The map of a drawn sleep without noise, for all layers of a kind."""
        key = self._key(layer)
        if key not in self.maps:
            self.maps[key] = self._simulated(layer)
        return self.maps[key]

    def _simulated(self, layer: LocallyConnected2d) -> LinearSleep:
        """The map of a sleep, simulated."""
        sleep, start = self.sleep, time.perf_counter()
        engine = self._engine(layer)
        assert isinstance(engine, Exact), "no other engine collapses"
        rule = sleep.rule_for(inputs_of(layer))
        found = sleep_map(self._patterns(layer), sleep.circuit, rule, engine=engine, progress=self.progress)
        self.simulated, self.seconds = self.simulated + 1, self.seconds + time.perf_counter() - start
        return LinearSleep.of(found, layer.weight)

    def _engine(self, layer: LocallyConnected2d) -> Engine:
        """What simulates a layer: "exact" does so where its weights lie."""
        return Exact(device=str(layer.weight.device)) if self.sleep.engine == "exact" else self.engine

    def _patterns(self, layer: LocallyConnected2d) -> Array:
        """What a layer sees (silence + P, K)."""
        inputs = inputs_of(layer)
        if self.relay:
            patterns = self.relay.patterns(layer, self._stimulus_seed(inputs))
            return self._after_silence(patterns[: self.sleep.length(inputs)])
        if inputs not in self.drawn:
            self.drawn[inputs] = self._draw(inputs)
        # a map is simulated once, but single neurons in every layer
        return self.drawn.pop(inputs) if self.sleep.collapses else self.drawn[inputs]

    def _draw(self, inputs: int) -> Array:
        length, seed = self.sleep.length(inputs), self._stimulus_seed(inputs)
        return self._after_silence(self.sleep.stimulus.draw(length, inputs, seed=seed))

    def _after_silence(self, patterns: Array) -> Array:
        silence = self.sleep.silence
        return np.concatenate([np.zeros((silence, patterns.shape[1])), patterns]) if silence else patterns

    def _key(self, layer: LocallyConnected2d) -> Key:
        """What a drawn map depends on in a call, or in a pool."""
        inputs, device, dtype = kind_of(layer)
        return inputs, self._chosen(inputs), device, dtype

    def _chosen(self, inputs: int) -> int:
        """Which sleep of the pool this is, the first where there is none, or all would be the same."""
        sleeps = self.sleep.pool if self.sleep.pool and self.sleep.stimulus.varies else 1
        return derived(self.seed, inputs) % sleeps

    def _stimulus_seed(self, inputs: int) -> int:
        if self.sleep.pool is None:
            return derived(self.seed, inputs)
        return derived(self.sleep.pool_seed, inputs, self._chosen(inputs))

    def _check(self, name: str, inputs: int) -> None:
        """Check the sleep of a layer on two neurons."""
        sleep = self.sleep
        try:
            rule, patterns = sleep.rule_for(inputs), self._draw(inputs)
            prepare_sleep(
                np.zeros((2, inputs)), patterns, sleep.circuit, rule, noise=sleep.stimulus.noise, seed=self.seed
            )
        except (TypeError, ValueError) as error:
            strength = f" (its strength is {sleep.rule.strength:g})" if isinstance(sleep.rule, Dose) else ""
            raise type(error)(f"layer {name!r}: {error}{strength}") from error
        if sleep.patterns == "drawn":
            self.drawn[inputs] = patterns

    def _refuse_memory(self, name: str, layer: LocallyConnected2d) -> None:
        needed = BYTES_PER_WEIGHT * layer.weight[:, :, 0].numel()
        if isinstance(self.engine, Exact) and needed > self.sleep.memory:
            raise ValueError(
                f"memory must be at least {needed:.2g} bytes for one channel of layer {name!r}; "
                f"got {self.sleep.memory:g}"
            )
