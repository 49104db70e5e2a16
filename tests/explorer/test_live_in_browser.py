"""The live explorer in Chromium, as `python -m bioshare explore` serves it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bioshare.circuit.simulate import simulate
from bioshare.explorer.result import first_responses, record_every
from bioshare.explorer.setting import SLIDERS, WHOLE, Setting

CHROMIUM = shutil.which("chromium")
pytest.importorskip("voila", reason="needs Voila: pip install voila")
pytest.importorskip("playwright.sync_api", reason="needs playwright")
psutil = pytest.importorskip("psutil", reason="needs psutil, which comes with Jupyter")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.slow,
]
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
DOCUMENT = 'window[Object.keys(window).find((key) => key.startsWith("bioshare_bokeh_"))].documents[0]'
START = Setting(alpha=12.0, seed=3)


@pytest.fixture(scope="module")
def served():
    """Address and process of the explorer, served by the command; it ends without a word when it is interrupted."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bioshare", "explore", "--no-browser", "--port", str(port)]
    command += ["--alpha", "12", "--seed", "3"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert server.stdout is not None
    said = server.stdout.readline()
    url = said.split()[4]
    assert said == f"The explorer is at {url} until Ctrl-C.\n"
    try:
        wait_for(port, server)
        yield url, server
    finally:
        os.killpg(server.pid, signal.SIGINT)
        said, _ = server.communicate(timeout=30)
    assert said == "interrupted\n"
    assert server.returncode == 128 + signal.SIGINT


@pytest.fixture(scope="module")
def address(served):
    return served[0]


def test_a_page_for_other_machines_opens_with_the_token_alone():
    """The websocket of the sliders and the end of the kernel need the token, too: a cookie has it."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bioshare", "explore", "--ip", "0.0.0.0", "--port", str(port), "--alpha", "12"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[4]
        wait_for(port, server)
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = chromium.new_page()
            page.set_default_timeout(120_000)
            page.goto(address.split("?")[0])
            assert page.locator(".bioshare-panels").count() == 0
            assert "/login" in page.url
            page.goto(address)
            page.wait_for_selector(".bioshare-panels canvas")
            type_into(page, "alpha", 5)
            until(lambda: shows(page, Setting(alpha=5.0)))
            chromium.close()
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=30)


def kernels(server):
    """How many Python kernels run for the pages."""
    found = 0
    for child in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since, or a zombie
            found += "ipykernel_launcher" in child.cmdline()
    return found


def wait_for(port, server):
    def listens():
        assert server.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", port)) == 0

    until(listens)


@pytest.fixture(scope="module")
def page(address):
    """The page, which must neither complain, nor lose its kernel, nor ask another host for anything."""
    from playwright.sync_api import sync_playwright

    errors, requested, websockets = [], [], []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1200, "height": 1250})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.on("websocket", lambda websocket: websockets.append(websocket.url))
        page.goto(address)
        page.wait_for_selector(".bioshare-panels canvas")
        until(lambda: shows(page, START))
        yield page
        chromium.close()
    assert errors == []
    assert len(websockets) == 1
    assert [url for url in requested if not url.startswith((address.split("?")[0], "data:", "blob:"))] == []


@pytest.fixture
def fresh(page):
    """The page with its sliders at the start: the browser may send the last move of a slider after a click on Reset."""

    def reset():
        page.click("text=Reset")
        page.wait_for_timeout(300)
        return shows(page, START)

    until(reset)
    return page


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def column(page, source, name):
    script = f"([source, name]) => Array.from({DOCUMENT}.get_model_by_name(source).data[name])"
    return np.array(page.evaluate(script, [source, name]))


def said(page, role):
    return page.locator(f'.bioshare-explorer [role="{role}"]').text_content()


def sliders(page):
    """What the sliders show."""
    values = {slider.name: float(page.input_value(f"[data-field={slider.name}]")) for slider in SLIDERS}
    return Setting(**{name: int(value) if name in WHOLE else value for name, value in values.items()})


def computed(setting):
    """-log SNR at the records, from bioshare."""
    arguments = (setting.weights, setting.stimulus, setting.circuit, setting.rule)
    options = {"presentations": setting.presentations, "seed": setting.seed, "progress": False}
    return simulate(*arguments, record_every=record_every(setting), **options).neg_log_snr[1:]


def shows(page, setting):
    """Whether sliders and curve are those of a setting."""
    curve = column(page, "curve", "neg_log_snr")
    expected = computed(setting)
    return sliders(page) == setting and len(curve) == len(expected) and np.abs(curve - expected).max() < 1e-9


def drag(page, name, to, steps=12):
    """Drag a slider by its thumb, to a fraction of its width."""
    track = page.locator(f"[data-slider={name}]")
    box = track.bounding_box()
    script = "(range) => (range.value - range.min) / (range.max - range.min)"
    x = lambda fraction: box["x"] + 9 + fraction * (box["width"] - 18)  # half a thumb at each end
    y = box["y"] + box["height"] / 2
    page.mouse.move(x(track.evaluate(script)), y)
    page.mouse.down()
    page.mouse.move(x(to), y, steps=steps)
    page.mouse.up()


def type_into(page, name, value):
    page.fill(f"[data-field={name}]", str(value))
    page.keyboard.press("Enter")


@pytest.mark.parametrize(("name", "to"), [("alpha", 0.2), ("gamma", 0.8), ("tau", 0.9), ("k", 0.7), ("noise", 0.3)])
def test_the_curve_of_a_dragged_slider_is_what_bioshare_computes(fresh, name, to):
    drag(fresh, name, to)
    setting = sliders(fresh)
    assert getattr(setting, name) != getattr(START, name)
    until(lambda: shows(fresh, setting))
    np.testing.assert_allclose(column(fresh, "responses", "r_2"), first_responses(setting).r[:, 2], rtol=0, atol=1e-12)


def test_a_slider_is_moved_by_the_keyboard(fresh):
    fresh.focus("[data-slider=gamma]")
    for _ in range(3):
        fresh.keyboard.press("ArrowRight")
    assert sliders(fresh).gamma > START.gamma
    until(lambda: shows(fresh, sliders(fresh)))


@pytest.mark.parametrize("name", ["alpha", "gamma", "tau", "learning_rate"])
def test_the_keys_home_and_end_reach_the_ends_of_a_slider(fresh, name):
    slider = next(slider for slider in SLIDERS if slider.name == name)
    fresh.focus(f"[data-slider={name}]")
    for key, end in (("End", slider.high), ("Home", slider.low)):
        fresh.keyboard.press(key)
        assert getattr(sliders(fresh), name) == end


def test_an_unstable_alpha_shows_a_reason_and_the_last_picture_stays(fresh):
    drag(fresh, "alpha", 1.0)
    until(lambda: "Unstable" in said(fresh, "alert"))
    assert "Stable below α = 2τ/dt − 1 = 59" in said(fresh, "alert")
    fresh.screenshot(path=ARTEFACTS / "live_unstable.png")
    curve, shown = column(fresh, "curve", "neg_log_snr"), fresh.text_content("[role=alert]").split("α = ")[-1]
    np.testing.assert_allclose(curve, computed(START.moved(alpha=float(shown[:-1]))), rtol=0, atol=1e-9)
    type_into(fresh, "alpha", 5)
    until(lambda: shows(fresh, START.moved(alpha=5.0)))
    assert said(fresh, "alert") == ""


def test_the_map_is_computed_and_a_clicked_cell_sets_the_sliders(fresh):
    fresh.click("text=Map over α and γ")
    until(lambda: "The map is ready" in said(fresh, "status"))
    fresh.screenshot(path=ARTEFACTS / "live.png")
    box = fresh.locator(".bk-Figure").last.bounding_box()
    fresh.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 120)
    until(lambda: sliders(fresh) != START)
    setting = sliders(fresh)
    cells = set(zip(column(fresh, "map", "alpha"), column(fresh, "map", "gamma"), strict=True))
    assert (setting.alpha, setting.gamma) in cells
    until(lambda: shows(fresh, setting))
    here = (column(fresh, "map", "alpha") == setting.alpha) & (column(fresh, "map", "gamma") == setting.gamma)
    assert column(fresh, "map", "end")[here][0] == pytest.approx(computed(setting)[-1], abs=1e-9)


def test_the_select_changes_what_the_map_shows(fresh):
    fresh.locator("select").select_option(label="drift of the mean at the end, relative to the norm")
    visible = f'() => ["end", "drift"].map((name) => {DOCUMENT}.get_model_by_name(`cells_${{name}}`).visible)'
    assert fresh.evaluate(visible) == [False, True]
    fresh.locator("select").select_option(label="−log SNR at the end")
    assert fresh.evaluate(visible) == [True, False]


def test_brian2_runs_and_is_drawn_over_the_curve(fresh):
    type_into(fresh, "presentations", 200)
    setting = START.moved(presentations=200)
    until(lambda: shows(fresh, setting))
    fresh.click("text=Run this in Brian2")
    until(lambda: "differs by" in said(fresh, "status"))
    at = column(fresh, "brian2", "presentation").astype(int)
    assert len(at) > 20
    np.testing.assert_allclose(column(fresh, "brian2", "neg_log_snr"), computed(setting)[at - 1], rtol=0, atol=1e-9)
    fresh.screenshot(path=ARTEFACTS / "live_brian2.png")


def test_the_saved_page_is_a_download_of_the_browser(fresh):
    small = {"presentations": 100, "neurons": 10, "k": 1}
    for name, value in small.items():
        type_into(fresh, name, value)
    until(lambda: shows(fresh, START.moved(**small)))
    with fresh.expect_download() as download:
        fresh.click("text=Save page")
        until(lambda: "Page: " in said(fresh, "status"))
    assert download.value.suggested_filename == "explorer.html"
    text = download.value.path().read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "N = 10 neurons with K = 1 inputs" in text
    assert text.endswith("</html>\n")


@pytest.mark.parametrize("width", [940, 1200])
def test_sliders_stay_in_view_beside_two_columns_of_panels(fresh, width):
    fresh.set_viewport_size({"width": width, "height": 800})
    fresh.wait_for_timeout(800)
    fresh.evaluate("() => document.querySelector('.bioshare-map, .bk-Select')?.scrollIntoView()")
    fresh.mouse.move(width - 200, 400)
    fresh.mouse.wheel(0, 600)
    fresh.wait_for_timeout(500)
    assert 0 <= fresh.locator("[data-slider=alpha]").bounding_box()["y"] < 200
    left = [panel.bounding_box()["x"] for panel in fresh.locator(".bk-Figure").all()[:2]]
    assert left[1] - left[0] > 250
    fresh.set_viewport_size({"width": 1200, "height": 1250})


def test_how_long_a_move_takes_is_printed(fresh, capsys):
    """Of 20 moves, one after the other, from the slider's event to the new curve in the page's source."""
    ends = {slider.name: (slider.low, slider.high) for slider in SLIDERS}
    move = f"""([name, value, ends]) => new Promise((done) => {{
        const start = performance.now();
        const source = {DOCUMENT}.get_model_by_name("curve");
        const seen = () => {{
            source.properties.data.change.disconnect(seen);
            done(performance.now() - start);
        }};
        source.properties.data.change.connect(seen);
        const range = document.querySelector(`[data-slider=${{name}}]`);
        const [low, high] = ends[name];
        range.value = (range.max * Math.log(value / low)) / Math.log(high / low);
        range.dispatchEvent(new Event("input"));
    }})"""
    taken = []
    for i in range(20):
        name, value = ("alpha", 3 + 1.1 * i) if i % 2 else ("gamma", 0.002 * 1.2**i)
        taken.append(fresh.evaluate(move, [name, value, ends]))
        moved = sliders(fresh)
        assert getattr(moved, name) == pytest.approx(value, rel=0.03)  # a slider has 100 places in a factor of ten
        assert shows(fresh, moved), "the curve that ended the wait is not that of the move"
        fresh.wait_for_timeout(100)
    median, worst = statistics.median(taken), max(taken)
    with capsys.disabled():
        print(f"\n20 moves of k = 3, 2,000 presentations: median {median:.0f}, worst {worst:.0f} ms")
    ARTEFACTS.joinpath("live_latency.json").write_text(json.dumps(taken))


def test_a_page_that_is_reloaded_or_closed_leaves_no_kernel_running(fresh, served):
    address, server = served
    before = kernels(server)
    window = fresh.context.browser.new_context()  # it stays, so that the page can send its last words
    other = window.new_page()
    other.set_default_timeout(120_000)
    for _ in range(2):
        other.goto(address)
        other.wait_for_selector(".bioshare-panels canvas")
        until(lambda: kernels(server) <= before + 1)
        assert kernels(server) == before + 1
    other.close(run_before_unload=True)
    until(lambda: kernels(server) <= before)
    assert kernels(server) == before
    window.close()


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_sliders_stay_on_top(fresh):
    fresh.set_viewport_size({"width": 400, "height": 850})
    fresh.wait_for_timeout(800)
    assert fresh.evaluate("() => document.documentElement.scrollWidth") <= 400
    widest = """() => Math.max(...[...document.querySelectorAll(".bioshare-explorer *")].map(
        (el) => el.getBoundingClientRect().right))"""
    assert fresh.evaluate(widest) <= 400
    fresh.locator(".bioshare-bottom").scroll_into_view_if_needed()
    fresh.mouse.wheel(0, 700)
    fresh.wait_for_timeout(500)
    assert fresh.locator("[data-slider=alpha]").bounding_box()["y"] < 100
    fresh.screenshot(path=ARTEFACTS / "live_phone.png")
    drag(fresh, "alpha", 0.3)
    until(lambda: shows(fresh, sliders(fresh)))
    fresh.set_viewport_size({"width": 1200, "height": 1250})


@pytest.fixture(autouse=True, scope="module")
def _artefacts():
    ARTEFACTS.mkdir(exist_ok=True)
