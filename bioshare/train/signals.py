"""Angles of the learning signals over a training with feedback weights: one measurement of all layers an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.nn.angles import MEANINGS, angles
from bioshare.nn.feedback import signal_layers
from bioshare.progress import say

IMAGES = 16
"""Images of a measurement: the first of the first batch of the run."""

NAMES = {name: name if name.endswith("ratio") else f"{name}_angle" for name in MEANINGS}
"""Variables of a result by the field of `bioshare.nn.angles.LayerAngles`."""

CHANGED = "changed_signs"
"""Last variable of a result: see `changed_signs`."""

Signs = dict[str, Tensor]
"""For every layer with feedback weights or direct feedback, which weights are positive."""


def positive_weights(model: nn.Module) -> Signs:
    """The signs of all weights of layers with feedback weights or direct feedback."""
    return {name: layer.weight.detach() > 0 for name, layer in signal_layers(model)}


def changed_signs(before: Signs, after: Signs) -> list[float]:
    """The part of the weights of every layer whose sign is another than before, in per cent."""
    return [100 * float((before[name] != positive).double().mean()) for name, positive in after.items()]


@dataclass
class Signals:
    """Angles and ratios of norms of the layers with feedback weights or direct feedback, epoch by epoch.

    Direct feedback alone has no weights B: the angles between B and W are missing, and the angle between the learning
    signal and the gradient tells how well the network learns (Noekland 2016).

    Attributes:
        layers: names of the layers; empty before the first measurement.
        values: for every measured epoch, the quantities in `NAMES` and the changed signs, each by layer.
        possible: False after a measurement that the network does not allow.
    """

    layers: list[str] = field(default_factory=list)
    values: list[list[list[float]]] = field(default_factory=list)
    possible: bool = True

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, start: Signs) -> None:
        """Measure a network at the end of an epoch; the network and all random generators stay as they are.

        The weights had the signs ``start`` before the first step.

        A network with a layer that is used twice in a pass has no such angles: a warning says so, once.
        """
        if not self.possible:
            return
        try:
            rows = angles(model, x, partial(cross_entropy, target=y)).layers
        except ValueError as error:
            self.possible = False
            say(f"warning: no angles of the learning signals are recorded: {error}")
            return
        self.layers = [row.name for row in rows]
        measured = [[getattr(row, name) for row in rows] for name in NAMES]
        self.values.append([*measured, changed_signs(start, positive_weights(model))])

    def tensors(self) -> dict[str, Tensor]:
        """The measurements, (epochs, quantities, layers); empty without a measurement."""
        return {"signals": torch.tensor(self.values, dtype=torch.float64)} if self.values else {}

    def facts(self) -> dict[str, list[str]]:
        """Names of the layers, in the types of JSON; empty without a measurement."""
        return {"feedback_layers": self.layers} if self.values else {}

    @classmethod
    def restored(cls, layers: list[str], tensors: Mapping[str, Tensor], epochs: int) -> Signals:
        """The measurements of so many epochs from `facts` and `tensors`.

        Raises:
            ValueError: the measurements are not of these layers, or of more epochs.
        """
        quantities = len(NAMES) + 1
        values = tensors.get("signals", torch.empty(0, quantities, len(layers)))
        if values.shape[1:] != (quantities, len(layers)) or len(values) > epochs:
            raise ValueError(f"history must have the angles of {len(layers)} layers for at most {epochs} epochs")
        return cls(layers, values.tolist())

    def variables(self, epochs: int) -> dict[str, Any]:
        """Variables of a data set along epoch and feedback_layer; NaN for epochs without a measurement."""
        if not self.values:
            return {}
        missing = np.full((epochs - len(self.values), len(NAMES) + 1, len(self.layers)), math.nan)
        table = np.concatenate([missing, self.values])
        labels = {
            name: {"long_name": MEANINGS[field]} | ({} if name.endswith("ratio") else {"units": "degrees"})
            for field, name in NAMES.items()
        }
        labels |= {CHANGED: {"long_name": "weights whose sign is another than before training", "units": "%"}}
        return {
            name: (("epoch", "feedback_layer"), table[:, index], label)
            for index, (name, label) in enumerate(labels.items())
        }

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Names and values of the last measurement, for TensorBoard."""
        for name, row in zip((*NAMES.values(), CHANGED), self.values[-1] if self.values else (), strict=False):
            for layer, value in zip(self.layers, row, strict=True):
                yield f"{name}/{layer}", value
