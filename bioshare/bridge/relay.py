"""Relayed patterns: the activity of a layer's groups is the pattern of the next layer (Sec. 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bioshare.bridge.changes import LinearSleep
from bioshare.bridge.geometry import Border, Layers, inputs_of, modules
from bioshare.checks import Array
from bioshare.circuit.stimuli import Stimulus, derived
from bioshare.nn import LocallyConnected2d

PARTS = 5
"""Parts of a simultaneous sleep: at the start of a part, every layer relays by the group means of that moment."""

SMALL = 1e-300
"""Replacement of a denominator of 0 under a numerator of 0."""


class Relay:
    """The patterns of a network's layers, from input to output.

    The lateral connections of a layer make the layer's activity repeat with the period of the modules, k / gcd(k,
    stride): a number per output channel and module. This activity is a pattern for the nearest later layer with as many
    input channels and with a kernel of this period, or of the size of the layer's kernel: the mean drive of each group,
    after the group's sleep, in response to the layer's pattern; standardised over the presentations, rectified, and
    scaled until |x|^2 of every active pattern is the stimulus' mean (|x|^2 would vary tenfold in layers whose drives
    rise and fall together). All remaining layers see drawn patterns, as the first layer sees patterns from the retina.

    If all layers sleep at the same time, the activity is the response of the groups as changed so far.

    In a network of patches with a matrix for every token, the activity of all tokens is equal, and survives a whole
    block: softmax attention over equal tokens returns the value vector, so the projection sees the activity of the
    value layer. Layers named "query" or "key", whose activity sets the weights of an attention only, relay nothing.

    These rules know numbers of channels and names alone. A single layer for queries, keys and values has too many
    channels to relay to a projection, which sees the activity of an earlier layer. Token mixing makes equal tokens
    different, so that a Mixer's layers relay past each other; with as many tokens as features they would relay to
    each other what they can't see. Take drawn patterns for such networks.

    Args:
        stimulus: source of drawn patterns.
        presentations: number of patterns of every layer.
        border: positions that share; only neurons at these positions belong to a group.
        change_of: the change of a layer so far, if not yet written into the weights.
    """

    def __init__(
        self,
        stimulus: Stimulus,
        presentations: int,
        border: Border = "share",
        change_of: Callable[[LocallyConnected2d], LinearSleep] | None = None,
    ) -> None:
        self.stimulus, self.presentations, self.change_of = stimulus, presentations, change_of
        self.border: Border = border
        # the last layer with its patterns, by kernel size and number of channels
        self.sources: dict[tuple[tuple[int, ...], int], tuple[LocallyConnected2d, Array]] = {}

    def patterns(self, layer: LocallyConnected2d, seed: int, name: str = "") -> Array:
        """Return the patterns (P, K) of the layer that sleeps next, after the sleep of the layer before."""
        kernel, inputs = tuple(layer.kernel_size), inputs_of(layer)
        source = self.sources.get((kernel, layer.in_channels)) if layer.groups == 1 else None
        if source:
            patterns = self._activity(*source, kernel) * np.sqrt(self.stimulus.power(inputs))
        else:
            patterns = self.stimulus.draw(self.presentations, inputs, seed=seed)
        if name.rpartition(".")[2] not in ("query", "key"):
            period = tuple(k // math.gcd(k, s) for k, s in zip(kernel, layer.stride, strict=True))
            for size in {kernel, period}:
                self.sources[size, layer.out_channels] = layer, patterns
        return patterns

    def _activity(self, layer: LocallyConnected2d, patterns: Array, size: tuple[int, ...]) -> Array:
        """The activity of a layer, (P, out x rows x columns) for size = (rows, columns), of length 1 or silent."""
        x = torch.from_numpy(patterns)
        change = self.change_of(layer) if self.change_of else None
        drives = x.new_zeros(len(x), layer.out_channels, *size)  # modules without neurons are silent
        for module in modules(layer, self.border, smallest=1):
            mean = module.groups(layer.weight.detach()).cpu().double().mean(1)  # mu, (out, K)
            if change and module.neurons > 1:
                mean = change.mean_after(module, mean.to(change.B), change.c).cpu().double()
            row, column = (slice(part.start % part.step, None, part.step) for part in (module.rows, module.columns))
            drives[:, :, row, column] = (x[:, module.seen] @ mean.mT)[..., None, None]  # zbar
        return _rectified(drives.flatten(1)).numpy()


SimulatedMap = Callable[[LocallyConnected2d, Array], LinearSleep]
"""The map of a layer that sees patterns (P, K)."""


def relayed_maps(
    layers: Layers, length: Callable[[int], int], stimulus: Stimulus, border: Border, seed: int, simulated: SimulatedMap
) -> Iterator[LinearSleep]:
    """Yield the map of every layer, simulated after the sleep of the layers before; ``length`` takes K to P."""
    relay = Relay(stimulus, max(length(inputs_of(layer)) for _, layer in layers), border)
    for name, layer in layers:
        inputs = inputs_of(layer)
        yield simulated(layer, relay.patterns(layer, derived(seed, inputs), name)[: length(inputs)])


def simultaneous_maps(
    layers: Layers, length: Callable[[int], int], stimulus: Stimulus, border: Border, seed: int, simulated: SimulatedMap
) -> list[LinearSleep]:
    """Simulate the maps of all layers, and the maps up to the start of a part for the layers that relay."""
    seen: dict[LocallyConnected2d, Array] = {}  # the patterns of all parts so far
    asleep = lambda layer: simulated(layer, seen[layer])
    for part in range(PARTS):
        until = lambda layer, parts: math.ceil(length(inputs_of(layer)) * parts / PARTS)
        counts = {layer: until(layer, part + 1) - until(layer, part) for _, layer in layers}
        relay = Relay(stimulus, max(counts.values()), border, asleep if part else None)
        more = {
            layer: relay.patterns(layer, derived(seed, inputs_of(layer), part), name)[: counts[layer]]
            for name, layer in layers
        }
        seen = {layer: np.concatenate([seen[layer], x]) if part else x for layer, x in more.items()}
    return [asleep(layer) for layer in seen]


def _rectified(drive: Tensor) -> Tensor:
    """Turn drives (P, K) into patterns of length 1: standardised over the presentations, rectified; 0 if silent."""
    deviation = drive - drive.mean(0)
    rates = (deviation / deviation.square().mean(0).sqrt().clamp_min(SMALL)).clamp_min(0)
    return rates / torch.linalg.vector_norm(rates, dim=1, keepdim=True).clamp_min(SMALL)
