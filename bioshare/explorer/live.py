"""The live explorer: sliders, panels that answer, buttons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.theory import max_alpha
from bioshare.explorer import columns
from bioshare.explorer.answer import Answer, Progress, answer
from bioshare.explorer.controls import Controls, close
from bioshare.explorer.grid import size
from bioshare.explorer.literal import run_elsewhere
from bioshare.explorer.panels import ANSWER_PANELS, layout, properties
from bioshare.explorer.setting import DT, SLIDERS, Setting, Unstable
from bioshare.explorer.sweep import ALPHAS, GAMMAS, sweep
from bioshare.explorer.view import View, packed
from bioshare.explorer.worker import Latest, running_loop

if TYPE_CHECKING:
    import xarray as xr

PATIENCE = 0.3
"""Seconds that an answer may still take when the slider has moved on."""

PRESS = "press “Map over α and γ”"
PAGE = "explorer.html"


class Explorer(ipywidgets.VBox):
    """Sliders for a `Setting`, and the circuit and the weights that answer. Made by `bioshare.explore`.

    In a notebook, work is done in the background and the last complete picture stays until the next is there; in
    plain Python, everything is computed before a call returns.

    Args:
        setting: where the sliders stand at first.

    Attributes:
        answer: the last complete `Answer`, which the panels show.
        map: the last map over alpha and gamma (`sweep`), or None.
        controls: the sliders, buttons and texts.
        view: the panels.
    """

    def __init__(self, setting: Setting | None = None) -> None:
        self._start = self._setting = setting or Setting()
        self.map: xr.Dataset | None = None
        self._mapped = self._start
        self._quiet = self._literal_shown = False
        self.controls = Controls(self._start)
        first = answer(self._start)
        self.answer = first if isinstance(first, Answer) else _stable(answer(Setting()))
        clickable = {"map_panel": self._click_map, "snr_panel": self._click_time, "mean_panel": self._click_time}
        self.view = View(layout(self.answer), list(clickable), lambda panel, x, y: clickable[panel](x, y))
        self._start_workers()
        self._observe()
        self._prepare()
        self._show(first)
        self.controls.say_timing("")  # the first answer took the time to load what the others find loaded
        grid = ipywidgets.Box(
            [self.controls.top, ipywidgets.VBox([self.view]).add_class("bioshare-panels"), self.controls.bottom]
        )
        super().__init__([grid.add_class("bioshare-grid")])
        self.add_class("bioshare-explorer")
        if running_loop():
            self._compiled.submit(_compile)

    def _start_workers(self) -> None:
        fail = lambda what: lambda error: self.controls.say_report(f"{what}: {error}")
        self._answers = Latest(self._show, lambda error: self._refuse(str(error)), patience=PATIENCE)
        self._maps = Latest(self._show_map, fail("No map"), self._tell_map)
        self._literal = Latest(self._show_brian2, fail("Brian2"))
        saved = lambda path: self.controls.say_report(f"Saved {Path(path).resolve()}")
        self._pages = Latest(saved, fail("Not saved"), self._tell_page)
        self._compiled = Latest(lambda _: None, lambda error: self._refuse(str(error)))

    def _observe(self) -> None:
        controls = self.controls
        for name, slider in controls.sliders.items():
            slider.observe(lambda _, name=name: self._moved(name), "value")
        controls.now.observe(lambda _: self._now_moved(), "value")
        controls.follow.observe(lambda _: self._ask(), "value")
        actions = {"brian2": self.run_in_brian2, "map": self.run_map, "save": self._save_page, "reset": self._reset}
        for name, action in actions.items():
            controls.buttons[name].on_click(lambda _, action=action: action())

    @property
    def setting(self) -> Setting:
        """Where the sliders stand; set it to move them."""
        return self._setting

    @setting.setter
    def setting(self, setting: Setting) -> None:
        if not isinstance(setting, Setting):
            raise TypeError(f"setting must be a Setting, such as explorer.setting.moved(alpha=5.0); got {setting!r}")
        self._setting = setting
        with self._silence():
            self.controls.move(setting)
        self._prepare()
        self._ask()

    def save(self, path: str | Path = PAGE) -> Path:
        """Write the stand-alone page of this setting (`bioshare.explorer.page.save`)."""
        return _page(path, self._setting)

    def run_in_brian2(self) -> None:
        """Simulate the setting step by step in Brian2, and draw it over the curve."""
        if self._answers.busy:
            self.controls.say_report("Brian2 runs what the panels show: press again when the answer is there.")
            return
        if self.answer.setting != self._setting:
            self.controls.say_report("Brian2 runs what the panels show: move to a stable setting first.")
            return
        self.controls.say_report("Brian2 compiles the circuit, and simulates every millisecond ...")
        setting = self._setting
        self._literal.submit(lambda progress: run_elsewhere(setting, progress))

    def run_map(self) -> None:
        """Simulate the setting at a grid of alphas and gammas."""
        self.controls.say_report(f"Map: {len(ALPHAS)} × {len(GAMMAS)} settings in one simulation ...")
        self._mapped = setting = self._setting
        self._maps.submit(lambda progress: sweep(setting, progress=self._answers.first(progress)))

    def close(self) -> None:
        """Stop all work, and take the widgets off the page."""
        if self.comm is None:  # it is closed, or was never made: Jupyter closes what is collected
            return
        for worker in (self._answers, self._maps, self._literal, self._pages, self._compiled):
            worker.cancel()
        close(*self.children, self.layout)
        super().close()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self._setting.values().items())
        return (
            f"<Explorer of {values}: shown as the last line of a notebook's cell; elsewhere, "
            "`python -m bioshare explore` opens a page, and .save(path) writes one>"
        )

    def _moved(self, name: str) -> None:
        if self._quiet:
            return
        self._setting = self._setting.moved(**{name: self.controls.value(name)})
        self._prepare()
        self._ask()

    def _now_moved(self) -> None:
        if self._quiet:
            return
        with self._silence():
            self.controls.follow.value = False
        self._ask()

    def _click_map(self, alpha: float, gamma: float) -> None:
        shown = (ALPHAS, GAMMAS, self._setting.tau)
        if self.map is not None:
            shown = (self.map.alpha, self.map.gamma, self.map.attrs["tau"])
        at = columns.cell((alpha, gamma), *shown)
        self.setting = self._setting.moved(alpha=at[0], gamma=at[1])

    def _click_time(self, presentation: float, _: float) -> None:
        self.controls.now.value = round(presentation)

    def _reset(self) -> None:
        with self._silence():
            self.controls.follow.value = True
        self.controls.say_report("")
        self.setting = self._start

    def _save_page(self) -> None:
        self.controls.say_report(f"Computing the curves of {PAGE} ...")
        setting, self._page_size = self._setting, size(self._setting)
        self._pages.submit(lambda progress: _page(PAGE, setting, self._answers.first(progress)))

    def _prepare(self) -> None:
        """What a new setting changes before it is computed."""
        setting, controls = self._setting, self.controls
        controls.say_limit(float(max_alpha(DT, setting.tau)))
        with self._silence():
            controls.now.high = float(setting.presentations)
        self._literal.cancel()
        self._literal_shown = False
        self.view.overlay = packed({"brian2": columns.brian2(), "here": columns.here(setting)})
        if self.map is None:
            self.view.map = packed(columns.empty_map(setting, PRESS))

    def _ask(self) -> None:
        """Compute the answer to the sliders."""
        if self._quiet:
            return
        setting, at = self._setting, None if self.controls.follow.value else round(self.controls.now.value)
        self._answers.submit(lambda progress: answer(setting, at, progress))
        if loop := running_loop():
            loop.call_later(PATIENCE, lambda: self._answers.busy and self.controls.say_timing("computing ..."))

    def _show(self, result: Answer | Unstable) -> None:
        if isinstance(result, Unstable):
            self._refuse(result.words, result.name)
            return
        self.answer = result
        with self._silence():
            self.controls.now.value = result.now_at
        self.controls.say_trouble("")
        self.controls.say_timing(f"answered in {result.seconds:.2f} s")
        self.view.answer = packed({name: data for name, data in columns.columns(result).items() if name != "here"})
        self._look()

    def _refuse(self, words: str, slider: str = "") -> None:
        shown = _difference(self.answer.setting, self._setting)
        self.controls.say_trouble(f"{words} The panels show the last stable setting{shown and f': {shown}'}.", slider)
        self.controls.say_timing("")
        self._look(dimmed=True)

    def _look(self, dimmed: bool = False) -> None:
        """Set what is no column: ranges, titles, and how pale a panel is that is not of the setting."""
        title, stale = "Map over α and γ: click a cell", False
        if self.map is not None:
            mapped = self._mapped.moved(alpha=self._setting.alpha, gamma=self._setting.gamma)
            if stale := mapped != self._setting:
                title = f"Map of another setting: {_difference(mapped, self._setting)}"
        styles = {name: _pale(dimmed) for name in ANSWER_PANELS} | {"map_panel": _pale(stale)}
        texts = {"map_title": {"text": title}, "legend Brian2": {"visible": self._literal_shown}}
        self.view.properties = {**properties(self.answer), **styles, **texts}

    def _tell_map(self, done: int) -> None:
        self.controls.say_report(f"Map: {done / self._mapped.presentations:.0%} of {self._mapped.presentations:,}")

    def _tell_page(self, done: int) -> None:
        self.controls.say_report(f"Page: {done / self._page_size:.0%} of {self._page_size:,} sleeps")

    def _show_map(self, found: xr.Dataset) -> None:
        self.map = found
        self.view.map = packed(columns.map_columns(found))
        self.controls.say_report("The map is there: click a cell.")
        self._look(dimmed=self.answer.setting != self._setting)

    def _show_brian2(self, run: tuple[NDArray[np.int64], Array]) -> None:
        presentation, curve = run
        difference = np.abs(curve - self.answer.neg_log_snr).max()
        self.view.overlay = packed({"brian2": columns.brian2(presentation, curve), "here": columns.here(self._setting)})
        self._literal_shown = True
        self._look()
        self.controls.say_report(f"Brian2: −log SNR differs by {difference:.1e} at most, over {len(curve)} records.")

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        """Move widgets without an answer."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before


def _compile(progress: Progress) -> None:
    """Let the noisy sleeps be compiled, so that the first move of the slider need not wait for it."""
    answer(Setting(noise=0.1, neurons=10, presentations=100), progress=progress)


def _page(path: str | Path, setting: Setting, progress: bool | Progress = True) -> Path:
    from bioshare.explorer.page import save

    return save(path, setting, progress=progress)


def _stable(result: Answer | Unstable) -> Answer:
    assert isinstance(result, Answer), "the default setting is stable"
    return result


def _difference(setting: Setting, other: Setting) -> str:
    """The values of a setting that another one does not share, such as "α = 10, k = 3"."""
    symbols = {slider.name: slider.label.split()[0] for slider in SLIDERS}
    theirs = other.values()
    return ", ".join(
        f"{symbols[name]} = {value:g}" for name, value in setting.values().items() if value != theirs[name]
    )


def _pale(pale: bool) -> dict[str, Any]:
    return {"styles": {"opacity": "0.35" if pale else "1"}}
