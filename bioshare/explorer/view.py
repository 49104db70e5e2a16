"""A Bokeh layout as a Jupyter widget, which sends columns to the browser as bytes, and clicks back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import bokeh
import numpy as np
import traitlets
from bokeh.embed import json_item
from bokeh.models import UIElement
from bokeh.resources import Resources

from bioshare.explorer.columns import Columns

HERE = Path(__file__).parent


class View(anywidget.AnyWidget):
    """Shows a Bokeh layout; set ``answer``, ``overlay``, ``map`` (columns by source) and ``properties`` (by model).

    Args:
        layout: the models, with names.
        clickable: names of the figures of which clicks are told.
        on_click: called with a figure's name and the place, in data coordinates.
    """

    _esm = HERE / "view.js"
    _css = HERE / "view.css"
    version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    bokehjs = traitlets.Unicode().tag(sync=True)
    item = traitlets.Dict().tag(sync=True)
    clickable = traitlets.List(traitlets.Unicode()).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)
    overlay = traitlets.Dict().tag(sync=True)
    map = traitlets.Dict().tag(sync=True)
    properties = traitlets.Dict().tag(sync=True)

    def __init__(
        self, layout: UIElement, clickable: list[str], on_click: Callable[[str, float, float], object]
    ) -> None:
        super().__init__(bokehjs=_bokehjs(), item=dict(json_item(layout)), clickable=clickable)
        self.on_msg(lambda _, message, buffers: on_click(message["panel"], message["x"], message["y"]))


def packed(columns: Columns) -> dict[str, dict[str, Any]]:
    """Columns for the wire: arrays as bytes with their dtype and shape, text as it is.

    A list of arrays is a column of images; they are sent as float32.
    """
    return {
        source: {name: _packed(values) for name, values in columns_of.items()} for source, columns_of in columns.items()
    }


def _packed(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return _bytes(values.astype(float))
    return [_bytes(row.astype(np.float32)) if isinstance(row, np.ndarray) else row for row in values]


def _bytes(array: np.ndarray) -> dict[str, Any]:
    return {"data": array.tobytes(), "dtype": str(array.dtype), "shape": list(array.shape)}


@cache
def _bokehjs() -> str:
    """BokehJS with its widgets, minified, from the installed package."""
    return "\n".join(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).js_raw)
