"""Phases by the words of the command line: ``--sleep circuit --alpha 20``.

A new phase becomes known to the command line by an entry in `PHASES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bioshare.bridge import Border, HebbianSharing, InstantSharing, LearnedGroups, Phase, Sleep
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.circuit import stimuli
from bioshare.train.seeds import seed_at


@dataclass(frozen=True, kw_only=True)
class SimulatedOptions:
    """Options of all simulated sleeps.

    Attributes:
        gamma: pull to the weights before sleep.
        presentations: presentations for every input of a neuron.
        strength: strength of a presentation, below 2 (the learning rate times the mean of |x|^2).
        stimulus: "grid" in random order, or "gaussian".
        rescale: bring the mean of every group back to the norm before sleep, unlike the paper. None: unless there is a
            gain.
        gain: constant factor of all weights after sleep, which excludes ``rescale``. None for no gain.
        border: "share" or "keep" the weights of positions that see padding, or "scale" these weights as the others.
        moments: "keep" leaves the optimiser's moments, "share" lets the moments sleep as well, "reset" makes them 0.
        feedback: let the feedback weights of a network sleep, too.
    """

    gamma: float = 0.0
    presentations: float = 5.0
    strength: float = 0.5
    stimulus: Literal["grid", "gaussian"] = "grid"
    rescale: bool | None = None
    gain: float | None = None
    border: Border = "share"
    moments: Literal["keep", "share", "reset"] = "keep"
    feedback: bool = False

    def phase(self, seed: int) -> Phase:
        """The sleep of a run with this seed."""
        options: dict[str, Any] = dict(vars(self))
        stimulus = stimuli.grid(shuffle=True) if options.pop("stimulus") == "grid" else stimuli.gaussian()
        options["stimulus"] = stimuli.noise(stimulus, options.pop("noise", 0.0))
        options["times"] = options.pop("presentations")
        if options.get("pool"):
            options["pool_seed"] = seed_at("pool", seed)
        return Sleep.rate_circuit(**options) if "alpha" in options else Sleep.steady_state(**options)


@dataclass(frozen=True, kw_only=True)
class IdealOptions(SimulatedOptions):
    """A sleep of the ideal circuit, as one linear map for all neurons.

    Attributes:
        pool: number of sleeps to simulate once and to draw from; None simulates a new sleep each time.
        patterns: "drawn" for every layer; "relayed" from layer to layer after each layer's sleep; or "simultaneous",
            relayed while all layers sleep. All but "drawn" need a Gaussian stimulus and no pool.
    """

    pool: int | None = None
    patterns: Literal["drawn", "relayed", "simultaneous"] = "drawn"


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(IdealOptions):
    """A sleep of the rate circuit, as one linear map for all neurons.

    Attributes:
        alpha: strength of the inhibition.
    """

    alpha: float = 10.0


@dataclass(frozen=True, kw_only=True)
class NoisyIdealOptions(SimulatedOptions):
    """A sleep of the ideal circuit in which every neuron is simulated with noise.

    Attributes:
        noise: standard deviation of the noise in every input of every neuron.
    """

    noise: float = 0.01


@dataclass(frozen=True, kw_only=True)
class NoisyCircuitOptions(NoisyIdealOptions):
    """A sleep of the rate circuit in which every neuron is simulated with noise.

    Attributes:
        alpha: strength of the inhibition.
    """

    alpha: float = 10.0


@dataclass(frozen=True, kw_only=True)
class HebbianOptions:
    """A few Hebbian updates with a batch of Gaussian patterns each.

    Attributes:
        updates: number of weight updates.
        alpha: strength of the inhibition; inf is the ideal circuit.
        border: "share" or "keep" the weights of positions that see padding, or "scale" these weights as the others.
        moments: moments of the optimiser: "keep", "share" or "reset".
    """

    updates: int = 10
    alpha: float = math.inf
    border: Border = "share"
    moments: Literal["keep", "share", "reset"] = "keep"

    def phase(self, seed: int) -> Phase:
        """The phase of a run."""
        return HebbianSharing(**vars(self))


PhaseOptions = Phase | SimulatedOptions | HebbianOptions

PHASES: dict[str, type[PhaseOptions]] = {
    "instant": InstantSharing,
    "ideal": IdealOptions,
    "circuit": CircuitOptions,
    "noisy-ideal": NoisyIdealOptions,
    "noisy-circuit": NoisyCircuitOptions,
    "hebbian": HebbianOptions,
    "learned-groups": LearnedGroups,
    "random-groups": RandomGroups,
    "layer-mean": LayerMean,
    "shrinking": Shrinking,
}
"""Dataclasses of options by the words of ``--sleep``: a phase itself, or options with a method ``phase(seed)``."""


def phase_of(options: PhaseOptions, seed: int) -> Phase:
    """The phase of a run with this seed."""
    return options if isinstance(options, Phase) else options.phase(seed)
