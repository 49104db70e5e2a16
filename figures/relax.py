"""Networks whose constraints are lifted during training (d'Ascoli et al. 2019), from a stored table.

``python -m bioshare table dascoli`` or ``relax`` writes the file. Lines are means over seeds; all panels but
the second are over the relax time, the epoch of the convolutional network at which the constraints are lifted.

A: accuracy at the end, with the colours of all panels but the second; dashed, the convolutional network, and dotted, a
   fully connected one from the start (Fig. 3).
B: accuracy over the epochs after relaxing, fully connected, the darker the earlier the relax time (Fig. 2).
C: delta at the end, fully connected; and norm of the unshared over the shared weights, all spaces (Fig. 4).
D: norm of the gradient, and E: largest eigenvalue of the Hessian, at the start and at the end (Fig. 3).
F: accuracy of the local and of the off-local weights alone (Fig. 5).

A second picture, with "-filters" in the name, has the weights from all pixels to one output of the first layer, right
after relaxing and at the end, fully connected, seed 0 (Fig. 6; Fig. 7 for the network from random weights).
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
    parser.add_argument("--to", type=path, default=HERE / "relax", help="path without an ending (default: %(default)s)")
    args = parser.parse_args(arguments)
    table = stored(args.file)
    if "relaxed_delta" not in table:
        parser.error(f"file must be of a table of relaxed networks, dascoli or relax; got {args.file}")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    for part, figure in {"": drawn(table), "-filters": filters(table)}.items():
        for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
            figure.savefig(args.to.with_name(f"{args.to.name}{part}{ending}"), metadata=facts)
        plt.close(figure)


def relaxed_rows(table: xr.Dataset) -> dict[str, dict[int, str]]:
    """Rows of a table by kind and relax time, in the order of the times; rows without a result are left out."""
    known: dict[str, dict[int, str]] = {}
    for row in map(str, table["row"].values):
        match = re.fullmatch(r"(fc|lc)-(\d+)((?:-\w+)*)", row)
        if match and match[1] + match[3] in KINDS and table["top1"].sel(row=row).notnull().any():
            known.setdefault(match[1] + match[3], {})[int(match[2])] = row
    return {kind: dict(sorted(known[kind].items())) for kind in KINDS if kind in known}


def drawn(table: xr.Dataset) -> Figure:
    """Draw all panels."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    rows, mean = relaxed_rows(table), table.mean("seed")
    last = mean["top1"].isel(epoch=mean["top1"].notnull().cumsum("epoch").argmax("epoch"))
    end = lambda name: mean[name].sel(when="end")
    curves(axes[0, 0], last, rows)
    for row, style in (("conv", "--"), ("fcn", ":")):
        if row in table["row"]:
            axes[0, 0].axhline(float(last.sel(row=row)), color=GREY, linestyle=style, linewidth=1)
    axes[0, 0].set_title("A  accuracy at the end, %", loc="left")
    times = rows.get("fc", {})
    for number, (time, row) in enumerate(times.items()):
        shade = plt.get_cmap("cividis")(0.8 * number / max(1, len(times) - 1))
        axes[0, 1].plot(mean["epoch"], mean["top1"].sel(row=row), color=shade, linestyle="-", label=f"{time}")
    axes[0, 1].set(xlabel="epoch after relaxing")
    axes[0, 1].set_title("B  accuracy, %", loc="left")
    axes[0, 1].legend(title="relax time", fontsize="small")
    curves(axes[0, 2], 100 * end("relaxed_delta"), {"fc": times}, "delta")
    curves(axes[0, 2], 100 * end("relaxed_unshared") / end("relaxed_shared"), rows, "unshared / shared", "--")
    axes[0, 2].set_title("C  deviation at the end, %", loc="left")
    for ax, name, title in (
        (axes[1, 0], "relaxed_gradient_norm", "D  norm of the gradient"),
        (axes[1, 1], "relaxed_top_eigenvalue", "E  largest eigenvalue of the Hessian"),
    ):
        plain = {kind: rows[kind] for kind in ("fc", "lc") if kind in rows}
        curves(ax, mean[name].sel(when="start"), plain, "start", "--")
        curves(ax, end(name), plain, "end")
        ax.set_title(title, loc="left")
    curves(axes[1, 2], end("relaxed_top1_local"), {"fc": times}, "local alone")
    curves(axes[1, 2], end("relaxed_top1_off_local"), {"fc": times}, "off-local alone", "--")
    axes[1, 2].set_title("F  accuracy of a part, %", loc="left")
    for ax in axes.flat:
        if ax is not axes[0, 1]:
            ax.set_xscale("symlog", linthresh=1)
            ax.set(xlabel="relax time, epochs")
            ax.legend(fontsize="x-small")
    return figure


def filters(table: xr.Dataset) -> Figure:
    """Draw the logarithm of the weights to one output, a row of pictures for every relax time."""
    rows = {f"relax time {time}": row for time, row in relaxed_rows(table).get("fc", {}).items()}
    rows |= {"random weights": "fcn"} if "fcn" in table["row"] else {}
    figure, axes = plt.subplots(len(rows), 2, figsize=(5, 2.2 * len(rows)), layout="constrained", squeeze=False)
    for (title, row), pair in zip(rows.items(), axes, strict=True):
        for ax, when in zip(pair, ("start", "end"), strict=True):
            weights = table["relaxed_filter"].sel(row=row, when=when).isel(seed=0).values
            logarithms = np.log(np.where(weights > 0, weights, np.nan))
            image = ax.imshow(logarithms, cmap="cividis", interpolation="none")
            figure.colorbar(image, ax=ax)
            ax.set(xticks=[], yticks=[], title=f"{title}, {when}")
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
