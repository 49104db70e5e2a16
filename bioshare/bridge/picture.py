"""The picture of a sleep: one channel's weights over positions before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from bioshare.checks import whole

if TYPE_CHECKING:
    from bioshare.bridge.report import Kept, LayerReport

PANELS = "before sleep", "after sleep"
WEIGHTS_PER_INCH = 30
MEDIANS = 4
COLOURS = "cividis"
"""Dark blue, grey at 0, yellow: lightness grows with the weight, so that the sign survives in grey."""


def draw(kept: Kept, row: LayerReport, inputs: int = 0) -> Figure:
    """Two mosaics, in which every output position is its kernel for one input channel.

    Lines lie between every kh (kw) positions: what they enclose repeats from tile to tile when the positions of each
    module have equal weights. Both panels have one linear scale, centred on 0 and made for the weights after sleep,
    which can be a tenth of those before. It ends at four times their median size, or at the largest; weights beyond
    have the colours of its ends, and the colour bar has arrows.

    Args:
        kept: the weights.
        row: what was measured in their layer.
        inputs: which input channel, of those in the output channel's group.

    Raises:
        TypeError, ValueError: there is no such input channel.
    """
    channels = kept.before.shape[2]
    expected = f"an input channel of layer {row.label!r}, a whole number from 0 to {channels - 1}"
    if whole("inputs", inputs, expected, at_least=0) >= channels:
        raise ValueError(f"inputs must be {expected}; got {inputs}")
    before, after = (weights[:, :, inputs].double().numpy() for weights in (kept.before, kept.after))
    limit = _limit(before, after)
    figure = Figure(figsize=_size(mosaic(after).shape), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    images = [_show(axes, kernels, limit) for axes, kernels in zip(panels, (before, after), strict=True)]
    for axes, name in zip(panels, PANELS, strict=True):
        axes.set(title=name, xlabel="column")
    panels[0].set_ylabel("row")
    clipped = max(np.abs(before).max(), np.abs(after).max()) > limit
    extend = "both" if clipped else "neither"
    figure.colorbar(images[0], ax=panels, label="weight", extend=extend, extendfrac=0.03, aspect=30, pad=0.02)
    figure.suptitle(_title(kept, row, inputs))
    return figure


def mosaic(kernels: NDArray) -> NDArray:
    """Kernels (H, W, kh, kw) side by side at their positions, (H kh, W kw)."""
    rows, columns, kh, kw = kernels.shape
    return kernels.swapaxes(1, 2).reshape(rows * kh, columns * kw)


def _limit(before: NDArray, after: NDArray) -> float:
    """Where the colours end: a border that kept its weights or a single large one must not make the rest pale."""
    size = np.abs(after)
    typical = min(size.max(), MEDIANS * np.median(size))
    return float(typical or size.max() or np.abs(before).max() or 1.0)


def _show(axes: Axes, kernels: NDArray, limit: float) -> AxesImage:
    """One panel; its axes count positions, and every weight is a square."""
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
    _mark(axes, kernels.shape)
    return image


def _mark(axes: Axes, shape: tuple[int, ...]) -> None:
    """Whole numbers at the positions; lines between the tiles in which the weights repeat."""
    rows, columns, kh, kw = shape
    axes.grid(False)
    axes.locator_params(integer=True)
    for axis, size, period in ((axes.xaxis, columns, kw), (axes.yaxis, rows, kh)):
        if period > 1:
            axis.set_ticks(np.arange(period, size, period) - 0.5, minor=True)
            axis.grid(True, which="minor", color="black", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _size(weights: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches for two mosaics of that many weights: neither specks nor a wall."""
    scale = float(np.clip(max(weights) / WEIGHTS_PER_INCH, 4, 10)) / max(weights)
    height, width = (max(2.5, scale * size) for size in weights)
    return 2 * width + 1.5, height + 1


def _title(kept: Kept, row: LayerReport, inputs: int) -> str:
    named = f"layer {row.label}: output channel {kept.channel}, input channel {inputs}"
    if np.isnan(row.neg_log_snr_before):
        return named
    return f"{named}\n-log SNR of the layer: {row.neg_log_snr_before:.2f} to {row.neg_log_snr_after:.2f}"
