from dataclasses import replace

import numpy as np
import pytest
from bokeh.models import ColumnDataSource, GlyphRenderer

from bioshare.explorer import sources
from bioshare.explorer.panels import LABELS, RESULT_PANELS, layout, result_properties
from bioshare.explorer.result import ALPHAS, GAMMAS, RESPONSE_NEURONS, SettingResult, simulate_setting, sweep
from bioshare.explorer.setting import Setting

SETTING = Setting(k=2, neurons=30, presentations=150, seed=2)


@pytest.fixture(scope="module")
def shown():
    result = simulate_setting(SETTING)
    assert isinstance(result, SettingResult)
    return result


@pytest.fixture(scope="module")
def found():
    return sweep(SETTING, [2.0, 20.0, 70.0, 90.0], [0.01, 0.3])


def test_the_sources_hold_the_numbers_of_the_result(shown):
    data = sources.result_sources(shown)
    for i in range(RESPONSE_NEURONS):
        np.testing.assert_array_equal(data["responses"][f"r_{i}"], shown.responses.r[:, i])
        np.testing.assert_array_equal(data["responses"][f"fixed_{i}"], shown.responses.r_fixed[:, i])
    np.testing.assert_array_equal(data["responses"]["r_inh"], shown.responses.r_inh)
    for name in ("presentation", "neg_log_snr", "mean_kept", "mean_drift"):
        np.testing.assert_array_equal(data["curve"][name], getattr(shown, name)[1:])
    assert set(data["levels"]["theory_minimum"]) == {shown.theory_minimum}
    assert set(data["levels"]["theory_end"]) == {shown.theory_end}
    assert list(data["levels"]["presentation"]) == [1, 150]
    assert data["best"]["neg_log_snr"] == [shown.neg_log_snr.min()]
    assert data["now"]["presentation"] == [shown.now_at]
    for image, weights in zip(data["weights"]["image"], (shown.before, shown.now, shown.end), strict=True):
        np.testing.assert_array_equal(image, weights)
    assert sources.setting_source(SETTING) == {"alpha": [SETTING.alpha], "gamma": [SETTING.gamma]}


def test_what_happens_before_the_first_record_is_drawn_at_it():
    shown = simulate_setting(SETTING, 0)
    assert isinstance(shown, SettingResult)
    assert sources.result_sources(shown)["now"]["presentation"] == [1]


def test_the_columns_of_a_source_have_one_length(shown, found):
    data = sources.result_sources(shown) | sources.map_sources(found) | sources.empty_map_sources(SETTING.tau)
    for name, source in (data | {"brian2": sources.brian2_source([0, 1, 2], [0.0, 1.0, 2.0])}).items():
        assert len({len(column) for column in source.values()}) == 1, name


def test_the_panels_have_every_source_and_every_glyph_finds_its_columns(shown):
    root = layout(shown)
    wanted = (
        sources.result_sources(shown)
        | {"brian2": sources.brian2_source(), "setting": sources.setting_source(SETTING)}
        | sources.empty_map_sources(SETTING.tau)
    )
    in_panels = {source.name: source for source in root.select({"type": ColumnDataSource})}
    assert in_panels.keys() == wanted.keys()
    for name, source in in_panels.items():
        assert source.data.keys() == wanted[name].keys()
    for renderer in root.select({"type": GlyphRenderer}):
        fields = {spec["field"] for spec in renderer.glyph.properties_with_values().values() if _is_field(spec)}
        fields |= {spec.field for spec in renderer.glyph.properties_with_values().values() if hasattr(spec, "field")}
        assert fields <= renderer.data_source.data.keys()


def _is_field(spec):
    return isinstance(spec, dict) and "field" in spec


def test_the_panels_have_the_names_that_others_use(shown):
    root = layout(shown)
    for name in (*RESULT_PANELS, "map_panel", "map_quantity", "map_title", *result_properties(shown)):
        assert root.select_one({"name": name}) is not None, name


def test_the_colours_span_the_weights_before_sleep(shown):
    colors = layout(shown).select_one({"name": "weight_colors"})
    assert (colors.low, colors.high) == (shown.before.min(), shown.before.max())
    assert result_properties(shown)["neurons_range"] == {"end": LABELS * 30}


@pytest.mark.parametrize("quantity", sources.MAP_QUANTITIES)
def test_the_map_shows_one_quantity_at_a_time(shown, quantity):
    root = layout(shown, quantity)
    assert root.select_one({"name": "map_quantity"}).value == quantity
    for name in sources.MAP_QUANTITIES:
        assert root.select_one({"name": f"cells_{name}"}).visible == (name == quantity)
        assert root.select_one({"name": f"bar_{name}"}).visible == (name == quantity)


def test_the_cells_of_the_map_are_the_stable_ones_and_end_at_the_limit(found):
    data = sources.map_sources(found)
    cells = data["map"]
    assert sorted({*cells["alpha"]}) == [2.0, 20.0]
    assert len(cells["alpha"]) == 4
    for alpha, gamma, end, best, time, drift in zip(
        *(cells[name] for name in ("alpha", "gamma", "end", "best", "time_of_best", "drift")), strict=True
    ):
        there = found.sel(alpha=alpha, gamma=gamma)
        assert (end, best, time, drift) == (there.end, there.best, there.time_of_best, there.drift)
    assert cells["right"].max() == data["unstable"]["left"][0] == 59.0
    assert (cells["left"] < cells["alpha"]).all()
    assert (cells["alpha"] < cells["right"]).all()
    assert (cells["bottom"] < cells["gamma"]).all()
    assert (cells["gamma"] < cells["top"]).all()


@pytest.mark.parametrize(
    ("place", "cell"),
    [
        ((55.0, 0.2), (38.2, 0.215)),  # in the last stable column, which ends at the limit of 59
        ((58.9, 0.2), (38.2, 0.215)),
        ((59.1, 0.2), (61.8, 0.215)),
        ((0.1, 5.0), (0.5, 1.0)),  # outside
        ((500.0, 1e-6), (100.0, 1e-4)),
    ],
)
def test_a_place_belongs_to_the_cell_that_is_drawn_there(place, cell):
    assert sources.nearest_cell(place, ALPHAS, GAMMAS, tau=30.0) == cell


@pytest.mark.parametrize("tau", [5.0, 13.3, 30.0, 47.0, 100.0])
def test_no_place_below_the_limit_belongs_to_an_unstable_alpha(tau):
    limit = 2 * tau - 1
    for place in np.geomspace(0.3, limit * (1 - 1e-9), 200):
        assert sources.nearest_cell((place, 0.1), ALPHAS, GAMMAS, tau)[0] < limit


def test_a_map_without_an_unstable_alpha_has_no_such_area():
    data = sources.map_sources(sweep(SETTING.moved(presentations=100), [2.0, 10.0], [0.01, 0.3]))
    assert data["unstable"]["label"] == []
    assert sources.empty_map_sources(100.0)["unstable"]["label"] == []


def test_the_edges_of_cells_lie_between_their_values_in_the_logarithm():
    np.testing.assert_allclose(
        sources.cell_edges([1, 10, 100]), [10**-0.5, 10**0.5, 10**1.5, 10**2.5], rtol=0, atol=1e-10
    )


def test_the_records_of_brian2_are_thinned_without_losing_the_ends():
    at, curve = np.arange(401) * 5, np.linspace(0, -7, 401)
    thin = sources.brian2_source(at, curve)
    assert 20 < len(thin["presentation"]) <= 40
    assert (thin["presentation"][0], thin["presentation"][-1]) == (5, 2000)
    np.testing.assert_array_equal(thin["neg_log_snr"], curve[(thin["presentation"] / 5).astype(int)])


def test_the_label_of_the_lowest_point_has_a_minus_and_a_comma(shown):
    late = replace(shown, presentation=np.array([0, 1740]), neg_log_snr=np.array([0.0, -6.829]))
    assert sources.result_sources(late)["best"]["label"] == ["−6.83 at 1,740"]
