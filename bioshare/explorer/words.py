"""Texts of the explorer, live and saved alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioshare.explorer.setting import SYMBOLS, Setting

if TYPE_CHECKING:
    from bioshare.explorer.result import SettingResult

TITLE = "Weights that sleep together"
ABOUT = """\
During sleep, neurons that should have equal weights see the same inputs. Lateral inhibition (α) and plasticity pull the
weights to their mean; a weaker force (γ) pulls each weight back to its value before sleep. Move a slider or click a
cell of the map. −log SNR measures the spread of the weights relative to their mean; the lowest point is the dot. The
mean shrinks, too, and after the dot faster than the spread, so sleep is best stopped there."""


def summary(result: SettingResult) -> str:
    """The lowest point and the end of a sleep in a sentence, as in page.js."""
    values, kept = (curve[[result.best, -1]] for curve in (result.neg_log_snr, result.mean_kept))
    lowest, end = (f"{value:.2f}".replace("-", "−") for value in values)
    return (
        f"Lowest −log SNR {lowest} after {result.presentation[result.best]:,} presentations, with {kept[0]:.0%} of the "
        f"mean left; at the end {end} and {kept[1]:.0%}."
    )


def changed_sliders(setting: Setting, other: Setting) -> str:
    """The values of a setting that differ from another setting, such as "α = 10, k = 3"."""
    values = other.values()
    return ", ".join(
        f"{SYMBOLS[name]} = {'off' if value is False else 'on' if value is True else format(value, 'g')}"
        for name, value in setting.values().items()
        if value != values[name]
    )
