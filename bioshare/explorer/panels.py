"""The explorer's panels: Bokeh figures of the sources in `bioshare.explorer.sources`, live and saved alike."""

from __future__ import annotations

from typing import Any

from bokeh import models
from bokeh.core.properties import value
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from bioshare.explorer.result import ALPHAS, GAMMAS, RESPONSE_NEURONS, RESPONSE_PRESENTATIONS, SettingResult
from bioshare.explorer.setting import DURATION
from bioshare.explorer.sources import (
    MAP_QUANTITIES,
    brian2_source,
    cell_edges,
    empty_map_sources,
    result_sources,
    setting_source,
)

NEURON_COLORS = ("#b3cde3", "#8aaac9", "#6187af", "#376493", "#12355b")
DARK, RED, OCHRE, PURPLE, GREEN, GREY = "#12355b", "#c1502e", "#e3a857", "#6f2f72", "#2f7d6b", "#5f5f5f"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
NOW: dict[str, Any] = {"line_color": GREEN, "line_width": 1.6, "line_dash": "dashdot"}
HEIGHT = 330
"""Height of a panel in pixels."""

LABELS = 1.1
"""Height of the weights with labels, divided by the height without labels."""

RESULT_PANELS = ("responses_panel", "snr_panel", "weights_panel", "mean_panel")
"""Names of the figures of a result; dimmed while the setting is unstable."""

STYLE = """
:host {
  display: grid !important; gap: 18px; container-type: inline-size;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, max(310px, min(34%, 400px))), 1fr));
}
@container (min-width: 638px) { .bioshare-map { grid-column: span 2; } }
"""

Sources = dict[str, models.ColumnDataSource]


def layout(result: SettingResult, quantity: str = "end") -> models.Column:
    """Arrange all panels in a grid; each panel is at least 310 pixels wide, or as wide as the screen.

    Args:
        result: the first result in the panels.
        quantity: the quantity of the map, one of `MAP_QUANTITIES`.

    Returns:
        A column "panels" of the figures `RESULT_PANELS` and, last, the column "map_column" with the figure
        "map_panel" and the select "map_quantity". Find sources and figures by ``select_one({"name": ...})``.
    """
    data: dict[str, Any] = result_sources(result) | empty_map_sources(result.setting.tau)
    data |= {"brian2": brian2_source(), "setting": setting_source(result.setting)}
    sources = {name: models.ColumnDataSource(values, name=name) for name, values in data.items()}
    panels: list[Any] = [panel(sources) for panel in (responses_panel, snr_panel, weights_panel, mean_panel)]
    panels.append(map_column(sources, quantity))
    style = models.InlineStyleSheet(css=STYLE)
    root = models.Column(children=panels, name="panels", sizing_mode="stretch_width", stylesheets=[style])
    update_models(root, result_properties(result))
    return root


def update_models(root: models.Column, properties: dict[str, dict[str, Any]]) -> None:
    """Set properties of models, by the name of the model."""
    for name, values in properties.items():
        model = root.select_one({"name": name})
        assert model is not None, f"no model is named {name}"
        model.update(**values)


def result_properties(result: SettingResult) -> dict[str, dict[str, Any]]:
    """Colour range, axis range and legend of a result: properties of models, by the name of the model."""
    return {
        "weight_colors": {"low": float(result.before.min()), "high": float(result.before.max())},
        "neurons_range": {"end": LABELS * result.setting.neurons},
        "legend Brian2": {"visible": False},
    }


def responses_panel(sources: Sources) -> figure:
    """Plot r_i(t) and r_inh(t) in the first presentations, and the fixed points of Eq. 9; mark rates below 0."""
    title = f"Responses, first {RESPONSE_PRESENTATIONS} presentations"
    panel = _panel("responses_panel", title, "time, ms", "rate")
    panel.x_range = models.Range1d(start=0, end=RESPONSE_PRESENTATIONS * DURATION)
    panel.xaxis.ticker = models.FixedTicker(ticks=[75.0 * i for i in range(2 * RESPONSE_PRESENTATIONS + 1)])
    for i in range(1, RESPONSE_PRESENTATIONS, 2):
        band = models.BoxAnnotation(left=i * DURATION, right=(i + 1) * DURATION, fill_color="#000000", fill_alpha=0.04)
        panel.add_layout(band)
    negative: dict[str, Any] = {"fill_color": RED, "fill_alpha": 0.13}
    panel.add_layout(models.BoxAnnotation(top=0, line_color=None, **negative))
    source, rates, points = sources["responses"], [], []
    row = {"left": "time", "right": "time", "bottom": "r_inh", "top": "r_inh"}  # without area, for the legend
    below = panel.quad(**row, source=source, line_color=None, **negative)
    for i, color in enumerate(NEURON_COLORS[:RESPONSE_NEURONS]):
        points.append(panel.line("time", f"fixed_{i}", source=source, color=color, line_dash="dotted", line_width=1.5))
        rates.append(panel.line("time", f"r_{i}", source=source, color=color, line_width=1.8))
    inhibition = panel.line("time", "r_inh", source=source, color=RED, line_dash="dashed", line_width=2)
    middle = rates[RESPONSE_NEURONS // 2 :]
    _legend(panel, {f"r_i of {RESPONSE_NEURONS} neurons": middle, "r_inh": [inhibition]})
    _legend(panel, {"fixed points, Eq. 9": points[RESPONSE_NEURONS // 2 :], "rates below 0": [below]})
    tips = [("time", "@time{0} ms"), *((f"r_{i + 1}", f"@r_{i}{{0.000}}") for i in range(RESPONSE_NEURONS))]
    _hover(panel, [inhibition], [*tips, ("r_inh", "@r_inh{0.000}")], mode="vline")
    return panel


def snr_panel(sources: Sources) -> figure:
    """Plot -log SNR over presentations, with the fixed points of theory."""
    panel = _panel("snr_panel", "−log SNR of the weights", "presentations", "−log SNR, nats", x_axis_type="log")
    now = panel.vspan("presentation", source=sources["now"], **NOW)
    levels, best = sources["levels"], sources["best"]
    floor = panel.line("presentation", "theory_minimum", source=levels, color=GREY, line_dash="dotted", line_width=2)
    end = panel.line("presentation", "theory_end", source=levels, color=PURPLE, line_dash="dashed", line_width=1.6)
    curve = panel.line("presentation", "neg_log_snr", source=sources["curve"], color=DARK, line_width=2.2)
    literal = panel.scatter(
        "presentation", "neg_log_snr", source=sources["brian2"], size=8, color=RED, fill_alpha=0, line_width=1.6
    )
    dot = panel.scatter("presentation", "neg_log_snr", source=best, size=9, color=DARK)
    _label_text(
        panel, "presentation", "neg_log_snr", "label", best, y_offset=8, text_align="right", text_baseline="top",
        text_color=DARK, text_font_style="bold", background_fill_color="#ffffff", background_fill_alpha=0.75,
    )  # fmt: skip
    panel.y_range = models.DataRange1d(renderers=[floor, end, curve, literal], range_padding=0.14)
    panel.x_range = models.DataRange1d(renderers=[curve], range_padding=0.03)
    _legend(panel, {"circuit": [curve], "lowest": [dot], "now": [now], "Brian2": [literal]})
    _legend(panel, {"fixed point": [end], "ideal, Eq. 5": [floor]})
    tips = [("presentation", "@presentation{0,0}"), ("−log SNR", "@neg_log_snr{0.000}")]
    _hover(panel, [curve], tips, mode="vline")
    return panel


def mean_panel(sources: Sources) -> figure:
    """Plot the cost of sleep: the norm of the mean, and the drift of the mean."""
    title, label = "Mean of the weights", "relative to the norm before"
    panel = _panel("mean_panel", title, "presentations", label, x_axis_type="log")
    now, source = panel.vspan("presentation", source=sources["now"], **NOW), sources["curve"]
    kept = panel.line("presentation", "mean_kept", source=source, color=DARK, line_width=2.2)
    drift = panel.line("presentation", "mean_drift", source=source, color=RED, line_dash="dashed", line_width=2.2)
    panel.x_range = models.DataRange1d(renderers=[kept], range_padding=0.03)
    panel.y_range = models.DataRange1d(renderers=[kept, drift], start=0, range_padding=0.05)
    panel.yaxis.formatter = models.NumeralTickFormatter(format="0 %")
    _legend(panel, {"norm": [kept], "drift": [drift], "now": [now]})
    tips = [("presentation", "@presentation{0,0}"), ("norm", "@mean_kept{0.0 %}"), ("drift", "@mean_drift{0.0 %}")]
    _hover(panel, [kept], tips, mode="vline")
    return panel


def weights_panel(sources: Sources) -> figure:
    """Show weights as neurons x inputs: before, now and at the end, on one colour scale."""
    panel = _panel("weights_panel", "Weights: neurons × inputs", "inputs, side by side", "neuron")
    colors = models.LinearColorMapper(palette=Cividis256, name="weight_colors")
    source, options = sources["weights"], {"color_mapper": colors, "level": "image"}
    images = panel.image("image", "x", 0, 0.94, "neurons", source=source, **options)
    _label_text(panel, "x", "neurons", "label", source, x_offset=1, y_offset=-4, text_color="#333333")
    panel.x_range = models.Range1d(start=-0.02, end=2.96)
    panel.y_range = models.Range1d(start=0, end=LABELS, name="neurons_range")
    panel.xaxis.ticker, panel.grid.visible = models.FixedTicker(ticks=[]), False
    panel.add_layout(_color_bar(colors, "weight"), "right")
    _hover(panel, [images], [("weight", "@image{0.000}"), ("neuron", "$y{0}")], mode="mouse")
    return panel


def map_column(sources: Sources, quantity: str) -> models.Column:
    """Show the map over alpha and gamma, below the select of the quantity."""
    panel = _panel("map_panel", "Map over α and γ: click a cell", "α", "γ", x_axis_type="log", y_axis_type="log")
    panel.title.name, panel.min_border_right = "map_title", 64  # room for the numbers of the colour bar
    panel.x_range, panel.y_range = (models.Range1d(*cell_edges(grid)[[0, -1]]) for grid in (ALPHAS, GAMMAS))
    panel.grid.visible = False
    cells = {name: _cells(panel, sources["map"], name, visible=name == quantity) for name in MAP_QUANTITIES}
    _unstable(panel, sources["unstable"])
    marks = {"x": "alpha", "y": "gamma", "source": sources["setting"], "fill_alpha": 0}
    panel.scatter(**marks, size=15, color="#000000", line_width=4)
    panel.scatter(**marks, size=15, color="#ffffff", line_width=2)
    tips = [("α, γ", "@alpha{0.00}, @gamma{0.0000}"), ("−log SNR at the end", "@end{0.00}")]
    tips += [("lowest", "@best{0.00} at @time_of_best{0,0}"), ("drift of the mean", "@drift{0.0 %}")]
    _hover(panel, list(cells.values()), tips, mode="mouse")
    select = models.Select(
        name="map_quantity", title="The map shows", value=quantity, options=list(MAP_QUANTITIES.items()),
        sizing_mode="stretch_width", max_width=420,
    )  # fmt: skip
    bars = {name: panel.select_one({"name": f"bar_{name}"}) for name in MAP_QUANTITIES}
    shown = "for (const [name, cell] of Object.entries(cells)) cell.visible = bars[name].visible = name == this.value;"
    select.js_on_change("value", models.CustomJS(args={"cells": cells, "bars": bars}, code=shown))
    parts: list[Any] = [select, panel]
    return models.Column(children=parts, name="map_column", sizing_mode="stretch_width", css_classes=["bioshare-map"])


def _cells(panel: Any, source: models.ColumnDataSource, name: str, visible: bool) -> models.GlyphRenderer:
    colors = models.LinearColorMapper(palette=Cividis256, name=f"colors_{name}")
    cells = panel.quad(
        left="left", right="right", bottom="bottom", top="top", source=source, visible=visible, line_color=None,
        fill_color={"field": name, "transform": colors}, name=f"cells_{name}",
    )  # fmt: skip
    cells.nonselection_glyph = cells.selection_glyph = None
    colors.domain = [(cells, name)]
    bar = _color_bar(colors, "", name=f"bar_{name}", visible=visible)
    if name == "drift":
        bar.formatter = models.NumeralTickFormatter(format="0 %")
    panel.add_layout(bar, "right")
    return cells


def _unstable(panel: Any, source: models.ColumnDataSource) -> None:
    panel.quad(
        left="left", right="right", bottom="bottom", top="top", source=source, fill_color="#e4e4e4",
        hatch_pattern="/", hatch_color="#9a9a9a", hatch_scale=9, hatch_weight=0.6, line_color=None,
    )  # fmt: skip
    panel.segment("left", "bottom", "left", "top", source=source, line_color="#222222", line_width=2)
    _label_text(
        panel, "middle_x", "middle_y", "label", source, angle=1.5708, text_align="center", text_baseline="middle",
        text_color="#222222", background_fill_color="#f4f4f4", padding=3,
    )  # fmt: skip


def _panel(name: str, title: str, x: str, y: str, **options: Any) -> Any:  # the stubs of Bokeh are incomplete
    panel: Any = figure(
        name=name, title=title, x_axis_label=x, y_axis_label=y, height=HEIGHT, sizing_mode="stretch_width",
        tools="box_zoom,reset", toolbar_location="above", frame_align=False, **options,
    )  # fmt: skip
    panel.toolbar.logo, panel.toolbar.autohide = None, True
    panel.toolbar.active_drag = None  # a finger on a panel scrolls the page
    panel.outline_line_color, panel.border_fill_color, panel.background_fill_color = None, None, None
    panel.title.update(text_font=FONT, text_font_size="13px", text_color="#222222")
    for axis in panel.axis:
        axis.update(axis_label_text_font=FONT, axis_label_text_font_style="normal", axis_label_text_font_size="12px")
        axis.update(major_label_text_font=FONT, major_label_text_font_size="11px", minor_tick_line_color=None)
        axis.update(axis_line_color="#666666", major_tick_line_color="#666666")
    panel.grid.grid_line_color = "#e4e4e4"
    return panel


def _label_text(panel: Any, x: str, y: str, text: str, source: models.ColumnDataSource, **options: Any) -> None:
    panel.text(x, y, text, source=source, **{"text_font": value(FONT), "text_font_size": "12px", **options})


def _legend(panel: Any, items: dict[str, list[Any]]) -> None:
    """Add a row of the legend below the axes, outside of the plot."""
    rows = [models.LegendItem(label=label, renderers=marks, name=f"legend {label}") for label, marks in items.items()]
    legend = models.Legend(items=rows, orientation="horizontal", location="left", border_line_color=None)
    legend.update(label_text_font=FONT, label_text_font_size="12px", padding=0, margin=2, spacing=10)
    legend.update(background_fill_color=None, glyph_width=22, label_height=14, glyph_height=14)
    panel.add_layout(legend, "below")


def _hover(panel: Any, renderers: list[Any], tips: list[tuple[str, str]], mode: Any) -> None:
    hover = {"tooltips": tips, "mode": mode, "line_policy": "nearest", "visible": False}
    panel.add_tools(models.HoverTool(renderers=renderers, **hover))


def _color_bar(colors: models.LinearColorMapper, title: str, **options: Any) -> models.ColorBar:
    ticker = models.BasicTicker(desired_num_ticks=5)
    bar = models.ColorBar(color_mapper=colors, width=10, padding=4, ticker=ticker, **options)
    bar.update(title=title or None, background_fill_color=None, major_label_text_font=FONT, title_text_font=FONT)
    bar.title_text_font_style = "normal"
    return bar
