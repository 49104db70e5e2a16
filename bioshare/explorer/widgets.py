"""Jupyter widgets of the live explorer: a slider, the panels, and the controls beside the panels."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import bokeh
import ipywidgets
import numpy as np
import traitlets
from bokeh.embed import json_item
from bokeh.models import UIElement
from bokeh.resources import Resources

from bioshare.explorer.setting import SLIDERS, WHOLE, Setting, rounded
from bioshare.explorer.sources import SourceData
from bioshare.explorer.worker import Worker

HERE = Path(__file__).parent

BUTTONS = {
    "brian2": ("Run this in Brian2", "Simulate the setting step by step in Brian2, and draw the curve over the panel"),
    "map": ("Map over α and γ", "Simulate the setting at 156 pairs of alpha and gamma"),
    "save": ("Save page", "Download explorer.html, a page for a browser without Python"),
    "reset": ("Reset", "Move all sliders back to the start"),
}
WORK = {"brian2": "Brian2", "map": "Map", "save": "Page"}
"""Names of the buttons' work: the button of a running work stops the work."""


class SliderWidget(anywidget.AnyWidget):
    """A label, a number field and a slider without rounding: ipywidgets rounds a value to a step of the slider.

    Attributes:
        name, label, low, high, step, value: as in `Slider` and `Setting`.
        whole: True for whole numbers.
        limit: beginning of the unstable part of the track; None for no such part.
        unstable: True to mark the whole slider.
    """

    _esm = (HERE / "slider.js").read_text(encoding="utf-8")  # of a path, anywidget would keep every widget for good
    name = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    low = traitlets.Float().tag(sync=True)
    high = traitlets.Float().tag(sync=True)
    step = traitlets.Float().tag(sync=True)
    whole = traitlets.Bool().tag(sync=True)
    value = traitlets.Float().tag(sync=True)
    limit = traitlets.Float(None, allow_none=True).tag(sync=True)
    unstable = traitlets.Bool(False).tag(sync=True)

    @traitlets.validate("value")
    def _clip(self, proposal: Any) -> float:
        return min(max(proposal["value"], self.low), self.high)

    @traitlets.observe("high")
    def _clip_again(self, change: Any) -> None:
        self.value = min(self.value, change["new"])


class PanelsWidget(anywidget.AnyWidget):
    """A Bokeh layout in a notebook; sources and files travel to the browser as bytes, and clicks travel back.

    Args:
        layout: the Bokeh models.
        on_click: functions of a place in data coordinates, by the name of the figure.

    Attributes:
        result, overlay, map: sources in the `wire_format`.
        properties: properties of Bokeh models, by the name of the model.
    """

    _esm = (HERE / "panels.js").read_text(encoding="utf-8")
    _css = (HERE / "live.css").read_text(encoding="utf-8")
    version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    bokehjs = traitlets.Unicode().tag(sync=True)
    item = traitlets.Dict().tag(sync=True)
    clickable = traitlets.List(traitlets.Unicode()).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)
    overlay = traitlets.Dict().tag(sync=True)
    map = traitlets.Dict().tag(sync=True)
    properties = traitlets.Dict().tag(sync=True)

    def __init__(self, layout: UIElement, on_click: dict[str, Callable[[float, float], object]]) -> None:
        super().__init__(bokehjs=bokehjs(), item=dict(json_item(layout)), clickable=list(on_click))
        self.on_msg(lambda _, message, buffers: on_click[message["panel"]](message["x"], message["y"]))

    def download(self, name: str, content: bytes) -> None:
        """Let the browser save a file under a name, where the browser saves downloads."""
        self.send({"download": name}, [content])


@cache
def bokehjs() -> str:
    """The JavaScript of the installed Bokeh with widgets, minified."""
    return "\n".join(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).js_raw)


def wire_format(sources: SourceData) -> dict[str, dict[str, Any]]:
    """Convert arrays to bytes with a dtype and a shape, images to float32; texts remain."""

    def bytes_of(array: np.ndarray) -> dict[str, Any]:
        return {"data": array.tobytes(), "dtype": str(array.dtype), "shape": list(array.shape)}

    def convert(column: Any) -> Any:
        if isinstance(column, np.ndarray):
            return bytes_of(column.astype(float))
        return [bytes_of(row.astype(np.float32)) if isinstance(row, np.ndarray) else row for row in column]

    return {source: {name: convert(column) for name, column in data.items()} for source, data in sources.items()}


def close_widgets(*widgets: ipywidgets.Widget) -> None:
    """Close widgets with all children, layouts and styles: Jupyter keeps every open widget in memory."""
    for widget in widgets:
        if widget.comm is None:
            continue
        parts = *getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)
        widget.close()
        close_widgets(*(part for part in parts if isinstance(part, ipywidgets.Widget)))


class Controls:
    """Sliders, buttons and lines of text, without behaviour.

    Attributes:
        sliders: by the fields of `Setting`.
        inputs: sliders, and the checkbox for ``inhibitory_bias``.
        now: slider for the presentation of the weights "now".
        follow: checkbox, True if "now" is at the lowest -log SNR.
        buttons: by the names of `BUTTONS`.
        running: names of the buttons whose work is running.
        trouble: reason why the setting is unstable; a screen reader reads every change.
        timing: computing time of the panels.
        status: progress and result of the buttons' work, a line for a button.
        summary: the lowest point and the end of the sleep, above the panels.
        side: a box around the sliders, buttons and lines.
    """

    def __init__(self, setting: Setting, now: int) -> None:
        self.sliders = {
            slider.name: SliderWidget(**asdict(slider), whole=slider.name in WHOLE, value=getattr(setting, slider.name))
            for slider in SLIDERS
        }
        options = {"name": "now", "label": "“now”: after presentation", "step": 1.0, "whole": True}
        self.now = SliderWidget(**options, low=0.0, high=float(setting.presentations), value=float(now))
        self.follow = ipywidgets.Checkbox(value=False, description="at the lowest −log SNR", indent=False)
        biased = ipywidgets.Checkbox(
            value=setting.inhibitory_bias, description="b of the inhibitory neuron, too", indent=False
        )
        self.inputs: dict[str, Any] = {**self.sliders, "inhibitory_bias": biased}
        self.buttons = {
            name: ipywidgets.Button(description=text, tooltip=tooltip) for name, (text, tooltip) in BUTTONS.items()
        }
        self.running: set[str] = set()
        self._reports = dict.fromkeys(WORK, "")
        self.trouble, self.timing, self.status, self.summary = (
            ipywidgets.HTML().add_class(f"bioshare-{name}") for name in ("trouble", "line", "line", "line")
        )
        first, second, third, bias, *others = self.sliders.values()  # on a narrow screen only these two stay on top
        top = ipywidgets.VBox([first, second, self.now, self.follow, self.timing, self.trouble])
        buttons = ipywidgets.Box(list(self.buttons.values())).add_class("bioshare-buttons")
        bottom = ipywidgets.VBox([third, bias, biased, *others, buttons, self.status])
        self.side = ipywidgets.VBox([top.add_class("bioshare-top"), bottom.add_class("bioshare-bottom")])
        self.side.add_class("bioshare-side")

    def show_limit(self, limit: float) -> None:
        """Show the stability limit of alpha beside the slider."""
        self.sliders["alpha"].label = f"{SLIDERS[0].label}; stable below {rounded(limit):g}"
        self.sliders["alpha"].limit = limit

    def show_trouble(self, text: str, slider: str = "") -> None:
        """Show a reason, and mark a slider; an empty text removes both."""
        self.trouble.value = f'<div role="alert">{html.escape(text)}</div>'
        for name, widget in self.sliders.items():
            widget.unstable = name == slider

    def worker(self, button: str, show: Callable[[Any], str], failed: str, progress: Callable[[int], str]) -> Worker:
        """Return a worker that reports in the line of a button; ``show`` shows a result and returns a sentence."""
        return Worker(
            lambda result: self.show_report(button, show(result)),
            lambda error: self.show_report(button, f"{failed}: {error}"),
            lambda done: self.show_report(button, f"{WORK[button]}: {progress(done)}", running=True),
        )

    def show_report(self, button: str, text: str, running: bool = False) -> None:
        """Show the progress or the result of a button's work in a line for this button."""
        (self.running.add if running else self.running.discard)(button)
        self.buttons[button].description = f"Stop: {WORK[button]}" if running else BUTTONS[button][0]
        self._reports[button] = text
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._reports.values() if line)
        self.status.value = f'<div role="status">{lines}</div>'
