"""The saved page: one HTML file with sliders over precomputed sleeps, for a browser without Python or a network."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from importlib.resources import files
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import Range1d

import bioshare
from bioshare.circuit.problem import Progress
from bioshare.circuit.stimuli import gaussian, generators
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.page_data import INPUTS, NEURONS, PageData, compute_page_data, count_sleeps
from bioshare.explorer.panels import LABELS, RESULT_PANELS, layout, update_models
from bioshare.explorer.result import (
    NOW,
    RESPONSE_NEURONS,
    RESPONSE_PRESENTATIONS,
    SettingResult,
    simulate_setting,
    theory_end,
    theory_minimum,
)
from bioshare.explorer.setting import DT, DURATION, MOMENTUM, SYMBOLS, Setting
from bioshare.explorer.sources import alpha_edges, cell_edges, unstable_source
from bioshare.explorer.widgets import bokehjs
from bioshare.explorer.words import ABOUT, TITLE
from bioshare.files import expanded, replacing


def save(path: str | os.PathLike[str], setting: Setting, progress: Progress = True) -> Path:
    """Write the page: one file without references to other files, the same bytes for the same setting and versions.

    The page opens at the setting, and has sliders for alpha, gamma, learning rate and noise, over the grid of
    `bioshare.explorer.page_data`. All other values are fixed.

    Args:
        path: the file, in an existing folder; an existing file is replaced.
        setting: the values of the sliders.
        progress: True for a bar, False for nothing, or a function of the number of finished sleeps, at most
            `count_sleeps`. An exception of this function ends the computation, and nothing is written.

    Returns:
        The path.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` can't be written; nothing was computed.
        ValueError: no sleep of the grid is stable.
    """
    path = expanded(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be a file, such as explorer.html; {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that exists; there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"path must be in a folder that can be written; {path.parent} can't")
    text = page_html(compute_page_data(setting, progress))
    if not isinstance(progress, bool):
        progress(count_sleeps(setting))  # the last chance of a caller to stop
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def page_html(page: PageData) -> str:
    """Fill the template page.html with sliders, data and scripts."""
    setting, folder = page.setting, files("bioshare.explorer")
    data = json.dumps(_json_data(page), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        version=bioshare.__version__,
        title=TITLE,
        about=ABOUT,
        limit=f"{max_alpha(DT, setting.tau):.3g}",
        **{f"last_{name}": len(axis) - 1 for name, axis in page.axes.items()},
        last_now=len(page.snapshot_at),
        neurons=setting.neurons,
        inputs=setting.k**2,
        presentations=f"{setting.presentations:,}",
        duration=f"{DURATION:g}",
        tau=f"{setting.tau:g}",
        bias=f"{setting.bias:g}" + (" (of the inhibitory neuron, too)" if setting.inhibitory_bias else ""),
        momentum=MOMENTUM,
        seed=setting.seed,
        shown_neurons=NEURONS,
        shown_inputs=INPUTS,
        data=data.replace("</", "<\\/"),
        bokeh=bokehjs(),
        script=(folder / "page.js").read_text(encoding="utf-8"),
    )


def _json_data(page: PageData) -> dict[str, Any]:
    """The data of page.js."""
    setting, axes = page.setting, page.axes
    own = {name: int(np.searchsorted(axis, getattr(setting, name))) for name, axis in axes.items()}
    stable = np.argwhere(page.index >= 0)
    nearest = stable[np.abs(stable - list(own.values())).sum(1).argmin()]  # behind the message of an unstable setting
    opening = dict(zip(own, nearest.tolist(), strict=True))
    return {
        "axes": {name: axis.tolist() for name, axis in axes.items()},
        "symbols": {name: SYMBOLS[name] for name in ("alpha", "gamma", "noise", "learning_rate")},
        "own": own,
        "opening": opening,
        "reasons": page.reasons,
        "presentation": page.presentation.tolist(),
        "theory_minimum": _over_axes(page, theory_minimum, ["noise", "gamma"]),
        "theory_end": _over_axes(page, _end_if_stable, ["noise", "alpha", "gamma"]),
        "weights": {
            "shape": page.before.shape,
            "low": page.low,
            "high": page.high,
            "presentations": page.snapshot_at.tolist(),
            "opening": int(np.argmin(np.abs(page.snapshot_at - NOW))),
        },
        "map": {
            "alpha_edges": alpha_edges(axes["alpha"], setting.tau).tolist(),
            "gamma_edges": cell_edges(axes["gamma"]).tolist(),
        },
        "circuit": {
            "neurons": setting.neurons,
            "inputs": setting.k**2,
            "presentations": RESPONSE_PRESENTATIONS,
            "updates": round(DURATION / DT),
            "shown": RESPONSE_NEURONS,
            "h": DT / setting.tau,
            "dt": DT,
            "bias": setting.bias,
            "rest": setting.bias if setting.inhibitory_bias else 0,
            "momentum": MOMENTUM,
        },
        "arrays": {name: _base64_array(array) for name, array in _long_arrays(page).items()},
        "result_panels": RESULT_PANELS,
        "item": _panels_item(page),
    }


def _end_if_stable(setting: Setting) -> float:
    return 0.0 if setting.unstable else theory_end(setting)  # which the page does not show


def _over_axes(page: PageData, function: Callable[[Setting], float], names: list[str]) -> list[Any]:
    """Values of a function of the setting over some axes, as nested lists."""
    axes = [page.axes[name].tolist() for name in names]
    settings = (page.setting.moved(**dict(zip(names, values, strict=True))) for values in product(*axes))
    return np.reshape([function(setting) for setting in settings], [len(axis) for axis in axes]).tolist()


def _long_arrays(page: PageData) -> dict[str, np.ndarray]:
    """Curves, weights, and the inputs of page.js's simulation in float64; the large noise in float32."""
    setting, inputs, count = page.setting, page.setting.k**2, RESPONSE_PRESENTATIONS
    noise = generators(setting.seed)[1].standard_normal((count, setting.neurons, inputs))
    rates = [setting.moved(learning_rate=rate).rule for rate in page.axes["learning_rate"]]
    return {
        "index": page.index,
        "neg_log_snr": page.neg_log_snr,
        "mean_kept": page.mean_kept,
        "mean_drift": page.mean_drift,
        "before": page.before,
        "weights": page.weights,
        "w_init": setting.weights,
        "x": gaussian().draw(count, inputs, seed=setting.seed),
        "xi": noise.astype(np.float32),
        "rates": np.array([rule.rates(count * round(DURATION / DT)) for rule in rates]),
    }


def _base64_array(array: np.ndarray) -> dict[str, str]:
    """An array as text: the bytes in little-endian order."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"type": array.dtype.str, "base64": base64.b64encode(array.tobytes()).decode()}


def _panels_item(page: PageData) -> dict[str, Any]:
    """The panels for BokehJS, with the ranges of the page; page.js fills in the sources."""
    result = simulate_setting(Setting(neurons=10, presentations=100))
    assert isinstance(result, SettingResult), "the default setting is stable"
    root, alphas, gammas = layout(result), page.axes["alpha"], page.axes["gamma"]
    x, y = (Range1d(*cell_edges(axis)[[0, -1]]) for axis in (alphas, gammas))
    properties = {
        "weight_colors": {"low": page.low, "high": page.high},
        "neurons_range": {"end": LABELS * len(page.before)},
        "map_panel": {"x_range": x, "y_range": y},
        "map_title": {"text": "Map: click a cell to go there"},
        "unstable": {"data": unstable_source(page.setting.tau, alphas, gammas)},
    }
    update_models(root, properties)
    # ids in order of appearance, so that the bytes of a page do not depend on earlier models of Bokeh
    text = json.dumps(json_item(root))
    ids = {old: f'"p{new}"' for new, old in enumerate(dict.fromkeys(re.findall(r'"p\d+"', text)))}
    return json.loads(re.sub(r'"p\d+"', lambda match: ids[match[0]], text))
