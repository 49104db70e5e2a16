"""Figures of the tables in miniature, from made-up runs."""

import json
import shutil
import statistics
import subprocess
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from bioshare.train.results import write_result
from bioshare.train.tables import miniature, patches

ROOT = Path(__file__).parents[1]
MISSING = np.nan


@pytest.fixture(scope="module")
def figures(figure_script):
    return SimpleNamespace(**{name: figure_script(name) for name in ("column", "forest", "small", "studies")})


def store(path, table, accuracies, epochs=2):
    """Write a table of accuracies of the last epoch by row and seed; before, they are 10 points less.

    -log SNR is minus the epoch, without end in the row lc-ws1. Training takes half a minute an epoch.
    """
    top1 = np.array(list(accuracies.values()), float)[..., None] - 10.0 * np.arange(epochs)[::-1]
    steepness = np.array([MISSING if row == "conv" else np.inf if row == "lc-ws1" else 1.0 for row in accuracies])
    snr = -steepness[:, None, None] * np.arange(1, epochs + 1)
    axes = ("row", "seed", "epoch")
    variables = {
        "top1": (axes, top1),
        "neg_log_snr": (axes, np.broadcast_to(snr, top1.shape)),
        "seconds": (axes, np.full(top1.shape, 30.0)),
        "paper_top1": ("row", [{"conv": 88.0, "lc": 80.0}.get(row, MISSING) for row in accuracies]),
        "paper_top1_diff": ("row", [{"lc": -8.0}.get(row, MISSING) for row in accuracies]),
    }
    coordinates = {"row": list(accuracies), "seed": range(top1.shape[1]), "epoch": range(1, epochs + 1)}
    config = json.dumps({"dataset": {"name": "cifar10-16"}, "epochs": epochs})
    facts = {"table": table, "costs": "Cost: nothing.", "shared_config": config}
    write_result(path, xr.Dataset(variables, coordinates, facts))
    return path


def read(figures, path):
    return figures.column.read([path])[0]


def drawn_bars(axes):
    """Places, means and the ends of the finite bars of all error bars of an axes."""
    for container in axes.containers:
        line, _, (bars,) = container
        ends = [segment for segment in bars.get_segments() if np.isfinite(segment).all() and len(segment)]
        yield np.array(line.get_xdata(), float), np.array(line.get_ydata(), float), np.array(ends)


ACCURACIES = {
    "lc": [60.0, 62.0, 61.0, MISSING],
    "lc-ws10": [63.0, 64.0, 66.0, 70.0],
    "lc-ws10-late": [MISSING, 66.0, MISSING, MISSING],
    "lc-ws10-run": [MISSING] * 4,
}
"""To ws(10): LC has the differences -3, -2, -5, and the late row 2."""


def test_a_forest_has_mean_standard_error_and_seeds_of_paired_differences(figures, tmp_path):
    rows = read(figures, store(tmp_path / "early.nc", "early", ACCURACIES))
    _, axes = plt.subplots()
    figures.forest.forest(axes, rows, "lc-ws10")
    lc, late = drawn_bars(axes)
    np.testing.assert_allclose(lc[0], [-10 / 3], atol=1e-12)
    error = (7 / 3) ** 0.5 / 3**0.5  # squares of deviations: (1 + 16 + 25) / 9 = 14 / 3, halved; three seeds
    np.testing.assert_allclose(lc[2], [[[-10 / 3 - error, 0], [-10 / 3 + error, 0]]], atol=1e-12)
    np.testing.assert_allclose([late[0], late[1]], [[2.0], [1.0]], atol=1e-12)
    assert not late[2].size  # a single seed has no standard error
    seeds = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "."]
    assert seeds == [[-3.0, -2.0, -5.0], [2.0]]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["LC", "LC, ws(10), late"]


def test_a_forest_without_the_reference_says_so(figures, tmp_path):
    rows = read(figures, store(tmp_path / "early.nc", "early", {"lc": [60.0, 61.0]}))
    _, axes = plt.subplots()
    figures.forest.forest(axes, rows, "lc-ws10")
    assert [text.get_text() for text in axes.texts] == ["no seed in common with LC, ws(10) yet"]
    assert not axes.containers


def test_the_papers_differences_are_open_diamonds(figures, tmp_path):
    rows = read(figures, store(tmp_path / "small.nc", "small", {"conv": [66.0], "lc": [60.0], "lc-ws10": [63.0]}))
    _, axes = plt.subplots()
    figures.forest.forest(axes, rows, "lc", theirs={"conv": 8.0})
    diamonds = [(line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_marker() == "D"]
    known = [(float(x[0]), float(y[0])) for x, y in diamonds if np.isfinite(x[0])]
    assert known == [(8.0, 0.0)]


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_standard_error(figures, values):
    expected = statistics.stdev(values) / len(values) ** 0.5
    assert figures.forest.standard_error(np.array(values)) == pytest.approx(expected, rel=0, abs=1e-11)


def test_curves_leave_missing_rows_out(figures, tmp_path):
    accuracies = {"lc-ws10-ideal": [64.0, 66.0], "lc-ws10-alpha2": [60.0, 63.0], "lc-ws10-alpha10": [62.0, MISSING]}
    rows = read(figures, store(tmp_path / "realism.nc", "realism", accuracies))
    _, axes = plt.subplots()
    figures.studies.dependence(axes, rows, figures.studies.RESCALED, "black", "curve", shift=0.25)
    ((places, means, bars),) = drawn_bars(axes)
    np.testing.assert_allclose(places, [0.25, 2.25, 5.25], atol=1e-12)
    np.testing.assert_allclose(means, [61.5, 62.0, 65.0], atol=1e-12)
    np.testing.assert_allclose(bars[:, :, 1], [[60.0, 63.0], [64.0, 66.0]], atol=1e-12)  # d / sqrt(2) / sqrt(2)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "5", "10", "20", "50", "∞"]


def test_accuracy_against_spread_goes_from_sharing_to_none(figures, tmp_path):
    accuracies = {"lc": [60.0], "lc-ws10": [64.0], "lc-ws10-spread0.3": [63.0], "lc-shrunk-once": [61.0]}
    rows = read(figures, store(tmp_path / "controls.nc", "controls", accuracies))
    left, right = figures.studies.draw_controls(rows).axes
    ((places, means, _),) = drawn_bars(right)
    np.testing.assert_allclose(np.square(places), [0, 30, 100], atol=1e-12)
    np.testing.assert_allclose(means, [64.0, 63.0, 60.0], atol=1e-12)
    titles = [text.get_text() for text in left.texts]
    assert titles == ["LC", "never shares", "LC, shrunk once", figures.studies.TEXTS["lc-shrunk-once"][1]]


def test_the_small_table_as_picture_and_markdown(figures, capsys, tmp_path):
    accuracies = {"conv": [66.0, 68.0], "lc": [62.0, 63.0], "lc-ws1": [64.0, MISSING], "lc-ws10-hebbian": [63.0, 65.0]}
    path = store(tmp_path / "small.nc", "small", accuracies, epochs=24)
    figures.small.main([str(path), "--out", str(tmp_path / "new"), "--markdown"])
    assert capsys.readouterr().out.splitlines()[2:6] == [
        "| conv | 2 | 67.0 +- 1.4 |  | +4.5 +- 0.5 | 88.0 |  | 12.0 |",
        "| LC | 2 | 62.5 +- 0.7 | -4.5 +- 0.5 |  | 80.0 | -8.0 | 12.0 |",
        "| LC, ws(1) | 1 | 64.0 | -2.0 | +2.0 | - | - | 12.0 |",
        "| LC, ws(10), Hebbian | 2 | 64.0 +- 1.4 | -3.0 +- 0.0 | +1.5 +- 0.5 | - | - | 12.0 |",
    ]
    assert (plt.imread(tmp_path / "new" / "small.png")[..., :3] < 0.9).any(axis=2).sum() > 1000
    drawn = (tmp_path / "new" / "small.svg").read_text()
    counts = {title: drawn.count(f"<!-- {title} -->") for title in ("conv", "LC", "LC, ws(1)", "LC, ws(10), Hebbian")}
    # accuracy, -log SNR, difference; the last row has no curves
    assert counts == {"conv": 2, "LC": 2, "LC, ws(1)": 2, "LC, ws(10), Hebbian": 1}


def test_every_study_is_drawn_from_a_part_of_the_rows(figures, tmp_path):
    accuracies = {"lc": [60.0, MISSING], "lc-ws10": [MISSING, 63.0], "lc-ws10-gaussian": [62.0, 62.5]}
    paths = [str(store(tmp_path / f"{name}-part.nc", name, accuracies)) for name in figures.studies.DRAWINGS]
    figures.studies.main([*paths, "--out", str(tmp_path / "new")])
    for name in ("early", "realism", "controls", "questions"):
        drawn = (tmp_path / "new" / f"{name}.svg").read_text()
        assert "<!-- Gaussian inputs -->" in drawn
        assert (tmp_path / "new" / f"{name}.png").exists()


def test_the_files_of_a_study_are_drawn_in_one_picture_with_what_all_studies_share(figures, tmp_path):
    first = store(tmp_path / "questions.nc", "questions", {"lc-ws10-lateral": [62.0, 63.0]})
    later = store(tmp_path / "later.nc", "questions", {"lc-lateral": [61.0, 60.0]})
    known = {"lc": [60.0, 61.0], "lc-ws10": [62.0, 63.0], "lc-copy": [1.0, 2.0]}
    for epochs, drawn_titles in ((2, {"LC", "lateral centring", "LC, lateral centring"}), (3, set())):
        common = store(tmp_path / "early.nc", "early", known, epochs)
        figures.studies.main([*map(str, (first, later, common)), "--out", str(tmp_path / "new")])
        drawn = (tmp_path / "new" / "questions.svg").read_text()
        titles = ("LC", "lateral centring", "LC, lateral centring", "LC, equal start")
        assert {title for title in titles if f"<!-- {title} -->" in drawn} == drawn_titles


def test_every_row_of_a_study_has_a_title_or_a_place_in_a_curve(figures):
    curves = {"realism": figures.studies.REALISM_CURVES, "controls": {*figures.studies.PARTS.values()}}
    for study in figures.studies.DRAWINGS:
        known = {*figures.studies.TEXTS, *curves.get(study, ()), "lc-ws10"}
        assert {row for rows in miniature.TABLES.get(study, ()) for row in rows} <= known


def test_networks_of_patches_are_compared_with_unshared_weights_of_the_same_kind(figures, tmp_path):
    accuracies = {"vit": [90.0, 92.0], "vit-unshared": [95.0, 96.0], "mixer-unshared": [80.0, 82.0]}
    accuracies |= {"mixer-ws10-alpha10": [83.0, 81.0]}
    path = store(tmp_path / "made.nc", "patches", accuracies)
    figures.studies.main([str(path), "--out", str(tmp_path / "new")])
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "patches_cifar10-16.png",
        "patches_cifar10-16.svg",
    ]
    panels = figures.studies.draw_patches(read(figures, path)).axes
    means = [[mean for ((mean,), _, _) in drawn_bars(axes)] for axes in panels]
    np.testing.assert_allclose(means, [[-4.5], [1.0]], atol=1e-12)
    assert [axes.texts[0].get_text() for axes in panels] == ["shared", "rate circuit"]


def test_every_network_of_patches_has_a_title(figures):
    known = {kind + end for kind in figures.studies.PATCHES for end in ("-unshared", *figures.studies.PATCH_TEXTS)}
    assert all(rows.keys() == known for rows in patches.TABLES["patches"])


def test_other_files_are_refused_with_the_command(figures, capsys, tmp_path):
    small = store(tmp_path / "small.nc", "small", {"lc": [60.0]})
    empty = store(tmp_path / "empty.nc", "early", {"lc": [MISSING]})
    cases = [
        (figures.small, tmp_path / "none.nc", f"there is no {tmp_path / 'none.nc'}", "bioshare table small"),
        (figures.studies, tmp_path / "none.nc", f"there is no {tmp_path / 'none.nc'}", "bioshare table NAME"),
        (figures.studies, small, f"{small} is of small", "early, realism, controls, questions"),
        (figures.studies, empty, "files must have a finished run", "bioshare table NAME"),
    ]
    for script, path, problem, remedy in cases:
        with pytest.raises(SystemExit) as end:
            script.main([str(path), "--out", str(tmp_path / "new")])
        message = capsys.readouterr().err
        assert end.value.code == 2
        assert problem in message
        assert remedy in message
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_draws_the_tables_that_are_there(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "figures").mkdir()

    def commands():
        made = subprocess.run(["make", "-n", "figures"], cwd=tmp_path, check=True, capture_output=True, text=True)
        return [line for line in made.stdout.splitlines() if "small.py" in line or "studies.py" in line]

    for name in ("pyproject.toml", "constraints.txt", "figures/fig3.nc"):
        (tmp_path / name).touch()
    assert commands() == []
    for name in ("small", "questions", "early"):
        (tmp_path / "figures" / f"{name}.nc").touch()
    python = ".venv/bin/python"
    assert commands() == [
        f"{python} figures/small.py",
        f"{python} figures/studies.py figures/early.nc figures/questions.nc",
    ]
