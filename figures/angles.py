"""Angles of the learning signals over a training with feedback, layer by layer, from stored tables.

``python -m bioshare table feedback``, ``night`` or ``moskovitz`` writes a file with the angles of every row. A column
of the picture is a row of the table, and a line a layer, the darker the nearer to the output; medians over seeds.

A: feedback weights B to weights W (Fig. 3a, c of Akrout et al. 2019), without the first layer, whose B has no effect.
   Ticks on the right: the floors of a mirror of Gaussian noise whose W rests (`bioshare.theory.mirror_angle`).
   Direct feedback has no B.
B: learning signal to gradient, with all layers above (Akrout's Fig. 3b, d; Fig. 3 of Moskovitz et al. 2018).
C: norm of the learning signal over the norm of the gradient (Moskovitz' Fig. 2).

A file of ``table signs`` gives Moskovitz' Fig. 5 instead: test errors of networks whose signs are fixed from a time of
the training on, and the weights whose sign has changed since the start.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from column import label, line_looks, panel, read, stored
from convergence import HERE
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

import bioshare as bs
from bioshare.cli import path
from bioshare.nn.feedback import FeedbackConv2d, FeedbackLayer, signal_layers
from bioshare.train.data.datasets import USAGES
from bioshare.train.experiments import matching

PANELS = {
    "weight_angle": "A  B to W, degrees",
    "signal_angle": "B  signal to gradient, degrees",
    "signal_ratio": "C  |signal| / |gradient|",
}
METHODS = {"dense-fa": "dense feedback", "dfa": "direct feedback", "fa": "feedback alignment", "sn": "signs, norms"}
METHODS |= {"init": "signs", "kp": "Kolen-Pollack", "mirror": "mirror", "mirror-shared": "mirror, B shared"}
"""Titles of ways in which errors travel back, by the end of a row's name."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=path, help="such as runs/feedback-cifar10-16.nc")
    parser.add_argument("--rows", nargs="*", help="rows of the table (default: all with feedback)")
    parser.add_argument("--to", type=path, help="path of the picture without an ending (default: next to this script)")
    args = parser.parse_args(arguments)
    try:
        table = str(stored(args.file).attrs.get("table"))
        rows = {row: runs for row, runs in read([args.file])[0].items() if has_angles(runs)}
        if unknown := set(args.rows or ()) - rows.keys():
            raise ValueError(f"rows must be of {', '.join(rows)}; got {', '.join(sorted(unknown))}")
        if not rows:
            raise ValueError(f"file must have runs with feedback; {args.file} has none")
    except (ValueError, OSError) as error:
        parser.error(f"{error}; `python -m bioshare table feedback --to runs` writes such a file")
    rows = {row: rows[row] for row in args.rows or rows}
    networks = {row: network(table, row, runs) for row, runs in rows.items()}
    figure = draw_signs(rows, networks) if table == "signs" else draw_angles(table, rows, networks)
    stem = args.to or HERE / ("signs" if table == "signs" else "angles")
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
        figure.savefig(stem.with_name(stem.name + ending), metadata=facts)
    plt.close(figure)


def has_angles(runs: xr.Dataset) -> bool:
    """True for a row with measured angles."""
    return "signal_angle" in runs and bool(runs["signal_angle"].notnull().any())


def network(table: str, row: str, runs: xr.Dataset) -> dict[str, Any]:
    """The layers with feedback of a row, by name."""
    images = json.loads(runs.attrs["shared_config"])["dataset"]["name"]
    config, usage = matching(f"{table}/*/{row}")[0].config, USAGES[images]
    size = usage.stored or (3, usage.side, usage.side)
    return dict(signal_layers(config.build_network(1000 if images == "imagenet" else 10, size)))


def floors(table: str, row: str, layers: dict[str, Any]) -> dict[str, float]:
    """The angle in the end of every layer but the first, whose W rests; empty for a row without a Gaussian mirror.

    Empty, too, where B is shared: means over groups have less noise than a mirror leaves.
    """
    phases = [every.phase for every in matching(f"{table}/*/{row}")[0].config.phases]
    if any(getattr(phase, "feedback", False) for phase in phases):
        return {}
    mirrors = [phase for phase in phases if isinstance(phase, bs.Mirror) and phase.noise == "gaussian"]

    def angle(mirror: bs.Mirror, layer: FeedbackLayer) -> float:
        samples = mirror.samples * (mirror.positions**2 if isinstance(layer, FeedbackConv2d) else 1)
        options = {"activation": mirror.activation, "centred": mirror.centred}
        return float(bs.theory.mirror_angle(samples, math.prod(layer.receptive_field), mirror.forgetting, **options))

    return {name: angle(mirror, layer) for mirror in mirrors for name, layer in list(layers.items())[1:]}


def draw_angles(table: str, rows: dict[str, xr.Dataset], networks: dict[str, dict[str, Any]]) -> Figure:
    """Draw panels A to C, a column for every row of the table."""
    size = 1.2 + 2.0 * len(rows), 6.4
    figure, axes = plt.subplots(len(PANELS), len(rows), figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, (row, runs) in enumerate(rows.items()):
        names = list(networks[row])
        colors = dict(zip(names, plt.get_cmap("viridis_r")(np.linspace(0.1, 1, len(names))), strict=True))
        for below, variable in zip(axes[:, column], PANELS, strict=True):
            for name in names[variable == "weight_angle" :]:
                values = runs[variable].sel(feedback_layer=name)
                if values.notnull().any():
                    below.plot(runs.epoch, values.median("seed"), "-", color=colors[name])
        beside = {"transform": axes[0, column].get_yaxis_transform(), "clip_on": False}
        for name, angle in floors(table, row, networks[row]).items():
            axes[0, column].plot([1.01, 1.05], [angle, angle], "-", color=colors[name], **beside)
        method = next((end for end in METHODS if f"-{row}".endswith(f"-{end}")), row.rpartition("-")[2])
        network_name, title = row.removesuffix(method).rstrip("-"), METHODS.get(method, method)
        axes[0, column].set_title(f"{label(network_name)}\n{title}" if network_name else title)
        axes[-1, column].set_xlabel("epoch")
    for panels, (variable, title) in zip(axes, PANELS.items(), strict=True):
        panels[0].set_ylabel(title)
        if variable == "signal_ratio":
            panels[0].set_yscale("log")
            panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
            panels[0].yaxis.set_major_formatter("{x:g}")
            panels[0].yaxis.set_minor_locator(NullLocator())
        else:
            panels[0].set(ylim=(0, 95), yticks=(0, 30, 60, 90))
    ends = plt.get_cmap("viridis_r")([0.1, 1.0])
    lines = [Line2D([], [], linestyle="-", color=color) for color in ends]
    figure.legend(lines, ["nearest to the input", "output"], loc="outside lower center", ncols=2)
    return figure


def draw_signs(rows: dict[str, xr.Dataset], networks: dict[str, dict[str, Any]]) -> Figure:
    """Draw test errors, and the weights whose sign has changed, over the epochs; a curve for every row."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 6.0), sharex=True)
    errors, changed = {}, {}
    for row, runs in rows.items():
        title = "never fixed" if row == "never" else f"fixed after {row.removeprefix('fixed-')} %"
        layers = networks[row]
        sizes = xr.DataArray([layer.weight.numel() for layer in layers.values()], {"feedback_layer": list(layers)})
        errors[title] = 100 - runs["top1"]
        changed[title] = (runs["changed_signs"] * sizes).sum("feedback_layer", skipna=False) / sizes.sum()
    looks = line_looks(errors)
    panel(above, errors, looks, rise=1 / 6)
    panel(below, changed, looks)
    above.set(title="A  test error, %", xlabel="")
    below.set_title("B  weights whose sign has changed since the start, %")
    return figure


if __name__ == "__main__":
    main()
