import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bokeh.plotting import figure

import bioshare
from bioshare.explorer import page, page_data
from bioshare.explorer.page import save
from bioshare.explorer.page_data import INPUTS, NEURONS, compute_page_data, count_sleeps
from bioshare.explorer.result import simulate_setting
from bioshare.explorer.setting import Setting

ROOT = Path(bioshare.__file__).parents[1]
SETTING = Setting(k=2, neurons=12, presentations=100, seed=5)


@pytest.fixture(scope="module")
def grid():
    return compute_page_data(SETTING, progress=False)


@pytest.fixture(scope="module")
def text(grid):
    return page.page_html(grid)


@pytest.fixture
def computed(grid, monkeypatch):
    monkeypatch.setattr(page, "compute_page_data", lambda setting, progress: grid)


@pytest.fixture
def nothing_is_computed(monkeypatch):
    def fail(setting, progress):
        raise AssertionError("computed")

    monkeypatch.setattr(page, "compute_page_data", fail)


class Parts(HTMLParser):
    """What a browser sees: tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [("", {})], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1]
        self.texts.append((tag, attributes, data))


def data_of(text):
    found = [data for tag, attributes, data in Parts(text).texts if attributes.get("id") == "data"]
    return json.loads(found[0])


def array(packed):
    return np.frombuffer(base64.b64decode(packed["base64"]), packed["type"])


def test_save_writes_the_page_and_says_where(computed, tmp_path, text):
    path = save(str(tmp_path / "explorer.html"), SETTING, progress=False)
    assert path == tmp_path / "explorer.html"
    assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["explorer.html"]


def test_progress_counts_sleeps_and_can_stop_the_page_before_the_file_is_written(computed, tmp_path):
    reported = []
    save(tmp_path / "reported.html", SETTING, reported.append)
    assert reported == [count_sleeps(SETTING)]

    def stop(done):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        save(tmp_path / "stopped.html", SETTING, stop)
    assert [file.name for file in tmp_path.iterdir()] == ["reported.html"]


def test_the_same_setting_gives_the_same_bytes_whatever_bokeh_made_before(text):
    figure()
    assert page.page_html(compute_page_data(SETTING, progress=False)) == text


def test_the_file_is_as_it_was_when_something_goes_wrong(tmp_path, monkeypatch):
    path = tmp_path / "explorer.html"
    path.write_text("mine")

    def interrupted(setting, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "compute_page_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(path, SETTING)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("nothing_is_computed")
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save(tmp_path / "missing" / "explorer.html", SETTING)
    with pytest.raises(IsADirectoryError, match=r"path must be a file, such as explorer\.html"):
        save(tmp_path, SETTING)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="path must be in a folder that can be written"):
        save(tmp_path / "explorer.html", SETTING)


def test_the_page_refers_to_nothing_that_a_browser_would_load(text):
    parts = Parts(text)
    for tag, attributes in parts.tags:
        assert not {"src", "srcset", "data", "action", "background", "poster"} & attributes.keys(), tag
        assert "href" not in attributes or tag == "a", tag
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
    styles = [data for tag, _, data in parts.texts if tag == "style"]
    assert styles
    assert not any("url(" in style or "@import" in style for style in styles)


def test_the_arrays_are_those_of_the_grid(text, grid):
    data = data_of(text)
    for name in ("index", "neg_log_snr", "mean_kept", "mean_drift", "before", "weights"):
        found, expected = array(data["arrays"][name]), getattr(grid, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected.ravel())
    assert data["axes"] == {name: axis.tolist() for name, axis in grid.axes.items()}
    assert {name: data["axes"][name][i] for name, i in data["own"].items()}.items() <= SETTING.values().items()


def test_the_fixed_points_are_the_same_as_in_the_live_explorer(text, grid):
    data = data_of(text)
    for s, a, g in [(0, 0, 0), (1, 5, 3), (2, 10, 8)]:
        values = {name: grid.axes[name][i] for name, i in (("noise", s), ("alpha", a), ("gamma", g))}
        live = simulate_setting(SETTING.moved(**values))
        assert data["theory_end"][s][a][g] == pytest.approx(live.theory_end, abs=1e-12)
        assert data["theory_minimum"][s][g] == pytest.approx(live.theory_minimum, abs=1e-12)


def test_the_page_says_what_it_shows_and_whose_the_model_is(text):
    citation = (ROOT / "CITATION.cff").read_text()
    paper = citation[citation.index("preferred-citation") :]
    assert re.search(r"title: (.*)", paper)[1] in text
    assert all(name in text for name in re.findall(r"family-names: (.*)", paper))
    assert re.search(r"year: (.*)", paper)[1] in text
    assert f"bioshare {bioshare.__version__} (MIT licence)" in text
    plain = text.replace("\u00a0", " ")
    assert "N = 12 neurons with K = 4 inputs" in plain
    assert "100 presentations of 150 ms, τ = 30 ms" in plain
    assert "stable below 59" in text


def test_a_page_of_an_unstable_setting_has_a_stable_one_near_it_behind_the_message():
    data = data_of(page.page_html(compute_page_data(SETTING.moved(alpha=80.0), progress=False)))
    assert data["axes"]["alpha"][data["own"]["alpha"]] == 80
    assert data["axes"]["alpha"][data["opening"]["alpha"]] == 50
    assert data["own"] | {"alpha": 0} == data["opening"] | {"alpha": 0}


def test_the_page_of_the_largest_group_is_smaller_than_6_megabytes_even_if_all_of_its_sleeps_are_stable(monkeypatch):
    setting = Setting(k=9, neurons=400, tau=60.0, alpha=12.0, gamma=0.02, noise=0.2, presentations=10_000)
    at, kept, rng = page_data.record_times(10_000), page_data.snapshot_times(10_000), np.random.default_rng(0)

    def slept(settings, tell):  # curves and weights that nothing could make smaller
        drawn = rng.normal(size=3 * len(at)), rng.normal(size=(len(kept) + 1) * NEURONS * INPUTS)
        shapes = (3, len(at)), (len(kept) + 1, NEURONS, INPUTS)
        return [tuple(d.astype(np.float32).reshape(s) for d, s in zip(drawn, shapes, strict=True))] * len(settings)

    monkeypatch.setattr(page_data, "_simulate_stable", slept)
    assert len(page.page_html(compute_page_data(setting, progress=False)).encode()) < 6e6
