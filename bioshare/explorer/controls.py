"""The explorer's sliders, buttons and lines of text, as Jupyter widgets without behaviour."""

from __future__ import annotations

import html

import ipywidgets

from bioshare.explorer.setting import SLIDERS, WHOLE, Setting, rounded
from bioshare.explorer.slider import SliderWidget

FIRST = ("alpha", "gamma")
"""Sliders on top; the others are further down on a narrow screen."""

BUTTONS = {
    "brian2": ("Run this in Brian2", "Simulate the setting step by step in Brian2, and draw it over the curve"),
    "map": ("Map over α and γ", "Simulate the setting at 156 pairs of alpha and gamma"),
    "save": ("Save page", "Write explorer.html, which works without Python"),
    "reset": ("Reset", "All sliders as at the start"),
}


def close(*widgets: ipywidgets.Widget) -> None:
    """Close widgets and all that belong to them: Jupyter keeps every widget that is open."""
    for widget in widgets:
        if widget.comm is None:
            continue
        parts = [getattr(widget, name, None) for name in ("layout", "style")]
        widget.close()
        close(*getattr(widget, "children", ()), *(part for part in parts if isinstance(part, ipywidgets.Widget)))


class Controls:
    """The widgets by name.

    Attributes:
        sliders: by the fields of `Setting`.
        now: the presentation of the weights "now".
        follow: whether that is the one with the lowest -log SNR.
        buttons: by the names of `BUTTONS`.
        trouble: why there is no picture of the setting; read aloud when it changes.
        timing: what is being computed, or how long it took.
        report: what the buttons' work has come to.
        top, bottom: boxes that hold all these.
    """

    def __init__(self, setting: Setting) -> None:
        self.sliders: dict[str, SliderWidget] = {}
        for slider in SLIDERS:
            options = {"low": slider.low, "high": slider.high, "step": slider.step, "label": slider.label}
            value, whole = getattr(setting, slider.name), slider.name in WHOLE
            self.sliders[slider.name] = SliderWidget(name=slider.name, whole=whole, **options, value=value)
        now = {"name": "now", "label": "“now”: after presentation", "step": 1.0, "whole": True}
        self.now = SliderWidget(**now, low=0.0, high=float(setting.presentations))
        self.follow = ipywidgets.Checkbox(value=True, description="at the lowest −log SNR", indent=False)
        self.buttons = {
            name: ipywidgets.Button(description=text, tooltip=tooltip) for name, (text, tooltip) in BUTTONS.items()
        }
        self.trouble, self.timing, self.report = (ipywidgets.HTML() for _ in range(3))
        self.trouble.add_class("bioshare-trouble")
        for line in (self.timing, self.report):
            line.add_class("bioshare-line")
        others = [widget for name, widget in self.sliders.items() if name not in FIRST]
        buttons = ipywidgets.Box(list(self.buttons.values())).add_class("bioshare-buttons")
        first = [self.sliders[name] for name in FIRST]
        self.top = ipywidgets.VBox([*first, self.now, self.follow, self.timing, self.trouble])
        self.bottom = ipywidgets.VBox([*others, buttons, self.report])
        self.top.add_class("bioshare-top")
        self.bottom.add_class("bioshare-bottom")

    def value(self, name: str) -> float:
        """What a slider says."""
        value = self.sliders[name].value
        return round(value) if name in WHOLE else value

    def move(self, setting: Setting) -> None:
        """Bring the sliders to a setting."""
        for name, value in setting.values().items():
            self.sliders[name].value = value

    def say_limit(self, limit: float) -> None:
        """Tell beside alpha where it becomes unstable."""
        label = next(slider.label for slider in SLIDERS if slider.name == "alpha")
        self.sliders["alpha"].label = f"{label}; stable below {rounded(limit):g}"
        self.sliders["alpha"].limit = limit

    def say_trouble(self, words: str, slider: str = "") -> None:
        """Show a message, and mark the slider that it is about; neither if there are no words."""
        self.trouble.value = f'<div role="alert">{html.escape(words)}</div>'
        for name, widget in self.sliders.items():
            widget.unstable = name == slider

    def say_timing(self, words: str) -> None:
        """Show what is being computed, or how long it took."""
        self.timing.value = html.escape(words)

    def say_report(self, words: str) -> None:
        """Show how far the work of a button is."""
        self.report.value = f'<div role="status">{html.escape(words)}</div>'
