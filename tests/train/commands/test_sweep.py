import json
from dataclasses import replace

import pytest
import xarray as xr

from bioshare import __main__ as command_line
from bioshare.train.commands import many_runs, sweep
from bioshare.train.commands.sweep import grid_points, searched
from bioshare.train.config import Every
from bioshare.train.experiments import find
from bioshare.train.phases import CircuitOptions
from bioshare.train.results import MEANINGS, write_result
from bioshare.train.runs import Outcomes
from bioshare.train.stored import config_text

NAME = "table1/tinyimagenet/conv"
ACCURACY = {(5e-3, 1e-4): 30.0, (1e-3, 1e-2): 40.0}
"""By learning rate and weight decay; 20 elsewhere, and 1 more with every seed."""


def fit(config, folder, **_):
    top1 = ACCURACY.get((config.optimizer.learning_rate, config.optimizer.weight_decay), 20.0) + config.seed
    values = {name: ("epoch", [top1] * config.epochs) for name in MEANINGS}
    found = xr.Dataset(values, attrs={"config": config_text(config)})
    write_result(folder / "result.nc", found)
    return found


@pytest.fixture
def trained(train_here):
    return train_here(sweep, fit)


def test_every_point_of_the_grid_is_trained(trained, capsys):
    assert command_line.main(["sweep", NAME]) == 0
    row = searched(find(NAME))
    assert [job.config for job in trained] == [replace(row.config, optimizer=one) for one in grid_points(row)]
    shown = capsys.readouterr().out
    assert shown.splitlines()[1] == "learning rate  weight decay 0.01  weight decay 0.0001"
    assert [line.split() for line in shown.splitlines()[2:5]] == [
        ["0.005", "20.0", "30.0"],
        ["0.001", "40.0", "20.0"],
        ["0.0005", "20.0", "20.0"],
    ]
    best, papers = "learning rate 0.001, weight decay 0.01", "learning rate 0.005, weight decay 0.0001"
    assert shown.splitlines()[5] == f"best: {best}; the paper chose {papers}"
    assert "Not the table's setting" not in shown


def test_a_row_that_the_paper_lacks_was_not_tuned_by_it(trained, capsys):
    assert command_line.main(["sweep", "sleep/cifar10/lc-ws10-alpha10"]) == 0
    assert {job.config.phases for job in trained} == {(Every(10, CircuitOptions(alpha=10.0).phase(0)),)}
    chosen = "the table has learning rate 0.0005, weight decay 0.01"
    assert capsys.readouterr().out.splitlines()[-1].endswith(chosen)


def test_one_dataset_with_the_grid_as_axes(trained, tmp_path):
    command_line.main(["sweep", NAME, "--seeds", "2", "--epochs", "3"])
    assert len(trained) == 12
    with xr.open_dataset(tmp_path / "runs/sweep/table1-tinyimagenet-conv.nc", engine="h5netcdf") as dataset:
        assert dict(dataset["top1"].sizes) == {"learning_rate": 3, "weight_decay": 2, "seed": 2, "epoch": 3}
        assert dataset["top1"].sel(learning_rate=5e-3, weight_decay=1e-4).isel(epoch=-1).values.tolist() == [30, 31]


def test_the_point_that_the_paper_left_out_stays_empty(trained, capsys):
    assert command_line.main(["sweep", "table12/imagenet/lc/1st-layer-conv"]) == 0
    assert ["0.001", "-", "20.0", "20.0"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_show_and_what_is_missing(trained, capsys):
    command_line.main(["sweep", NAME, "--show"])
    assert trained == []
    assert "nothing is finished; the paper chose learning rate 0.005" in capsys.readouterr().out
    command_line.main(["sweep", NAME])
    command_line.main(["sweep", NAME, "--show"])
    command_line.main(["sweep", NAME, "--seeds", "2"])
    assert [job.config.seed for job in trained] == 6 * [0] + 6 * [1]


def test_show_tells_the_setting_of_what_is_there(trained, capsys):
    command_line.main(["sweep", NAME, "--epochs", "3"])
    capsys.readouterr()
    assert command_line.main(["sweep", NAME, "--show"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Not the table's setting: epochs 3 instead of 50.")


def test_points_that_failed_are_counted(trained, capsys, monkeypatch):
    def run_all(jobs, run, **_):
        bad, *good = jobs
        return Outcomes({job.name: run(job.config, job.folder) for job in good}, {bad.name: "OSError: disk"})

    monkeypatch.setattr(many_runs, "run_all", run_all)
    with pytest.raises(SystemExit) as end:
        command_line.main(["sweep", NAME])
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert "(points missing: 1)" in shown.out
    assert "failed, as shown above: sweep/" in shown.err
    assert "learning-rate-0.005-weight-decay-0.01/seed0" in shown.err


def test_the_axes_are_no_options(trained, capsys):
    for option in ("--learning-rate", "--weight-decay", "--seed"):
        with pytest.raises(SystemExit) as end:
            command_line.main(["sweep", NAME, option, "1"])
        assert end.value.code == 2
        assert f"unrecognized arguments: {option}" in capsys.readouterr().err
    assert trained == []


@pytest.mark.slow
def test_a_real_sweep_on_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--dataset digits --padding 1 --epochs 1 --batch-size 256 --train-images 256 --device cpu --threads 1"
    assert command_line.main(["sweep", "table5/tinyimagenet/lc", *options.split()]) == 0
    shown = capsys.readouterr().out
    assert "missing" not in shown
    assert "validation" not in shown  # it is the grid's own setting
    with xr.open_dataset("runs/sweep/table5-tinyimagenet-lc.nc", engine="h5netcdf") as dataset:
        assert dataset["top1"].notnull().all()
        assert json.loads(dataset.attrs["shared_config"])["validation"] is True


def test_networks_with_feedback_keep_their_way_of_learning_in_the_grid(trained):
    assert command_line.main(["sweep", "feedback/cifar10-16/conv-kp"]) == 0
    assert len(trained) == 8
    row = find("feedback/cifar10-16/conv-kp").config
    assert {job.config.phases for job in trained} == {row.phases}
    assert {(job.config.feedback, job.config.validation) for job in trained} == {(row.feedback, True)}


@pytest.mark.parametrize("name", ["akrout/imagenet/resnet18-fa", "moskovitz/cifar10/cifar-1-sn"])
def test_settings_that_a_paper_prints_have_no_grid(trained, name, capsys):
    assert command_line.main(["sweep", name]) != 0
    assert "has the settings that its paper prints, and no grid search" in capsys.readouterr().err
    assert trained == []
