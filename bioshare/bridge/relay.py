"""Patterns that the layers hand on: the activity of one layer's groups is what the next layer sees (Sec. 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bioshare.bridge.geometry import Border, all_modules, inputs_of
from bioshare.checks import Array
from bioshare.circuit.stimuli import Stimulus
from bioshare.nn import LocallyConnected2d

SMALL = 1e-300
"""Instead of 0 in a denominator whose numerator is 0."""


class Relay:
    """The patterns of a network's layers, from input to output.

    The lateral connections of a layer make its activity repeat with the period of its own kernel: one number per
    output channel and module. That is a pattern for a layer with a kernel of the same size and as many input
    channels, the nearest such layer behind it. It is the mean drive of each group, after its sleep, while the layer
    sees its own pattern; standardised over the presentations, rectified, and scaled until |x|^2 of every pattern that
    is not silent is the stimulus' mean (where a layer's drives rise and fall together, it would vary tenfold). Other
    layers have their pattern drawn, as the first one has from the retina.

    Args:
        stimulus: where patterns are drawn from.
        presentations: how many patterns to have in store for every layer.
        border: which positions take part; a group is those of its neurons that do.
    """

    def __init__(self, stimulus: Stimulus, presentations: int, border: Border = "share") -> None:
        self.stimulus, self.presentations = stimulus, presentations
        self.border: Border = border
        self.activity: dict[tuple[tuple[int, ...], int], Array] = {}
        self.last: tuple[LocallyConnected2d, Array] | None = None

    def patterns(self, layer: LocallyConnected2d, seed: int) -> Array:
        """The patterns (P, K) of the layer that sleeps next; the one before has slept by now."""
        if self.last:
            self._hear(*self.last)
        source = (tuple(layer.kernel_size), layer.in_channels) if layer.groups == 1 else None
        inputs = inputs_of(layer)
        if source in self.activity:
            patterns = self.activity[source] * np.sqrt(self.stimulus.power(inputs))
        else:
            patterns = self.stimulus.draw(self.presentations, inputs, seed=seed)
        self.last = layer, patterns
        return patterns

    def _hear(self, layer: LocallyConnected2d, patterns: Array) -> None:
        """Keep the activity of a layer that sees its patterns, (P, out x kh x kw), each of length 1 or silent."""
        seen, (kh, kw) = torch.from_numpy(patterns), layer.kernel_size
        drives = seen.new_zeros(len(seen), layer.out_channels, kh, kw)  # modules without neurons are silent
        for module in all_modules(layer, self.border):
            if module.neurons:
                mean = module.groups(layer.weight.detach()).cpu().double().mean(1)
                drives[:, :, module.rows.start % kh, module.columns.start % kw] = seen[:, module.seen] @ mean.mT
        self.activity[(kh, kw), layer.out_channels] = _rectified(drives.flatten(1)).numpy()


def _rectified(drive: Tensor) -> Tensor:
    """Drives (P, K) as patterns of length 1: standardised over the presentations, rectified; 0 where none is active."""
    deviation = drive - drive.mean(0)
    rates = (deviation / deviation.square().mean(0).sqrt().clamp_min(SMALL)).clamp_min(0)
    return rates / torch.linalg.vector_norm(rates, dim=1, keepdim=True).clamp_min(SMALL)
