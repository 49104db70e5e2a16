"""The columns of the panels' Bokeh sources, from an answer and from a map.

Sources and their columns (a float array each, of one length per source, unless said otherwise):

* ``responses``: time, r_0 to r_4, fixed_0 to fixed_4, r_inh
* ``curve``: presentation, neg_log_snr, mean_kept, mean_drift (records after the start: the axis is logarithmic)
* ``levels``: presentation (the two ends of the axis), theory_minimum, theory_end
* ``best``: presentation, neg_log_snr, label (text); one row
* ``now``: presentation; one row
* ``brian2``: presentation, neg_log_snr; empty until it has run
* ``weights``: image (three arrays (N, K): before, now, at the end), x, neurons, label (text)
* ``here``: alpha, gamma; one row
* ``map``: alpha, gamma, left, right, bottom, top, and the ``QUANTITIES``; a row for every stable cell
* ``unstable``: left, right, bottom, top, middle_x, middle_y, label (text): where alpha is unstable; at most one row
* ``map_words``: x, y, text: what stands in the place of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.answer import SHOWN, Answer
from bioshare.explorer.setting import DT, Setting, rounded
from bioshare.explorer.sweep import ALPHAS, GAMMAS

if TYPE_CHECKING:
    import xarray as xr

Columns = dict[str, dict[str, Any]]

QUANTITIES = {
    "end": "−log SNR at the end",
    "best": "lowest −log SNR",
    "time_of_best": "presentations to the lowest −log SNR",
    "drift": "drift of the mean at the end, of its norm",
}


def columns(answer: Answer) -> Columns:
    """What the panels show of a setting: every source but those of the map and of Brian2."""
    return {
        "responses": _responses(answer),
        **_curves(answer),
        "now": {"presentation": np.array([float(max(answer.now_at, _first(answer)))])},
        "weights": weight_images(answer.before, answer.now, answer.end, answer.now_at, answer.setting.presentations),
        "here": here(answer.setting),
    }


def _responses(answer: Answer) -> dict[str, Array]:
    shown, responses = range(SHOWN), answer.responses
    return {
        "time": responses.time,
        **{f"r_{i}": responses.r[:, i] for i in shown},
        **{f"fixed_{i}": responses.r_fixed[:, i] for i in shown},
        "r_inh": responses.r_inh,
    }


def _first(answer: Answer) -> float:
    return float(answer.presentation[1])


def _curves(answer: Answer) -> Columns:
    presentation, curve, best = answer.presentation[1:].astype(float), answer.neg_log_snr[1:], answer.best
    at = max(float(answer.presentation[best]), _first(answer))
    ends = np.array([presentation[0], presentation[-1]])
    return {
        "curve": {
            "presentation": presentation,
            "neg_log_snr": curve,
            "mean_kept": answer.mean_kept[1:],
            "mean_drift": answer.mean_drift[1:],
        },
        "levels": {
            "presentation": ends,
            "theory_minimum": np.full(2, answer.theory_minimum),
            "theory_end": np.full(2, answer.theory_end),
        },
        "best": {
            "presentation": np.array([at]),
            "neg_log_snr": answer.neg_log_snr[best : best + 1],
            "label": [best_label(answer.neg_log_snr[best], answer.presentation[best])],
        },
    }


def best_label(neg_log_snr: float, presentation: int) -> str:
    """The words at the dot, such as "−6.83 at 740"."""
    return f"{neg_log_snr:.2f} at {presentation:,}".replace("-", "−")


def weight_images(before: Array, now: Array, end: Array, now_at: int, presentations: int) -> dict[str, Any]:
    """The source ``weights``, from arrays (N, K)."""
    return {
        "image": [before, now, end],
        "x": np.arange(3.0),
        "neurons": np.full(3, float(len(before))),
        "label": ["before", f"now: {now_at:,}", f"end: {presentations:,}"],
    }


def here(setting: Setting) -> dict[str, Array]:
    """The source ``here``: the setting's place on the map."""
    return {"alpha": np.array([setting.alpha]), "gamma": np.array([setting.gamma])}


def brian2(presentation: ArrayLike = (), neg_log_snr: ArrayLike = ()) -> dict[str, Array]:
    """The source ``brian2``: about 40 of its records, evenly on the logarithmic axis, without the start."""
    at, values = np.asarray(presentation, float), np.asarray(neg_log_snr, float)
    chosen = np.unique(np.geomspace(1, max(len(at) - 1, 1), 40).round().astype(int)) if len(at) > 1 else slice(0)
    return {"presentation": at[chosen], "neg_log_snr": values[chosen]}


def map_columns(data: xr.Dataset) -> Columns:
    """The sources ``map``, ``unstable`` and ``map_words`` of what `sweep` found."""
    alphas, gammas, limit = data.alpha.to_numpy(), data.gamma.to_numpy(), float(max_alpha(DT, data.attrs["tau"]))
    stable = alphas < limit
    borders, levels = sides(alphas, data.attrs["tau"]), edges(gammas)
    rows, cells = np.nonzero(np.broadcast_to(stable[:, None], (len(alphas), len(gammas))))
    source = {
        "alpha": alphas[rows],
        "gamma": gammas[cells],
        "left": borders[rows],
        "right": borders[rows + 1],
        "bottom": levels[cells],
        "top": levels[cells + 1],
        **{name: data[name].transpose("alpha", "gamma").to_numpy()[rows, cells] for name in QUANTITIES},
    }
    return {"map": source, "unstable": unstable_area(limit, alphas, gammas), "map_words": words("")}


def empty_map(setting: Setting, text: str, alphas: ArrayLike = ALPHAS, gammas: ArrayLike = GAMMAS) -> Columns:
    """The three sources of a map that has not been computed."""
    names = ("alpha", "gamma", "left", "right", "bottom", "top", *QUANTITIES)
    limit = float(max_alpha(DT, setting.tau))
    return {
        "map": {name: np.zeros(0) for name in names},
        "unstable": unstable_area(limit, alphas, gammas),
        "map_words": words(text, alphas, gammas),
    }


def edges(grid: ArrayLike) -> Array:
    """Borders between cells on a logarithmic axis: (n + 1,) for n values."""
    logs = np.log(np.asarray(grid, float))
    step = np.diff(logs) if len(logs) > 1 else np.ones(1)
    return np.exp(np.concatenate([[logs[0] - step[0] / 2], (logs[1:] + logs[:-1]) / 2, [logs[-1] + step[-1] / 2]]))


def sides(alphas: ArrayLike, tau: float) -> Array:
    """Borders between the map's columns, (A + 1,): the stable ones end at the limit of alpha."""
    borders, limit = edges(alphas), float(max_alpha(DT, tau))
    last = int((np.asarray(alphas) < limit).sum())
    borders[last] = limit if last < len(borders) - 1 else min(borders[last], limit)
    return borders


def cell(at: tuple[float, float], alphas: ArrayLike, gammas: ArrayLike, tau: float) -> tuple[float, float]:
    """Alpha and gamma of the map's cell that a place lies in, or of the nearest cell."""
    values, borders = (np.asarray(alphas, float), np.asarray(gammas, float)), (sides(alphas, tau), edges(gammas))
    index = [int(np.searchsorted(border[1:-1], place, "right")) for border, place in zip(borders, at, strict=True)]
    return float(values[0][index[0]]), float(values[1][index[1]])


def unstable_area(limit: float, alphas: ArrayLike = ALPHAS, gammas: ArrayLike = GAMMAS) -> dict[str, Any]:
    """The source ``unstable``: alphas of the map from ``limit`` on."""
    right, bottom, top = edges(alphas)[-1], *edges(gammas)[[0, -1]]
    shown = limit < right
    row = {"left": limit, "right": right, "bottom": bottom, "top": top}
    row |= {"middle_x": (limit * right) ** 0.5, "middle_y": (bottom * top) ** 0.5}
    return {
        **{name: np.array([value] if shown else []) for name, value in row.items()},
        "label": [f"unstable from α = {rounded(limit):g}"] if shown else [],
    }


def words(text: str, alphas: ArrayLike = ALPHAS, gammas: ArrayLike = GAMMAS) -> dict[str, Any]:
    """The source ``map_words``: text in the middle of the map, or none."""
    middle: Sequence[float] = [float(np.prod(edges(grid)[[0, -1]]) ** 0.5) for grid in (alphas, gammas)]
    x, y = (np.array([value] if text else []) for value in middle)
    return {"x": x, "y": y, "text": [text] if text else []}
