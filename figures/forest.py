"""Paired differences of the rows of a table to one of them, a line for every row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from column import label, paired
from convergence import NAVY
from matplotlib.axes import Axes

GREY = "#555555"
APART = 0.24
"""Height of the dots of the seeds above the mean, in distances of two rows."""


def forest(
    axes: Axes,
    rows: Mapping[str, xr.Dataset],
    reference: str,
    texts: Mapping[str, tuple[str, str]] | None = None,
    colors: Mapping[str, str] | None = None,
    theirs: Mapping[str, float] | None = None,
) -> None:
    """Draw the mean difference to the reference with the standard error, and small dots for the seeds.

    A row without a seed in common with the reference has no line.

    Args:
        axes: the axes to draw into.
        rows: finished runs by row, as from `column.read`.
        reference: name of the row that is subtracted; at 0 a dashed line.
        texts: title and note of a row; else `column.label` is the title.
        colors: colour of a row; else navy.
        theirs: differences of the paper, as open diamonds.
    """
    known = {row: differences(runs, rows[reference]) for row, runs in rows.items() if reference in rows}
    known = {row: values for row, values in known.items() if len(values) and row != reference}
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for height, (row, values) in enumerate(known.items()):
        color = (colors or {}).get(row, NAVY)
        axes.plot(values, np.full(len(values), height - APART), ".", color=color, markersize=4, alpha=0.6)
        axes.errorbar(values.mean(), height, xerr=standard_error(values), fmt="o", color=color, markersize=5)
        axes.plot((theirs or {}).get(row, np.nan), height, "D", markeredgecolor=GREY, markerfacecolor="none")
        title, note = (texts or {}).get(row, (label(row), ""))
        beside = {"transform": axes.get_yaxis_transform(), "ha": "right"}
        axes.text(-0.02, height - 0.03 * bool(note), title, va="bottom" if note else "center", **beside)
        axes.text(-0.02, height, note, va="top", fontsize=7.5, color=GREY, **beside)
    if not known:
        axes.text(0.5, 0.5, f"no seed in common with {label(reference)} yet", transform=axes.transAxes, ha="center")
    name = label(reference).removeprefix("LC, ")
    axes.set(ylim=(max(len(known), 1) - 0.5, -0.5 - APART), yticks=[], xlabel=f"difference to {name}, points")


def differences(runs: xr.Dataset, reference: xr.Dataset) -> np.ndarray:
    """Differences of the accuracies of the last epoch, (seeds,), of the seeds that both rows have."""
    return np.subtract(*paired(runs, reference))


def standard_error(values: np.ndarray) -> float:
    """The sample standard deviation over the root of the number of values; NaN for a single value."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else np.nan
