"""Picture of a sleep: the weights of an output channel at all positions, before and after the sleep."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

PANELS = "before sleep", "after sleep"
TILES = "White lines enclose a position of each module: tiles are alike where the weights of each module are equal."
WEIGHTS_PER_INCH = 30
MEDIANS = 4
COLOURS = "cividis"
"""Colour map with dark blue, grey at 0, and yellow: lightness grows with the weight, so grey prints keep the sign."""


def draw_mosaics(before: NDArray, after: NDArray, title: str, names: tuple[str, str] = ("row", "column")) -> Figure:
    """Draw two mosaics of kernels (H, W, kh, kw), before and after a sleep; ``names`` are those of the axes.

    Lines enclose kh x kw positions: these tiles are equal when the positions of each module have equal weights. Both
    panels share a linear scale, centred on 0, that suits the weights after sleep, often a tenth of the weights
    before. The scale ends at the smaller of four times the median size and the largest size; larger weights have the
    colours of the ends, and the colour bar has arrows.
    """
    size = np.abs(after)  # a border that kept large weights must not make the rest pale
    limit = float(min(size.max(), MEDIANS * np.median(size)) or size.max() or np.abs(before).max() or 1.0)
    figure = Figure(figsize=_figure_size(mosaic(after).shape), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    images = [_show(axes, kernels, limit) for axes, kernels in zip(panels, (before, after), strict=True)]
    for axes, name in zip(panels, PANELS, strict=True):
        axes.set(title=name, xlabel=names[1])
    panels[0].set_ylabel(names[0])
    clipped = max(np.abs(before).max(), np.abs(after).max()) > limit
    extend = "both" if clipped else "neither"
    figure.colorbar(images[0], ax=panels, label="weight", extend=extend, extendfrac=0.03, aspect=30, pad=0.02)
    figure.suptitle(title)
    if max(after.shape[2:]) > 1:
        figure.supxlabel(TILES, fontsize="small")
    return figure


def mosaic(kernels: NDArray) -> NDArray:
    """Put kernels (H, W, kh, kw) side by side at their positions, (H kh, W kw)."""
    rows, columns, kh, kw = kernels.shape
    return kernels.swapaxes(1, 2).reshape(rows * kh, columns * kw)


def _show(axes: Axes, kernels: NDArray, limit: float) -> AxesImage:
    """Show a mosaic on axes that count positions, with a square for every weight and lines between the tiles."""
    rows, columns, kh, kw = kernels.shape
    image = axes.imshow(
        mosaic(kernels),
        cmap=COLOURS,
        vmin=-limit,
        vmax=limit,
        interpolation="none",
        aspect=kh / kw,
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )
    axes.grid(False)
    axes.locator_params(integer=True)
    for axis, size, period in ((axes.xaxis, columns, kw), (axes.yaxis, rows, kh)):
        if period > 1:
            axis.set_ticks(np.arange(period, size, period) - 0.5, minor=True)
            axis.grid(True, which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return image


def _figure_size(weights: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches for two mosaics of (rows, columns) weights: neither specks nor a wall."""
    scale = float(np.clip(max(weights) / WEIGHTS_PER_INCH, 4, 10)) / max(weights)
    height, width = (max(2.5, scale * size) for size in weights)
    return 2 * width + 1.5, height + 1
