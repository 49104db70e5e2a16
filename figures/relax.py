"""Networks whose constraints are lifted during training (d'Ascoli et al. 2019), from a stored table.

``python -m bioshare table relax``, at the size of two cores, or ``dascoli``, at the paper's, writes the file. Lines are
means over seeds; t is the relax time, the epoch of the convolutional network at which the constraints are lifted. The
first picture has

A: accuracy at the end over t; dashed, the convolutional network, and dotted, a fully connected one from the start
   (Fig. 3, left).
B, C: loss and accuracy over the epochs after relaxing, fully connected, the darker the earlier; dashed and dotted as
   in A (Fig. 2). Losses of the training are means over an epoch, and the first is of the network as relaxed.
D, E: norm of the gradient and largest eigenvalue of the Hessian at the start and at the end over t (Fig. 3).
F: accuracy of the local weights, of all others, and of both together over t (Fig. 5).
G: delta at the end over t, and norm of the unshared over the shared weights (Fig. 4, left).
H, I: delta at the end over the loss at the start and over the accuracy at the end, a dot for every t, and a ring for
   fully connected from the start (Fig. 4, middle and right).

"-filters" in the name: weights from all pixels to one output of the first layer, fully connected, seed 0: after
relaxing, at the end, and the change (Figs. 6 and 7, the last row).

"-history" in the name: accuracy of the convolutional network over its epochs, and above each t those of the fully
connected networks, the lighter the later; dotted, the best accuracy of a fully connected one from the start (Fig. 10).

``--adam`` takes the rows with Adam. With them, and with a file of CIFAR-100, which has AlexNet, the same panels are
Figs. 10 to 12. Fig. 13 is of `figures/interpolation.py`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from column import stored
from convergence import AMBER, HERE, NAVY, RUST
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bioshare.cli import path

BLUE, GREY = "#5f9ac9", "#555555"
KINDS = {
    "fc": ("fully connected", NAVY),
    "fc-matched": ("fully connected, rates x P", BLUE),
    "lc": ("locally connected", RUST),
    "lc-matched": ("locally connected, rates x P", AMBER),
    "lc-ws10": ("locally connected, sharing", GREY),
    "lc-ws10-alpha10": ("locally connected, asleep", "#7fb069"),
}
"""Titles and colours of the rows by space and variant."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=path, help="such as runs/relax-cifar10.nc")
    parser.add_argument("--adam", action="store_true", help="draw the rows that Adam trained")
    parser.add_argument("--to", type=path, default=HERE / "relax", help="path without an ending (default: %(default)s)")
    args = parser.parse_args(arguments)
    table = stored(args.file)
    if "relaxed_delta" not in table:
        parser.error(f"file must be of a table of relaxed networks, dascoli or relax; got {args.file}")
    network = Relaxed(table, "-adam" if args.adam else "")
    if not network.dense:
        parser.error(f"file must have fully connected networks that start from others, such as fc-0; got {args.file}")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    for part, figure in {"": panels(network), "-filters": filters(network), "-history": history(network)}.items():
        for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
            figure.savefig(args.to.with_name(f"{args.to.name}{part}{ending}"), metadata=facts)
        plt.close(figure)


class Relaxed:
    """The rows of a table that start from one convolutional network.

    Attributes:
        table: the table.
        mean: means over the seeds.
        rows: names of rows by kind and relax time, in the order of the times; rows without a result are left out.
        dense: names of the fully connected rows by relax time.
        conv, fcn: names of the rows of the convolutional and of the fully connected network from the start.
    """

    def __init__(self, table: xr.Dataset, suffix: str = "") -> None:
        self.table, self.mean = table, table.mean("seed")
        known: dict[str, dict[int, str]] = {}
        trained = [str(row) for row in table["row"].values if table["top1"].sel(row=row).notnull().any()]
        for row in trained:
            match = re.fullmatch(rf"(fc|lc)-(\d+)((?:-\w+)*?){suffix}", row)
            if match and match[1] + match[3] in KINDS:
                known.setdefault(match[1] + match[3], {})[int(match[2])] = row
        self.rows = {kind: dict(sorted(known[kind].items())) for kind in KINDS if kind in known}
        self.dense = self.rows.get("fc", {})
        self.conv, self.fcn = (name if (name := one + suffix) in trained else None for one in ("conv", "fcn"))

    def last(self) -> xr.DataArray:
        """Accuracies after the last epoch of every row."""
        known = self.mean["top1"].notnull()
        return self.mean["top1"].isel(epoch=known.cumsum("epoch").argmax("epoch"))

    def moved(self, name: str, when: str = "end") -> xr.DataArray:
        """A measurement of `bioshare.train.relax_measures` at the start or at the end of all rows."""
        return self.mean[f"relaxed_{name}"].sel(when=when)

    def shades(self) -> list[tuple[int, str, tuple[float, float, float, float]]]:
        """Relax time, row and colour of the fully connected networks, the darker the earlier."""
        parts = np.linspace(0, 0.8, max(2, len(self.dense)))
        return [
            (time, row, plt.get_cmap("cividis")(part))
            for (time, row), part in zip(self.dense.items(), parts, strict=False)
        ]


def panels(network: Relaxed) -> Figure:
    """Draw panels A to I."""
    figure, axes = plt.subplots(3, 3, figsize=(10.5, 9), layout="constrained")
    last, moved, dense = network.last(), network.moved, {"fc": network.dense}
    references = ((network.conv, "--"), (network.fcn, ":"))
    curves(axes[0, 0], last, network.rows)
    for row, style in references:
        if row:
            axes[0, 0].axhline(float(last.sel(row=row)), color=GREY, linestyle=style, linewidth=1)
    axes[0, 0].set_title("A  accuracy at the end, %", loc="left")
    for ax, name, title in ((axes[0, 1], "train_loss", "B  training loss"), (axes[0, 2], "top1", "C  accuracy, %")):
        values = network.mean[name]
        for row, style in references:
            if row:
                ax.plot(values["epoch"], values.sel(row=row), color=GREY, linestyle=style)
        for time, row, shade in network.shades():
            known = [float(moved(name, "start").sel(row=row)), *values.sel(row=row).values]
            ax.plot(range(len(known)), known, color=shade, linestyle="-", label=f"{time}")
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlabel="epoch")
        ax.set_title(title, loc="left")
    axes[0, 1].legend(title="relax time", fontsize="x-small")
    plain = {kind: network.rows[kind] for kind in ("fc", "lc") if kind in network.rows}
    for ax, name, title in (
        (axes[1, 0], "gradient_norm", "D  norm of the gradient"),
        (axes[1, 1], "top_eigenvalue", "E  largest eigenvalue of the Hessian"),
    ):
        curves(ax, moved(name, "start"), plain, "start", "--")
        curves(ax, moved(name), plain, "end")
        ax.set_title(title, loc="left")
    for name, note, style in (("top1_local", "local", "-"), ("top1_off_local", "others", "--"), ("top1", "all", ":")):
        curves(axes[1, 2], moved(name), dense, note, style)
    axes[1, 2].set_title("F  accuracy of a part of the weights, %", loc="left")
    delta = 100 * moved("delta")
    curves(axes[2, 0], delta, dense, "delta")
    curves(axes[2, 0], 100 * moved("unshared") / moved("shared"), network.rows, "unshared / shared", "--")
    axes[2, 0].set_title("G  deviation at the end, %", loc="left")
    for ax, across, letter, label in (
        (axes[2, 1], moved("train_loss", "start"), "H", "training loss at the start"),
        (axes[2, 2], last, "I", "accuracy at the end, %"),
    ):
        for _, row, shade in network.shades():
            ax.plot(float(across.sel(row=row)), float(delta.sel(row=row)), "o", color=shade)
        if network.fcn:
            place = float(across.sel(row=network.fcn)), float(delta.sel(row=network.fcn))
            ax.plot(*place, "o", color=GREY, fillstyle="none")
        ax.set_yscale("log")
        ax.set(xlabel=label)
        ax.set_title(f"{letter}  delta at the end, %", loc="left")
    for ax in (axes[0, 0], *axes[1], axes[2, 0]):
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlabel="relax time, epochs")
        ax.legend(fontsize="x-small", handlelength=4)
    return figure


def history(network: Relaxed) -> Figure:
    """Draw the accuracies of all epochs, those after relaxing above the relax time."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    top1 = network.mean["top1"]
    if network.conv:
        ax.plot(top1["epoch"], top1.sel(row=network.conv), color=RUST, linestyle="-", label="convolutional")
    epochs = top1["epoch"].values
    times = np.repeat([*network.dense], len(epochs))
    values = np.concatenate([top1.sel(row=row).values for row in network.dense.values()])
    colors = np.tile(epochs, len(network.dense))
    crosses = ax.scatter(times, values, 20, colors, marker="x", cmap="cividis", linewidths=1, zorder=3)
    figure.colorbar(crosses, ax=ax, label="epoch after relaxing")
    if network.fcn:
        best = float(top1.sel(row=network.fcn).max())
        ax.axhline(best, color=GREY, linestyle=":", label="fully connected from the start")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel="epoch of the convolutional network, and relax time", ylabel="accuracy, %")
    ax.legend(fontsize="small")
    return figure


def filters(network: Relaxed) -> Figure:
    """Draw the logarithm of the weights to one output and of their change, a row of pictures for every relax time."""
    rows = {f"relax time {time}": row for time, row in network.dense.items()}
    rows |= {"random weights": network.fcn} if network.fcn else {}
    figure, axes = plt.subplots(len(rows), 3, figsize=(7.5, 2.2 * len(rows)), layout="constrained", squeeze=False)
    for (title, row), line in zip(rows.items(), axes, strict=True):
        weights = network.table["relaxed_filter"].sel(row=row).isel(seed=0)
        start, end = weights.sel(when="start"), weights.sel(when="end")
        for ax, values, when in zip(line, (start, end, end - start), ("start", "end", "change"), strict=True):
            sizes = np.sqrt((values**2).mean("input_channel").values)  # (rows, columns)
            image = ax.imshow(np.log(np.where(sizes > 0, sizes, np.nan)), cmap="cividis", interpolation="none")
            figure.colorbar(image, ax=ax)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{title}, {when}", fontsize="small")
            ax.grid(False)
    return figure


def curves(ax: Axes, values: xr.DataArray, rows: dict[str, dict[int, str]], note: str = "", style: str = "-") -> None:
    """Draw a quantity over the relax time, a line for every kind of row; a note is the label of the first line."""
    for number, (kind, by_time) in enumerate(rows.items()):
        title, color = KINDS[kind]
        known = np.array([float(values.sel(row=row)) for row in by_time.values()])
        label = title if not note else note if number == 0 else None
        ax.plot([*by_time], known, color=color, linestyle=style, marker="o", markersize=3, label=label)


if __name__ == "__main__":
    main()
