"""Networks whose constraints are lifted during training (d'Ascoli et al. 2019), from a stored table.

``python -m bioshare table relax``, at the size of two cores, or ``dascoli``, at the paper's, writes the file. Lines are
means over seeds, small dots single seeds; t is the relax time, the epoch of the convolutional network at which the
constraints are lifted. The first picture has

A: accuracy after the last epoch over t; dashed, the convolutional network, and dotted, a fully connected one from the
   start (Fig. 3, left, has the best accuracies).
B, C: loss and accuracy over the epochs after relaxing, fully connected, the darker the earlier; dashed and dotted as in
   A (Fig. 2). Losses of the training are means over an epoch, and the first is of the
   network as relaxed.
D, E: norm of the gradient and largest eigenvalue of the Hessian at the end over t; dashed, at the start (Fig. 3).
F: accuracy of the local weights, of all others, and of both together over t, fully connected (Fig. 5).
G: delta at the end over t, fully connected, and norm of the unshared over the shared weights (Fig. 4, left).
H, I: delta at the end over the loss at the start and over the accuracy at the end, a dot for every t, and a ring for
   fully connected from the start (Fig. 4, middle and right).

"-filters" in the name: weights from all pixels to one output of the first layer, fully connected, seed 0: after
relaxing, after the epochs at which the run kept its weights, at the end, and the change (Figs. 6 and 7, the last row).

"-history" in the name: accuracy of the convolutional network over its epochs, and above each t those of the fully
connected networks, the lighter the later; dotted, the best accuracy of a fully connected one from the start (Fig. 10).

``--suffix adam`` takes the rows with this end of their names, such as those that Adam trained. With them, and with a
file of CIFAR-100, which has AlexNet, the same panels are Figs. 10 to 12. Where no row is fully connected (``--suffix
wide``), locally connected ones take their place, and there are no filters. Fig. 13 is of `figures/interpolation.py`.
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
from matplotlib.ticker import LogLocator, NullLocator

from bioshare.cli import path

BLUE, GREY, GREEN = "#5f9ac9", "#555555", "#7fb069"
KINDS = {
    "conv": ("convolutional", "black"),
    "fc": ("fully connected", NAVY),
    "fc-matched": ("fully connected, matched rates", BLUE),
    "lc": ("locally connected", RUST),
    "lc-matched": ("locally connected, matched rates", AMBER),
    "lc-ws10": ("locally connected, sharing", GREY),
    "lc-ws10-alpha10": ("locally connected, asleep", GREEN),
    "lc-matched-ws10-alpha10": ("matched rates, asleep", "#b06e98"),
}
"""Titles and colours of the rows by space and variant."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=path, help="such as runs/relax-cifar10.nc")
    parser.add_argument("--suffix", help="end of the names of the rows, such as adam or wide")
    parser.add_argument("--to", type=path, default=HERE / "relax", help="path without an ending (default: %(default)s)")
    args = parser.parse_args(arguments)
    table = stored(args.file)
    if "relaxed_delta" not in table:
        parser.error(f"file must be of a table of relaxed networks, dascoli or relax; got {args.file}")
    network = Relaxed(table, f"-{args.suffix}" if args.suffix else "")
    if not network.lifted:
        parser.error(f"file must have networks that start from others, such as fc-0 or lc-0; got {args.file}")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    drawn = {"": panels(network), "-history": history(network)}
    if network.space == "fc":
        drawn["-filters"] = filters(network)
    for part, figure in drawn.items():
        for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
            figure.savefig(args.to.with_name(f"{args.to.name}{part}{ending}"), metadata=facts)
        plt.close(figure)


class Relaxed:
    """The rows of a table that start from one convolutional network.

    Attributes:
        table: the table.
        mean: means over the seeds.
        rows: names of rows by kind and relax time, in the order of the times; rows without a result are left out.
        space: "fc", or "lc" for a table without fully connected networks.
        lifted: names of the rows of this space, without a variant, by relax time.
        conv, scratch: names of the rows of the convolutional network and of the network in this space from the start.
    """

    def __init__(self, table: xr.Dataset, suffix: str = "") -> None:
        self.table, self.mean = table, table.mean("seed")
        known: dict[str, dict[int, str]] = {}
        trained = [str(row) for row in table["row"].values if table["top1"].sel(row=row).notnull().any()]
        for row in trained:
            match = re.fullmatch(rf"(conv|fc|lc)-(\d+)((?:-\w+)*?){suffix}", row)
            if match and match[1] + match[3] in KINDS:
                known.setdefault(match[1] + match[3], {})[int(match[2])] = row
        self.rows = {kind: dict(sorted(known[kind].items())) for kind in KINDS if kind in known}
        self.space = "fc" if "fc" in self.rows else "lc"
        self.lifted = self.rows.get(self.space, {})
        names = (one + suffix for one in ("conv", f"{self.space}n"))
        self.conv, self.scratch = (name if name in trained else None for name in names)

    def last(self) -> xr.DataArray:
        """Accuracies after the last epoch of every row and seed."""
        known = self.table["top1"].notnull()
        return self.table["top1"].isel(epoch=known.cumsum("epoch").argmax("epoch"))

    def moved(self, name: str, when: str = "end") -> xr.DataArray:
        """A measurement of `bioshare.train.relax_measures` at the start or at the end of all rows and seeds."""
        return self.table[f"relaxed_{name}"].sel(when=when)

    def shades(self) -> list[tuple[int, str, tuple[float, float, float, float]]]:
        """Relax time, row and colour of the networks in `lifted`, the darker the earlier."""
        parts = np.linspace(0, 0.8, max(2, len(self.lifted)))
        return [
            (time, row, plt.get_cmap("cividis")(part))
            for (time, row), part in zip(self.lifted.items(), parts, strict=False)
        ]


def panels(network: Relaxed) -> Figure:
    """Draw panels A to I."""
    figure, axes = plt.subplots(3, 3, figsize=(10.5, 9), layout="constrained")
    last, moved = network.last(), network.moved
    dense = {kind: rows for kind, rows in network.rows.items() if kind.startswith("fc")}
    larger = {kind: rows for kind, rows in network.rows.items() if kind != "conv"}
    references = ((network.conv, "--"), (network.scratch, ":"))
    curves(axes[0, 0], last, network.rows)
    for row, style in references:
        if row:
            axes[0, 0].axhline(float(last.sel(row=row).mean()), color=GREY, linestyle=style, linewidth=1)
    axes[0, 0].set_title("A  accuracy at the end, %", loc="left")
    for ax, name, title in ((axes[0, 1], "train_loss", "B  training loss"), (axes[0, 2], "top1", "C  accuracy, %")):
        values = network.mean[name]
        for row, style in references:
            if row:
                ax.plot(values["epoch"], values.sel(row=row), color=GREY, linestyle=style)
        for time, row, shade in network.shades():
            known = [float(moved(name, "start").sel(row=row).mean()), *values.sel(row=row).values]
            ax.plot(range(len(known)), known, color=shade, linestyle="-", label=f"{time}")
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlabel="epoch")
        ax.set_title(title, loc="left")
    axes[0, 1].legend(title="relax time", fontsize="x-small")
    for ax, name, title in (
        (axes[1, 0], "gradient_norm", "D  norm of the gradient"),
        (axes[1, 1], "top_eigenvalue", "E  largest eigenvalue of the Hessian"),
    ):
        curves(ax, moved(name), larger, "end")
        curves(ax, moved(name, "start"), {network.space: network.lifted}, "start", "--")
        in_powers(ax)
        ax.set_title(title, loc="left")
    for name, note, style in (("top1_local", "local", "-"), ("top1_off_local", "others", "--"), ("top1", "all", ":")):
        curves(axes[1, 2], moved(name), dense, note, style)
    axes[1, 2].set_title("F  accuracy of a part of the weights, %", loc="left")
    delta = 100 * moved("delta")
    curves(axes[2, 0], delta, dense, "delta")
    curves(axes[2, 0], 100 * moved("unshared") / moved("shared"), larger, "unshared / shared", "--")
    in_powers(axes[2, 0])
    axes[2, 0].set_title("G  deviation at the end, %", loc="left")
    for ax, across, letter, label in (
        (axes[2, 1], moved("train_loss", "start"), "H", "training loss at the start"),
        (axes[2, 2], last, "I", "accuracy at the end, %"),
    ):
        for _, row, shade in network.shades() if network.space == "fc" else ():
            ax.plot(across.sel(row=row), delta.sel(row=row), "o", color=shade, markersize=4)
        if network.space == "fc" and network.scratch:
            place = across.sel(row=network.scratch), delta.sel(row=network.scratch)
            ax.plot(*place, "o", color=GREY, fillstyle="none", markersize=4)
        in_powers(ax)
        ax.set(xlabel=label)
        ax.set_title(f"{letter}  delta at the end, %", loc="left")
    for ax in (axes[0, 0], *axes[1], axes[2, 0]):
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlabel="relax time, epochs")
    lines, titles = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside lower center", ncols=4, fontsize="small", handlelength=4)
    for ax in (*axes[1], axes[2, 0]):
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize="x-small", handlelength=4)
    return figure


def in_powers(ax: Axes) -> None:
    """Give an axis a logarithmic scale with ticks at 1, 3, 10, 30 and so on."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


def history(network: Relaxed) -> Figure:
    """Draw the accuracies of all epochs, those after relaxing above the relax time."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    top1 = network.mean["top1"]
    if network.conv:
        ax.plot(top1["epoch"], top1.sel(row=network.conv), color=RUST, linestyle="-", label="convolutional")
    epochs = top1["epoch"].values
    times = np.repeat([*network.lifted], len(epochs))
    values = np.concatenate([top1.sel(row=row).values for row in network.lifted.values()])
    colors = np.tile(epochs, len(network.lifted))
    crosses = ax.scatter(times, values, 20, colors, marker="x", cmap="cividis", linewidths=1, zorder=3)
    figure.colorbar(crosses, ax=ax, label="epoch after relaxing")
    if network.scratch:
        best, title = float(top1.sel(row=network.scratch).max()), KINDS[network.space][0]
        ax.axhline(best, color=GREY, linestyle=":", label=f"{title} from the start")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel="epoch of the convolutional network, and relax time", ylabel="accuracy, %")
    ax.legend(fontsize="small")
    return figure


def filters(network: Relaxed) -> Figure:
    """Draw the logarithm of the weights to one output and of their change, a row of pictures for every relax time."""
    rows = {f"relax time {time}": row for time, row in network.lifted.items()}
    rows |= {"random weights": network.scratch} if network.scratch else {}
    first = network.table.isel(seed=0)
    kept = [int(epoch) for epoch in first["kept_epoch"]] if "kept_epoch" in first else []
    shape = len(rows), 3 + len(kept)
    figure, axes = plt.subplots(*shape, figsize=(2.5 * shape[1], 2.2 * shape[0]), layout="constrained", squeeze=False)
    for (title, row), line in zip(rows.items(), axes, strict=True):
        weights = first["relaxed_filter"].sel(row=row)
        shown = {"start": weights.sel(when="start")}
        shown |= {f"epoch {epoch}": first["relaxed_filter_between"].sel(row=row, kept_epoch=epoch) for epoch in kept}
        shown |= {"end": weights.sel(when="end"), "change": weights.sel(when="end") - weights.sel(when="start")}
        for ax, (when, values) in zip(line, shown.items(), strict=True):
            sizes = np.sqrt((values**2).mean("input_channel").values)  # (rows, columns)
            image = ax.imshow(np.log(np.where(sizes > 0, sizes, np.nan)), cmap="cividis", interpolation="none")
            figure.colorbar(image, ax=ax)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{title}, {when}", loc="left", fontsize="small")
            ax.grid(False)
    return figure


def curves(ax: Axes, values: xr.DataArray, rows: dict[str, dict[int, str]], note: str = "", style: str = "-") -> None:
    """Draw a quantity over the relax time, a line for every kind of row.

    The label of a line is the kind on the axes of panel A, and the note of the first line elsewhere.
    """
    for number, (kind, by_time) in enumerate(rows.items()):
        title, color = KINDS[kind]
        known = values.sel(row=[*by_time.values()]).transpose("seed", "row")
        label = note if note and number == 0 else title if not note else None
        ax.plot([*by_time], known.mean("seed"), color=color, linestyle=style, marker="o", markersize=3, label=label)
        if known.sizes["seed"] > 1:
            ax.plot([*by_time], known.T, ".", color=color, markersize=3, alpha=0.5)


if __name__ == "__main__":
    main()
