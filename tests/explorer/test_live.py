"""The live explorer in plain Python, where every move is computed before it returns."""

import asyncio
import gc
import time
import weakref

import ipywidgets
import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer import live, sources
from bioshare.explorer.result import SettingResult, simulate_setting
from bioshare.explorer.setting import SLIDERS, Setting
from bioshare.explorer.widgets import wire_format

SMALL = {"k": 2, "neurons": 30, "presentations": 150, "seed": 2}


@pytest.fixture
def explorer():
    return bs.explore(**SMALL)


def slide(explorer, **values):
    """Move sliders as a hand does."""
    for name, value in values.items():
        explorer.controls.sliders[name].value = value


def sent(explorer, source, column, trait="result"):
    """A column as the browser reads it."""
    wire = getattr(explorer.panels, trait)[source][column]
    return np.frombuffer(wire["data"], wire["dtype"]).reshape(wire["shape"])


def opacity(explorer, panel="snr_panel"):
    return explorer.panels.properties[panel]["styles"]["opacity"]


def test_a_moved_slider_shows_the_curve_that_bioshare_computes(explorer):
    slide(explorer, alpha=3.0, gamma=0.2)
    setting = Setting(**SMALL, alpha=3.0, gamma=0.2)
    expected = simulate_setting(setting)
    assert isinstance(expected, SettingResult)
    assert explorer.setting == explorer.answer.setting == setting
    np.testing.assert_array_equal(sent(explorer, "curve", "neg_log_snr"), expected.neg_log_snr[1:])
    np.testing.assert_array_equal(sent(explorer, "responses", "r_0"), expected.responses.r[:, 0])
    assert sent(explorer, "setting", "alpha", "overlay") == [3.0]


@pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
def test_every_slider_moves_its_field(explorer, slider):
    value = {"tau": 35.0, "bias": 2.0, "k": 3, "neurons": 40, "noise": 0.1, "presentations": 120}.get(slider.name)
    value = value or {"alpha": 5.0, "gamma": 0.1, "learning_rate": 1e-4, "seed": 7}[slider.name]
    slide(explorer, **{slider.name: value})
    assert explorer.answer.setting == Setting(**{**SMALL, slider.name: value})


def test_the_checkbox_moves_the_bias_of_the_inhibitory_neuron(explorer):
    rest = explorer.answer.responses.r_inh[0]
    explorer.controls.inputs["inhibitory_bias"].value = True
    assert explorer.answer.setting == explorer.setting == Setting(**SMALL, inhibitory_bias=True)
    assert explorer.answer.responses.r_inh[0] > rest + 0.5
    explorer.controls.buttons["reset"].click()
    assert explorer.controls.inputs["inhibitory_bias"].value is explorer.setting.inhibitory_bias is False


def test_an_unstable_alpha_shows_a_reason_and_dims_the_last_picture(explorer):
    before = explorer.panels.result
    slide(explorer, alpha=80.0)
    assert 'role="alert"' in explorer.controls.trouble.value
    assert "Stable below α = 2τ/dt − 1 = 59" in explorer.controls.trouble.value
    assert "the last stable setting: α = 10" in explorer.controls.trouble.value
    assert explorer.controls.sliders["alpha"].unstable
    assert explorer.panels.result is before
    assert (opacity(explorer), explorer.answer.setting.alpha) == ("0.35", 10.0)
    slide(explorer, alpha=20.0)
    assert explorer.controls.trouble.value == '<div role="alert"></div>'
    assert (opacity(explorer), explorer.answer.setting.alpha) == ("1", 20.0)
    assert not explorer.controls.sliders["alpha"].unstable


def test_a_diverging_learning_rate_names_its_own_slider(explorer):
    slide(explorer, learning_rate=0.1)
    assert "learning rate η should stay below" in explorer.controls.trouble.value
    assert explorer.controls.sliders["learning_rate"].unstable
    assert not explorer.controls.sliders["alpha"].unstable


def test_an_explorer_may_start_at_an_unstable_setting():
    explorer = bs.explore(**SMALL, alpha=90.0)
    assert "Stable below" in explorer.controls.trouble.value
    assert (explorer.setting.alpha, explorer.answer.setting, opacity(explorer)) == (90.0, Setting(), "0.35")


def test_the_limit_of_alpha_stands_at_its_slider_and_follows_tau(explorer):
    slider = explorer.controls.sliders["alpha"]
    assert (slider.label, slider.limit) == ("α  inhibition; stable below 59", 59.0)
    slide(explorer, tau=20.0)
    assert (slider.label, slider.limit) == ("α  inhibition; stable below 39", 39.0)


def test_now_starts_where_the_weights_still_differ_and_may_follow_the_lowest_point(explorer):
    controls = explorer.controls
    assert controls.now.value == explorer.answer.now_at == 100
    controls.follow.value = True
    assert controls.now.value == explorer.answer.presentation[explorer.answer.best]
    controls.now.value = 20
    assert not controls.follow.value
    np.testing.assert_array_equal(explorer.answer.now, simulate_setting(explorer.setting, 20).now)
    slide(explorer, alpha=4.0)
    assert explorer.answer.now_at == 20
    controls.follow.value = True
    assert controls.now.value == explorer.answer.presentation[explorer.answer.best]


def test_now_ends_with_the_presentations(explorer):
    explorer.controls.now.value = 150
    slide(explorer, presentations=100)
    assert (explorer.controls.now.high, explorer.controls.now.value, explorer.answer.now_at) == (100, 100, 100)


def test_a_click_on_the_curve_sets_now(explorer):
    explorer.panels._handle_custom_msg({"panel": "snr_panel", "x": 33.4, "y": -1.0}, [])
    assert explorer.answer.now_at == 33


def test_a_setting_may_be_set_from_python_as_it_is(explorer):
    explorer.setting = Setting(**SMALL, alpha=1.23456789, tau=31.4)
    assert explorer.controls.sliders["alpha"].value == 1.23456789
    assert explorer.answer.setting == explorer.setting == Setting(**SMALL, alpha=1.23456789, tau=31.4)
    with pytest.raises(TypeError, match="setting must be a Setting"):
        explorer.setting = {"alpha": 3.0}


def test_a_click_beside_the_limit_goes_to_a_stable_cell_of_the_map(explorer):
    explorer.panels._handle_custom_msg({"panel": "map_panel", "x": 55.0, "y": 0.2}, [])
    assert (explorer.setting.alpha, explorer.setting.gamma) == (38.2, 0.215)
    assert explorer.answer.setting == explorer.setting


def test_reset_brings_back_the_start(explorer):
    slide(explorer, alpha=3.0, presentations=200)
    explorer.controls.now.value = 5
    explorer.controls.buttons["reset"].click()
    assert explorer.setting == explorer.answer.setting == Setting(**SMALL)
    assert explorer.controls.now.value == explorer.answer.now_at == 100
    assert explorer.controls.sliders["alpha"].value == 10.0


def test_the_map_is_computed_on_demand_and_a_click_on_a_cell_goes_there(explorer, monkeypatch):
    grid = (np.array([2.0, 20.0]), np.array([0.01, 0.3]))
    monkeypatch.setattr(live, "sweep", lambda setting, progress: bs.explorer.result.sweep(setting, *grid, progress))
    assert explorer.map is None
    assert "press" in explorer.panels.properties["map_title"]["text"]
    explorer.controls.buttons["map"].click()
    assert "The map is ready" in explorer.controls.status.value
    assert list(sent(explorer, "map", "alpha", "map")) == [2.0, 2.0, 20.0, 20.0]
    explorer.panels._handle_custom_msg({"panel": "map_panel", "x": 55.0, "y": 0.2}, [])
    assert (explorer.setting.alpha, explorer.setting.gamma) == (20.0, 0.3)
    assert (explorer.answer.setting, opacity(explorer, "map_panel")) == (explorer.setting, "1")


def test_a_map_of_another_setting_is_pale_and_says_of_which(explorer, monkeypatch):
    grid = (np.array([2.0, 20.0]), np.array([0.01, 0.3]))
    monkeypatch.setattr(live, "sweep", lambda setting, progress: bs.explorer.result.sweep(setting, *grid, progress))
    explorer.run_map()
    slide(explorer, tau=20.0)
    assert explorer.panels.properties["map_title"]["text"] == "Map of another setting: τ = 30"
    explorer.controls.inputs["inhibitory_bias"].value = True
    assert explorer.panels.properties["map_title"]["text"] == "Map of another setting: τ = 30, bias of r_inh = off"
    explorer.controls.inputs["inhibitory_bias"].value = False
    assert opacity(explorer, "map_panel") == "0.35"
    slide(explorer, tau=30.0, alpha=4.0)
    assert opacity(explorer, "map_panel") == "1"


def test_a_map_that_cannot_be_made_says_why(explorer):
    slide(explorer, learning_rate=0.1)
    explorer.run_map()
    assert "No map: " in explorer.controls.status.value
    assert "learning_rate" in explorer.controls.status.value


def test_brian2_is_drawn_over_the_curve_and_the_difference_is_shown(explorer, monkeypatch):
    shift = 1e-5
    run = lambda setting, progress: (explorer.answer.presentation, explorer.answer.neg_log_snr + shift)
    monkeypatch.setattr(live, "run_brian2_process", run)
    explorer.controls.buttons["brian2"].click()
    assert "differs by 1.0e-05" in explorer.controls.status.value
    expected = sources.brian2_source(explorer.answer.presentation, explorer.answer.neg_log_snr + shift)
    np.testing.assert_array_equal(sent(explorer, "brian2", "neg_log_snr", "overlay"), expected["neg_log_snr"])
    assert explorer.panels.properties["legend Brian2"] == {"visible": True}
    slide(explorer, alpha=4.0)
    assert sent(explorer, "brian2", "neg_log_snr", "overlay").size == 0
    assert explorer.panels.properties["legend Brian2"] == {"visible": False}


def test_brian2_does_not_run_what_is_not_shown(explorer, monkeypatch):
    monkeypatch.setattr(live, "run_brian2_process", lambda *arguments: pytest.fail("it ran"))
    slide(explorer, alpha=80.0)
    explorer.run_in_brian2()
    assert "stable setting first" in explorer.controls.status.value


def test_the_save_button_sends_the_page_of_the_setting_to_the_browser_and_writes_no_file(
    explorer, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    sent_files = []
    monkeypatch.setattr(explorer.panels, "send", lambda message, buffers: sent_files.append((message, buffers)))
    monkeypatch.setattr(live, "compute_page_data", lambda setting, progress: setting)
    monkeypatch.setattr("bioshare.explorer.page.page_html", lambda setting: f"α = {setting.alpha}")
    slide(explorer, alpha=4.0)
    explorer.controls.buttons["save"].click()
    assert sent_files == [({"download": "explorer.html"}, ["α = 4.0".encode()])]
    assert "explorer.html is in the browser" in explorer.controls.status.value
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_saving_is_shown(explorer, monkeypatch):
    def fail(setting, progress):
        raise MemoryError("no memory is left")

    monkeypatch.setattr(live, "compute_page_data", fail)
    explorer.controls.buttons["save"].click()
    assert "Not saved: no memory is left" in explorer.controls.status.value
    assert explorer.controls.buttons["save"].description == "Save page"


def test_every_job_has_its_line_and_its_button_stops_it(monkeypatch):
    """The button of a running job says that it stops the job; other jobs keep their lines."""
    monkeypatch.setattr(live, "_compile", lambda progress: None)

    def endless(setting, progress):
        while True:
            progress(0)
            time.sleep(0.01)

    monkeypatch.setattr(live, "sweep", endless)
    monkeypatch.setattr(live, "run_brian2_process", endless)

    async def jobs():
        explorer = bs.explore(**SMALL)
        explorer.run_in_brian2()
        controls = explorer.controls
        status = lambda: controls.status.value
        assert controls.running == {"map", "brian2"}  # the map begins by itself
        await until(lambda: "Map: 0%" in status() and "Brian2: compiles" in status())
        assert controls.buttons["map"].description == "Stop: Map"
        controls.buttons["map"].click()
        assert "Map: stopped." in status()
        assert "Brian2: compiles" in status()
        assert (controls.buttons["map"].description, controls.running) == ("Map over α and γ", {"brian2"})
        slide(explorer, alpha=3.0)  # what Brian2 would draw is of another setting
        assert controls.running == set()
        assert "Brian2" not in status()
        explorer.wait()
        assert explorer.map is None
        explorer.close()

    asyncio.run(jobs())


def test_the_summary_is_that_of_the_shown_sleep(explorer):
    shown = explorer.answer
    kept = f"{shown.mean_kept[shown.best]:.0%} of the mean left"
    lowest = f"{shown.neg_log_snr.min():.2f}".replace("-", "−")
    assert f"Lowest −log SNR {lowest} after {shown.presentation[shown.best]}" in explorer.controls.summary.value
    assert kept in explorer.controls.summary.value
    before = explorer.controls.summary.value
    slide(explorer, alpha=3.0)
    assert explorer.controls.summary.value != before


def test_an_unexpected_error_is_shown(explorer, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no <memory>")

    monkeypatch.setattr(live, "simulate_setting", fail)
    slide(explorer, alpha=4.0)
    assert "no &lt;memory&gt;" in explorer.controls.trouble.value
    assert opacity(explorer) == "0.35"


def test_unknown_sliders_and_impossible_values_are_refused():
    with pytest.raises(TypeError, match="no slider 'beta'; the sliders are alpha, gamma, tau, bias, k, neurons"):
        bs.explore(beta=3)
    with pytest.raises(ValueError, match=r"alpha must be .* from 0\.1 to 100"):
        bs.explore(alpha=1000)
    with pytest.raises(TypeError, match="inhibitory_bias must be True or False; got 1"):
        bs.explore(inhibitory_bias=1)


def test_outside_of_a_notebook_the_text_says_how_to_see_the_explorer(explorer):
    text = repr(explorer)
    assert "alpha=10, gamma=0.01" in text
    assert "python -m bioshare explore" in text
    assert ".save(path)" in text


def test_arrays_go_over_the_wire_as_bytes_and_images_as_single_precision():
    wire = wire_format({"a": {"x": np.array([0.1, 0.2]), "image": [np.eye(2)], "label": ["one"]}})["a"]
    assert np.frombuffer(wire["x"]["data"]).tolist() == [0.1, 0.2]
    assert (wire["x"]["dtype"], wire["x"]["shape"]) == ("float64", [2])
    assert (wire["image"][0]["dtype"], wire["image"][0]["shape"]) == ("float32", [2, 2])
    assert np.frombuffer(wire["image"][0]["data"], "float32").tolist() == [1.0, 0.0, 0.0, 1.0]
    assert wire["label"] == ["one"]


def test_a_closed_explorer_leaves_no_widgets_behind():
    before = set(ipywidgets.widgets.widget._instances)
    for _ in range(3):
        bs.explore(**SMALL).close()
    assert set(ipywidgets.widgets.widget._instances) <= before


def test_a_closed_explorer_is_freed_with_all_widgets_and_arrays():
    explorer = bs.explore(**SMALL)
    slide(explorer, alpha=3.0)
    parts = (explorer, explorer.answer, explorer.panels, *explorer.controls.sliders.values())
    alive = [weakref.ref(part) for part in parts]
    explorer.close()
    del explorer, parts
    gc.collect()
    assert [part() for part in alive if part() is not None] == []


def test_an_explorer_may_be_closed_twice(explorer):
    explorer.close()
    explorer.close()
    assert explorer.comm is None


async def until(condition):
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen")


def test_the_progress_of_a_page_is_in_percent_and_no_page_is_written_after_close(monkeypatch, tmp_path):
    monkeypatch.setattr(live, "_compile", lambda progress: None)
    monkeypatch.chdir(tmp_path)

    async def close_on_the_way():
        explorer = bs.explore(**SMALL)
        explorer.controls.buttons["save"].click()
        await until(lambda: "% of" in explorer.controls.status.value)
        explorer.close()
        await until(lambda: not explorer._pages.busy)

    asyncio.run(close_on_the_way())
    assert list(tmp_path.iterdir()) == []


def test_brian2_does_not_run_while_the_panels_are_computed(monkeypatch):
    monkeypatch.setattr(live, "_compile", lambda progress: None)
    monkeypatch.setattr(live, "run_brian2_process", lambda *arguments: pytest.fail("it ran"))

    async def press_early():
        explorer = bs.explore(**SMALL)
        slide(explorer, alpha=3.0)
        explorer.run_in_brian2()
        assert "press again when the panels are ready" in explorer.controls.status.value
        await until(lambda: explorer.answer.setting == explorer.setting)
        explorer.close()

    asyncio.run(press_early())


def test_on_a_loop_moves_are_simulated_in_the_background_and_the_last_move_is_shown(monkeypatch):
    monkeypatch.setattr(live, "_compile", lambda progress: None)

    async def moves():
        explorer = bs.explore(**SMALL)
        first = explorer.answer
        for alpha in (2.0, 3.0, 4.0):
            slide(explorer, alpha=alpha)
        assert explorer.answer is first
        for _ in range(2000):
            if explorer.answer.setting.alpha == 4.0:
                break
            await asyncio.sleep(0.01)
        explorer.close()
        return explorer

    explorer = asyncio.run(moves())
    assert explorer.answer.setting == Setting(**SMALL, alpha=4.0)


def test_a_cell_waits_for_the_result_of_a_moved_slider_and_for_the_map(monkeypatch):
    monkeypatch.setattr(live, "_compile", lambda progress: None)
    grid = (np.array([2.0, 20.0]), np.array([0.01, 0.3]))
    monkeypatch.setattr(live, "sweep", lambda setting, progress: bs.explorer.result.sweep(setting, *grid, progress))

    async def cell():
        explorer, depths = bs.explore(**SMALL), []
        for alpha in (2.0, 30.0):
            explorer.setting = explorer.setting.moved(alpha=alpha)
            explorer.wait()
            assert explorer.answer.setting == explorer.setting
            depths.append(explorer.answer.neg_log_snr[-1])
        explorer.run_map()
        explorer.wait()
        assert list(explorer.map.alpha) == [2.0, 20.0]
        explorer.setting = explorer.setting.moved(alpha=90.0)
        explorer.wait()
        assert "Stable below" in explorer.controls.trouble.value
        explorer.close()
        return depths

    expected = [simulate_setting(Setting(**SMALL, alpha=alpha)).neg_log_snr[-1] for alpha in (2.0, 30.0)]
    np.testing.assert_array_equal(asyncio.run(cell()), expected)
