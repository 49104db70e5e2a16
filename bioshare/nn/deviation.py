"""How far a network has moved from the networks with local and with shared weights (d'Ascoli et al. 2019, Sec. 4.3).

Weights of a fully connected layer are a sum of three orthogonal parts: the nearest convolution, what the local weights
have beside, and the weights outside the kernels,

    theta = shared + (local - shared) + off-local        |theta|^2 = |shared|^2 + |unshared|^2 + |off-local|^2

with delta = |off-local| / |theta|, the paper's measure. -log SNR compares the spread with the mean within each group of
neurons that see equal stimuli in sleep; the second part has the differences between these groups as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bioshare.checks import choice, shown
from bioshare.nn.fully_connected import FullyConnected2d
from bioshare.nn.locally_connected import LocallyConnected2d

if TYPE_CHECKING:
    import xarray as xr

Unshared = FullyConnected2d | LocallyConnected2d


@dataclass(frozen=True)
class LayerDeviation:
    """Norms of the three parts of a layer's weights, without those of class tokens, which share with no other token.

    Attributes:
        name: name of the layer in the model.
        shared: norm of the nearest convolution, the mean over all positions whose tap sees the image; in a fully
            connected layer with padded columns over all positions. There the weights for zeros around the image get no
            gradient, and count as unshared as soon as the others move.
        unshared: norm of the rest inside the kernels.
        off_local: norm of the weights outside the kernels.
    """

    name: str
    shared: float
    unshared: float
    off_local: float

    @property
    def delta(self) -> float:
        """Norm of the weights outside the kernels over the norm of all weights; NaN if all are 0."""
        norm = math.hypot(self.shared, self.unshared, self.off_local)
        return self.off_local / norm if norm else math.nan


@dataclass(frozen=True)
class Deviation:
    """Parts of the weights of a model's locally and fully connected layers, in the order of ``model.modules()``."""

    layers: tuple[LayerDeviation, ...]

    @property
    def total(self) -> LayerDeviation:
        """Norms and delta over the weights of all layers, without biases and without the last, linear layer."""
        norms = (math.hypot(*(getattr(row, name) for row in self.layers)) for name in PARTS)
        return LayerDeviation("all", *norms)

    def __str__(self) -> str:
        rows = (*self.layers, self.total)
        width = max(len("layer"), *(len(row.name) for row in rows))
        lines = [f"{'layer':{width}}    shared  unshared  off-local   delta"]
        for row in rows:
            lines.append(
                f"{row.name:{width}}  {row.shared:8.4g}  {row.unshared:8.4g}  {row.off_local:9.4g}  {row.delta:6.4f}"
            )
        return "\n".join(lines)

    def to_xarray(self) -> xr.Dataset:
        """The norms and delta along the axis layer."""
        import xarray as xr

        variables = {
            name: ("layer", np.array([getattr(row, name) for row in self.layers]), {"long_name": meaning})
            for name, meaning in (PARTS | {"delta": "norm of the weights outside the kernels over that of all"}).items()
        }
        return xr.Dataset(variables, {"layer": [row.name for row in self.layers]})


PARTS = {
    "shared": "norm of the nearest convolution",
    "unshared": "norm of the rest of the weights inside the kernels",
    "off_local": "norm of the weights outside the kernels",
}
"""Parts of the weights and their meanings."""


def deviation(model: nn.Module) -> Deviation:
    """Measure how far a model's locally and fully connected layers are from convolutions.

    Args:
        model: a model with layers of `to_locally_connected` or `to_fully_connected`.

    Raises:
        ValueError: the model has no such layer.

    Example:
        >>> from bioshare.nn import to_fully_connected
        >>> print(deviation(to_fully_connected(nn.Conv2d(1, 1, 1, bias=False), (1, 4, 4))).total.delta)
        0.0
    """
    return Deviation(tuple(_measured(name or "(model)", layer) for name, layer in unshared_layers(model)))


def unshared_layers(model: nn.Module) -> list[tuple[str, Unshared]]:
    """Return the locally and fully connected layers of a model with their names."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {shown(model)}")
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Unshared)]
    if not layers:
        raise ValueError(
            "model must have a locally or fully connected layer; there is none. Make a copy with "
            "bioshare.nn.to_locally_connected or bioshare.nn.to_fully_connected"
        )
    return layers


@torch.no_grad()
def _measured(name: str, layer: Unshared) -> LayerDeviation:
    norm = lambda values: float(torch.linalg.vector_norm(values, dtype=torch.float64))
    if isinstance(layer, LocallyConnected2d):
        own = getattr(layer, "class_tokens", 0)
        kernels = layer.weight.double().flatten(0, 1).flatten(-2)[own:]  # (positions, out, in / groups, taps)
        seen = _seen_taps(layer)[own:].to(kernels.device)
        kernels = kernels * seen[:, None, None]  # without weights for zeros around the image
        shared = kernels.sum(0) / seen.sum(0).clamp(min=1) * seen[:, None, None]
        return LayerDeviation(name, norm(shared), norm(kernels - shared), 0.0)
    # values (n, out / groups, in / groups) of the n pairs of a position and a pixel inside a kernel
    pairs, taps = _pairs(layer)
    split = [layer.blocks()[group, :, :, group][:, pairs[0], :, pairs[1]] for group in range(layer.groups)]
    local = torch.stack(split, 1).flatten(1).double()
    shared = taps @ (torch.linalg.pinv(taps.T @ taps) @ (taps.T @ local))  # the nearest sum of taps
    outside = layer.weight.masked_fill(locality(layer), 0)
    return LayerDeviation(name, norm(shared), norm(local - shared), norm(outside))


def _seen_taps(layer: LocallyConnected2d) -> Tensor:
    """Return 1 for every position and tap that sees the image, 0 for zeros around the image, (positions, taps)."""
    seen = torch.zeros(math.prod(layer.output_size), math.prod(layer.kernel_size), dtype=torch.float64)
    for tap, positions, _ in FullyConnected2d(layer, False).taps():
        seen[positions, tap] = 1
    return seen


def _pairs(layer: FullyConnected2d) -> tuple[Tensor, Tensor]:
    """Return all pairs of a position and a pixel inside a kernel, (2, n), and the taps that join each pair, (n, taps).

    Most pairs have a single tap; with a padding that repeats pixels, some have several.
    """
    pixels, found = math.prod(layer.image_size), list(layer.taps())
    numbers = torch.cat([positions * pixels + seen for _, positions, seen in found])
    pairs, row = numbers.unique(return_inverse=True)
    column = torch.cat([torch.full_like(seen, tap) for tap, _, seen in found])
    taps = torch.zeros(len(pairs), math.prod(layer.kernel_size), dtype=torch.float64)
    taps[row, column] = 1
    device = layer.weight.device
    return torch.stack([pairs // pixels, pairs % pixels]).to(device), taps.to(device)


def locality(layer: Unshared) -> Tensor:
    """Return True for every weight inside a kernel that sees the image, in the shape of the layer's weights.

    With padded columns, weights inside a kernel for zeros around the image are True, too.

    Args:
        layer: a `LocallyConnected2d`, whose weights are all inside kernels, or a layer of `to_fully_connected`.

    Example:
        >>> from bioshare.nn import to_fully_connected
        >>> int(locality(to_fully_connected(nn.Conv2d(1, 1, 3), (1, 4, 4))).sum())
        36
    """
    if not isinstance(layer, Unshared):
        raise TypeError(f"layer must be a LocallyConnected2d, or of to_fully_connected; got {shown(layer)}")
    return shared_by(layer) > 0


def shared_by(layer: Unshared) -> Tensor:
    """Return how many positions share each weight in a convolution: those that see the image at the weight's tap.

    A step of a convolution moves a weight so many times as far, for equal gradients. The numbers have the shape of the
    layer's weights. They are 0 outside the kernels and for zeros around the image, where a layer with padded columns
    has P, the number of positions, as for all taps. Where a padding shows a pixel to several taps, the numbers of these
    taps add up.
    """
    if isinstance(layer, LocallyConnected2d):
        seen = _seen_taps(layer)
        counts = (seen * seen.sum(0)).view(*layer.output_size, 1, 1, *layer.kernel_size)
        return counts.to(layer.weight).expand(layer.weight.shape)
    pairs, taps = _pairs(layer)
    of_pair = (taps @ taps.sum(0)).to(layer.weight)
    counts = torch.zeros_like(layer.weight)
    blocks = counts.view(layer.blocks().shape)
    for group in range(layer.groups):
        blocks[group, :, :, group][:, pairs[0], :, pairs[1]] = of_pair[:, None, None]
    return counts


def keeping(model: nn.Module, part: Literal["local", "off-local"]) -> Any:
    """Keep one part of a model's weights within a block, and put all weights back at the end (d'Ascoli et al., Fig. 5).

    Biases of locally and fully connected layers count as local. All other layers stay as they are.

    Args:
        model: a model with locally or fully connected layers.
        part: the weights inside the kernels, or all others.

    Example:
        >>> from bioshare.nn import to_fully_connected
        >>> dense = to_fully_connected(nn.Conv2d(1, 1, 3), (1, 4, 4))
        >>> with keeping(dense, "off-local"):
        ...     print(float(dense(torch.ones(1, 1, 4, 4)).detach().abs().max()))
        0.0
    """
    choice("part", part, ("local", "off-local"))
    return _keeping([layer for _, layer in unshared_layers(model)], part)


@contextmanager
def _keeping(layers: list[Unshared], part: str) -> Iterator[None]:
    parameters = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for layer in layers:
                mask = locality(layer)
                layer.weight.masked_fill_(mask if part == "off-local" else ~mask, 0)
                if part == "off-local" and layer.bias is not None:
                    layer.bias.zero_()
        torch.clear_autocast_cache()  # copies of lower precision
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
        torch.clear_autocast_cache()
