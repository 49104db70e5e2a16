"""Which shapes of weights, stimuli and parameters fit each other."""

from __future__ import annotations

import numpy as np

from bioshare.checks import Array
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.rules import Hebbian


def is_shared(stimuli: Array, lead: tuple[int, ...]) -> bool:
    """Whether the neurons of a group share these stimuli, beside weights with the leading axes ``lead``."""
    return stimuli.ndim <= len(lead) + 2


def refuse_misfit(stimuli: tuple[int, ...], weights: tuple[int, ...]) -> None:
    """Raise where stimuli of this shape fit weights (*lead, N, K) in no way, or in two."""
    *axes, neurons, inputs = weights
    shared = f"(..., P, {inputs}) for one input shared by all neurons"
    private = f"({'..., ' if axes else ''}P, {neurons}, {inputs}) for one per neuron"
    told = f"stimuli must have shape {shared}, or {private}; got {stimuli}"
    if stimuli[-1] != inputs or len(stimuli) > len(weights) + 1:
        raise ValueError(told)
    if len(stimuli) == len(weights) + 1 and stimuli[-2] != neurons:
        raise ValueError(f"{told}. To sleep with several stimuli, give the weights as many leading axes: weights[None]")
    widened = any(its > ours for its, ours in zip(stimuli[:-2], axes, strict=False))
    if len(stimuli) == len(weights) and stimuli[-2] == neurons and widened:
        raise ValueError(
            f"{told}. It may be the stimuli of {stimuli[-3]} groups, or one for each of the {neurons} neurons: add "
            "the axis that is missing, to weights or stimuli"
        )


def leading_axes(
    lead: tuple[int, ...], stimulus_batch: tuple[int, ...], circuit: Circuit, rule: Hebbian
) -> tuple[int, ...]:
    """The leading axes of the whole sleep, or what does not fit."""
    shapes = {"weights": lead, "stimuli": stimulus_batch}
    shapes |= {name: np.shape(v) for name, v in (circuit.fields() | rule.fields()).items() if not callable(v)}
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(
            f"the leading axes must broadcast against each other; got {told}. Add axes of length 1 where a "
            "parameter does not vary"
        ) from None
