"""The picture of angles over a training, from made-up tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from bioshare.train.results import write_result

ROOT = Path(__file__).parents[1]
INPUTS = [27, 144, 144, 144, 16, 288, 288, 32, 576, 64]
"""Inputs of a neuron, layer by layer, of the small network of the tables, but for their order."""


@pytest.fixture(scope="module")
def angles(figure_script):
    return figure_script("angles")


def store(path, table, rows, script):
    """Write a table of two seeds and three epochs of random quantities, missing in "conv", B's in direct feedback."""
    random, layers = np.random.default_rng(0), list(script.network(table, rows[-1], DIGITS))
    axes = ("row", "seed", "epoch", "feedback_layer")
    shape = (len(rows), 2, 3, len(layers))
    names = ("weight_angle", "signal_angle", "signal_ratio", "changed_signs")
    values = {name: random.uniform(1, 90, shape) for name in names}
    for array in values.values():
        array[[row == "conv" for row in rows]] = math.nan
    values["weight_angle"][["dfa" in row for row in rows]] = math.nan
    variables = {name: (axes, array.astype(np.float32)) for name, array in values.items()}
    variables["top1"] = axes[:3], random.uniform(0, 100, shape[:3])
    variables |= {name: ("row", np.full(len(rows), math.nan)) for name in ("paper_top1", "paper_top1_diff")}
    coordinates = {"row": rows, "seed": [0, 1], "epoch": [1, 2, 3], "feedback_layer": layers}
    facts = {"table": table, "shared_config": DIGITS.attrs["shared_config"]}
    write_result(path, xr.Dataset(variables, coordinates, facts))
    return path


DIGITS = xr.Dataset(attrs={"shared_config": json.dumps({"dataset": {"name": "digits"}})})


def test_lines_are_medians_over_seeds_and_ticks_the_floors_of_the_mirror(angles, tmp_path, monkeypatch):
    rows, figures = ["conv", "conv-fa", "conv-dfa", "conv-mirror"], []
    path = store(tmp_path / "table.nc", "feedback", rows, angles)
    monkeypatch.setattr(angles.plt, "close", figures.append)
    angles.main([str(path), "--to", str(tmp_path / "out/angles")])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["angles.png", "angles.svg"]
    axes = np.reshape(figures[0].axes, (3, 3))  # without a column for backpropagation
    assert [panel.get_title(loc="left") or panel.get_title() for panel in axes[0]] == [
        "conv\nfeedback alignment",
        "conv\ndirect feedback",
        "conv\nmirror",
    ]
    data = xr.load_dataset(path, engine="h5netcdf")
    layers = data.feedback_layer.values
    for column, row in enumerate(rows[1:]):
        for panel, name in zip(axes[:, column], angles.PANELS, strict=True):
            lines = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) == 3]
            shown = layers[1:] if name == "weight_angle" else layers
            if row == "conv-dfa" and name == "weight_angle":
                assert not lines
                continue
            medians = data[name].sel(row=row).mean("seed").sel(feedback_layer=shown)  # of two
            np.testing.assert_allclose(lines, medians.T, rtol=0, atol=1e-5)
    floors = [line.get_ydata()[0] for line in axes[0, 2].lines if len(line.get_ydata()) == 2]
    assert not [line for line in axes[0, 0].lines if len(line.get_ydata()) == 2]
    # tan^2 = ((2 - 2 / pi)(K + 2) - 1) / (128 x 39): 128 inputs, L = 0.05
    inputs = np.array(INPUTS[1:])
    expected = np.degrees(np.arctan(np.sqrt(((2 - 2 / np.pi) * (inputs + 2) - 1) / (128 * 39))))
    np.testing.assert_allclose(sorted(floors), sorted(expected), rtol=0, atol=1e-9)


def test_changed_signs_are_counted_over_all_weights(angles, tmp_path):
    path = store(tmp_path / "table.nc", "signs", ["never", "fixed-5"], angles)
    rows = angles.read([path])[0]
    networks = {row: angles.network("signs", row, runs) for row, runs in rows.items()}
    above, below = angles.draw_signs(rows, networks).axes
    sizes = np.array([layer.weight.numel() for layer in networks["never"].values()])
    for panel, values in (
        (above, [100 - runs["top1"].mean("seed") for runs in rows.values()]),
        (below, [np.average(runs["changed_signs"].mean("seed"), axis=-1, weights=sizes) for runs in rows.values()]),
    ):
        curves = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) == 3]
        np.testing.assert_allclose(curves, values, rtol=0, atol=1e-4)
    assert {text.get_text() for text in below.texts} == {"never fixed", "fixed after 5 %"}


def test_files_without_angles_and_unknown_rows_are_refused(angles, tmp_path, capsys):
    plain = store(tmp_path / "plain.nc", "feedback", ["conv"], angles)
    full = store(tmp_path / "full.nc", "feedback", ["conv", "conv-fa"], angles)
    for words, message in (
        ([plain], "file must have runs with feedback;"),
        ([full, "--rows", "conv"], "rows must be of conv-fa; got conv"),
        ([tmp_path / "none.nc"], "there is no"),
    ):
        with pytest.raises(SystemExit):
            angles.main([str(word) for word in words])
        assert message in capsys.readouterr().err
