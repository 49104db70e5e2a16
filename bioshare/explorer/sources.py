"""Data of the panels' Bokeh sources: columns by name, of equal length in a source, by the source's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.result import ALPHAS, GAMMAS, RESPONSE_NEURONS, SettingResult
from bioshare.explorer.setting import DT, Setting, rounded

if TYPE_CHECKING:
    import xarray as xr

SourceData = dict[str, dict[str, Any]]

MAP_QUANTITIES = {
    "end": "−log SNR at the end",
    "best": "lowest −log SNR",
    "time_of_best": "presentations to the lowest −log SNR",
    "drift": "drift of the mean at the end, relative to the norm",
}


def result_sources(result: SettingResult) -> SourceData:
    """Sources of the four panels of a result; the logarithmic axes begin at the record after the start."""
    presentation, best = result.presentation[1:].astype(float), result.best
    responses, neurons, minimum = result.responses, range(RESPONSE_NEURONS), result.neg_log_snr[best]
    first = presentation[0]
    label = f"{minimum:.2f} at {result.presentation[best]:,}".replace("-", "−")
    return {
        "responses": {
            "time": responses.time,
            **{f"r_{i}": responses.r[:, i] for i in neurons},
            **{f"fixed_{i}": responses.r_fixed[:, i] for i in neurons},
            "r_inh": responses.r_inh,
        },
        "curve": {
            "presentation": presentation,
            "neg_log_snr": result.neg_log_snr[1:],
            "mean_kept": result.mean_kept[1:],
            "mean_drift": result.mean_drift[1:],
        },
        "levels": {
            "presentation": presentation[[0, -1]],
            "theory_minimum": np.full(2, result.theory_minimum),
            "theory_end": np.full(2, result.theory_end),
        },
        "best": {
            "presentation": np.array([max(float(result.presentation[best]), first)]),
            "neg_log_snr": np.array([minimum]),
            "label": [label],
        },
        "now": {"presentation": np.array([max(float(result.now_at), first)])},
        "weights": {
            "image": [result.before, result.now, result.end],
            "x": np.arange(3.0),
            "neurons": np.full(3, float(len(result.before))),
            "label": ["before", f"now: {result.now_at:,}", f"end: {result.setting.presentations:,}"],
        },
    }


def setting_source(setting: Setting) -> dict[str, Array]:
    """The place of a setting on the map."""
    return {"alpha": np.array([setting.alpha]), "gamma": np.array([setting.gamma])}


def brian2_source(presentation: ArrayLike = (), neg_log_snr: ArrayLike = ()) -> dict[str, Array]:
    """About 40 records of Brian2, evenly spaced on the logarithmic axis, without the start."""
    at, values = np.asarray(presentation, float), np.asarray(neg_log_snr, float)
    chosen = np.unique(np.geomspace(1, max(len(at) - 1, 1), 40).round().astype(int)) if len(at) > 1 else slice(0)
    return {"presentation": at[chosen], "neg_log_snr": values[chosen]}


def map_sources(data: xr.Dataset) -> SourceData:
    """Sources of the map from the Dataset of `sweep`: a row for every stable cell."""
    alphas, gammas, tau = data.alpha.to_numpy(), data.gamma.to_numpy(), data.attrs["tau"]
    x, y = alpha_edges(alphas, tau), cell_edges(gammas)
    i, j = (index.ravel() for index in np.indices((int((alphas < max_alpha(DT, tau)).sum()), len(gammas))))
    cells = {"alpha": alphas[i], "gamma": gammas[j]}
    cells |= {"left": x[i], "right": x[i + 1], "bottom": y[j], "top": y[j + 1]}
    cells |= {name: data[name].transpose("alpha", "gamma").to_numpy()[i, j] for name in MAP_QUANTITIES}
    return {"map": cells, "unstable": unstable_source(tau, alphas, gammas)}


def empty_map_sources(tau: float) -> SourceData:
    """Sources of a map without cells."""
    names = ("alpha", "gamma", "left", "right", "bottom", "top", *MAP_QUANTITIES)
    return {"map": {name: np.zeros(0) for name in names}, "unstable": unstable_source(tau, ALPHAS, GAMMAS)}


def unstable_source(tau: float, alphas: ArrayLike, gammas: ArrayLike) -> dict[str, Any]:
    """The area of the map where alpha is unstable, with a label in the middle; no row if the whole map is stable."""
    limit, right, (bottom, top) = float(max_alpha(DT, tau)), cell_edges(alphas)[-1], cell_edges(gammas)[[0, -1]]
    row = {"left": limit, "right": right, "bottom": bottom, "top": top}
    row |= {"middle_x": (limit * right) ** 0.5, "middle_y": (bottom * top) ** 0.5}
    rows = int(limit < right)
    columns = {name: np.array([value] * rows) for name, value in row.items()}
    return {**columns, "label": [f"unstable from α = {rounded(limit):g}"] * rows}


def cell_edges(axis: ArrayLike) -> Array:
    """Edges of the n cells of a logarithmic axis, (n + 1,)."""
    logs = np.log(np.asarray(axis, float))
    step = np.diff(logs) if len(logs) > 1 else np.ones(1)
    return np.exp(np.concatenate([[logs[0] - step[0] / 2], (logs[1:] + logs[:-1]) / 2, [logs[-1] + step[-1] / 2]]))


def alpha_edges(alphas: ArrayLike, tau: float) -> Array:
    """Edges of the map's cells along alpha, (A + 1,): the stable cells end at the limit of alpha."""
    edges, limit = cell_edges(alphas), float(max_alpha(DT, tau))
    last = int((np.asarray(alphas) < limit).sum())
    edges[last] = limit if last < len(edges) - 1 else min(edges[last], limit)
    return edges


def nearest_cell(place: tuple[float, float], alphas: ArrayLike, gammas: ArrayLike, tau: float) -> tuple[float, float]:
    """Alpha and gamma of the cell around a place of the map, or of the nearest cell."""
    alpha, gamma = (
        float(np.asarray(axis, float)[np.searchsorted(edges[1:-1], at, "right")])
        for at, axis, edges in zip(place, (alphas, gammas), (alpha_edges(alphas, tau), cell_edges(gammas)), strict=True)
    )
    return alpha, gamma
