"""Explore alpha and gamma by hand: sliders beside the responses and the weights of one sharing group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bioshare.explorer.setting import SLIDERS, Setting

if TYPE_CHECKING:
    from bioshare.explorer.live import Explorer


def explore(**values: Any) -> Explorer:
    """Explore a sleep by hand: sliders for alpha, gamma and the rest, with panels that follow every move.

    In a notebook, as the last line of a cell. Elsewhere: ``explore().save("explorer.html")`` writes a page for a
    browser without Python, and ``python -m bioshare explore`` opens the live explorer in a browser.

    Args:
        values: initial values of the sliders, by the fields of `Setting`, such as ``alpha=5.0`` or ``k=6``, and of the
            checkbox ``inhibitory_bias``.

    Returns:
        A Jupyter widget.

    Raises:
        TypeError: there is no slider of this name, or a value is no number.
        ValueError: a value is beyond the ends of its slider.
    """
    names = [*(slider.name for slider in SLIDERS), "inhibitory_bias"]
    if unknown := [name for name in values if name not in names]:
        raise TypeError(f"explore has no slider {unknown[0]!r}; the sliders are {', '.join(names)}")
    setting = Setting(**values)
    from bioshare.explorer.live import Explorer  # needs Bokeh and widgets

    return Explorer(setting)
