"""The explorer's panels: Bokeh figures over the named sources of `bioshare.explorer.columns`, live and saved alike."""

from __future__ import annotations

from typing import Any

from bokeh.core.properties import value
from bokeh.models import (
    BasicTicker,
    BoxAnnotation,
    ColorBar,
    Column,
    ColumnDataSource,
    CustomJS,
    DataRange1d,
    FixedTicker,
    GlyphRenderer,
    HoverTool,
    InlineStyleSheet,
    Legend,
    LegendItem,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
    Select,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from bioshare.explorer.answer import SHOWN, WATCHED, Answer
from bioshare.explorer.columns import QUANTITIES, brian2, columns, edges, empty_map
from bioshare.explorer.setting import DURATION
from bioshare.explorer.sweep import ALPHAS, GAMMAS

NEURON_COLORS = ("#b3cde3", "#8aaac9", "#6187af", "#376493", "#12355b")
DARK, RED, OCHRE, PURPLE, GREEN, GREY = "#12355b", "#c1502e", "#e3a857", "#6f2f72", "#2f7d6b", "#5f5f5f"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
HEIGHT = 330
"""Of a panel, pixels."""

LABELS = 1.1
"""Height of the weights with their labels, of that of the weights."""

ANSWER_PANELS = ("responses_panel", "snr_panel", "weights_panel", "mean_panel")
"""Names of the figures that show an answer: to be dimmed when it is not that of the sliders."""

GRID = """
:host {
  display: grid !important; gap: 18px; container-type: inline-size;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
}
@container (min-width: 818px) { .bioshare-map { grid-column: span 2; } }
"""

Sources = dict[str, ColumnDataSource]


def layout(answer: Answer, quantity: str = "end") -> Column:
    """All panels in a grid of as many columns as fit: each at least 400 pixels wide, or as wide as the screen.

    Args:
        answer: what they show at first.
        quantity: what the map shows, one of `QUANTITIES`.

    Returns:
        A column "panels" of the figures `ANSWER_PANELS` and, last, the column "map_column" with the figure
        "map_panel" and its select "map_quantity". Find sources and figures by ``select_one({"name": ...})``.
    """
    data: dict[str, Any] = columns(answer) | {"brian2": brian2()} | empty_map(answer.setting, "")
    sources = {name: ColumnDataSource(values, name=name) for name, values in data.items()}
    panels = [
        responses_panel(sources),
        snr_panel(sources),
        weights_panel(sources),
        mean_panel(sources),
        map_column(sources, quantity),
    ]
    root = Column(*panels, name="panels", sizing_mode="stretch_width", stylesheets=[InlineStyleSheet(css=GRID)])
    for name, values in properties(answer).items():
        model = root.select_one({"name": name})
        assert model is not None, f"no model is named {name}"
        model.update(**values)
    return root


def properties(answer: Answer) -> dict[str, dict[str, Any]]:
    """What moves with an answer and is no column: properties of models, by their names."""
    return {
        "weight_colors": {"low": float(answer.before.min()), "high": float(answer.before.max())},
        "neurons_range": {"end": LABELS * answer.setting.neurons},
        "legend Brian2": {"visible": False},
    }


def responses_panel(sources: Sources) -> figure:
    """r_i(t) and r_inh(t) in the first presentations, with the fixed points of Eq. 9."""
    panel = _panel("responses_panel", f"Responses in the first {WATCHED} presentations", "time, ms", "rate")
    panel.x_range = Range1d(start=0, end=WATCHED * DURATION)
    panel.xaxis.ticker = FixedTicker(ticks=[75.0 * i for i in range(2 * WATCHED + 1)])
    for i in range(1, WATCHED, 2):
        band = BoxAnnotation(left=i * DURATION, right=(i + 1) * DURATION, fill_color="#000000", fill_alpha=0.04)
        panel.add_layout(band)
    source, rates, points = sources["responses"], [], []
    for i, color in enumerate(NEURON_COLORS[:SHOWN]):
        points.append(panel.line("time", f"fixed_{i}", source=source, color=color, line_dash="dotted", line_width=1.5))
        rates.append(panel.line("time", f"r_{i}", source=source, color=color, line_width=1.8))
    inhibition = panel.line("time", "r_inh", source=source, color=RED, line_dash="dashed", line_width=2)
    middle = rates[SHOWN // 2 :]
    _legend(panel, {f"r_i of {SHOWN} neurons": middle, "r_inh": [inhibition]})
    _legend(panel, {"where they would settle, Eq. 9": points[SHOWN // 2 :]})
    tips = [("time", "@time{0} ms"), *((f"r_{i + 1}", f"@r_{i}{{0.000}}") for i in range(SHOWN))]
    _hover(panel, [inhibition], [*tips, ("r_inh", "@r_inh{0.000}")], mode="vline")
    return panel


def snr_panel(sources: Sources) -> figure:
    """-log SNR over presentations with what theory says of it."""
    panel = _panel("snr_panel", "−log SNR of the weights", "presentations", "−log SNR, nats", x_axis_type="log")
    now = _now(panel, sources["now"])
    levels, best = sources["levels"], sources["best"]
    floor = panel.line("presentation", "theory_minimum", source=levels, color=GREY, line_dash="dotted", line_width=2)
    end = panel.line("presentation", "theory_end", source=levels, color=PURPLE, line_dash="dashed", line_width=1.6)
    curve = panel.line("presentation", "neg_log_snr", source=sources["curve"], color=DARK, line_width=2.2)
    literal = panel.scatter(
        "presentation", "neg_log_snr", source=sources["brian2"], size=8, color=RED, fill_alpha=0, line_width=1.6
    )
    dot = panel.scatter("presentation", "neg_log_snr", source=best, size=9, color=DARK)
    panel.text(
        "presentation", "neg_log_snr", "label", source=best, y_offset=8, text_align="right", text_baseline="top",
        text_font_size="12px", text_font=value(FONT), text_color=DARK, text_font_style="bold",
        background_fill_color="#ffffff", background_fill_alpha=0.75,
    )  # fmt: skip
    panel.y_range = DataRange1d(renderers=[floor, end, curve, literal], range_padding=0.14)
    panel.x_range = DataRange1d(renderers=[curve], range_padding=0.03)
    _legend(panel, {"circuit": [curve], "lowest": [dot], "now": [now], "Brian2": [literal]})
    _legend(panel, {"its end, Eq. 24": [end], "ideal circuit’s end, Eq. 5": [floor]})
    tips = [("presentation", "@presentation{0,0}"), ("−log SNR", "@neg_log_snr{0.000}")]
    _hover(panel, [curve], tips, mode="vline")
    return panel


def mean_panel(sources: Sources) -> figure:
    """What sleep costs: the norm of the mean that is left, and how far the mean has moved."""
    panel = _panel("mean_panel", "Mean of the weights over neurons", "presentations", "of its norm", x_axis_type="log")
    now, source = _now(panel, sources["now"]), sources["curve"]
    kept = panel.line("presentation", "mean_kept", source=source, color=DARK, line_width=2.2)
    drift = panel.line("presentation", "mean_drift", source=source, color=RED, line_dash="dashed", line_width=2.2)
    panel.x_range, panel.y_range = (
        DataRange1d(renderers=[kept], range_padding=0.03),
        DataRange1d(renderers=[kept, drift], start=0, range_padding=0.05),
    )
    panel.yaxis.formatter = NumeralTickFormatter(format="0 %")
    _legend(panel, {"norm kept": [kept], "drift": [drift], "now": [now]})
    tips = [("presentation", "@presentation{0,0}"), ("norm kept", "@mean_kept{0.0 %}"), ("drift", "@mean_drift{0.0 %}")]
    _hover(panel, [kept], tips, mode="vline")
    return panel


def weights_panel(sources: Sources) -> figure:
    """Weights as neurons x inputs: before, now and at the end, on one colour scale."""
    panel = _panel("weights_panel", "Weights: neurons × inputs", "inputs, side by side", "neuron")
    colors = LinearColorMapper(palette=Cividis256, name="weight_colors")
    images = panel.image(
        "image", "x", 0, 0.94, "neurons", source=sources["weights"], color_mapper=colors, level="image"
    )
    panel.text(
        "x", "neurons", "label", source=sources["weights"], x_offset=1, y_offset=-4, text_font_size="12px",
        text_font=value(FONT), text_color="#333333",
    )  # fmt: skip
    panel.x_range, panel.y_range = Range1d(start=-0.02, end=2.96), Range1d(start=0, end=LABELS, name="neurons_range")
    panel.xaxis.ticker, panel.grid.visible = FixedTicker(ticks=[]), False
    panel.add_layout(_bar(colors, "weight"), "right")
    _hover(panel, [images], [("weight", "@image{0.000}"), ("neuron", "$y{0}")], mode="mouse")
    return panel


def map_column(sources: Sources, quantity: str) -> Column:
    """The map over alpha and gamma under the select that says what it shows."""
    panel = _panel("map_panel", "Map over α and γ: click a cell", "α", "γ", x_axis_type="log", y_axis_type="log")
    panel.title.name, panel.min_border_right = "map_title", 64  # room for the numbers that a map brings
    panel.x_range, panel.y_range = (Range1d(*edges(grid)[[0, -1]]) for grid in (ALPHAS, GAMMAS))
    panel.grid.visible = False
    cells = {name: _cells(panel, sources["map"], name, visible=name == quantity) for name in QUANTITIES}
    _unstable(panel, sources["unstable"])
    marks = {"x": "alpha", "y": "gamma", "source": sources["here"], "fill_alpha": 0}
    panel.scatter(**marks, size=15, color="#000000", line_width=4)
    panel.scatter(**marks, size=15, color="#ffffff", line_width=2)
    panel.text(
        "x", "y", "text", source=sources["map_words"], text_align="center", text_font_size="13px",
        text_font=value(FONT), text_color=GREY,
    )  # fmt: skip
    tips = [("α, γ", "@alpha{0.00}, @gamma{0.0000}"), ("−log SNR at the end", "@end{0.00}")]
    tips += [("lowest", "@best{0.00} at @time_of_best{0,0}"), ("drift of the mean", "@drift{0.0 %}")]
    _hover(panel, list(cells.values()), tips, mode="mouse")
    select = Select(
        name="map_quantity", title="The map shows", value=quantity, options=list(QUANTITIES.items()),
        sizing_mode="stretch_width", max_width=420,
    )  # fmt: skip
    bars = {name: next(bar for bar in panel.right if bar.name == f"bar_{name}") for name in QUANTITIES}
    shown = "for (const [name, cell] of Object.entries(cells)) cell.visible = bars[name].visible = name == this.value;"
    select.js_on_change("value", CustomJS(args={"cells": cells, "bars": bars}, code=shown))
    return Column(
        children=[select, panel], name="map_column", sizing_mode="stretch_width", css_classes=["bioshare-map"]
    )


def _cells(panel: Any, source: ColumnDataSource, name: str, visible: bool) -> GlyphRenderer:
    colors = LinearColorMapper(palette=Cividis256, name=f"colors_{name}")
    cells = panel.quad(
        left="left", right="right", bottom="bottom", top="top", source=source, visible=visible, line_color=None,
        fill_color={"field": name, "transform": colors}, name=f"cells_{name}",
    )  # fmt: skip
    cells.nonselection_glyph = cells.selection_glyph = None
    colors.domain = [(cells, name)]
    bar = _bar(colors, "", name=f"bar_{name}", visible=visible)
    if name == "drift":
        bar.formatter = NumeralTickFormatter(format="0 %")
    panel.add_layout(bar, "right")
    return cells


def _unstable(panel: Any, source: ColumnDataSource) -> None:
    panel.quad(
        left="left", right="right", bottom="bottom", top="top", source=source, fill_color="#e4e4e4",
        hatch_pattern="/", hatch_color="#9a9a9a", hatch_scale=9, hatch_weight=0.6, line_color=None,
    )  # fmt: skip
    panel.segment("left", "bottom", "left", "top", source=source, line_color="#222222", line_width=2)
    panel.text(
        "middle_x", "middle_y", "label", source=source, angle=1.5708, text_align="center", text_baseline="middle",
        text_font=value(FONT), text_font_size="12px", text_color="#222222", background_fill_color="#f4f4f4", padding=3,
    )  # fmt: skip


def _panel(name: str, title: str, x: str, y: str, **options: Any) -> Any:  # what Bokeh's stubs know is too little
    panel: Any = figure(
        name=name, title=title, x_axis_label=x, y_axis_label=y, height=HEIGHT, sizing_mode="stretch_width",
        tools="box_zoom,reset", toolbar_location="above", frame_align=False, **options,
    )  # fmt: skip
    panel.toolbar.logo, panel.toolbar.autohide = None, True
    panel.toolbar.active_drag = None  # else a finger on a panel could not scroll the page
    panel.outline_line_color, panel.border_fill_color, panel.background_fill_color = None, None, None
    panel.title.update(text_font=FONT, text_font_size="14px", text_color="#222222")
    for axis in panel.axis:
        axis.update(axis_label_text_font=FONT, axis_label_text_font_style="normal", axis_label_text_font_size="12px")
        axis.update(major_label_text_font=FONT, major_label_text_font_size="11px", minor_tick_line_color=None)
        axis.update(axis_line_color="#666666", major_tick_line_color="#666666")
    panel.grid.grid_line_color = "#e4e4e4"
    return panel


def _now(panel: Any, source: ColumnDataSource) -> GlyphRenderer:
    """A vertical line at the presentation that the weights "now" are from."""
    return panel.vspan("presentation", source=source, line_color=GREEN, line_width=1.6, line_dash="dashdot")


def _legend(panel: Any, items: dict[str, list[Any]]) -> None:
    """A row of the legend under the axes, where it hides nothing."""
    entries = [LegendItem(label=label, renderers=marks, name=f"legend {label}") for label, marks in items.items()]
    legend = Legend(items=entries, orientation="horizontal", location="left", border_line_color=None)
    legend.update(label_text_font=FONT, label_text_font_size="12px", padding=0, margin=2, spacing=10)
    legend.update(background_fill_color=None, glyph_width=22, label_height=14, glyph_height=14)
    panel.add_layout(legend, "below")


def _hover(panel: Any, renderers: list[Any], tips: list[tuple[str, str]], mode: Any) -> None:
    panel.add_tools(HoverTool(renderers=renderers, tooltips=tips, mode=mode, line_policy="nearest", visible=False))


def _bar(colors: LinearColorMapper, title: str, **options: Any) -> ColorBar:
    bar = ColorBar(color_mapper=colors, width=10, padding=4, ticker=BasicTicker(desired_num_ticks=5), **options)
    bar.update(title=title or None, background_fill_color=None, major_label_text_font=FONT, title_text_font=FONT)
    bar.title_text_font_style = "normal"
    return bar
