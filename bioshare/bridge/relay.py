"""Relayed patterns: the activity of a layer's groups is the pattern of the next layer (Sec. 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bioshare.bridge.geometry import Border, inputs_of, modules
from bioshare.checks import Array
from bioshare.circuit.stimuli import Stimulus
from bioshare.nn import LocallyConnected2d

SMALL = 1e-300
"""Replacement of a denominator of 0 under a numerator of 0."""


class Relay:
    """The patterns of a network's layers, from input to output.

    The lateral connections of a layer make the layer's activity repeat with the period of the kernel: a number per
    output channel and module. This activity is a pattern for the nearest later layer with equal kernel size and as
    many input channels: the mean drive of each group, after the group's sleep, in response to the layer's pattern;
    standardised over the presentations, rectified, and scaled until |x|^2 of every active pattern is the stimulus'
    mean (|x|^2 would vary tenfold in layers whose drives rise and fall together). All remaining layers see drawn
    patterns, as the first layer sees patterns from the retina.

    Args:
        stimulus: source of drawn patterns.
        presentations: number of patterns of every layer.
        border: positions that share; only neurons at these positions belong to a group.
    """

    def __init__(self, stimulus: Stimulus, presentations: int, border: Border = "share") -> None:
        self.stimulus, self.presentations = stimulus, presentations
        self.border: Border = border
        self.activity: dict[tuple[tuple[int, ...], int], Array] = {}  # by kernel size and number of channels
        self.last: tuple[LocallyConnected2d, Array] | None = None

    def patterns(self, layer: LocallyConnected2d, seed: int) -> Array:
        """Return the patterns (P, K) of the layer that sleeps next, after the sleep of the layer before."""
        if self.last:
            self._record_activity(*self.last)
        source = (tuple(layer.kernel_size), layer.in_channels) if layer.groups == 1 else None
        inputs = inputs_of(layer)
        if source in self.activity:
            patterns = self.activity[source] * np.sqrt(self.stimulus.power(inputs))
        else:
            patterns = self.stimulus.draw(self.presentations, inputs, seed=seed)
        self.last = layer, patterns
        return patterns

    def _record_activity(self, layer: LocallyConnected2d, patterns: Array) -> None:
        """Store the activity of a layer in response to the patterns: (P, out x kh x kw), of length 1 or silent."""
        x, (kh, kw) = torch.from_numpy(patterns), layer.kernel_size
        drives = x.new_zeros(len(x), layer.out_channels, kh, kw)  # modules without neurons are silent
        for module in modules(layer, self.border, smallest=1):
            mean = module.groups(layer.weight.detach()).cpu().double().mean(1)  # mu, (out, K)
            drives[:, :, module.rows.start % kh, module.columns.start % kw] = x[:, module.seen] @ mean.mT  # zbar
        self.activity[(kh, kw), layer.out_channels] = _rectified(drives.flatten(1)).numpy()


def _rectified(drive: Tensor) -> Tensor:
    """Turn drives (P, K) into patterns of length 1: standardised over the presentations, rectified; 0 if silent."""
    deviation = drive - drive.mean(0)
    rates = (deviation / deviation.square().mean(0).sqrt().clamp_min(SMALL)).clamp_min(0)
    return rates / torch.linalg.vector_norm(rates, dim=1, keepdim=True).clamp_min(SMALL)
