"""Explore alpha and gamma by hand: sliders, and the circuit and the weights that answer.

* `explore`: the live explorer, in a notebook.
* `setting`, `answer`, `sweep`: what the sliders say, what a setting gives, and the map over alpha and gamma.
* `literal`: a setting in Brian2.
* `columns`, `panels`: these in Bokeh, for the live explorer and the saved page.
* `live`, `controls`, `slider`, `view`, `worker`: the live explorer. `page`: the saved one. `command`: the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bioshare.explorer.setting import SLIDERS, Setting

if TYPE_CHECKING:
    from bioshare.explorer.live import Explorer


def explore(**values: Any) -> Explorer:
    """Explore a sleep by hand: sliders for alpha, gamma and the rest, with panels that answer at once.

    In a notebook, as the last line of a cell. Elsewhere: ``explore().save("explorer.html")`` writes a page that works
    without Python, and ``python -m bioshare explore`` opens the live one in a browser.

    Args:
        values: where sliders stand at first, by the fields of `Setting`, such as ``alpha=5.0`` or ``k=6``.

    Returns:
        A Jupyter widget.

    Raises:
        TypeError: there is no slider of that name, or a value is no number.
        ValueError: a value is beyond the ends of its slider.
    """
    names = [slider.name for slider in SLIDERS]
    if unknown := [name for name in values if name not in names]:
        raise TypeError(f"explore has no slider {unknown[0]!r}; the sliders are {', '.join(names)}")
    setting = Setting(**values)
    from bioshare.explorer.live import Explorer  # needs Bokeh and widgets

    return Explorer(setting)
