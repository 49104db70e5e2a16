"""The live explorer: sliders and buttons beside panels that follow every move."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.theory import max_alpha
from bioshare.explorer import page, sources
from bioshare.explorer.brian_process import run_brian2_process
from bioshare.explorer.page_data import compute_page_data, count_sleeps
from bioshare.explorer.panels import RESULT_PANELS, layout, result_properties
from bioshare.explorer.result import ALPHAS, GAMMAS, NOW, ProgressFunction, SettingResult, simulate_setting, sweep
from bioshare.explorer.setting import DT, WHOLE, Setting, Unstable
from bioshare.explorer.widgets import WORK, Controls, PanelsWidget, close_widgets, wire_format
from bioshare.explorer.words import ABOUT, changed_sliders, summary
from bioshare.explorer.worker import Worker, running_loop

if TYPE_CHECKING:
    import xarray as xr

PATIENCE = 0.3
"""Seconds until a new move cancels the simulation of an old move."""

PAGE = "explorer.html"
COMPILES = "compiles the circuit, and simulates every millisecond"


class Explorer(ipywidgets.VBox):
    """Sliders of a `Setting` beside the circuit's responses and the weights. Made by `bioshare.explore`.

    In a notebook, work is done in the background: a cell that moves a slider calls `wait` before it reads ``answer`` or
    ``map``. In plain Python, a call returns when all is computed.

    Args:
        setting: initial values of the sliders.

    Attributes:
        answer: the `SettingResult` in the panels, of the last stable setting.
        map: the last map over alpha and gamma (`sweep`), or None.
        controls: sliders, buttons and texts.
        panels: the widget of the Bokeh panels.
    """

    def __init__(self, setting: Setting | None = None) -> None:
        self._start = self._setting = setting or Setting()
        self.map: xr.Dataset | None = None
        self._mapped = self._start
        self._quiet = self._brian2_shown = False
        self.controls = Controls(self._start, NOW)
        first = simulate_setting(self._start, NOW)
        shown = first if isinstance(first, SettingResult) else simulate_setting(Setting(), NOW)
        assert isinstance(shown, SettingResult), "the default setting is stable"
        self.answer = shown
        clicks = {"map_panel": self._click_map, "snr_panel": self._click_time, "mean_panel": self._click_time}
        self.panels = PanelsWidget(layout(shown), clicks)
        self._start_workers()
        self._observe()
        self._show_new_setting()
        self._show_result(first)
        self.controls.timing.value = ""  # the first simulation includes the time to load libraries
        about = ipywidgets.HTML(f"<p>{ABOUT}</p>").add_class("bioshare-about")
        panels = ipywidgets.VBox([self.controls.summary, self.panels]).add_class("bioshare-panels")
        grid = ipywidgets.Box([self.controls.side, panels]).add_class("bioshare-grid")
        super().__init__([about, grid])
        self.add_class("bioshare-explorer")
        if running_loop():
            self._compilation.submit(_compile)
            self.run_map()

    def _start_workers(self) -> None:
        show_error = lambda error: self._show_trouble(str(error))
        self._simulations = Worker(self._show_result, show_error, patience=PATIENCE)
        self._compilation = Worker(lambda _: None, show_error)
        worker = self.controls.worker
        self._maps = worker("map", self._show_map, "No map", lambda done: f"{done / self._mapped.presentations:.0%}")
        self._brian2 = worker("brian2", self._show_brian2, "Brian2", lambda _: COMPILES)
        sleeps = lambda done: f"{done / self._sleeps:.0%} of {self._sleeps:,} sleeps"
        self._pages = worker("save", self._download, "Not saved", sleeps)
        self._workers = {"map": self._maps, "brian2": self._brian2, "save": self._pages}

    def _observe(self) -> None:
        controls = self.controls
        for name, widget in controls.inputs.items():
            widget.observe(lambda change, name=name: self._move(name, change["new"]), "value")
        controls.now.observe(lambda _: self._move_now(), "value")
        controls.follow.observe(lambda _: self._simulate(), "value")
        controls.buttons["reset"].on_click(lambda _: self._reset())
        for name, action in {"brian2": self.run_in_brian2, "map": self.run_map, "save": self._save_page}.items():
            controls.buttons[name].on_click(lambda _, press=(name, action): self._press(*press))

    @property
    def setting(self) -> Setting:
        """The setting of the sliders; assign a setting to move the sliders."""
        return self._setting

    @setting.setter
    def setting(self, setting: Setting) -> None:
        if not isinstance(setting, Setting):
            raise TypeError(f"setting must be a Setting, such as explorer.setting.moved(alpha=5.0); got {setting!r}")
        self._setting = setting
        with self._silence():
            for name, value in setting.values().items():
                self.controls.inputs[name].value = value
        self._show_new_setting()
        self._simulate()

    def save(self, path: str | Path = PAGE) -> Path:
        """Write the saved page of this setting (`bioshare.explorer.page.save`)."""
        return page.save(path, self._setting)

    def wait(self) -> None:
        """Return when all work of this explorer is finished and shown: ``answer`` is the result of a stable setting."""
        for worker in (self._simulations, *self._workers.values()):
            worker.wait()

    def run_in_brian2(self) -> None:
        """Simulate the setting step by step in Brian2, and draw the curve over the panel."""
        busy = self._simulations.busy
        if busy or self.answer.setting != self._setting:
            remedy = "press again when the panels are ready" if busy else "move to a stable setting first"
            self.controls.show_report("brian2", f"Brian2 runs what the panels show: {remedy}.")
            return
        self.controls.show_report("brian2", f"Brian2: {COMPILES}", running=True)
        setting = self._setting
        self._brian2.submit(lambda progress: run_brian2_process(setting, progress))

    def run_map(self) -> None:
        """Simulate the setting at a grid of alphas and gammas."""
        self.controls.show_report("map", f"Map: {len(ALPHAS)} × {len(GAMMAS)} settings", running=True)
        self._mapped = setting = self._setting
        self._maps.submit(lambda progress: sweep(setting, progress=self._simulations.before(progress)))

    def close(self) -> None:
        """Stop all work, and remove the widgets from the page."""
        if self.comm is None:  # closed before, or never complete: Jupyter closes a widget without references
            return
        for worker in (self._simulations, self._compilation, *self._workers.values()):
            worker.cancel()
        close_widgets(*self.children, self.layout)
        super().close()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self._setting.values().items())
        return (
            f"<Explorer of {values}: shown as the last line of a notebook's cell; elsewhere, "
            "`python -m bioshare explore` opens a page, and .save(path) writes one>"
        )

    # ---- the user moves a slider, clicks a panel or presses a button

    def _move(self, name: str, value: float) -> None:
        if self._quiet:
            return
        self._setting = self._setting.moved(**{name: round(value) if name in WHOLE else value})
        self._show_new_setting()
        self._simulate()

    def _move_now(self) -> None:
        if self._quiet:
            return
        with self._silence():
            self.controls.follow.value = False
        self._simulate()

    def _click_map(self, alpha: float, gamma: float) -> None:
        axes = ALPHAS, GAMMAS, self._setting.tau
        if self.map is not None:
            axes = self.map.alpha, self.map.gamma, self.map.attrs["tau"]
        alpha, gamma = sources.nearest_cell((alpha, gamma), *axes)
        self.setting = self._setting.moved(alpha=alpha, gamma=gamma)

    def _click_time(self, presentation: float, _: float) -> None:
        self.controls.now.value = round(presentation)

    def _reset(self) -> None:
        with self._silence():
            self.controls.follow.value = False
            self.controls.now.value = NOW
        for button in self._workers.keys() - self.controls.running:
            self.controls.show_report(button, "")
        self.setting = self._start

    def _save_page(self) -> None:
        setting, self._sleeps = self._setting, count_sleeps(self._setting)
        self.controls.show_report("save", f"Page: {self._sleeps:,} sleeps", running=True)
        self._pages.submit(
            lambda progress: page.page_html(compute_page_data(setting, self._simulations.before(progress)))
        )

    def _press(self, button: str, action: Callable[[], None]) -> None:
        if button not in self.controls.running:
            return action()
        self._workers[button].cancel()
        self.controls.show_report(button, f"{WORK[button]}: stopped.")

    def _simulate(self) -> None:
        if self._quiet:
            return
        setting, now_at = self._setting, None if self.controls.follow.value else round(self.controls.now.value)
        self._simulations.submit(lambda progress: simulate_setting(setting, now_at, progress))
        if loop := running_loop():
            loop.call_later(PATIENCE, self._show_busy)

    def _show_busy(self) -> None:
        if self._simulations.busy:
            self.controls.timing.value = "computing ..."

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        """Move widgets without a simulation."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _show_new_setting(self) -> None:
        """Show all parts of a new setting that need no simulation."""
        setting = self._setting
        self.controls.show_limit(float(max_alpha(DT, setting.tau)))
        with self._silence():
            self.controls.now.high = float(setting.presentations)
        self._brian2.cancel()
        self._brian2_shown = False
        self.controls.show_report("brian2", "")
        self.panels.overlay = wire_format(
            {"brian2": sources.brian2_source(), "setting": sources.setting_source(setting)}
        )
        if self.map is None:
            self.panels.map = wire_format(sources.empty_map_sources(setting.tau))

    def _show_result(self, result: SettingResult | Unstable) -> None:
        if isinstance(result, Unstable):
            self._show_trouble(result.words, result.name)
            return
        self.answer = result
        with self._silence():
            self.controls.now.value = result.now_at
        self.controls.show_trouble("")
        self.controls.timing.value = f"computed in {result.seconds:.2f} s"
        self.controls.summary.value = summary(result)
        self.panels.result = wire_format(sources.result_sources(result))
        self._show_properties()

    def _show_trouble(self, text: str, slider: str = "") -> None:
        shown = changed_sliders(self.answer.setting, self._setting)
        text += f" The panels show the last stable setting{shown and f': {shown}'}."
        self.controls.show_trouble(text, slider)
        self.controls.timing.value = ""
        self._show_properties(dimmed=True)

    def _show_properties(self, dimmed: bool = False) -> None:
        """Set ranges and titles, and dim the panels of another setting."""
        title, old_map = "Map over α and γ: press the button", False
        if self.map is not None:
            title = "Map over α and γ: click a cell"
            mapped = self._mapped.moved(alpha=self._setting.alpha, gamma=self._setting.gamma)
            if old_map := mapped != self._setting:
                title = f"Map of another setting: {changed_sliders(mapped, self._setting)}"
        pale = dict.fromkeys(RESULT_PANELS, dimmed) | {"map_panel": old_map}
        self.panels.properties = {
            **result_properties(self.answer),
            **{name: {"styles": {"opacity": "0.35" if pale[name] else "1"}} for name in pale},
            "map_title": {"text": title},
            "legend Brian2": {"visible": self._brian2_shown},
        }

    def _show_map(self, data: xr.Dataset) -> str:
        self.map = data
        self.panels.map = wire_format(sources.map_sources(data))
        self._show_properties(dimmed=self.answer.setting != self._setting)
        return "The map is ready: click a cell."

    def _show_brian2(self, run: tuple[NDArray[np.int64], Array]) -> str:
        curve = run[1]
        difference = np.abs(curve - self.answer.neg_log_snr).max()
        source, setting = sources.brian2_source(*run), sources.setting_source(self._setting)
        self.panels.overlay = wire_format({"brian2": source, "setting": setting})
        self._brian2_shown = True
        self._show_properties()
        return f"Brian2: −log SNR differs by {difference:.1e} at most, over {len(curve)} records."

    def _download(self, text: str) -> str:
        self.panels.download(PAGE, text.encode())
        return f"{PAGE} is in the browser's downloads, {len(text) / 1e6:.1f} MB."


def _compile(progress: ProgressFunction) -> None:
    """Compile the code of noisy sleeps before the first move of the slider."""
    simulate_setting(Setting(noise=0.1, neurons=10, presentations=100), progress=progress)
