"""A slider as a Jupyter widget that leaves its value as it is: the sliders of ipywidgets round it to their steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent


class SliderWidget(anywidget.AnyWidget):
    """A label, a field for the number and a slider.

    Attributes:
        name: for tests and style sheets.
        label: what it moves.
        low, high: the ends.
        step: of a linear slider; 0 for a logarithmic one, which gives three significant digits.
        whole: whether it gives whole numbers.
        value: where it stands.
        limit: the track is marked as unstable from there on; None for no such mark.
        unstable: the whole slider is marked.
    """

    _esm = HERE / "slider.js"
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
    def _inside(self, proposal: Any) -> float:
        return min(max(proposal["value"], self.low), self.high)

    @traitlets.observe("high")
    def _shorten(self, change: Any) -> None:
        self.value = min(self.value, change["new"])
