"""The saved page in Chromium, as a colleague would open it: from a file, without Python and without a network."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bioshare.circuit.simulate import simulate
from bioshare.explorer.page import save
from bioshare.explorer.page_data import NEURONS
from bioshare.explorer.result import first_responses
from bioshare.explorer.setting import Setting

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
SETTING = Setting(k=2, neurons=40, presentations=300, seed=5)
AXES = ("alpha", "gamma", "noise", "learning_rate")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("page") / "explorer.html", SETTING, progress=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, saved):
    """Opens a page; when the test ends, none may have complained, or requested for more than itself."""
    pages, errors, requested = [], [], []

    def open_page(width=1280, height=900, path=saved, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("() => document.getElementById('alpha_value').textContent")
        settled(page)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert errors == []
    assert {url for url in requested if not url.startswith(("data:", "blob:"))} == {page_.url for page_ in pages}


def settled(page):
    """Wait until the page has drawn everything."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def columns(page, source):
    """The columns of a Bokeh source."""
    script = """(name) => Object.fromEntries(Object.entries(Bokeh.documents[0].get_model_by_name(name).data).map(
        ([column, values]) => [column, Array.from(values, (v) => typeof v === "object" ? Array.from(v) : v)]))"""
    return page.evaluate(script, source)


def setting_of(page):
    """What the sliders say, as the page says it."""
    return SETTING.moved(**{name: float(page.text_content(f"#{name}_value")) for name in AXES})


def curve_of(setting, presentation):
    """-log SNR that bioshare computes after these presentations."""
    arguments = (setting.weights, setting.stimulus, setting.circuit, setting.rule)
    run = simulate(*arguments, presentations=setting.presentations, seed=setting.seed, progress=False)
    return run.neg_log_snr[np.array(presentation, int)]


def assert_shows(page, setting):
    curve = columns(page, "curve")
    np.testing.assert_allclose(curve["neg_log_snr"], curve_of(setting, curve["presentation"]), rtol=0, atol=1e-5)


def drag(page, slider, to):
    """Drag a slider's handle with the mouse to a share of its width."""
    box = page.locator(f"#{slider}").bounding_box()
    index, last = int(page.input_value(f"#{slider}")), int(page.get_attribute(f"#{slider}", "max"))
    y, x = box["y"] + box["height"] / 2, lambda share: box["x"] + 8 + share * (box["width"] - 16)
    page.mouse.move(x(index / last), y)
    page.mouse.down()
    page.mouse.move(x(to), y, steps=8)
    page.mouse.up()
    settled(page)


def place_on_map(page, alpha, gamma):
    """Where a point of the map is in the window."""
    script = """([alpha, gamma]) => {
        const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("map_panel"));
        const box = view.el.getBoundingClientRect();
        return [box.x + view.frame.x_scale.compute(alpha), box.y + view.frame.y_scale.compute(gamma)];
    }"""
    return page.evaluate(script, [alpha, gamma])


def picture(page, name, **options):
    ARTEFACTS.mkdir(exist_ok=True)
    page.wait_for_timeout(300)  # Bokeh paints when the browser is idle
    page.screenshot(path=ARTEFACTS / f"{name}.png", **options)


def test_the_page_opens_at_its_setting(opened):
    page = opened()
    assert setting_of(page) == SETTING
    assert_shows(page, SETTING)
    assert not page.is_visible("#trouble")
    picture(page, "page", full_page=True)


@pytest.mark.parametrize(("slider", "to"), [("alpha", 0.8), ("gamma", 0.1), ("learning_rate", 1.0), ("noise", 1.0)])
def test_a_dragged_slider_shows_the_curve_that_bioshare_computes_there(opened, slider, to):
    page = opened()
    before = columns(page, "curve")["neg_log_snr"]
    drag(page, slider, to)
    setting = setting_of(page)
    assert getattr(setting, slider) != getattr(SETTING, slider)
    assert setting == SETTING.moved(**{slider: getattr(setting, slider)})
    assert columns(page, "curve")["neg_log_snr"] != before
    assert_shows(page, setting)


@pytest.mark.parametrize("moves", [{}, {"alpha": 3, "noise": 2}, {"gamma": 8, "learning_rate": 2, "alpha": 10}])
def test_the_responses_are_simulated_in_the_browser_as_by_bioshare(opened, moves):
    page = opened()
    for slider, index in moves.items():
        page.fill(f"#{slider}", str(index))
    settled(page)
    found, expected = columns(page, "responses"), first_responses(setting_of(page))
    allowed = {"rtol": 0, "atol": 1e-6 if "noise" in moves else 1e-9}  # the noise has single precision there
    np.testing.assert_allclose(found["time"], expected.time, **allowed)
    np.testing.assert_allclose(found["r_inh"], expected.r_inh, **allowed)
    for i in range(expected.r.shape[1]):
        np.testing.assert_allclose(found[f"r_{i}"], expected.r[:, i], **allowed)
        np.testing.assert_allclose(found[f"fixed_{i}"], expected.r_fixed[:, i], **allowed)


def test_a_page_with_a_bias_of_the_inhibitory_neuron_shows_rates_and_curve_of_this_circuit(opened, tmp_path):
    biased = SETTING.moved(inhibitory_bias=True, bias=2.0)
    page = opened(path=save(tmp_path / "biased.html", biased, progress=False))
    assert "2 (of the inhibitory neuron, too)" in page.text_content("footer")
    found, expected = columns(page, "responses"), first_responses(biased)
    np.testing.assert_allclose(found["r_0"], expected.r[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["r_inh"], expected.r_inh, rtol=0, atol=1e-9)
    assert_shows(page, biased)


def test_an_unstable_alpha_shows_a_reason_over_the_last_stable_picture(opened):
    page = opened()
    before = columns(page, "curve"), columns(page, "responses")
    page.focus("#alpha")
    page.keyboard.press("End")
    settled(page)
    setting = setting_of(page)
    assert setting.alpha == 100
    words = page.text_content("[role=alert]")
    assert words == f"{setting.unstable.words} The panels show the last stable setting, α = 10."
    assert page.is_visible("[role=alert]")
    assert (columns(page, "curve"), columns(page, "responses")) == before
    assert page.evaluate("() => Bokeh.documents[0].get_model_by_name('snr_panel').styles") == {"opacity": "0.35"}
    picture(page, "page_unstable", full_page=True)
    page.click("#reset")
    settled(page)
    assert setting_of(page) == SETTING
    assert not page.is_visible("[role=alert]")
    assert page.evaluate("() => Bokeh.documents[0].get_model_by_name('snr_panel').styles") == {"opacity": "1"}


def test_a_click_on_the_map_sets_alpha_and_gamma(opened):
    page = opened(height=1500)
    page.mouse.click(*place_on_map(page, 2.9, 0.0011))
    settled(page)
    setting = setting_of(page)
    assert setting == SETTING.moved(alpha=3.0, gamma=0.001)
    assert_shows(page, setting)
    assert columns(page, "setting") == {"alpha": [3], "gamma": [0.001]}
    page.wait_for_timeout(500)  # or it would be a double click
    page.mouse.click(*place_on_map(page, 90, 0.0011))
    settled(page)
    assert page.text_content("[role=alert]").startswith(setting_of(page).unstable.words)


def test_the_map_is_that_of_the_sleeps_at_its_noise_and_learning_rate(opened):
    page = opened()
    page.fill("#noise", "2")
    settled(page)
    cells = columns(page, "map")
    assert len(cells["alpha"]) == 11 * 9
    for i in (0, 40, 98):
        setting = setting_of(page).moved(alpha=cells["alpha"][i], gamma=cells["gamma"][i])
        curve = curve_of(setting, presentation := [0, *columns(page, "curve")["presentation"]])
        assert setting.noise == 0.3
        assert cells["end"][i] == pytest.approx(curve[-1], abs=1e-5)
        assert cells["best"][i] == pytest.approx(curve.min(), abs=1e-5)
        assert cells["time_of_best"][i] == presentation[curve.argmin()]


def test_the_keyboard_moves_the_sliders(opened):
    page = opened()
    page.focus("#alpha")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert setting_of(page) == SETTING.moved(alpha=15.0)
    assert page.get_attribute("#alpha", "aria-valuetext") == "15"
    assert_shows(page, SETTING.moved(alpha=15.0))


def test_now_starts_near_100_presentations_and_chooses_the_presentation_of_the_weights(opened):
    page = opened()
    (start,) = columns(page, "now")["presentation"]
    assert 90 <= start <= 110
    page.fill("#now", page.get_attribute("#now", "max"))
    settled(page)
    assert columns(page, "now")["presentation"] == columns(page, "best")["presentation"]
    page.fill("#now", "0")
    settled(page)
    (at,) = columns(page, "now")["presentation"]
    run = simulate(
        SETTING.weights, SETTING.stimulus, SETTING.circuit, SETTING.rule, presentations=at, seed=5, progress=False
    )
    before, now, _ = (np.reshape(image, (-1, 4)) for image in columns(page, "weights")["image"])
    np.testing.assert_allclose(before, SETTING.weights[:NEURONS], rtol=0, atol=1e-6)
    step = np.ptp(SETTING.weights[:NEURONS]) / 255
    np.testing.assert_allclose(
        now, run.weights[:NEURONS].clip(before.min(), before.max()), rtol=0, atol=step / 2 + 1e-6
    )
    assert columns(page, "weights")["label"] == ["before", f"now: {at}", "end: 300"]


def test_the_responses_are_simulated_again_only_where_an_axis_has_moved(opened):
    page = opened()
    responses = "Bokeh.documents[0].get_model_by_name('responses').data"
    page.evaluate(f"() => {{ window.before = {responses}; }}")
    page.fill("#now", "1")
    settled(page)
    assert page.evaluate(f"() => window.before === {responses}")
    page.fill("#gamma", "1")
    settled(page)
    assert not page.evaluate(f"() => window.before === {responses}")


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_sliders_stay_in_reach(opened):
    page = opened(380, 760, has_touch=True, device_scale_factor=2)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 380
    picture(page, "page_phone_long", full_page=True)
    page.evaluate("() => scrollTo(0, 900)")
    settled(page)
    for slider in (*AXES, "now"):
        box = page.locator(f"#{slider}").bounding_box()
        assert 0 <= box["y"] <= 380, slider
        assert box["x"] >= 0, slider
        assert box["x"] + box["width"] <= 380, slider
        assert box["width"] >= 150, slider
    drag(page, "alpha", 0.2)
    assert_shows(page, setting_of(page))
    picture(page, "page_phone")
    drag(page, "alpha", 1.0)
    assert page.locator("[role=alert]").bounding_box()["y"] < 380
    picture(page, "page_phone_unstable")


def test_every_slider_has_a_label_and_says_its_value(opened):
    page = opened()
    for slider in (*AXES, "now"):
        assert page.locator(f"label[for={slider}]").count() == 1
        assert page.get_attribute(f"#{slider}", "aria-valuetext") == page.text_content(f"#{slider}_value")


def test_a_page_of_an_unstable_setting_opens_with_the_message(opened, tmp_path):
    setting = Setting(alpha=70.0, k=2, neurons=10, presentations=100)
    page = opened(path=save(tmp_path / "explorer.html", setting, progress=False))
    expected = f"{setting.unstable.words} The panels show the last stable setting, α = 50."
    assert page.text_content("[role=alert]") == expected
