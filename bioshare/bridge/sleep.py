"""`Sleep`: the lateral circuit of every sharing group of a model, simulated, and its weights after that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.dose import (
    MOMENTUM,
    Dose,
    PaperRule,
    PerInput,
    count_for,
    refuse_arrays,
    rule_for,
    settling_circuit,
)
from bioshare.bridge.lattice import Border, Kind, Layers, kind_of, layers_of, refuse_border, sharing_layers
from bioshare.bridge.moments import Moments, Treatment, refuse_treatment
from bioshare.bridge.night import Maps, Night
from bioshare.bridge.sharing import Sharing
from bioshare.bridge.walk import change_layers
from bioshare.checks import real, whole
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.exact import Exact
from bioshare.circuit.problem import Engine
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import ENGINES, find_engine
from bioshare.circuit.stimuli import Grid, Stimulus, gaussian, grid


@dataclass(frozen=True)
class Sleep(Sharing):
    """Let every locally connected layer of a model sleep, in place: the full lateral circuit of every group.

    The pattern has one period (kh, kw) per input channel. All groups of a grouped layer see the same pattern of
    in / groups channels. Without noise the exact engine simulates a sleep once, as one linear map of K weights; all
    modules and all layers with K inputs per neuron see its stimuli, in their own order. Otherwise every neuron is
    simulated, and the output channels of one position see the same noise.

    `Sleep.rate_circuit` and `Sleep.steady_state` are settings that work for any network; `Sleep.paper` has those of
    Fig. 4B, at whatever they leave.

    Args:
        circuit: `SteadyState` or `RateCircuit`.
        rule: `Hebbian`; or a callable that takes K to one, since |x|^2 often grows with K. It must be a pure function
            of K, as must ``presentations``: maps are kept, and what it returns is asked for more than once.
        stimulus: the pattern's stream, such as ``stimuli.grid()`` or ``stimuli.gaussian()``. Gaussian inputs share
            badly at very small K: the few that there are leave some directions of the weights almost alone.
        presentations: P, the patterns of every layer; or a callable that takes K to P, such as
            ``lambda inputs: 10 * inputs`` for ten cycles of the grid stimulus.
        border: "share": positions whose patch reaches into the padding take part, as if the pattern continued
            there; "keep": they keep their weights.
        engine: as in `bioshare.simulate`. "exact" simulates a layer on the device of its weights; an ``Exact(...)``
            of your own keeps the device that it has, the CPU unless you say otherwise.
        patterns: "drawn" from the stimulus; or "relayed", where a layer sees what the groups of a layer before it
            answer to their own pattern (`bioshare.bridge.relay.Relay`).
        rescale: bring the mean of every group back to its norm before sleep (synaptic scaling).
        pool: keep the maps of that many sleeps for each K, simulated when they are first needed, and draw one of
            them for every sleep; None for a new one every time.
        pool_seed: decides the stimuli of the pool.
        moments: of an optimiser, given in the call: "keep" leaves them alone; "share" applies the linear part of the
            sleep, without rescaling, to sums of gradients and averages sums of squares within groups; "reset" sets
            those of all locally connected layers to 0.
        memory: most bytes of the exact engine for single neurons, beside the patterns and the new weights. Other
            engines get as many neurons at a time.
        silence: presentations without input (x = 0) before the first pattern, in which the circuit settles at its
            bias. The rule's k counts their updates too; with noise, that is all the neurons see.
    """

    circuit: Circuit
    rule: Hebbian | Callable[[int], Hebbian]
    stimulus: Stimulus
    presentations: int | Callable[[int], int]
    border: Border = "share"
    engine: str | Engine = "exact"
    patterns: Literal["drawn", "relayed"] = "drawn"
    rescale: bool = False
    pool: int | None = None
    pool_seed: int = 0
    moments: Treatment = "keep"
    memory: float = 1e9
    silence: int = 0
    pooled: Maps = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expected = {"circuit": (RateCircuit, SteadyState), "stimulus": (Stimulus,)}
        for name, kinds in expected.items():
            if not isinstance(getattr(self, name), kinds):
                told = " or a ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be a {told}; got {getattr(self, name)!r}")
        if not callable(self.rule) and not isinstance(self.rule, Hebbian):
            raise TypeError(f"rule must be a Hebbian or a callable that takes K to one; got {self.rule!r}")
        if not callable(self.presentations):
            whole("presentations", self.presentations, "a number of presentations or a callable", at_least=1)
        refuse_arrays(self.circuit)
        if isinstance(self.rule, Hebbian):
            refuse_arrays(self.rule)
        if isinstance(self.engine, str) and self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {self.engine!r}")
        if self.patterns not in ("drawn", "relayed"):
            raise ValueError(f'patterns must be "drawn" or "relayed"; got {self.patterns!r}')
        refuse_border(self.border)
        refuse_treatment(self.moments)
        whole("pool_seed", self.pool_seed, "a non-negative integer", at_least=0)
        real("memory", self.memory, "a positive number of bytes", above=0, array=False)
        whole("silence", self.silence, "a number of presentations without input", at_least=0)
        self._refuse_contradictions()

    @classmethod
    def rate_circuit(
        cls,
        alpha: float = 10.0,
        *,
        gamma: float = 0.0,
        times: float = 5.0,
        strength: float = 0.5,
        stimulus: Stimulus | None = None,
        rescale: bool = True,
        **options: Any,
    ) -> Sleep:
        """The paper's circuit in time (Eq. 8), at a dose that suits any layer.

        By default one silence, then five cycles of the grid at a strength of 0.5, which for every K leave 5 % of the
        spread. At alpha = 10 means shrink to 80 % (at 5, to 66 %; at 50, to 95 %), so that -log SNR falls by 5.5. They
        are brought back to their norm, the remaining spread with them (to 6.5 %): without that a network that sleeps
        every ten steps loses its weights faster than it learns them.

        Args:
            alpha: strength of the inhibition.
            gamma: pull to the weights before sleep.
            times: presentations for every input of a neuron; 5 cycles of the grid.
            strength: of a presentation, see `bioshare.bridge.dose.Dose`.
            stimulus: None for the grid in random order. A grid's presentations are so few that the last momentum
                would not be spent: it is 0 for them, and 0.95 (appendix A.5) for other stimuli.
            rescale, options: other fields of `Sleep`, but for those that are set here.

        Raises:
            TypeError: ``options`` have a field that is set here.
        """
        _refuse_own("rate_circuit", options, "circuit", "rule", "presentations", "silence")
        circuit, stimulus = settling_circuit(alpha), stimulus or grid(shuffle=True)
        rule = Dose(strength, circuit, stimulus, gamma, _momentum(stimulus))
        return cls(circuit, rule, stimulus, PerInput(times), rescale=rescale, silence=1, **options)

    @classmethod
    def steady_state(
        cls,
        alpha: float = math.inf,
        *,
        gamma: float = 0.0,
        times: float = 5.0,
        strength: float = 0.5,
        stimulus: Stimulus | None = None,
        rescale: bool = True,
        **options: Any,
    ) -> Sleep:
        """The same dose of the circuit at its fixed point: ideal (Eq. 7), or at finite alpha (Eq. 9).

        By default it leaves 0.5^5 = 3 % of the spread for every K: one update halves what lies along an input. Without
        pull, momentum and noise the grid's order, and so the seed, doesn't matter, and a pool of 1 is as good as more.

        Args:
            alpha: strength of the inhibition.
            gamma, times, strength, stimulus, rescale, options: as for `rate_circuit`.
        """
        _refuse_own("steady_state", options, "circuit", "rule", "presentations")
        circuit, stimulus = SteadyState(alpha), stimulus or grid(shuffle=True)
        rule = Dose(strength, circuit, stimulus, gamma, _momentum(stimulus))
        return cls(circuit, rule, stimulus, PerInput(times), rescale=rescale, **options)

    @classmethod
    def paper(cls, gamma: float = 0.01, times: float = 5.0, **options: Any) -> Sleep:
        """The circuit of Fig. 4B on every layer: alpha = 10, Gaussian inputs of 150 ms, its learning rates.

        It is far shorter than the sleep of Fig. 4B by default, and what it leaves depends on K: at K = 27, 144 and 576,
        29, 23 and 40 % of the spread, and means of 80, 75 and 86 % of their norm, turned by 6, 10 and 6 degrees.

        Args:
            gamma: pull to the weights before sleep; Fig. 4 has 0.1, 0.01 and 0.001.
            times: presentations for every input of a neuron; Fig. 4B has 10,000 for 9 to 81 inputs.
            options: other fields of `Sleep`, but for those that are set here.

        Raises:
            TypeError: ``options`` have a field that is set here.
        """
        _refuse_own("paper", options, "circuit", "rule", "stimulus", "presentations")
        return cls(RateCircuit(), PaperRule(gamma), gaussian(), PerInput(times), **options)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pool's maps, which may be large and lie on another device: they come again from its seed."""
        return self.__dict__ | {"pooled": {}}

    def check(self, model: nn.Module) -> None:
        """Refuse a model that cannot sleep so, before any time is spent on it.

        Raises:
            TypeError, ValueError: as the call.
        """
        self._changes(sharing_layers(model), 0, progress=False).check()

    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        if self.mapped:
            self.apply(model, self.maps(model, seed), optimizer=optimizer)
        else:
            super().change(model, seed, optimizer=optimizer)

    @property
    def mapped(self) -> bool:
        """Whether `maps` and `apply` are all of a `change`, since its maps don't depend on the weights."""
        return self.collapses and self.patterns == "drawn"

    def maps(self, model: nn.Module, seed: int = 0) -> dict[Kind, LinearSleep]:
        """The maps of one sleep, from the pool or simulated: one for each kind of layer, in the order of the layers.

        Raises:
            ValueError: the sleep isn't `mapped`.
            DivergenceError: it diverges.
        """
        if not self.mapped:
            raise ValueError(f'maps need the exact engine, no noise, and patterns="drawn"; got {self!r}')
        layers = layers_of(model)
        night, found = self._changes(layers, seed, progress=False), dict[Kind, LinearSleep]()
        for _, layer in layers:
            with torch.autocast(layer.weight.device.type, enabled=False):
                found[kind_of(layer)] = night.map_of(layer)
        return found

    def apply(
        self,
        model: nn.Module,
        maps: Mapping[Kind, LinearSleep],
        *,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Let a model sleep through `maps`, without a check or a report.

        Nothing here waits for a GPU. It can be captured in a CUDA graph once the model has slept, which puts the
        indices on the device; the maps may change between replays, in place.
        """
        follow, change_of = Moments.of(self.moments, optimizer), lambda layer, _: maps[kind_of(layer)]
        change_layers(layers_of(model), change_of, border=self.border, rescale=self.rescale, moments=follow)

    def _changes(self, layers: Layers, seed: int, progress: bool) -> Night:
        return Night(self, seed, find_engine(self.engine), progress, layers)

    @property
    def collapses(self) -> bool:
        """Whether the sleep is a linear map, the same for all neurons."""
        return not self.stimulus.noise and (self.engine == "exact" or isinstance(self.engine, Exact))

    def length(self, inputs: int) -> int:
        """How many patterns a layer with K inputs per neuron sees."""
        return count_for("presentations", self.presentations, inputs, "a number of presentations")

    def rule_for(self, inputs: int) -> Hebbian:
        """The rule of a layer with K inputs per neuron."""
        return rule_for(self.rule, inputs)

    def _refuse_contradictions(self) -> None:
        """Refuse options that need each other, or exclude each other."""
        if self.pool is not None:
            whole("pool", self.pool, "None or a number of sleeps to keep", at_least=1)
        if not self.collapses and (self.pool is not None or self.moments == "share"):
            name = "pool" if self.pool is not None else 'moments="share"'
            raise ValueError(
                f"{name} needs a sleep that is one linear map: no noise, and the exact engine. Leave it out"
            )
        if self.patterns == "relayed" and self.pool is not None:
            raise ValueError("pool must be None for relayed patterns, which depend on the weights")
        if self.patterns == "relayed" and isinstance(self.stimulus, Grid):
            raise ValueError(
                "stimulus must bring new patterns all the time for relayed patterns, as stimuli.gaussian() does: the "
                "few that a grid has in the first layer can't span the inputs of the next ones"
            )


def _momentum(stimulus: Stimulus) -> float:
    """The presets' momentum: none for a grid, whose sleep is so short that the last pushes would not be spent."""
    return 0.0 if isinstance(stimulus, Grid) else MOMENTUM


def _refuse_own(preset: str, options: dict[str, Any], *own: str) -> None:
    """Refuse options that a preset sets itself."""
    taken = [name for name in own if name in options]
    if taken:
        raise TypeError(
            f"{', '.join(taken)} must be left out: Sleep.{preset} sets {', '.join(own)} itself. "
            f"To change them use dataclasses.replace(Sleep.{preset}(...), {taken[0]}=...)"
        )
