"""The drawings of the documentation: lateral circuit, modules of a layer, tokens, training cycle and two sleeps.

The curve of the cycle is the lower panel of Fig. 3, from the data of fig3.py. All drawings are legible on a phone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from convergence import AMBER, HERE, NAVY, RUST, save_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ArrowStyle, Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from bioshare.cli import path

Point = tuple[float, float]

WIDTH = 4.6
"""Width of a drawing in inches. On a screen of 360 pixels, letters of 10 points are 11 pixels high."""
KERNEL, PIXELS = 3, 9
"""Rows and columns of a kernel, and of the input to the layer."""
TWINS, OTHER = ((1, 0), (4, 3)), (0, 5)
"""Row and column of neurons: two of the same module, and a third of another module."""
SILENT = "0.72"
"""Grey of cells and synapses without a signal."""
CELL = 0.5
"""Side of an entry of a table in the units of a drawing."""
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=path, default=HERE, help="folder of the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["font.size"] = 10
    save_figure(circuit(), args.out / "circuit")
    save_figure(modules(), args.out / "modules")
    save_figure(tokens(), args.out / "tokens")
    save_figure(two_nights(), args.out / "two_nights")
    save_figure(cycle(xr.load_dataset(HERE / "fig3.nc", engine="h5netcdf")), args.out / "cycle")


def circuit() -> Figure:
    """N excitatory neurons with the same input, and a common inhibitory neuron (Eq. 8)."""
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH))
    blank(axes, 10, 10)
    source, inhibitory = (5.0, 1.75), (5.0, 8.0)
    for x, name in ((1.4, "1"), (4.4, "2"), (8.6, "N")):
        place = (x, 5.0)
        side = 0.16 if x < 5 else -0.16
        arrow(axes, source, place, "-|>", NAVY, between=(10, 17))
        arrow(axes, place, inhibitory, "-|>", NAVY, bend=side, between=(18, 25))
        arrow(axes, inhibitory, place, ArrowStyle("-[", widthB=0.4, lengthB=0), RUST, bend=side, between=(25, 22))
        neuron(axes, place, rf"$r_{name}$", NAVY, 0.62)
        axes.text((source[0] + 1.2 * x) / 2.2, 3.45, rf"$\mathbf{{w}}_{name}$", ha="center", va="center", bbox=PAPER)
    axes.text(6.5, 5.0, r"$\cdots$", ha="center", va="center", fontsize=18)
    neuron(axes, inhibitory, r"$r_\mathrm{inh}$", RUST, 0.9)
    box(axes, (5, 1.75), 5.6, 0.9, r"input $\mathbf{x}$, the same for all")
    inhibition = r"$\tau\,\dot r_\mathrm{inh} = -r_\mathrm{inh} + \frac{1}{N}\,\sum_j r_j - b$   (8b)"
    excitation = r"$\tau\,\dot r_i = -r_i + \mathbf{w}_i^{\top}\mathbf{x} - \alpha\, r_\mathrm{inh} + b$   (8a)"
    axes.text(5, 9.6, inhibition, ha="center", va="center")
    axes.text(5, 0.4, excitation, ha="center", va="center")
    axes.text(1.5, 7.2, "excite:\nmean of $r_j$", color=NAVY, ha="center", va="center")
    axes.text(8.5, 7.2, "inhibits:\n" r"$-\alpha\, r_\mathrm{inh}$", color=RUST, ha="center", va="center")
    return figure


def modules() -> Figure:
    """An input of period k in sleep, and the k x k modules of a layer; every cell is a pixel or a neuron."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.75), width_ratios=(PIXELS, PIXELS - KERNEL + 1))
    positions = PIXELS - KERNEL + 1
    rows, columns = np.indices((PIXELS, PIXELS))
    active = (rows % KERNEL == 1) & (columns % KERNEL == 1)
    left.imshow(np.where(active, 0.85, 0.0), cmap="Greys", vmin=0, vmax=1)
    rows, columns = np.indices((positions, positions))
    module = KERNEL * (rows % KERNEL) + columns % KERNEL
    right.imshow(module, cmap="cividis", vmin=-4, alpha=0.6)
    for (row, column), number in np.ndenumerate(module):
        right.text(column, row, number + 1, ha="center", va="center")
    for row, column in (*TWINS, OTHER):
        color, line = ("black", (0, (1, 0.8))) if (row, column) == OTHER else (RUST, "-")
        frame = {"fill": False, "clip_on": False, "edgecolor": color, "linewidth": 2.4, "linestyle": line}
        left.add_patch(Rectangle((column - 0.5, row - 0.5), KERNEL, KERNEL, **frame))
        right.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    for axes, size, title in ((left, PIXELS, "input: one grid active"), (right, positions, "neurons: nine modules")):
        axes.set_xticks(np.arange(size + 1) - 0.5, [])
        axes.set_yticks(np.arange(size + 1) - 0.5, [])
        axes.tick_params(length=0)
        axes.grid(True, color="0.6", linewidth=0.6, alpha=1)
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
        axes.set_title(title)
    return figure


def tokens() -> Figure:
    """A matrix for every token, a matrix for every feature, and equal tokens in attention and in token mixing."""
    figure, (above, middle, below) = plt.subplots(3, 1, figsize=(WIDTH, 8.6), height_ratios=(7.2, 7.2, 4.4))
    equal_tokens, equal_features = np.tile([0.3, 0.9, 0.0, 0.6], (3, 1)), np.tile([[0.9], [0.1], [0.5]], (1, 4))
    sharing_group(above, "a matrix for every token", "token", equal_tokens)
    sharing_group(middle, "token mixing: a matrix for every feature", "feature", equal_features)
    blank(below, 10, 4.4)
    below.text(0, 4.1, "equal tokens, one layer on", weight="bold", va="center")
    random = np.random.default_rng(3)
    query, key, value, mixing = (random.normal(size=(size, size)) for size in (4, 4, 4, 3))
    scores = np.exp(equal_tokens @ query @ (equal_tokens @ key).T)
    attended = scores / scores.sum(axis=1, keepdims=True) @ equal_tokens @ value  # Softmax(Q K^T) V
    table(below, (0.1, 1.1), equal_tokens)
    for y, values, text in ((2.2, attended, "attention"), (0.1, mixing @ equal_tokens, "token mixing")):
        arrow(below, (2.4, 1.1 + 1.5 * CELL), (7.6, y + 1.5 * CELL), "-|>", NAVY)
        table(below, (7.8, y), (values - values.min()) / np.ptp(values))
        below.text(5, y + 1.5 * CELL, text, ha="center", va="center", bbox=PAPER)
    return figure


def sharing_group(axes: Axes, title: str, part: str, activity: np.ndarray) -> None:
    """Draw activities (3 tokens, 4 features), a matrix for every token or feature, and one sharing group's circuit."""
    blank(axes, 10, 7.2)
    axes.text(0, 6.9, title, weight="bold", va="center")
    table(axes, (0.1, 4.9), activity)
    rows, columns = (1, 4) if part == "token" else (3, 1)
    corner = 0.1, 4.9 + (3 - rows) * CELL
    axes.add_patch(Rectangle(corner, columns * CELL, rows * CELL, fill=False, edgecolor=RUST, linewidth=2.4))
    parts = activity if part == "token" else activity.T  # (parts, inputs)
    inputs, inhibitory = parts.shape[1], (5.0, 5.7)
    for number, left in enumerate(np.linspace(0.1, 9.9 - inputs * CELL, len(parts)), 1):
        centre = left + inputs * CELL / 2
        place, side = (centre, 3.9), 0.16 if centre < 5 else -0.16
        table(axes, (left, 0.6), parts[number - 1 : number])
        table(axes, (left, 1.6), np.zeros((2, inputs)))
        group = {"facecolor": (AMBER, 0.6), "edgecolor": RUST, "linewidth": 2}
        axes.add_patch(Rectangle((left, 1.6 + CELL), inputs * CELL, CELL, **group))
        axes.text(centre, 0.2, f"{part} {number}", ha="center", va="center")
        axes.text(centre, 1.6 + CELL / 2, rf"$\mathbf{{W}}_{number}$", ha="center", va="center", bbox=PAPER)
        arrow(axes, (centre, 0.6 + CELL), (centre, 1.6), "-|>", NAVY)
        arrow(axes, (centre, 1.6 + 2 * CELL), place, "-|>", RUST, between=(0, 18), width=3.0)
        cell(axes, place, f"$y_{{{number}1}}$", True)
        arrow(axes, place, inhibitory, "-|>", NAVY, bend=side, between=(18, 19), width=1.2)
        bar = ArrowStyle("-[", widthB=0.4, lengthB=0)
        arrow(axes, inhibitory, place, bar, NAVY, bend=side, between=(20, 22), width=1.2)
    cell(axes, inhibitory, r"$r_\mathrm{inh}$", True)


def table(axes: Axes, corner: Point, values: np.ndarray) -> None:
    """Draw entries between 0 and 1 as squares, the darker the larger; the first row is at the top."""
    for (row, column), value in np.ndenumerate(values[::-1]):
        place = corner[0] + column * CELL, corner[1] + row * CELL
        axes.add_patch(Rectangle(place, CELL, CELL, facecolor=str(1 - 0.85 * value), edgecolor="0.6", linewidth=0.6))


def cycle(data: xr.Dataset) -> Figure:
    """Weights diverge awake and converge asleep: as a loop, and as -log SNR of a real run."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 4.9), height_ratios=(1.4, 1))
    blank(top, 10, 6)
    for x, title, text, spread in ((2.1, "awake", "SGD on images", 1), (7.9, "asleep", "circuit, Eq. 4", -1)):
        box(top, (x, 3), 3.7, 3.2, "", color="white" if spread > 0 else AMBER)
        top.text(x, 4.15, title, ha="center", va="center", weight="bold")
        top.text(x, 1.8, text, ha="center", va="center")
        for offset in np.linspace(-0.6, 0.6, 7):
            ends = (0.08 * offset, offset)[::spread]
            top.plot([x - 1.2, x + 1.2], 2.95 + np.array(ends), color=NAVY, linewidth=1)
    arrow(top, (3.4, 4.6), (6.6, 4.6), "-|>", NAVY, bend=-0.3)
    arrow(top, (6.6, 1.4), (3.4, 1.4), "-|>", NAVY, bend=-0.3)
    top.text(5, 5.6, "every n-th batch", ha="center", va="center")
    top.text(5, 0.4, "on with training", ha="center", va="center")
    time = np.arange(data.sizes["time"])
    bottom.plot(time, data.neg_log_snr, color=NAVY)
    edges = np.flatnonzero(np.diff(data.asleep.values, prepend=0, append=0)).reshape(-1, 2)
    for begin, end in edges:
        bottom.axvspan(begin - 1, end - 1, color=AMBER, alpha=0.45, linewidth=0)
    bottom.text(edges[:2].flat[1:3].mean(), 2.3, "awake", ha="center")
    bottom.text(edges[2].mean(), 2.3, "asleep", ha="center")
    bottom.set(xlim=(0, time[-1]), ylim=(None, 4.2), xlabel="training steps, and presentations of sleep")
    bottom.set_ylabel(r"$-\log\,\mathrm{SNR}_w$")
    return figure


def two_nights() -> Figure:
    """Two cells below and above, forward (left) and feedback (right), in a sleep that shares and one that mirrors."""
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 7.0))
    titles = r"sharing: $\mathbf{W}$ learns", r"mirroring: $\mathbf{B}$ learns"
    texts = "equal patterns", "noise"
    for axes, title, text, mirroring in zip(panels, titles, texts, (False, True), strict=True):
        blank(axes, 10, 7.6)
        axes.text(0, 7.3, title, weight="bold", va="center")
        below, above = ((0.8, 1.2), (3.4, 1.2)), ((0.8, 4.3), (3.4, 4.3))
        down, up = ((6.6, 1.2), (9.2, 1.2)), ((6.6, 4.3), (9.2, 4.3))
        inhibitory = (2.1, 6.3)
        for cells, name, speaks in ((below, "x", True), (above, "y", True), (down, r"\delta", mirroring)):
            for number, place in enumerate(cells, 1):
                cell(axes, place, f"${name}_{number}$", speaks)
        for number, place in enumerate(up, 1):
            cell(axes, place, rf"$\delta^\prime_{number}$", mirroring)
        cell(axes, inhibitory, r"$r_\mathrm{inh}$", not mirroring)
        bundle(axes, below, above, changes=not mirroring, speaks=True)
        bundle(axes, up, down, changes=mirroring, speaks=mirroring)
        for place, side in zip(above, (-1, 1), strict=True):
            color = SILENT if mirroring else NAVY
            bar = ArrowStyle("-[", widthB=0.4, lengthB=0)
            arrow(axes, inhibitory, place, bar, color, 0.35 * side, (20, 22), width=1.2)
            arrow(axes, place, inhibitory, "-|>", color, 0.15 * side, (18, 19), width=1.2)
        if mirroring:
            for near, far, bend in ((below, down, 0.22), (above, up, -0.22)):
                for start, end in zip(near, far, strict=True):
                    arrow(axes, start, end, "-|>", NAVY, bend, (18, 19), linestyle=(0, (3, 2)))
            axes.text(5, 2.75, "crosstalk", ha="center", va="center")
        axes.text(2.1, 0.0, text, ha="center", va="center")
        axes.text(2.1, 3.6, r"$\mathbf{W}$", ha="center", va="center", bbox=PAPER)
        axes.text(7.9, 3.6, r"$\mathbf{B}$", ha="center", va="center", bbox=PAPER)
    return figure


def cell(axes: Axes, centre: Point, name: str, speaks: bool) -> None:
    """Draw a cell, filled if the cell speaks, and grey if it is silent."""
    color = NAVY if speaks else SILENT
    fill = (AMBER, 0.4) if speaks else "white"
    axes.add_patch(Circle(centre, 0.55, facecolor=fill, edgecolor=color, linewidth=2, zorder=3))
    axes.text(*centre, name, ha="center", va="center", zorder=4, color="black" if speaks else SILENT)


def bundle(axes: Axes, starts: Sequence[Point], ends: Sequence[Point], changes: bool, speaks: bool) -> None:
    """Draw synapses from every cell to every other: rust if they change, navy if they carry a signal."""
    for start, end in product(starts, ends):
        color = RUST if changes else NAVY if speaks else SILENT
        arrow(axes, start, end, "-|>", color, between=(18, 19), width=3.0 if changes else 1.2)


def blank(axes: Axes, width: float, height: float) -> None:
    """Prepare axes of a size, with equal units, without frame, ticks or grid."""
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")


def neuron(axes: Axes, centre: Point, name: str, color: str, radius: float) -> None:
    axes.add_patch(Circle(centre, radius, facecolor="white", edgecolor=color, linewidth=2, zorder=3))
    axes.text(*centre, name, ha="center", va="center", zorder=4)


def box(axes: Axes, centre: Point, width: float, height: float, text: str, color: str = "white") -> None:
    corner = centre[0] - width / 2, centre[1] - height / 2
    style = "round,pad=0,rounding_size=0.3"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, facecolor=color, edgecolor=NAVY, linewidth=1.6, zorder=2)
    )
    axes.text(*centre, text, ha="center", va="center", zorder=4)


def arrow(
    axes: Axes,
    start: Point,
    end: Point,
    style: str | ArrowStyle,
    color: str,
    bend: float = 0.0,
    between: tuple[float, float] = (0, 0),
    width: float = 1.5,
    linestyle: Any = "-",
) -> None:
    """Draw a bent arrow, shortened at both ends by some points."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            color=color,
            linewidth=width,
            linestyle=linestyle,
            mutation_scale=12,
            zorder=1,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=between[0],
            shrinkB=between[1],
        )
    )


if __name__ == "__main__":
    main()
