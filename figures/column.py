"""A column of Table 1 from stored runs: the table as Markdown, and the curves of training.

The files are written by `python -m bioshare table`, several if several commands trained the rows:
``python figures/column.py runs/table1-cifar10-conv-lc.nc runs/sleep-cifar10-lc-ws10-ideal.nc --to figures/column``
writes column.md, column.png and column.svg. Left: test accuracy over epochs, mean and range over seeds. Right:
-log SNR at the end of every epoch, the median over layers, of the locally connected rows; rows with equal weights
at that time, as with ws(1), are left out.
"""

from __future__ import annotations

import argparse
import json
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

from bioshare.text import mean_and_deviation, number
from bioshare.train.results import read_result, seconds_spent

plt.style.use("bioshare.figure")

HEADS = ("network", "seeds", "top-1, %", "difference to conv", "the paper's", "difference", "minutes a run")
IMAGES = ("cifar10", "cifar10-jpeg")
"""Data sets of the paper's numbers."""
SETTING = ("dataset", "epochs", "batch_size", "padding", "train_images")
NAMES = {"conv": "conv", "lc": "LC", "ideal": "ideal", "alpha10": "α = 10", "alpha50": "α = 50", "alpha5": "α = 5"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
GAP = 0.052
"""Smallest distance of two labels, as a part of the height of an axis."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files of `python -m bioshare table`")
    parser.add_argument("--to", type=Path, default=Path("column"), help="path without an ending (default: %(default)s)")
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
    table = read_result(path)
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
    conv = float(last(rows["conv"]).mean()) if "conv" in rows else np.nan
    lines = [HEADS, ("---", *("---:",) * (len(HEADS) - 1))]
    for row, runs in rows.items():
        ours = last(runs)
        difference = "" if row == "conv" else number(float(ours.mean()) - conv, "+.1f")
        theirs = number(paper[row][0]), "" if row == "conv" else number(paper[row][1], "+.1f")
        minutes = float(seconds_spent(runs).mean()) / 60 if "seconds" in runs else np.nan
        cells = str(len(ours)), mean_and_deviation(ours.tolist()), difference, *theirs, number(minutes)
        lines.append((label(row), *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def last(runs: xr.Dataset) -> np.ndarray:
    """The accuracy of the last epoch, (seeds,)."""
    return runs["top1"].isel(epoch=-1).values


def label(row: str) -> str:
    """The title of a row: "LC, ws(10), α = 10" for "lc-ws10-alpha10"."""
    parts = row.split("-")
    return ", ".join(NAMES.get(part, f"ws({part[2:]})" if part.startswith("ws") else part) for part in parts)


def draw_column(rows: dict[str, xr.Dataset], stem: Path) -> None:
    """Draw both panels, as PNG and SVG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2))
    colors = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(rows)))
    looks = {row: (color, DASHES[i % len(DASHES)]) for i, (row, color) in enumerate(zip(rows, colors, strict=True))}
    panel(left, {row: runs["top1"] for row, runs in rows.items()}, looks)
    snr = {row: runs["neg_log_snr"] for row, runs in rows.items() if "neg_log_snr" in runs}
    panel(right, {row: values for row, values in snr.items() if np.isfinite(values).any()}, looks)
    left.set_title("A  test accuracy, %")
    right.set_title(r"B  $-\log\,\mathrm{SNR}_w$ at the end of an epoch, median over layers")
    figure.savefig(ending(stem, ".png"))
    figure.savefig(ending(stem, ".svg"), metadata={"Date": None})
    plt.close(figure)


def ending(stem: Path, suffix: str) -> Path:
    """A path with an ending added; `Path.with_suffix` would replace the end of a name such as "run.1"."""
    return stem.with_name(stem.name + suffix)


def panel(axes: Axes, curves: dict[str, xr.DataArray], looks: dict[str, tuple]) -> None:
    """Draw mean and range over seeds along the epochs, and the title of a row at the end of the curve."""
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
    low, high = axes.get_ylim() if longest < 20 else limits(curves, longest)
    axes.set_ylim(low, high)
    heights = spaced({row: (end - low) / (high - low) for row, end in ends.items()})
    for row, height in heights.items():
        ends_at = (ends[row] - low) / (high - low), height
        axes.plot([1, 1.035], ends_at, color=looks[row][0], linewidth=0.8, transform=axes.transAxes, clip_on=False)
        axes.text(1.04, height, label(row), transform=axes.transAxes, va="center", fontsize=9)


def limits(curves: dict[str, xr.DataArray], longest: int) -> tuple[float, float]:
    """Limits of the vertical axis, without the steep rise in the first twentieth of the epochs."""
    values = np.concatenate([rows.sel(epoch=slice(longest // 20, None)).values.ravel() for rows in curves.values()])
    values = values[np.isfinite(values)]
    margin = 0.04 * (values.max() - values.min())
    return values.min() - margin, values.max() + margin


def spaced(heights: dict[str, float]) -> dict[str, float]:
    """Heights moved apart to distances of at least the gap, all at most 1."""
    order, moved = sorted(heights, key=lambda row: heights[row]), dict(heights)
    for below, row in pairwise(order):
        moved[row] = max(moved[row], moved[below] + GAP)
    ceiling = 1.0
    for row in reversed(order):
        moved[row] = min(moved[row], ceiling)
        ceiling = moved[row] - GAP
    return moved


if __name__ == "__main__":
    main()
