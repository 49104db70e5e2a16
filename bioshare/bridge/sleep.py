"""`Sleep`: the weights of a model after the simulated sleep of every sharing group's lateral circuit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from bioshare.bridge.changes import BYTES_PER_WEIGHT, Change, LinearSleep, Simulation
from bioshare.bridge.geometry import Border, Chosen, Layers, inputs_of, kind_of
from bioshare.bridge.map_sharing import MapSharing, layer_named
from bioshare.bridge.moments import Treatment
from bioshare.bridge.relay import relayed_maps, simultaneous_maps
from bioshare.bridge.scaling import HELD, MOMENTUM, NormalisedRule, PaperRule, PerInput, settling_circuit
from bioshare.bridge.sleep_checks import check_free, check_sleep
from bioshare.checks import Array, whole
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.exact import Exact, sleep_map
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Engine
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import find_engine
from bioshare.circuit.stimuli import Grid, Stimulus, as_stimulus, derived, gaussian, grid
from bioshare.nn import LocallyConnected2d

PoolKey = tuple[int, int, torch.device, torch.dtype]
"""K, the number of the sleep in the pool, and device and precision of the map."""


@dataclass(frozen=True)
class Sleep(MapSharing):
    """Simulate the full lateral circuit of every sharing group of a model, and change the weights in place.

    The pattern has one period (kh, kw) per input channel; all groups of a grouped layer see the same pattern of
    in / groups channels. Without noise the exact engine simulates a sleep once, as a linear map of K weights: all
    modules of all layers with K inputs per neuron see the same stimuli, in an order given by the position. Otherwise
    every neuron is simulated, and the output channels of a position see the same noise.

    `Sleep.rate_circuit` and `Sleep.steady_state` suit any network; `Sleep.recommended` is for training;
    `Sleep.paper` has the parameters of Fig. 4B.

    Args:
        circuit: `SteadyState` or `RateCircuit`.
        rule: `Hebbian`, or a pure function of K that returns a `Hebbian`, since |x|^2 often grows with K. A
            `bioshare.bridge.scaling.NormalisedRule`, as of the presets, takes circuit and stimulus of this sleep, and
            keeps its momentum.
        stimulus: the stream of patterns, such as ``stimuli.grid()`` or ``stimuli.gaussian()``; a function of
            (presentations, inputs, rng) or an array of patterns (M, K) becomes a Stimulus. Few Gaussian inputs,
            at very small K, leave some directions of the weights almost unchanged.
        presentations: P, the number of patterns; or a pure function of K that returns P, such as
            ``lambda inputs: 10 * inputs`` for ten cycles of the grid stimulus.
        border: "share": positions whose patch reaches into the padding share too, as if the pattern continued
            there (the authors' averaging); "keep": these positions keep their weights (the authors' gradient descent);
            "scale": every kernel keeps the direction, and the norm
            has the factor by which the root mean square norm of the sharing kernels changed, in the same module and
            output channel. Without such kernels in the module, the position keeps the weights.
        engine: as in `bioshare.simulate`. "exact" simulates on the device of the weights; an ``Exact(...)`` object
            keeps the device of the object, by default the CPU.
        patterns: "drawn" from the stimulus; "relayed": a layer sees the responses of an earlier layer's groups, after
            the sleep of the earlier layer (`bioshare.bridge.relay.Relay`); or "simultaneous": all layers sleep at the
            same time, in five parts, and see responses of groups as changed by the parts before. The pull of the rule
            goes to the weights before the whole sleep, and circuit, momentum and learning rates go on between parts.
            Relayed and simultaneous patterns need the exact engine and no noise.
        rescale: bring the mean of every group back to the norm before sleep (synaptic scaling). Not local: no neuron
            knows the norm of the mean. ``gain`` is the local alternative.
        pool: number of sleeps per K whose maps are stored at the first use; every sleep draws a map from this pool.
            None: every sleep simulates new maps.
        pool_seed: seed of the stimuli of the pool.
        moments: treatment of the moments of the optimiser in the call: "keep"; "share" applies the linear part of
            the sleep, and the factors of ``rescale`` or ``gain``, to sums of gradients and averages sums of squares
            within groups; "reset" sets the moments of all locally connected layers to 0.
        memory: largest number of bytes of the exact engine for single neurons, without patterns and new weights.
            Other engines get the same number of neurons at a time.
        silence: presentations without input (x = 0) before the first pattern, in which the circuit settles at the
            bias. The rule's k counts these updates too; with noise, neurons see only the noise.
        gain: constant factor of all weights of the sharing groups after the circuit's sleep. A gain of 1.25 makes up
            for the loss of the presets on the grid at alpha = 10, for every K. Either ``rescale`` or a gain.
        layers: names of the layers that sleep, with * and ? as in a shell, such as ("stages.0.*", "stem"); None: all
            locally connected layers whose weights learn. Layers with a frozen weight (``requires_grad=False``) are left
            alone unless named, and the report names all layers left alone.
        feedback: True to let feedback weights sleep as the weights do, so that a group's feedback weights become the
            mean: less noise of `bioshare.Mirror` remains, by up to the size of the group.
    """

    circuit: Circuit
    rule: Hebbian | Callable[[int], Hebbian]
    stimulus: Stimulus
    presentations: int | Callable[[int], int]
    border: Border = "share"
    engine: str | Engine = "exact"
    patterns: Literal["drawn", "relayed", "simultaneous"] = "drawn"
    rescale: bool = False
    pool: int | None = None
    pool_seed: int = 0
    moments: Treatment = "keep"
    memory: float = 1e9
    silence: int = 0
    gain: float = 1.0
    layers: Chosen = None
    feedback: bool = False
    pooled: dict[PoolKey, LinearSleep] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.stimulus) or isinstance(self.stimulus, list | tuple) or hasattr(self.stimulus, "shape"):
            object.__setattr__(self, "stimulus", as_stimulus(self.stimulus, "stimulus"))
        check_sleep(self)
        if isinstance(self.rule, NormalisedRule):  # of this circuit and stimulus, after dataclasses.replace as well
            object.__setattr__(self, "rule", replace(self.rule, circuit=self.circuit, stimulus=self.stimulus))

    @classmethod
    def rate_circuit(
        cls,
        alpha: float = 10.0,
        *,
        gamma: float = 0.0,
        times: float = 5.0,
        strength: float = 0.5,
        stimulus: Stimulus | None = None,
        rescale: bool | None = None,
        gain: float | None = None,
        **options: Any,
    ) -> Sleep:
        """Make a sleep with the paper's circuit in time (Eq. 8) and a learning rate that suits any layer.

        The default, a silence and five cycles of the grid at a strength of 0.5, leaves 5 % of the spread for every K.
        At alpha = 10 means shrink to 80 % (66 % at alpha = 5, 95 % at 50), so -log SNR falls by 5.5. Rescaling brings
        the means back to the old norm, and the remaining spread to 6.5 %: a network that sleeps every ten steps
        without rescaling loses weights faster than training restores them.

        Args:
            alpha: strength of the inhibition.
            gamma: pull to the weights before sleep.
            times: presentations for every input of a neuron; 5 means five cycles of the grid.
            strength: strength of a presentation, see `bioshare.bridge.scaling.NormalisedRule`.
            stimulus: None for the grid in random order. Momentum is 0 for a grid, whose few presentations would not
                use up the last momentum, and 0.95 (appendix A.5) for all other stimuli.
            rescale, gain: as for `Sleep`; by default rescaled, unless there is a gain.
            options: fields of `Sleep` not set by the preset.

        Raises:
            TypeError: ``options`` contain a field set by the preset.
            ValueError: both ``rescale`` and a gain other than 1.
        """
        check_free("rate_circuit", options, "circuit", "rule", "presentations", "silence")
        circuit, stimulus = (
            settling_circuit(alpha),
            as_stimulus(grid(True) if stimulus is None else stimulus, "stimulus"),
        )
        rule = NormalisedRule(strength, circuit, stimulus, gamma, 0.0 if isinstance(stimulus, Grid) else MOMENTUM)
        return cls(circuit, rule, stimulus, PerInput(times), silence=1, **_norms(rescale, gain), **options)

    @classmethod
    def recommended(cls, alpha: float = 10.0, *, pool: int | None = 8, **options: Any) -> Sleep:
        """Make a sleep for training, where accuracy counts more than the paper's protocol.

        This is `rate_circuit`, and the moments of the optimiser sleep with the weights (``moments="share"``, so a call
        needs the optimiser), and kernels at the padding are scaled (``border="scale"``). docs/miniature.md shows the
        gain of both.

        Args:
            alpha: strength of the inhibition.
            pool: number of sleeps per K, simulated once.
            options: arguments of `rate_circuit` not set by the preset.

        Raises:
            TypeError: ``options`` contain a field set by the preset.
            ValueError: the stimulus has noise, which leaves no map for the moments.
        """
        check_free("recommended", options, "moments", "border")
        if getattr(options.get("stimulus"), "noise", 0):
            raise ValueError("recommended must have a stimulus without noise; take Sleep.rate_circuit for noise")
        return cls.rate_circuit(alpha, pool=pool, moments="share", border="scale", **options)

    @classmethod
    def steady_state(
        cls,
        alpha: float = math.inf,
        *,
        gamma: float = 0.0,
        times: float = 5.0,
        strength: float = 0.5,
        stimulus: Stimulus | None = None,
        rescale: bool | None = None,
        gain: float | None = None,
        **options: Any,
    ) -> Sleep:
        """Make a sleep as `rate_circuit` with the circuit at the fixed point: ideal (Eq. 7), or finite alpha (Eq. 9).

        The default leaves 0.5^5 = 3 % of the spread for every K: an update halves the deviations along an input.
        Without pull, momentum and noise the order of the grid, and so the seed, has no effect; a pool of 1 suffices.

        Args:
            alpha: strength of the inhibition.
            gamma, times, strength, stimulus, rescale, gain, options: as for `rate_circuit`.
        """
        check_free("steady_state", options, "circuit", "rule", "presentations")
        circuit, stimulus = SteadyState(alpha), as_stimulus(grid(True) if stimulus is None else stimulus, "stimulus")
        rule = NormalisedRule(strength, circuit, stimulus, gamma, 0.0 if isinstance(stimulus, Grid) else MOMENTUM)
        return cls(circuit, rule, stimulus, PerInput(times), **_norms(rescale, gain), **options)

    @classmethod
    def paper(cls, gamma: float = 0.01, times: float = 5.0, **options: Any) -> Sleep:
        """Make a sleep with the circuit of Fig. 4B: alpha = 10, Gaussian inputs of 150 ms, the paper's learning rates.

        The default is far shorter than the sleep of Fig. 4B, and the effect depends on K: at K = 27, 144 and 576, the
        spread falls to 29, 23 and 40 %; means shrink to 81, 75 and 86 % and turn by 11, 10 and 6 degrees in a ResNet-20
        (K = 27: 10.3 to 11.7). Part of the turn is the constant c of the map, from the start at r = 0, next to small
        means: a layer with more output channels has smaller weights, and turns more.

        Args:
            gamma: pull to the weights before sleep; Fig. 4 has 0.1, 0.01 and 0.001.
            times: presentations for every input of a neuron; Fig. 4B has 10,000 for 9 to 81 inputs.
            options: fields of `Sleep` not set by the preset.

        Raises:
            TypeError: ``options`` contain a field set by the preset.
        """
        check_free("paper", options, "circuit", "rule", "stimulus", "presentations")
        return cls(RateCircuit(), PaperRule(gamma), gaussian(), PerInput(times), **options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pool's maps, which may be large; a copy simulates them again from the seed."""
        return self.__dict__ | {"pooled": {}}

    @property
    def collapses(self) -> bool:
        """True if the sleep of a layer is a linear map, equal for all neurons."""
        return not self.stimulus.noise and (self.engine == "exact" or isinstance(self.engine, Exact))

    @property
    def capturable(self) -> bool:
        """True if the sleep is a linear map that does not depend on the weights."""
        return self.collapses and self.patterns == "drawn"

    def length(self, inputs: int) -> int:
        """Return P, the number of patterns of a layer with K inputs per neuron."""
        count = self.presentations(inputs) if callable(self.presentations) else self.presentations
        return whole("presentations", count, "a number of presentations", at_least=1)

    def minutes(self, inputs: int) -> float:
        """Return the time asleep of neurons with K inputs in minutes, silence included.

        A presentation lasts as long as the circuit holds each input; 150 ms, as in the paper, for a `SteadyState`.

        Example:
            >>> Sleep.rate_circuit().minutes(144)
            1.8025
        """
        inputs = whole("inputs", inputs, "a number of weights per neuron", at_least=1)
        held = self.circuit.duration if isinstance(self.circuit, RateCircuit) else HELD  # milliseconds
        return (self.silence + self.length(inputs)) * held / 60_000

    def check(self, model: nn.Module) -> None:
        """Raise TypeError or ValueError if a model cannot sleep, before any time is spent.

        The stimuli of every K are drawn once for the stability limit of the learning rate.
        """
        self._checked_patterns(self._checked_layers(model), seed=0)

    def _checked_layers(self, model: nn.Module) -> Layers:
        layers = super()._checked_layers(model)
        for name, layer in () if self.collapses else layers:
            if hasattr(layer, "difference"):
                raise ValueError(
                    f"KolenPollack, which keeps W - B in layer {name!r}, needs a sleep that is one linear map: no "
                    "noise, and the exact engine"
                )
        return layers

    def _changes(self, layers: Layers, seed: int, progress: bool, map_seconds: list[float]) -> Iterable[Change]:
        if self.capturable:
            return super()._changes(layers, seed, progress, map_seconds)
        patterns = self._checked_patterns(layers, seed)
        if not self.collapses:
            return self._simulated(layers, patterns, seed, progress)
        maps = relayed_maps if self.patterns == "relayed" else simultaneous_maps
        simulated = lambda layer, patterns: self._simulated_map(layer, patterns, progress, map_seconds)
        return maps(layers, self.length, self.stimulus, self.border, seed, simulated)

    def _map(self, layer: LocallyConnected2d, seed: int, progress: bool, map_seconds: list[float]) -> LinearSleep:
        inputs, device, dtype = kind_of(layer)
        entry, own = self._stimulus_seed(inputs, seed)
        maps = {} if self.pool is None and self.stimulus.varies else self.pooled
        if (key := (inputs, entry, device, dtype)) not in maps:
            patterns = self.stimulus.draw(self.length(inputs), inputs, seed=own)
            maps[key] = self._simulated_map(layer, patterns, progress, map_seconds)
        return maps[key]

    def _simulated_map(
        self, layer: LocallyConnected2d, patterns: Array, progress: bool, map_seconds: list[float]
    ) -> LinearSleep:
        """Simulate the map of a layer that sees the patterns (P, K) after the silence."""
        start, rule = time.perf_counter(), self.rule_for(patterns.shape[1])
        engine = self.engine if isinstance(self.engine, Exact) else Exact(device=str(layer.weight.device))
        patterns = np.concatenate([np.zeros((self.silence, patterns.shape[1])), patterns])
        simulated = sleep_map(patterns, self.circuit, rule, engine=engine, progress=progress)
        map_seconds.append(time.perf_counter() - start)
        return LinearSleep.of(simulated, layer.weight)

    def _simulated(self, layers: Layers, patterns: dict[int, Array], seed: int, progress: bool) -> Iterator[Simulation]:
        """Yield the simulation of every layer neuron by neuron."""
        for index, (_, layer) in enumerate(layers):
            inputs = inputs_of(layer)
            rule, noise, own = self.rule_for(inputs), self.stimulus.noise, derived(seed, inputs, index)
            engine = Exact(device=str(layer.weight.device)) if self.engine == "exact" else find_engine(self.engine)
            yield Simulation(patterns[inputs], self.circuit, rule, noise, own, engine, self.memory, progress)

    def _checked_patterns(self, layers: Layers, seed: int) -> dict[int, Array]:
        """The patterns (silence + P, K) by K, after a check of the learning rates on two neurons."""
        drawn = dict[int, Array]()
        limited = not self.collapses and isinstance(find_engine(self.engine), Exact)
        for name, layer in layers:
            needed = BYTES_PER_WEIGHT * layer.weight[:, :, 0].numel()
            if limited and needed > self.memory:
                raise ValueError(
                    f"memory must be at least {needed:.2g} bytes for one channel of layer {name!r}; got {self.memory:g}"
                )
            if (inputs := inputs_of(layer)) not in drawn:
                with layer_named(name, self.rule):
                    (_, own), noise = self._stimulus_seed(inputs, seed), self.stimulus.noise
                    patterns = self.stimulus.draw(self.length(inputs), inputs, seed=own)
                    drawn[inputs] = x = np.concatenate([np.zeros((self.silence, inputs)), patterns])
                    prepare_sleep(np.zeros((2, inputs)), x, self.circuit, self.rule_for(inputs), noise=noise, seed=seed)
        return drawn

    def _stimulus_seed(self, inputs: int, seed: int) -> tuple[int, int]:
        """The number of a sleep in the pool, 0 without a choice, and the seed of the patterns with K inputs."""
        if self.pool is None:
            return 0, derived(seed, inputs)
        entry = derived(seed, inputs) % self.pool if self.stimulus.varies else 0
        return entry, derived(self.pool_seed, inputs, entry)


def _norms(rescale: bool | None, gain: float | None) -> dict[str, Any]:
    """The fields ``rescale`` and ``gain`` of a preset: rescaled by default, unless there is a gain."""
    return {"rescale": gain is None if rescale is None else rescale, "gain": 1.0 if gain is None else gain}
