"""The figure and the table of a column, made from a small stored result."""

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from bioshare.train.config import TrainConfig
from bioshare.train.results import gather, write_result
from bioshare.train.stored import config_text

SCRIPT = Path(__file__).parents[1] / "figures" / "column.py"
ACCURACY = {"conv": 90.0, "lc": 80.0, "lc-ws1": 89.0, "lc-ws10-alpha10": 86.0}
"""After the last epoch, of seed 0; seed 1 has 2 more."""


def run(row, seed, images="cifar10-jpeg"):
    """Three epochs of half a minute each, and ten seconds of tests; weights are equal at the end of those of ws(1)."""
    top1 = ACCURACY[row] + 2 * seed - np.array([20.0, 10.0, 0.0])
    found = xr.Dataset({"top1": ("epoch", top1), "seconds": ("epoch", [30.0] * 3)})
    found.attrs["config"] = config_text(TrainConfig(dataset=images, epochs=3, seed=seed))
    if row != "conv":  # whose tests were not timed
        found["test_seconds"] = "epoch", [10.0] * 3
        snr = np.full(4, -np.inf) if row == "lc-ws1" else np.array([1.0, 0.5, -2.0, -3.0])
        found["neg_log_snr"] = ("snr_step", "layer"), np.stack([snr, snr], 1)
    return found


def store(folder, images="cifar10-jpeg"):
    """Two files, as two commands would have written them."""
    for name, rows in {"first": ["conv", "lc", "lc-ws1"], "second": ["lc-ws10-alpha10", "lc-ws100"]}.items():
        results = {(row, seed): run(row, seed, images) for row in rows if row in ACCURACY for seed in range(2)}
        table = gather(results, {"row": rows, "seed": range(3)})  # seed 2 and ws(100) are not finished
        for field, value in {"paper_top1": 88.3, "paper_top1_diff": -0.8}.items():
            table[field] = "row", [value if name == "first" else np.nan for _ in rows]
        write_result(folder / f"{name}.nc", table.assign_attrs(costs=f"Cost: {name}."))


def test_table_and_curves_come_from_what_the_command_stored(tmp_path):
    store(tmp_path)
    command = [sys.executable, SCRIPT, tmp_path / "first.nc", tmp_path / "second.nc", "--to", tmp_path / "column"]
    subprocess.run(command, check=True, capture_output=True)
    lines = (tmp_path / "column.md").read_text().splitlines()
    assert lines[2:] == [
        "| conv | 2 | 91.0 +- 1.4 |  | +10.0 +- 0.0 | 88.3 |  | 1.5 |",
        "| LC | 2 | 81.0 +- 1.4 | -10.0 +- 0.0 |  | 88.3 | -0.8 | 2.0 |",
        "| LC, ws(1) | 2 | 90.0 +- 1.4 | -1.0 +- 0.0 | +9.0 +- 0.0 | 88.3 | -0.8 | 2.0 |",
        "| LC, ws(10), α = 10 | 2 | 87.0 +- 1.4 | -4.0 +- 0.0 | +6.0 +- 0.0 | - | - | 2.0 |",
        "",
        "Setting: dataset cifar10-jpeg, epochs 3, batch_size 512, padding 4.",
        "",
        "Cost: first.",
        "",
        "Cost: second.",
    ]
    image = plt.imread(tmp_path / "column.png")
    left, right = image[:, : image.shape[1] // 2, :3], image[:, image.shape[1] // 2 :, :3]
    assert (left < 0.9).any(axis=2).sum() > 1000
    assert (right < 0.9).any(axis=2).sum() > 1000
    drawn = (tmp_path / "column.svg").read_text()
    assert drawn.count("<!-- LC, ws(1) -->") == 1  # its -log SNR is minus infinity
    assert drawn.count("<!-- LC -->") == drawn.count("<!-- LC, ws(10), α = 10 -->") == 2
    assert drawn.count("<!-- conv -->") == 1


def test_other_images_do_not_stand_beside_the_papers_numbers(tmp_path):
    store(tmp_path, "digits")
    command = [sys.executable, SCRIPT, tmp_path / "first.nc", "--to", tmp_path / "d.v1"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "| LC | 2 | 81.0 +- 1.4 | -10.0 +- 0.0 |  | - | - | 2.0 |" in shown
    assert "Setting: dataset digits, epochs 3, batch_size 512, padding 4." in shown
    assert sorted(path.name for path in tmp_path.glob("d*")) == ["d.v1.md", "d.v1.png", "d.v1.svg"]


def test_what_no_table_wrote_is_refused(tmp_path):
    store(tmp_path)
    write_result(tmp_path / "result.nc", run("conv", 0))
    message = {"missing.nc": "there is no {}; files must be what", "result.nc": "{} is not, but perhaps a single run's"}
    for name, words in message.items():
        command = [sys.executable, SCRIPT, tmp_path / "first.nc", tmp_path / name, "--to", tmp_path / "column"]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ended.returncode == 2
        assert words.format(tmp_path / name) in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("column*"))
