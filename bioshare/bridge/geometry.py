"""The modules of a layer: positions with shared weights, and the part of the sleeping pattern seen at each position.

The sleeping input of a kh x kw layer repeats with the period (kh, kw). Positions that see the same patch of this
pattern form a *module*, tied by lateral connections. Each output channel of a module is a sharing group of N neurons
with K = in / groups * kh * kw weights, and an inhibitory neuron. Patches of two modules are cyclic shifts (Sec. 4.1).

Outputs p and q along an axis see the same patch if (p - q) * stride is a multiple of k, so the period of a module is
k / gcd(k, stride): every k-th position if the stride is coprime to k, and all positions of a patch embedding, where
stride and kernel are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from bioshare.checks import choice, whole
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical
from bioshare.nn.replaceable import sharded
from bioshare.nn.weights import check_weights

Border = Literal["share", "keep", "scale"]
"""Positions whose patch reaches into the padding share, as if the pattern continued in the padding; keep the weights;
or keep the directions of the kernels, with norms scaled as the norms of the sharing positions of the module.

No neurons lie behind the pattern in the padding, so "share" is an idealisation with a large effect: report "keep" as
well. The authors' code shares the border where groups are averaged, and keeps the border in gradient descent on Eq. 4.
"""


class Geometry(NamedTuple):
    """Geometry of a layer: pairs of (rows, columns); ``padding`` counts the rows at the top and columns at the left.

    The first ``class_tokens`` rows belong to no module.
    """

    channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    border: Border
    class_tokens: int = 0

    @classmethod
    def of(cls, layer: LocallyConnected2d, border: Border) -> Geometry:
        """Read the geometry of a layer."""
        left, _, top, _ = layer.pad
        names = "kernel_size", "stride", "dilation", "input_size", "output_size"
        pairs = {name: tuple(getattr(layer, name)) for name in names}
        tokens = class_tokens_of(layer)
        return cls(layer.weight.shape[3], padding=(top, left), border=border, class_tokens=tokens, **pairs)


def class_tokens_of(layer: LocallyConnected2d) -> int:
    """Return the number of first positions in no group: the class tokens of a `PatchwiseLinear`, or 0."""
    return getattr(layer, "class_tokens", 0)


@dataclass(frozen=True)
class SharingModule:
    """The positions of a layer tied by lateral connections.

    Attributes:
        rows, columns: positions of the module.
        neurons: N, the number of these positions.
        seen: (K,) indices into the in / groups x kh x kw inputs of the pattern: the input seen by every tap of a
            neuron, the taps in memory order.
    """

    rows: slice
    columns: slice
    neurons: int
    seen: Tensor
    placed: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def taps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return `seen` and the inverse permutation on a device, copied there only once: no later sleep waits."""
        if device not in self.placed:
            self.placed[device] = self.seen.to(device), self.seen.argsort().to(device)
        return self.placed[device]

    def groups(self, weight: Tensor) -> Tensor:
        """Read the sharing groups (out, N, K) from a layer's weight, the taps in memory order."""
        return physical(weight)[self.rows, self.columns].flatten(0, 1).flatten(2).transpose(0, 1)

    def write(self, weight: Tensor, groups: Tensor) -> None:
        """Write the sharing groups (out, N, K) into a layer's weight."""
        target = physical(weight)[self.rows, self.columns]
        target.copy_(groups.transpose(0, 1).reshape(target.shape))


def modules(layer: LocallyConnected2d, border: Border = "share", smallest: int = 2) -> tuple[SharingModule, ...]:
    """List the modules of a layer with at least ``smallest`` neurons; only "share" has positions at the padding."""
    if not isinstance(layer, LocallyConnected2d):
        raise TypeError(f"layer must be a LocallyConnected2d; got {type(layer).__name__}")
    choice("border", border, get_args(Border))
    smallest = whole("smallest", smallest, "a number of neurons", at_least=0)
    return _modules(Geometry.of(layer, border), smallest)


@cache  # for good: CUDA graphs hold the addresses of the tensors that modules have placed on a device
def _modules(geometry: Geometry, smallest: int) -> tuple[SharingModule, ...]:
    kh, kw = geometry.kernel_size
    taps = torch.arange(geometry.channels * kh * kw, device="cpu").view(-1, kh, kw)  # whatever the default device
    found = []
    for row, row_phases in _along_axis(geometry, 0):
        for column, column_phases in _along_axis(geometry, 1):
            height, width = (len(range(size)[s]) for size, s in zip(geometry.output_size, (row, column), strict=True))
            seen = taps[:, row_phases][:, :, column_phases].permute(2, 1, 0).flatten()  # (kw, kh, in), as `physical`
            if height * width >= smallest:
                found.append(SharingModule(row, column, height * width, seen))
    return tuple(found)


def _along_axis(geometry: Geometry, axis: int) -> list[tuple[slice, list[int]]]:
    """The modules along an axis: their positions, and the phase of the pattern seen by each tap there."""
    names = "output_size", "input_size", "kernel_size", "stride", "dilation", "padding"
    outputs, size, kernel, stride, dilation, padding = (getattr(geometry, name)[axis] for name in names)
    first, stop = geometry.class_tokens if axis == 0 else 0, outputs
    if geometry.border != "share":
        first, stop = max(first, -(-padding // stride)), (size - 1 - (kernel - 1) * dilation + padding) // stride + 1
    phases = lambda start: [(start * stride - padding + i * dilation) % kernel for i in range(kernel)]
    period = kernel // math.gcd(kernel, stride)
    return [(slice(start, max(start, stop), period), phases(start)) for start in range(first, first + period)]


@dataclass(frozen=True)
class GroupMeans:
    """The means of all sharing groups of a layer in two operations; a position that shares nothing is a set by itself.

    Attributes:
        positions: (H_out x W_out,) numbers of the positions, sorted by set: the modules first, then single positions.
        starts: index of the first position of every set.
        set_of: (H_out x W_out,) number of the set of every position.
    """

    positions: Tensor
    starts: Tensor
    set_of: Tensor

    @staticmethod
    def of_layer(layer: LocallyConnected2d, border: Border) -> GroupMeans:
        """Return the sets of a layer on the device of the weight, made once for every geometry and device."""
        return _group_means(Geometry.of(layer, border), layer.weight.device)

    def means(self, weight: Tensor) -> Tensor:
        """Compute the mean of every set, (sets, out x K) in memory order, in at least float32."""
        flat = physical(weight).flatten(0, 1).flatten(1)  # (H_out x W_out, out x K)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        return embedding_bag(self.positions, wide, self.starts, mode="mean")

    def average(self, weight: Tensor) -> None:
        """Set every position to the mean of the set, in place."""
        means, target = self.means(weight).to(weight.dtype), physical(weight)
        if target.is_contiguous():  # a flat view exists
            torch.index_select(means, 0, self.set_of, out=target.flatten(0, 1).flatten(1))
        else:
            target.copy_(means[self.set_of].view(target.shape))

    def average_bias(self, bias: Tensor, spread: float = 0.0) -> None:
        """Shrink the deviations of biases (out, H_out, W_out) from the means of the sets to a fraction, in place."""
        target = bias.permute(1, 2, 0)  # (H_out, W_out, out)
        wide = target.to(torch.promote_types(bias.dtype, torch.float32)).flatten(0, 1)
        means = embedding_bag(self.positions, wide, self.starts, mode="mean")[self.set_of]
        target.copy_(torch.lerp(means, wide, spread).view(target.shape))


@cache  # for good: CUDA graphs hold the addresses of these tensors
def _group_means(geometry: Geometry, device: torch.device) -> GroupMeans:
    numbers = np.arange(np.prod(geometry.output_size)).reshape(geometry.output_size)
    single = np.ones(numbers.size, dtype=bool)
    sets = [numbers[module.rows, module.columns].ravel() for module in _modules(geometry, 2)]
    for positions in sets:
        single[positions] = False
    sets += list(np.flatnonzero(single)[:, None])
    sizes, positions = [len(members) for members in sets], np.concatenate(sets)
    set_of = np.empty_like(positions)
    set_of[positions] = np.arange(len(sets)).repeat(sizes)
    return GroupMeans(*(torch.from_numpy(x).to(device) for x in (positions, np.cumsum([0, *sizes[:-1]]), set_of)))


def inputs_of(layer: LocallyConnected2d) -> int:
    """K, the number of inputs to a neuron: in / groups * kh * kw."""
    return math.prod(layer.weight.shape[3:])


Kind = tuple[int, torch.device, torch.dtype]
"""K, and device and precision of the deviations' map: layers with equal values can share a map of weights."""


def kind_of(layer: LocallyConnected2d) -> Kind:
    """Return the `Kind` of a layer; deviations are computed in at least float32."""
    return inputs_of(layer), layer.weight.device, torch.promote_types(layer.weight.dtype, torch.float32)


Chosen = tuple[str, ...] | None
"""Names of layers, with * and ? as in a shell; None: all layers whose weights learn (``requires_grad``)."""

Layers = Sequence[tuple[str, LocallyConnected2d]]
"""Locally connected layers by name, from input to output."""


def all_layers(model: nn.Module) -> Layers:
    """List all locally connected layers by name, in the order of ``model.modules()``."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LocallyConnected2d)]


def layers_of(model: nn.Module, chosen: Chosen = None) -> Layers:
    """List the chosen locally connected layers by name, in the order of ``model.modules()``.

    Raises:
        ValueError: there is no such layer, a chosen name is unknown, or no layer learns and none is chosen.
    """
    layers = all_layers(model)
    if not layers:
        raise ValueError("model must have a LocallyConnected2d layer; bioshare.nn.to_locally_connected makes one")
    names = [name for name, _ in layers]
    for pattern in chosen or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            near = ", ".join(map(repr, get_close_matches(pattern, names, cutoff=0.0)))
            raise ValueError(f"layers must name locally connected layers; got {pattern!r}. Nearest: {near}")
    if chosen is not None:
        return [(name, layer) for name, layer in layers if any(fnmatchcase(name, pattern) for pattern in chosen)]
    if learning := [(name, layer) for name, layer in layers if not _frozen(layer)]:
        return learning
    raise ValueError(
        f"model must have a locally connected layer that learns; all {len(names)} have requires_grad=False, and "
        'frozen layers do not share. Call requires_grad_(True), or name the layers: layers=("*",) takes all'
    )


def _frozen(layer: LocallyConnected2d) -> bool:
    weight = layer._parameters.get("weight")  # None if computed from other parameters
    return weight is not None and not weight.requires_grad


def checked_layers(model: nn.Module, chosen: Chosen = None) -> Layers:
    """List the chosen locally connected layers by name, after checking that all weights can be shared.

    Raises:
        TypeError: ``model`` is no module, or a weight is no Parameter, or sharded over processes.
        ValueError: as `layers_of`; a weight is not finite or complex, or two layers have the same Parameter.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if any(map(sharded, model.modules())):
        raise TypeError(
            "model must have whole weights on every process; got a model of fully_shard, of which a process has some "
            "positions of a sharing group only. Take DistributedDataParallel in place of fully_shard"
        )
    layers = layers_of(model, chosen)
    check_weights(layers)
    owners: dict[int, str] = {}
    for name, layer in layers:
        if layer.weight.is_meta:
            raise ValueError(f"layer {name!r} must have weights in memory; got the meta device, which has no values")
        if (owner := owners.setdefault(id(layer.weight), name)) != name:
            raise ValueError(
                f"layers {owner!r} and {name!r} must have a weight each; both hold the same Parameter, which would "
                "sleep twice. Use one of the layers in both places, or give each a Parameter of its own"
            )
        if layer.weight.is_complex():
            raise ValueError(f"layer {name!r} must have real weights to share; got {layer.weight.dtype}")
    extremes = [torch.stack(physical(layer.weight.detach()).aminmax()) for _, layer in layers]
    flags = [pair.isfinite().all() for pair in extremes]
    finite = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()  # waits for a GPU once, not per layer
    for (name, _), fine in zip(layers, finite, strict=True):
        if not fine:
            raise ValueError(f"layer {name!r} must have finite weights; one NaN would reach its whole sharing group")
    return layers
