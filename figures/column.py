"""A column of Table 1 from stored runs: the table as Markdown, and the curves of training.

The files are written by `python -m bioshare table`, several if several commands trained the rows:
``python figures/column.py runs/table1-cifar10-conv-lc.nc runs/sleep-cifar10-lc-ws10-ideal.nc --to figures/column``
writes column.md, column.png and column.svg. Left: test accuracy over epochs, mean and range over seeds. Right:
-log SNR at the end of every epoch, the median over layers, of the locally connected rows; rows with equal weights
at that time, as with ws(1), are left out. Differences in the table are paired: the mean over equal seeds, with the
standard error.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from bioshare import cli
from bioshare.text import mean_and_deviation, number, paired_difference
from bioshare.train.results import read_result, seconds_spent

plt.style.use("bioshare.figure")

REFERENCES = {"conv": "- conv", "lc": "- LC"}
HEADS = ("network", "seeds", "top-1, %", *REFERENCES.values(), "the paper's", "paper - conv", "minutes a run")
IMAGES = ("cifar10", "cifar10-jpeg", "cifar10-16", "cifar10-jpeg-16")
"""Data sets of the paper's numbers, and CIFAR-10 at 16 x 16."""
SETTING = ("dataset", "epochs", "batch_size", "padding", "train_images")
NAMES = {"lc": "LC", r"ws(\d+)": r"ws(\1)", r"(\d+)reps": r"\1 repetitions", r"alpha([\d.]+)": r"α = \1"}
NAMES |= {r"noise([\d.]+)": r"noise \1", "hebbian": "Hebbian", "gaussian": "Gaussian"}
"""Titles of the parts of a row's name, by regular expression."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
GAP = 0.052
"""Smallest distance of two labels, as a part of the height of an axis."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=cli.path, help="files of `python -m bioshare table`")
    parser.add_argument(
        "--to", type=cli.path, default=Path("column"), help="path without an ending (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    try:
        rows, paper, notes = read(args.files)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    text = f"{markdown(rows, paper)}\n\n{notes}\n"
    args.to.parent.mkdir(parents=True, exist_ok=True)
    ending(args.to, ".md").write_text(text)
    print(text)
    draw_column(rows, args.to)


def read(files: Sequence[Path]) -> tuple[dict[str, xr.Dataset], dict[str, tuple[float, float]], str]:
    """The finished runs of every row, the paper's accuracies and differences to conv, and a text on settings and costs.

    Raises:
        FileNotFoundError: a file isn't there.
        ValueError: a file is not a table, no run is finished, or two files have the same row.
    """
    rows: dict[str, xr.Dataset] = {}
    paper: dict[str, tuple[float, float]] = {}
    notes: list[str] = []
    for path in files:
        table = stored(path)
        config = json.loads(table.attrs.get("shared_config", "{}"))
        config["dataset"] = config.get("dataset", {}).get("name", "none")
        comparable = config["dataset"] in IMAGES
        notes += [setting(config), str(table.attrs.get("costs", ""))]
        for row in table["row"].values.tolist():
            runs = table.sel(row=row).dropna("seed", how="all", subset=["top1"])
            if not runs.sizes["seed"]:
                continue
            if row in rows:
                raise ValueError(f"files must have every row once; {row} is in {path} and in one before")
            rows[row] = runs.dropna("epoch", how="all", subset=["top1"])
            theirs = [float(table[name].sel(row=row)) for name in ("paper_top1", "paper_top1_diff")]
            paper[row] = (theirs[0], theirs[1]) if comparable else (np.nan, np.nan)
    if not rows:
        raise ValueError(f"files must have a finished run; got {', '.join(map(str, files))}")
    return rows, paper, "\n\n".join(dict.fromkeys(filter(None, notes)))


def stored(path: Path) -> xr.Dataset:
    """Read a file of `python -m bioshare table`."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; files must be what `python -m bioshare table` wrote")
    table = read_result(path, sealed=False)
    if not {"row", "seed", "epoch"} <= set(table["top1"].dims if "top1" in table else ()):
        raise ValueError(
            f"files must be what `python -m bioshare table` wrote; {path} is not, but perhaps a single run's"
        )
    return table


def setting(config: dict[str, Any]) -> str:
    """The common setting of all runs of a file as text."""
    known = [f"{name} {config[name]}" for name in SETTING if config.get(name, "none") not in (None, "none")]
    return f"Setting: {', '.join(known)}." if known else ""


def markdown(rows: dict[str, xr.Dataset], paper: dict[str, tuple[float, float]]) -> str:
    """The table as Markdown."""
    lines = [HEADS, ("---", *("---:",) * (len(HEADS) - 1))]
    for row, runs in rows.items():
        ours = last(runs)
        pairs = {name: paired(runs, rows[name]) for name in REFERENCES if name in rows and name != row}
        differences = [paired_difference(*pairs[name]) if name in pairs else "" for name in REFERENCES]
        theirs = number(paper[row][0]), "" if row == "conv" else number(paper[row][1], "+.1f")
        minutes = float(seconds_spent(runs).mean()) / 60 if "seconds" in runs else np.nan
        cells = str(len(ours)), mean_and_deviation(ours.tolist()), *differences, *theirs, number(minutes)
        lines.append((label(row), *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def last(runs: xr.Dataset) -> np.ndarray:
    """The accuracy of the last epoch, (seeds,)."""
    return runs["top1"].isel(epoch=-1).values


def paired(runs: xr.Dataset, reference: xr.Dataset) -> tuple[list[float], list[float]]:
    """The accuracies of the last epoch of two rows at the seeds that both have."""
    ours, theirs = xr.align(*(one["top1"].isel(epoch=-1, drop=True) for one in (runs, reference)), join="inner")
    return ours.values.tolist(), theirs.values.tolist()


def label(row: str) -> str:
    """The title of a row: "LC, ws(10), α = 10" for "lc-ws10-alpha10"."""
    parts = row.split("-")
    for pattern, title in NAMES.items():
        parts = [re.sub(f"^{pattern}$", title, part) for part in parts]
    return ", ".join(parts)


def draw_column(rows: dict[str, xr.Dataset], stem: Path) -> None:
    """Draw both panels, as PNG and SVG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2))
    looks = line_looks(rows)
    panel(left, {row: runs["top1"] for row, runs in rows.items()}, looks)
    panel(right, snr_curves(rows), looks)
    left.set_title("A  test accuracy, %")
    right.set_title(r"B  $-\log\,\mathrm{SNR}_w$ at the end of an epoch, median over layers")
    figure.savefig(ending(stem, ".png"))
    figure.savefig(ending(stem, ".svg"), metadata={"Date": None})
    plt.close(figure)


def line_looks(rows: Sequence[str] | dict[str, xr.Dataset]) -> dict[str, tuple]:
    """A colour, from light to dark, and dashes for the curves of every row."""
    colors = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(rows)))
    return {row: (color, DASHES[i % len(DASHES)]) for i, (row, color) in enumerate(zip(rows, colors, strict=True))}


def snr_curves(rows: dict[str, xr.Dataset]) -> dict[str, xr.DataArray]:
    """-log SNR at the ends of epochs (seed, epoch) of the rows with a finite value."""
    snr = {row: runs["neg_log_snr"] for row, runs in rows.items() if "neg_log_snr" in runs}
    return {row: values for row, values in snr.items() if np.isfinite(values).any()}


def ending(stem: Path, suffix: str) -> Path:
    """A path with an ending added; `Path.with_suffix` would replace the end of a name such as "run.1"."""
    return stem.with_name(stem.name + suffix)


def panel(
    axes: Axes, curves: dict[str, xr.DataArray], looks: dict[str, tuple], gap: float = GAP, rise: float = 1 / 20
) -> None:
    """Draw mean and range over seeds along the epochs, and the title of a row at the end of the curve.

    Args:
        axes: the axes to draw into.
        curves: values (seed, epoch) by row.
        looks: colour and dashes by row.
        gap: smallest distance of two titles, as a part of the height of the axes.
        rise: first part of the epochs, whose values may lie outside.
    """
    ends = {}
    for row, values in curves.items():
        color, dashes = looks[row]
        values = values.where(np.isfinite(values))
        axes.fill_between(values.epoch, values.min("seed"), values.max("seed"), color=color, alpha=0.2, linewidth=0)
        axes.plot(values.epoch, values.mean("seed"), color=color, linestyle=dashes)
        ends[row] = float(values.mean("seed").dropna("epoch")[-1])
    longest = max((int(values.epoch[-1]) for values in curves.values()), default=1)
    axes.set_xlim(1, max(2, longest))
    axes.set_xlabel("epoch")
    low, high = axes.get_ylim() if longest < 20 else limits(curves, int(rise * longest))
    axes.set_ylim(low, high)
    heights = spaced({row: (end - low) / (high - low) for row, end in ends.items()}, gap)
    for row, height in heights.items():
        ends_at = (ends[row] - low) / (high - low), height
        axes.plot([1, 1.035], ends_at, color=looks[row][0], linewidth=0.8, transform=axes.transAxes, clip_on=False)
        axes.text(1.04, height, label(row), transform=axes.transAxes, va="center", fontsize=9)


def limits(curves: dict[str, xr.DataArray], first: int) -> tuple[float, float]:
    """Limits of the vertical axis, without the steep rise before an epoch."""
    values = np.concatenate([rows.sel(epoch=slice(first, None)).values.ravel() for rows in curves.values()])
    values = values[np.isfinite(values)]
    margin = 0.04 * (values.max() - values.min())
    return values.min() - margin, values.max() + margin


def spaced(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Heights moved apart to distances of at least the gap, all at most 1."""
    order, moved = sorted(heights, key=lambda row: heights[row]), dict(heights)
    for below, row in pairwise(order):
        moved[row] = max(moved[row], moved[below] + gap)
    ceiling = 1.0
    for row in reversed(order):
        moved[row] = min(moved[row], ceiling)
        ceiling = moved[row] - gap
    return moved


if __name__ == "__main__":
    main()
