"""Table 1 in miniature as a picture, and as Markdown, from stored runs.

Left, over epochs: test accuracy, and -log SNR at the end of every epoch (the median over layers; rows with equal
weights at that time, as with ws(1), have none). Lines are means and bands ranges over seeds. Right: the accuracy of
the last epoch minus the accuracy of LC with the same seed: dots, with the mean and the standard error of the mean; open
diamonds are the differences of the paper's Table 1, at 32 x 32. ``python -m bioshare table small --to runs`` trains the
rows and writes the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from column import line_looks, markdown, panel, read, snr_curves
from convergence import HERE
from forest import GREY, forest
from matplotlib.colors import to_hex

from bioshare.cli import path

CURVES = ("conv", "lc", "lc-4reps", "lc-ws1", "lc-ws10", "lc-ws100", "lc-ws10-alpha10", "lc-ws10-recommended")
"""Rows whose curves are drawn."""
REFERENCE = "lc"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=path, default=[HERE / "small.nc"], help="default: next to this script")
    parser.add_argument("--out", type=path, default=HERE, help="folder of the picture (default: next to this script)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, too")
    args = parser.parse_args(arguments)
    try:
        rows, paper, notes = read(args.files)
    except (ValueError, OSError) as error:
        parser.error(f"{error}; `python -m bioshare table small --to runs` writes such a file into runs")
    if args.markdown:
        print(f"{markdown(rows, paper)}\n\n{notes}")
    args.out.mkdir(parents=True, exist_ok=True)
    draw_small(rows, paper, args.out / "small")


def draw_small(rows: dict[str, xr.Dataset], paper: dict[str, tuple[float, float]], stem: Path) -> None:
    """Draw curves and paired differences, as PNG and SVG."""
    figure = plt.figure(figsize=(9.6, 6.0))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1), height_ratios=(1.7, 1))
    above, below, beside = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[1, 0], grid[:, 1]))
    drawn = {row: rows[row] for row in CURVES if row in rows}
    looks = line_looks(drawn)
    panel(above, {row: runs["top1"] for row, runs in drawn.items()}, looks, rise=1 / 6)
    panel(below, snr_curves(drawn), looks, gap=0.1)
    below.set_xlim(above.get_xlim())
    above.set(title="A  test accuracy, %", xlabel="")
    below.set_title(r"B  $-\log\,\mathrm{SNR}_w$ at the end of an epoch, median over layers")
    colors = {row: to_hex(looks[row][0]) if row in looks else GREY for row in rows}
    theirs = {row: paper[row][0] - paper[REFERENCE][0] for row in rows if REFERENCE in paper}
    theirs = {row: difference for row, difference in theirs.items() if np.isfinite(difference)}
    forest(beside, rows, REFERENCE, colors=colors, theirs=theirs)
    beside.set_title(f"C  minus LC, paired{'; ◇ the paper’s' if theirs else ''}")
    for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
        figure.savefig(stem.with_suffix(ending), metadata=facts)
    plt.close(figure)


if __name__ == "__main__":
    main()
