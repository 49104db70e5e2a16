"""The pictures of networks whose constraints were lifted, from made-up runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from bioshare.train.results import write_result

ROOT = Path(__file__).parents[1]
ROWS = ["conv", "fcn", "fc-3", "fc-0", "lc-3", "lc-3-ws10", "fc-10"]


@pytest.fixture(scope="module")
def relax(figure_script):
    return figure_script("relax")


@pytest.fixture
def table():
    """Accuracies of two epochs and two seeds by row; the row fc-10 is missing, fcn has a single epoch."""
    top1 = 60.0 + np.arange(7)[:, None, None] + np.array([-1.0, 1])[:, None] + np.array([0.0, 10])
    top1[6], top1[1, :, 1] = np.nan, np.nan
    scale = np.arange(7)[:, None, None] + np.array([0, 1.0])
    names = "delta", "unshared", "shared", "gradient_norm", "top_eigenvalue", "top1_local", "top1_off_local"
    names += "top1", "train_loss"
    values: dict[str, Any] = {
        f"relaxed_{name}": (("row", "seed", "when"), np.broadcast_to(scale, (7, 2, 2)) + 1) for name in names
    }
    pixels = np.arange(7 * 2 * 2 * 3 * 4 * 4.0).reshape(7, 2, 2, 3, 4, 4)
    pixels[..., 0] = 0
    values["relaxed_filter"] = (("row", "seed", "when", "input_channel", "pixel_row", "pixel_column"), pixels)
    axes = {"row": ROWS, "seed": [0, 1], "epoch": [1, 2], "when": ["start", "end"]}
    runs = {"top1": (("row", "seed", "epoch"), top1), "train_loss": (("row", "seed", "epoch"), 1 / top1)}
    return xr.Dataset(runs | values, axes, {"table": "relax"})


def test_rows_are_sorted_by_relax_time_and_missing_rows_left_out(relax, table):
    network = relax.Relaxed(table)
    assert network.rows == {"fc": {0: "fc-0", 3: "fc-3"}, "lc": {3: "lc-3"}, "lc-ws10": {3: "lc-3-ws10"}}
    assert (network.conv, network.scratch, network.space) == ("conv", "fcn", "fc")


def test_the_rows_of_adam_are_apart(relax, table):
    names = {"fc-3": "fc-3-adam", "conv": "conv-adam"}
    adam = table.assign_coords(row=[names.get(row, row) for row in ROWS])
    network = relax.Relaxed(adam, "-adam")
    assert (network.rows, network.conv, network.scratch) == ({"fc": {3: "fc-3-adam"}}, "conv-adam", None)
    assert relax.Relaxed(adam).lifted == {0: "fc-0"}


def test_a_table_without_fully_connected_networks_shows_the_locally_connected_ones(relax, table, tmp_path):
    names = {"fcn": "lcn-wide", "fc-0": "lc-0-wide", "lc-3": "lc-3-wide", "fc-3": "lc-3-matched-ws10-alpha10-wide"}
    wide = relax.Relaxed(table.assign_coords(row=[names.get(row, row) for row in ROWS]), "-wide")
    assert wide.rows == {"lc": {0: "lc-0-wide", 3: "lc-3-wide"}, "lc-matched-ws10-alpha10": {3: names["fc-3"]}}
    assert (wide.space, wide.lifted, wide.scratch) == ("lc", wide.rows["lc"], "lcn-wide")
    write_result(tmp_path / "wide.nc", wide.table)
    relax.main([str(tmp_path / "wide.nc"), "--suffix", "wide", "--to", str(tmp_path / "out/picture")])
    names = [f"picture{part}.{ending}" for part in ("", "-history") for ending in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)


def lines_of(ax):
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def test_the_panels_show_means_over_seeds(relax, table):
    axes = relax.panels(relax.Relaxed(table)).axes
    lines = lines_of(axes[0])
    assert lines["fully connected"] == [73.0, 72.0]  # relax times 0 and 3, in the last epoch
    assert [line[0] for line in list(lines.values())[-2:]] == [70.0, 61.0]  # conv, and fcn after one epoch
    assert lines_of(axes[2])["3"] == [3.0, 62.0, 72.0]  # at the start, and of two epochs
    ends = lines_of(axes[3])
    assert (ends["start"], ends["end"]) == ([4.0, 3.0], [5.0, 4.0])


def test_single_seeds_are_beside_their_mean(relax, table):
    table["relaxed_delta"] = table["relaxed_delta"] + xr.DataArray([0.0, 2.0], dims="seed")
    line, *seeds = relax.panels(relax.Relaxed(table)).axes[6].get_lines()[:3]
    assert list(line.get_ydata()) == [600.0, 500.0]
    assert [list(one.get_ydata()) for one in seeds] == [[500.0, 400.0], [700.0, 600.0]]


def test_delta_is_over_the_loss_at_the_start_and_over_the_accuracy_at_the_end(relax, table):
    axes = relax.panels(relax.Relaxed(table)).axes
    points = [[[*zip(*line.get_data(), strict=True)] for line in axes[panel].get_lines()] for panel in (7, 8)]
    assert points[0] == [[(4.0, 500.0)] * 2, [(3.0, 400.0)] * 2, [(2.0, 300.0)] * 2]  # seeds of fc-0, fc-3, fcn
    assert points[1] == [[(a - 1, b), (a + 1, b)] for a, b in ((73.0, 500.0), (72.0, 400.0), (61.0, 300.0))]


def test_the_history_is_above_the_relax_time(relax, table):
    ax = relax.history(relax.Relaxed(table)).axes[0]
    assert ax.collections[0].get_offsets().tolist() == [[0, 63], [0, 73], [3, 62], [3, 72]]
    lines = lines_of(ax)
    assert lines["convolutional"] == [60.0, 70.0]
    assert lines["fully connected from the start"] == [61.0, 61.0]


def test_a_filter_is_the_root_mean_square_over_channels(relax, table):
    (row, *_), *_ = relax.filters(relax.Relaxed(table)).axes, None
    pixels = table["relaxed_filter"].sel(row="fc-0", when="start")[0].values
    shown = row.images[0].get_array()
    expected = 0.5 * np.log((pixels[..., 1:] ** 2).mean(0))
    np.testing.assert_allclose(shown[:, 1:], expected, rtol=0, atol=1e-12)
    assert shown.mask[:, 0].all()  # weights of 0


def test_filters_on_the_way_stand_between_start_and_end(relax, table):
    between = np.arange(7 * 2 * 3 * 4 * 4.0).reshape(7, 2, 1, 3, 4, 4) + 1
    axes = ("row", "seed", "kept_epoch", "input_channel", "pixel_row", "pixel_column")
    kept = table.assign_coords(kept_epoch=[2]).assign(relaxed_filter_between=(axes, between))
    figure = relax.filters(relax.Relaxed(kept))
    titles = [title for ax in figure.axes if (title := ax.get_title(loc="left"))]
    assert titles[:4] == [f"relax time 0, {when}" for when in ("start", "epoch 2", "end", "change")]
    shown = next(ax for ax in figure.axes if ax.get_title(loc="left") == titles[1]).images[0].get_array()
    np.testing.assert_allclose(shown, 0.5 * np.log((between[3, 0, 0] ** 2).mean(0)), rtol=0, atol=1e-12)


def test_the_command_writes_all_pictures_and_refuses_another_table(relax, table, tmp_path, capsys):
    write_result(tmp_path / "relax.nc", table)
    relax.main([str(tmp_path / "relax.nc"), "--to", str(tmp_path / "out/picture")])
    names = [f"picture{part}.{ending}" for part in ("", "-filters", "-history") for ending in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    write_result(tmp_path / "small.nc", table[["top1"]])
    with pytest.raises(SystemExit):
        relax.main([str(tmp_path / "small.nc")])
    assert "must be of a table of relaxed networks" in capsys.readouterr().err
    write_result(tmp_path / "conv.nc", table.sel(row=["conv", "fcn"]))
    with pytest.raises(SystemExit):
        relax.main([str(tmp_path / "conv.nc")])
    assert "file must have networks that start from others" in capsys.readouterr().err
