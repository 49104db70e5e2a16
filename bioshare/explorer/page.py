"""The stand-alone page: one HTML file with sliders over sleeps computed beforehand, for a browser and nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import Legend, Range1d
from bokeh.resources import Resources

import bioshare
from bioshare.circuit import stimuli
from bioshare.circuit.problem import Progress
from bioshare.circuit.stimuli import generators
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.answer import SHOWN, WATCHED, Answer, Responses, theory_end, theory_minimum
from bioshare.explorer.columns import edges, unstable_area
from bioshare.explorer.grid import Grid, compute, size
from bioshare.explorer.panels import ANSWER_PANELS, layout
from bioshare.explorer.setting import DT, DURATION, MOMENTUM, Setting
from bioshare.explorer.watching import INPUTS, NEURONS
from bioshare.files import replacing

TITLE = "Weights that sleep together"
LEAD = """\
Asleep, neurons that should have equal weights see the same inputs: lateral inhibition (α) and plasticity pull their
weights to the mean, and a weaker force (γ) pulls each weight back to where it was. Move a slider or click a cell of the
map: −log SNR is the weights’ spread around their mean, the lower the more equal, and the mean itself shrinks meanwhile.
Past the dot, the lowest point, a sleep loses more of the mean than of the spread, so it is best stopped there.
"""
AUTHORS = "R. Pogodin, Y. Mehta, T. P. Lillicrap and P. E. Latham"
PAPER = "Towards Biologically Plausible Convolutional Networks"
WHERE = "Advances in Neural Information Processing Systems 34, 2021"
LINK = "https://arxiv.org/abs/2106.13031"

SYMBOLS = {"alpha": "α", "gamma": "γ", "noise": "σ", "learning_rate": "η"}


def save(path: str | os.PathLike[str], setting: Setting, progress: Progress = True) -> Path:
    """Write the page: one file without references to others, the same bytes for the same setting and versions.

    Its sliders are alpha, gamma, learning rate and noise, over the grid of `bioshare.explorer.grid`. What else the
    setting says holds for the whole page, which opens at the setting.

    Args:
        path: the file, which is replaced if it exists, in a folder that exists.
        setting: the sliders.
        progress: True for a bar, False for nothing, or a function that is told how many sleeps are done, of
            `bioshare.explorer.grid.size`. What it raises is passed on, and nothing is written.

    Returns:
        The path.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` can't be written; nothing was computed.
        ValueError: no sleep of the grid is stable.
    """
    path = _writable(path)
    text = page(compute(setting, progress))
    if not isinstance(progress, bool):
        progress(size(setting))  # the last moment to stop
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _writable(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be a file, such as explorer.html; {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that exists; there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"path must be in a folder that can be written; {path.parent} can't")
    return path


def page(grid: Grid) -> str:
    """The page as HTML."""
    data = json.dumps(_data(grid), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    bokeh = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).js_raw
    here = files("bioshare.explorer")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=TITLE,
        version=bioshare.__version__,
        lead=LEAD,
        sliders="\n".join(_sliders(grid)),
        footer=_footer(grid.setting),
        data=data.replace("</", "<\\/"),
        bokeh="\n".join(bokeh),
        script=(here / "page.js").read_text(encoding="utf-8"),
    )


def _sliders(grid: Grid) -> list[str]:
    """A slider of the browser's own for every axis, and one for the presentation of the weights "now"."""
    labels = {
        "alpha": f"α inhibition, stable below {max_alpha(DT, grid.setting.tau):.3g}",
        "gamma": "γ pull to weights before sleep",
        "noise": "σ noise of each neuron",
        "learning_rate": "η learning rate",
        "now": "weights now",
    }
    lengths = {name: len(axis) for name, axis in grid.axes.items()} | {"now": len(grid.kept_at) + 1}
    return [
        f'<div><label for="{name}">{label} <output id="{name}_value" for="{name}"></output></label>\n'
        f'<input type="range" id="{name}" min="0" max="{lengths[name] - 1}" step="1"></div>'
        for name, label in labels.items()
    ]


def _footer(setting: Setting) -> str:
    text = f"""\
<p>All sleeps here: N = {setting.neurons} neurons with K = {setting.k**2} inputs, initial weights 1 + N(0, 1), inputs
N(0, 1), {setting.presentations:,} presentations of {DURATION:g} ms, τ = {setting.tau:g} ms, rate at rest b =
{setting.bias:g}, momentum {MOMENTUM:g}, seed {setting.seed}. Weights are shown of the first {NEURONS} neurons and
{INPUTS} inputs at most. Curves are rounded to single precision, weights to 8 bits.</p>
<p>Made by bioshare {bioshare.__version__} (MIT licence). The model, and the numbers of the equations, are those of
{AUTHORS}: <a href="{LINK}">{PAPER}</a>, {WHERE}.</p>"""
    return text.replace("\n", " ").replace(" = ", "\u00a0=\u00a0").replace(" ms", "\u00a0ms")


def _data(grid: Grid) -> dict[str, Any]:
    """What page.js reads."""
    setting, values = grid.setting, grid.axes
    own = {name: int(np.searchsorted(axis, getattr(setting, name))) for name, axis in values.items()}
    opening = _opening(grid, own)
    return {
        "axes": {name: axis.tolist() for name, axis in values.items()},
        "symbols": SYMBOLS,
        "own": own,
        "opening": opening,
        "words": grid.words,
        "presentation": grid.presentation.tolist(),
        "theory_minimum": _over(grid, theory_minimum, ["noise", "gamma"]),
        "theory_end": _over(grid, theory_end, ["noise", "alpha", "gamma"]),
        "weights": {
            "shape": grid.before.shape,
            "low": grid.low,
            "high": grid.high,
            "presentations": grid.kept_at.tolist(),
        },
        "map": _map(grid),
        "circuit": _circuit(grid),
        "arrays": {name: _packed(array) for name, array in _arrays(grid).items()},
        "answer_panels": ANSWER_PANELS,
        "item": _item(grid, opening),
    }


def _opening(grid: Grid, own: dict[str, int]) -> dict[str, int]:
    """The stable point nearest to the setting: what is behind the message if the setting is unstable."""
    points = np.argwhere(grid.cell >= 0)
    nearest = points[np.abs(points - list(own.values())).sum(1).argmin()]
    return dict(zip(own, nearest.tolist(), strict=True))


def _moved(grid: Grid, at: dict[str, int]) -> Setting:
    return grid.setting.moved(**{name: float(grid.axes[name][i]) for name, i in at.items()})


def _over(grid: Grid, function: Callable[[Setting], float], names: list[str]) -> list[Any]:
    """A function of the setting over some of the axes, as nested lists."""
    shape = tuple(len(grid.axes[name]) for name in names)
    points = (dict(zip(names, at, strict=True)) for at in np.ndindex(shape))
    return np.reshape([function(_moved(grid, at)) for at in points], shape).tolist()


def _map(grid: Grid) -> dict[str, list[float]]:
    """Borders of the map's cells; the first unstable alpha's begins at the limit."""
    limit = float(max_alpha(DT, grid.setting.tau))
    sides, stable = edges(grid.axes["alpha"]), int((grid.axes["alpha"] < limit).sum())
    if stable < len(grid.axes["alpha"]):
        sides[stable] = limit
    return {"sides": sides.tolist(), "levels": edges(grid.axes["gamma"]).tolist()}


def _circuit(grid: Grid) -> dict[str, Any]:
    setting = grid.setting
    return {
        "neurons": setting.neurons,
        "inputs": setting.k**2,
        "watched": WATCHED,
        "updates": round(DURATION / DT),
        "shown": SHOWN,
        "h": DT / setting.tau,
        "dt": DT,
        "bias": setting.bias,
        "momentum": MOMENTUM,
    }


def _arrays(grid: Grid) -> dict[str, np.ndarray]:
    """The long ones; float64 where the responses are computed from them, but for the noise, which is very long."""
    setting, inputs = grid.setting, grid.setting.k**2
    noise = generators(setting.seed)[1].standard_normal((WATCHED, setting.neurons, inputs))
    updates = WATCHED * round(DURATION / DT)
    rates = [setting.moved(learning_rate=rate).rule.rates(updates) for rate in grid.axes["learning_rate"]]
    return {
        "cell": grid.cell,
        "neg_log_snr": grid.neg_log_snr,
        "mean_kept": grid.mean_kept,
        "mean_drift": grid.mean_drift,
        "before": grid.before,
        "weights": grid.weights,
        "w_init": setting.weights,
        "x": stimuli.gaussian().draw(WATCHED, inputs, seed=setting.seed),
        "xi": noise.astype(np.float32),
        "rates": np.array(rates),
    }


def _packed(array: np.ndarray) -> dict[str, str]:
    """An array as text: its bytes, least significant first."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"type": array.dtype.str, "base64": base64.b64encode(array.tobytes()).decode()}


def _item(grid: Grid, opening: dict[str, int]) -> dict[str, Any]:
    """The panels for BokehJS, with the map's axes; page.js fills in the columns."""
    root = layout(_at_first(grid, opening))
    for legend in root.select({"type": Legend}):
        items = [item for item in legend.properties_with_values()["items"] if item.label["value"] != "Brian2"]
        legend.update(items=items)
    alphas, gammas = grid.axes["alpha"], grid.axes["gamma"]
    limit = float(max_alpha(DT, grid.setting.tau))
    named: dict[str, dict[str, Any]] = {
        "map_panel": {"x_range": Range1d(*edges(alphas)[[0, -1]]), "y_range": Range1d(*edges(gammas)[[0, -1]])}
    }
    named["map_title"] = {"text": "Map: click a cell to go there"}
    named["unstable"] = {"data": unstable_area(limit, alphas, gammas)}
    for name, values in named.items():
        model = root.select_one({"name": name})
        assert model is not None, f"no model is named {name}"
        model.update(**values)
    return _renumbered(json_item(root))


def _at_first(grid: Grid, opening: dict[str, int]) -> Answer:
    """What the panels are built from: the stable setting nearest to that of the page, of the neurons that are shown."""
    setting = _moved(grid, opening).moved(neurons=len(grid.before))
    sleep = grid.cell[tuple(opening.values())]
    none, before = np.zeros(1), grid.before
    return Answer(
        setting=setting,
        responses=Responses(none, np.zeros((1, SHOWN)), np.zeros((1, SHOWN)), none, none),
        presentation=grid.presentation.astype(float),
        neg_log_snr=grid.neg_log_snr[sleep].astype(float),
        mean_kept=grid.mean_kept[sleep].astype(float),
        mean_drift=grid.mean_drift[sleep].astype(float),
        theory_minimum=theory_minimum(_moved(grid, opening)),
        theory_end=theory_end(_moved(grid, opening)),
        before=before,
        now=before,
        end=before,
        now_at=0,
        seconds=0.0,
    )


def _renumbered(item: Any) -> dict[str, Any]:
    """The same models with numbers of their own, so that the page does not depend on what Bokeh made before it."""
    text = json.dumps(item)
    numbers = {old: f'"p{new}"' for new, old in enumerate(dict.fromkeys(re.findall(r'"p\d+"', text)))}
    return json.loads(re.sub(r'"p\d+"', lambda found: numbers[found[0]], text))
