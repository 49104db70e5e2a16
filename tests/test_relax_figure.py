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
    values: dict[str, Any] = {
        f"relaxed_{name}": (("row", "seed", "when"), np.broadcast_to(scale, (7, 2, 2)) + 1) for name in names
    }
    pixels = np.ones((7, 2, 2, 4, 4))
    pixels[:, :, :, 0] = 0
    values["relaxed_filter"] = (("row", "seed", "when", "pixel_row", "pixel_column"), pixels)
    axes = {"row": ROWS, "seed": [0, 1], "epoch": [1, 2], "when": ["start", "end"]}
    return xr.Dataset({"top1": (("row", "seed", "epoch"), top1)} | values, axes, {"table": "relax"})


def test_rows_are_sorted_by_relax_time_and_missing_rows_left_out(relax, table):
    expected = {"fc": {0: "fc-0", 3: "fc-3"}, "lc": {3: "lc-3"}, "lc-ws10": {3: "lc-3-ws10"}}
    assert relax.relaxed_rows(table) == expected


def test_the_panels_show_means_over_seeds_of_the_last_epoch(relax, table):
    axes = relax.drawn(table).axes
    lines = {line.get_label(): line.get_ydata() for line in axes[0].get_lines()}
    assert list(lines["fully connected"]) == [73.0, 72.0]  # relax times 0 and 3
    assert [line[0] for line in map(list, list(lines.values())[-2:])] == [70.0, 61.0]  # conv, and fcn after one epoch
    starts = {line.get_label(): line.get_ydata() for line in axes[3].get_lines()}
    assert list(starts["start"]) == [4.0, 3.0]
    assert list(starts["end"]) == [5.0, 4.0]


def test_the_command_writes_both_pictures_and_refuses_another_table(relax, table, tmp_path, capsys):
    write_result(tmp_path / "relax.nc", table)
    relax.main([str(tmp_path / "relax.nc"), "--to", str(tmp_path / "out/picture")])
    names = [f"picture{part}.{ending}" for part in ("-filters", "") for ending in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    write_result(tmp_path / "small.nc", table[["top1"]])
    with pytest.raises(SystemExit):
        relax.main([str(tmp_path / "small.nc")])
    assert "must be of a table of relaxed networks" in capsys.readouterr().err
