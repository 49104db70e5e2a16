"""A sleep as a figure and as a table of a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from bioshare.circuit.mirror.simulate import MirrorRun
    from bioshare.circuit.run import SleepRun

MOST = 16
"""Largest number of lines in the legend."""


def sleep_figure(run: SleepRun) -> Figure:
    """-log SNR and the norm of the mean, relative to the norm before sleep, against the presentation."""
    data = run.to_xarray()
    data["relative"] = data["mean_norm"] / data["mean_norm"].isel(presentation=0)
    left = {"ylabel": r"$-\log$ SNR", "title": "how equal the weights are"}
    right = {"ylabel": "norm of the mean / before sleep", "title": "what is left of the mean"}
    return _two_panels(data, {"neg_log_snr": left, "relative": right})


def mirror_figure(run: MirrorRun) -> Figure:
    """The angle between feedback and forward weights, and the ratio of norms, against the presentation."""
    left = {"ylabel": "angle, degrees", "title": "angle between B and W"}
    right = {"ylabel": "norm of B / norm of W", "title": "size of B"}
    return _two_panels(run.to_xarray(), {"angle": left, "ratio": right})


def _two_panels(data: xr.Dataset, panels: dict[str, dict[str, str]]) -> Figure:
    """Two variables against the presentation, a line for every leading entry, by the texts of the panels."""
    import matplotlib.pyplot as plt

    lead = data[next(iter(panels))].dims[:-1]
    varying = [name for name, values in data.coords.items() if values.dims and {*values.dims} <= {*lead}]
    with plt.style.context("bioshare.figure"):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
        cycle = plt.rcParams["axes.prop_cycle"]()
        styles: dict[tuple[float, ...], dict[str, Any]] = {}  # by the parameters, whatever the run
        for entry in np.ndindex(*(data.sizes[dim] for dim in lead)):
            at = data.isel(dict(zip(lead, entry, strict=True)))
            setting = tuple(float(at[name]) for name in varying)
            label = None
            if setting not in styles:
                styles[setting] = next(cycle)
                label = ", ".join(f"{name} = {value:.4g}" for name, value in zip(varying, setting, strict=True))
            for name, panel in zip(panels, axes, strict=True):
                panel.plot(data["presentation"], at[name], label=label, **styles[setting])
        for texts, panel in zip(panels.values(), axes, strict=True):
            panel.set(xlabel="presentation", **texts)
        if varying and len(styles) <= MOST:
            axes[0].legend(fontsize=7)
    plt.close(figure)  # a notebook shows the returned figure once
    return figure


def sleep_table(run: SleepRun) -> str:
    """A sleep as an HTML table: shape, length, -log SNR and the parameters."""
    start, end = np.median(run.neg_log_snr[..., 0]), np.median(run.neg_log_snr[..., -1])
    left = np.median(run.mean_norm[..., -1] / run.mean_norm[..., 0])
    rows: dict[str, Any] = {
        "weights": " x ".join(map(str, run.weights.shape)),
        "presentations": f"{run.presentations}{', interrupted' if run.interrupted else ''}",
        "-log SNR (median)": f"{start:.2f} before sleep, {end:.2f} after",
        "norm of the mean (median)": f"{left:.3f} of that before sleep",
        "circuit": run.circuit,
        "rule": run.rule,
        "stimulus": f"{run.stimulus}, seed {run.seed}" if run.stimulus else "an array",
        "engine": run.engine,
    }
    if run.recorded:
        rows["recorded"] = f"{', '.join(run.recorded)} at {len(run.update)} samples"
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>SleepRun</caption>{cells}</table>"
