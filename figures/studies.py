"""What changes the table in miniature: early sharing, realistic sleeps, controls and the paper's open questions.

A picture for every table of ``python -m bioshare table early``, ``realism``, ``controls`` or ``questions``, from one
file or, where several commands trained the rows, from several; rows and seeds that are missing are left out. LC and
ws(10), which all these tables share, may be in the file of another one.

The forests show the accuracy of the last epoch minus the accuracy of ws(10) with the same seed: dots, with the mean and
the standard error of the mean; dotted, the mean difference of LC. In the curves, dots are seeds, and bars and bands are
the mean with the standard error; those of two rows are not paired.

A file of ``table patches`` gives a forest for every kind of network, with differences to unshared weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from column import SETTING, last, read, stored
from convergence import AMBER, HERE, NAVY, RUST
from forest import GREY, differences, forest, standard_error
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bioshare.cli import path
from bioshare.train.tables.miniature import SPREADS

BLUE = "#5f9ac9"
REFERENCE = "lc-ws10"
MARGIN = 0.5
"""Points of accuracy within which a control counts as good as ws(10)."""
TEXTS = {
    "lc": ("LC", "never shares"),
    "lc-copy": ("LC, equal start", "the same kernel at all positions before training"),
    "lc-ws10-copy": ("ws(10), equal start", "the same kernel at all positions before training"),
    "lc-ws10-late": ("late", "shares in the second half of training only"),
    "lc-ws10-share-moments": ("moments shared", "AdamW's moments become group means, too"),
    "lc-ws10-share-moments-scale": ("moments shared, border scaled", "kernels at the padding are scaled as the shared"),
    "lc-ws10-recommended": ("rate circuit, both", "α = 10: `Sleep.recommended`"),
    "lc-ws10-reset-moments": ("moments reset", "AdamW's moments become 0 at every sharing"),
    "lc-ws10-last-batch": ("shared before the test", "shifted to the last batch of an epoch"),
    "lc-ws10-run": ("counted over the run", "every tenth batch, across the ends of epochs"),
    "lc-ws10-rate-half": ("rate halved", "half the learning rate"),
    "lc-ws10-rate-double": ("rate doubled", "twice the learning rate"),
    "lc-ws10-gaussian": ("Gaussian inputs", "rate circuit, α = 10; Gaussian in place of the grid"),
    "lc-ws10-ideal-gaussian": ("ideal circuit, Gaussian", "Gaussian in place of the grid"),
    "lc-ws10-ideal-relayed": ("ideal circuit, relayed", "Gaussian; a layer sees an earlier layer's responses"),
    "lc-ws10-keep": ("border kept", "kernels at the padding are not shared"),
    "lc-ws10-alpha10-keep": ("border kept, α = 10", "the same in the rate circuit"),
    "lc-ws10-scale": ("border scaled", "kernels at the padding are scaled as the shared"),
    "lc-ws10-random-groups": ("random groups", "groups of the same sizes, positions drawn"),
    "lc-shrunk-once": ("LC, shrunk once", "the norms of a sharing after the first batch"),
    "lc-ws10-alpha10": ("rate circuit, rescaled", "α = 10; groups regain the norm of their mean"),
    "lc-ws10-alpha10-gain": ("rate circuit, constant gain", "α = 10; one factor in place of rescaling"),
    "lc-ws10-layer-mean": ("one mean", "all positions of a layer become equal"),
    "lc-ws10-ideal-simultaneous": ("all layers at once", "ideal circuit; relayed while all layers sleep"),
    "lc-ws10-ideal-simultaneous-pull": ("all layers at once, γ = 0.1", "held by the pull to the weights before sleep"),
    "lc-ws10-learned-groups": ("learned groups", "lateral connections from correlations of inputs"),
    "lc-lateral": ("LC, lateral centring", "lateral connections replace BatchNorm's mean"),
    "lc-ws10-lateral": ("lateral centring", "lateral connections replace BatchNorm's mean"),
    "lc-4x": ("LC, four times longer", "a quarter of the learning rate"),
    "lc-ws10-4x": ("four times longer", "a quarter of the learning rate"),
}
"""Titles of rows and the changes in words."""
ALPHAS = {str(alpha): f"lc-ws10-alpha{alpha}" for alpha in (2, 5, 10, 20, 50)}
IDEAL = "lc-ws10-ideal"
RESCALED = {**ALPHAS, "∞": IDEAL}
UNSCALED = {**{alpha: f"{row}-unscaled" for alpha, row in ALPHAS.items()}, "∞": IDEAL}
PRESENTATIONS = {**{times: f"lc-ws10-presentations{times}" for times in ("1", "2")}, "5": ALPHAS["10"]}
PRESENTATIONS |= {"10": "lc-ws10-presentations10"}
NOISES = ("0.01", "0.03", "0.1")
GRID = {"0": IDEAL, **{noise: f"lc-ws10-noise{noise}" for noise in NOISES}}
GAUSSIAN = {"0": "", **{noise: f"lc-ws10-gaussian-noise{noise}" for noise in NOISES}}
REALISM_CURVES = {row for names in (RESCALED, UNSCALED, PRESENTATIONS, GRID, GAUSSIAN) for row in names.values()}
PARTS = {"0": REFERENCE, **{f"{100 * spread:g}": f"lc-ws10-spread{spread}" for spread in SPREADS}, "100": "lc"}
"""Rows by the percentage of a deviation from the mean that a sharing leaves."""

PATCHES = {"vit": "A  vision transformer", "mixer": "B  MLP-Mixer"}
"""Titles of the networks of patches by the start of a row's name."""
PATCH_TEXTS = {
    "": ("shared", "one matrix for all tokens"),
    "-unshared-copy": ("unshared, equal start", "the same matrix for all tokens before training"),
    "-ws10": ("ws(10)", "means after every tenth batch"),
    "-ws10-copy": ("ws(10), equal start", "the same matrix for all tokens before training"),
    "-ws10-share-moments": ("ws(10), moments shared", "AdamW's moments become means, too"),
    "-ws10-ideal": ("ideal circuit", "a simulated sleep after every tenth batch"),
    "-ws10-alpha10": ("rate circuit", "the same with α = 10"),
}
"""Titles of rows of "patches" and the changes in words, by the end of a row's name."""

Rows = dict[str, xr.Dataset]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=path, help="such as figures/early.nc")
    parser.add_argument("--out", type=path, default=HERE, help="folder of the pictures (default: next to this script)")
    args = parser.parse_args(arguments)
    try:
        files: dict[tuple[str, str], list[Path]] = {}
        for file in args.files:
            files.setdefault(study_of(file), []).append(file)
        tables = {study: common_rows(parts[0], args.files) | read(parts)[0] for study, parts in files.items()}
    except (ValueError, OSError) as error:
        parser.error(f"{error}; `python -m bioshare table NAME --to runs` writes files of {', '.join(DRAWINGS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for (study, name), rows in tables.items():
        figure = DRAWINGS[study](rows)
        for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
            figure.savefig(args.out / f"{name}{ending}", metadata=facts)
        plt.close(figure)


def study_of(path: Path) -> tuple[str, str]:
    """The name of the table in a file, and the name of the picture."""
    facts = stored(path).attrs
    study = str(facts.get("table"))
    if study not in DRAWINGS:
        raise ValueError(f"files must be of the tables {', '.join(DRAWINGS)}; {path} is of {study}")
    images = json.loads(facts["shared_config"])["dataset"]["name"].replace("-jpeg", "")
    return study, f"{study}_{images}" if study == "patches" else study


def common_rows(path: Path, files: Sequence[Path]) -> Rows:
    """LC and ws(10) of all files whose setting, as far as a file's runs have it in common, is that of one of them."""
    settings = {file: json.loads(stored(file).attrs["shared_config"]) for file in files}
    ours = {name: value for name, value in settings[path].items() if name in SETTING}
    alike = [file for file in files if all(settings[file].get(name, value) == value for name, value in ours.items())]
    return {row: runs for file in alike for row, runs in read([file])[0].items() if row in ("lc", REFERENCE)}


def draw_forest(rows: Rows) -> Figure:
    """Draw all rows of a study as a forest."""
    figure, axes = plt.subplots(figsize=(7.6, 0.9 + 0.42 * len(rows)))
    study_forest(axes, rows, "paired differences to ws(10)")
    return figure


def draw_realism(rows: Rows) -> Figure:
    """Draw accuracy against inhibition, presentations and noise, and a forest of all further rows."""
    figure = plt.figure(figsize=(9.6, 6.6))
    halves = figure.add_gridspec(2, 1, height_ratios=(1.35, 1))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    alpha, presentations, noise = above.subplots(1, 3, sharey=True)
    for panel in (alpha, presentations, noise):
        levels(panel, rows)
    dependence(alpha, rows, RESCALED, NAVY, "grid, rescaled")
    dependence(alpha, rows, UNSCALED, RUST, "grid, not rescaled", shift=0.12)
    dependence(presentations, rows, PRESENTATIONS, NAVY, "grid, rescaled")
    dependence(noise, rows, GRID, NAVY, "grid, rescaled")
    dependence(noise, rows, GAUSSIAN, BLUE, "Gaussian, rescaled", shift=0.08)
    alpha.set(title="A  inhibition", xlabel="α", ylabel="test accuracy, %")
    presentations.set(title="B  length of a sleep at α = 10", xlabel="presentations per input")
    noise.set(title="C  noise at α = ∞", xlabel="standard deviation of the noise")
    shown = [panel.get_legend_handles_labels() for panel in (alpha, presentations, noise)]
    by_title = {title: handle for handles, titles in shown for handle, title in zip(handles, titles, strict=True)}
    above.legend(by_title.values(), by_title.keys(), loc="outside upper right", ncols=len(by_title))
    others = {row: runs for row, runs in rows.items() if row not in REALISM_CURVES}
    study_forest(below.subplots(), others, "D  paired differences to ws(10)")
    return figure


def draw_controls(rows: Rows) -> Figure:
    """Draw the controls as a forest, and accuracy against the spread that a sharing leaves."""
    controls = {row: runs for row, runs in rows.items() if row not in {*PARTS.values()} - {REFERENCE, "lc"}}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 1.2 + 0.42 * len(controls)), width_ratios=(1, 1.2))
    left.axvspan(-MARGIN, MARGIN, color=AMBER, alpha=0.3, linewidth=0)
    study_forest(left, controls, f"A  paired differences to ws(10); shaded: ± {MARGIN:g}")
    dependence(right, rows, PARTS, NAVY, "", np.sqrt(np.array(list(PARTS), float)))
    right.set(title="B  sharing in part", xlabel="part of a deviation from the mean that is left, %")
    right.set_ylabel("test accuracy, %")
    return figure


def draw_patches(rows: Rows) -> Figure:
    """Draw forests of differences to unshared weights, for the vision transformer and for the Mixer."""
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 0.9 + 0.42 * len(PATCH_TEXTS)), sharex=True)
    for axes, (kind, title) in zip(panels, PATCHES.items(), strict=True):
        own = {row: runs for row, runs in rows.items() if row.partition("-")[0] == kind}
        forest(axes, own, f"{kind}-unshared", {kind + end: words for end, words in PATCH_TEXTS.items()})
        axes.set(title=title, xlabel="difference to unshared, points")
    return figure


def study_forest(axes: Axes, rows: Rows, title: str) -> None:
    """Draw a forest of differences to ws(10), and a line at the difference of LC."""
    forest(axes, rows, REFERENCE, TEXTS)
    if {"lc", REFERENCE} <= rows.keys() and len(lc := differences(rows["lc"], rows[REFERENCE])):
        axes.axvline(lc.mean(), color=RUST, linestyle=":", linewidth=1.2)
    axes.set_title(title)


def dependence(
    axes: Axes,
    rows: Rows,
    names: dict[str, str],
    color: str,
    title: str,
    at: np.ndarray | None = None,
    shift: float = 0.0,
) -> None:
    """Draw mean, standard error and seeds of the accuracies of rows along an axis.

    Args:
        axes: the axes to draw into.
        rows: finished runs by row.
        names: names of the rows by the texts below the axis.
        color: colour of the curve.
        title: title of the curve in a legend.
        at: places of the texts; None for equal distances.
        shift: distance of the curve from the places, so that two curves don't hide one another.
    """
    places = np.arange(len(names)) if at is None else at
    axes.set_xticks(places, list(names))
    known = [(place + shift, last(rows[row])) for place, row in zip(places, names.values(), strict=True) if row in rows]
    for place, values in known:
        axes.plot(np.full(len(values), place), values, ".", color=color, markersize=4, alpha=0.5)
    if not known:  # no entry in a legend
        return
    means, errors = [values.mean() for _, values in known], [standard_error(values) for _, values in known]
    axes.errorbar([place for place, _ in known], means, yerr=errors, fmt="o-", color=color, markersize=5, label=title)


def levels(axes: Axes, rows: Rows) -> None:
    """Draw horizontal lines at the mean accuracies of LC and ws(10), with bands of the standard error."""
    for row, color, title in ((REFERENCE, AMBER, "ws(10), instant"), ("lc", GREY, "LC")):
        if row in rows:
            mean, error = last(rows[row]).mean(), standard_error(last(rows[row]))
            axes.axhline(mean, color=color, label=title)
            axes.axhspan(mean - error, mean + error, color=color, alpha=0.25, linewidth=0)


DRAWINGS: dict[str, Callable[[Rows], Figure]] = {
    "early": draw_forest,
    "realism": draw_realism,
    "controls": draw_controls,
    "questions": draw_forest,
    "patches": draw_patches,
}
"""The picture of a study."""


if __name__ == "__main__":
    main()
