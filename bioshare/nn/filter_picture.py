"""Pictures of dense layers: the weights of one output, and the block between two channels (d'Ascoli et al. 2019)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioshare.checks import shown, whole
from bioshare.nn.fully_connected import FullyConnected2d

SMALLEST = 1e-12
"""Size of a weight of 0 on a logarithmic scale."""


def draw_filter(
    layer: FullyConnected2d,
    channel: int = 0,
    position: tuple[int, int] = (0, 0),
    before: FullyConnected2d | None = None,
    ax: Any = None,
) -> Any:
    """Draw the weights from all pixels to one output, as Figs. 6 and 7 of d'Ascoli et al. (2019).

    The colour is the natural logarithm of the root mean square over the input channels.

    Args:
        layer: a layer of `to_fully_connected`.
        channel: output channel.
        position: row and column of the output.
        before: the layer of a former time, to draw the change since (Fig. 7, right), or None.
        ax: axes of Matplotlib, or None for new ones.

    Returns:
        The axes.
    """
    _check_layer("layer", layer)
    channel = whole("channel", channel, "an output channel", at_least=0)
    if not isinstance(position, tuple) or len(position) != 2:
        raise TypeError(f"position must be the row and the column of an output, such as (0, 0); got {shown(position)}")
    row, column = (whole("position", one, "the row and the column of an output", at_least=0) for one in position)
    if before is not None:
        _check_layer("before", before)
        if before.weight.shape != layer.weight.shape:
            raise ValueError(f"before must have the sizes of layer, {layer}; got {before}")
    sizes = layer.out_channels, *layer.output_size
    for name, number, size in (
        ("channel", channel, sizes[0]),
        ("position", row, sizes[1]),
        ("position", column, sizes[2]),
    ):
        if number >= size:
            raise ValueError(f"{name} must lie within the output (channels, rows, columns) {sizes}; got {number}")
    weights = layer.filter(channel, row, column).detach()
    if before is not None:
        weights = weights - before.filter(channel, row, column).detach()
    return _shown(ax, weights.double().square().mean(0).sqrt(), "row", "column")


def draw_block(layer: FullyConnected2d, output_channel: int = 0, input_channel: int = 0, ax: Any = None) -> Any:
    """Draw the weights from all pixels of one channel to all outputs of another, as Fig. 9 of d'Ascoli et al. (2019).

    The colour is the natural logarithm of the size. A convolution has a few diagonal stripes.

    Args:
        layer: a layer of `to_fully_connected`.
        output_channel, input_channel: the two channels.
        ax: axes of Matplotlib, or None for new ones.

    Returns:
        The axes.
    """
    _check_layer("layer", layer)
    channels = {
        "output_channel": (output_channel, layer.out_channels),
        "input_channel": (input_channel, layer.in_channels),
    }
    for name, (number, size) in channels.items():
        if whole(name, number, "a channel", at_least=0) >= size:
            raise ValueError(f"{name} must be below {size}, the number of channels; got {number}")
    sizes = layer.out_channels, math.prod(layer.output_size), layer.in_channels, math.prod(layer.image_size)
    block = layer.weight.detach().view(sizes)[output_channel, :, input_channel]
    return _shown(ax, block.double().abs(), "output", "pixel")


def _check_layer(name: str, layer: object) -> None:
    if not isinstance(layer, FullyConnected2d):
        raise TypeError(f"{name} must be a layer of bioshare.nn.to_fully_connected; got {shown(layer)}")


def _shown(ax: Any, sizes: Tensor, row: str, column: str) -> Any:
    """Draw the logarithm of sizes (rows, columns); the scale leaves out weights of 0, which have the darkest colour."""
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes | None):
        raise TypeError(f"ax must be axes of Matplotlib or None; got {shown(ax)}")
    ax = ax or plt.figure(figsize=(4, 3.5), layout="constrained").add_subplot()
    logarithms = np.log(torch.clamp(sizes, min=SMALLEST).cpu().numpy())
    smallest = logarithms[sizes.cpu().numpy() > SMALLEST].min(initial=0.0)
    image = ax.imshow(logarithms, cmap="cividis", vmin=smallest, interpolation="none", aspect="auto")
    ax.grid(False)
    ax.set(xlabel=column, ylabel=row)
    ax.figure.colorbar(image, ax=ax, label="ln |weight|")
    return ax
