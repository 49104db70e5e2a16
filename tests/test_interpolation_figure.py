"""The picture of paths between networks, from small runs on digits."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from bioshare.train import evaluate, trained_network
from bioshare.train.config import SGD, Snapshot, TrainConfig
from bioshare.train.data import load
from bioshare.train.data import test_batches as batches_for_testing
from bioshare.train.fitting import fit
from bioshare.train.networks import DAscoliNetwork


@pytest.fixture(scope="module")
def interpolation(figure_script):
    return figure_script("interpolation")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A convolutional and a fully connected network after an epoch each, the second from the first's start."""
    folder = tmp_path_factory.mktemp("runs")
    network, optimizer = DAscoliNetwork(channels=4), SGD(0.1, 0.0, 0.9, nesterov=False)
    conv = TrainConfig(
        "digits",
        network,
        optimizer,
        milestones=(),
        epochs=2,
        batch_size=32,
        padding=0,
        train_images=600,
        snapshots=(0,),
    )
    dense = dataclasses.replace(
        conv, network=dataclasses.replace(network, space="fc"), snapshots=(), start_from=Snapshot("../../conv/seed0", 0)
    )
    for name, config in (("conv", conv), ("fc-0", dense)):
        fit(config, folder / name / "seed0", device="cpu", progress=False)
    return folder


@pytest.fixture(scope="module")
def drawn(interpolation, runs, tmp_path_factory):
    """Folder of the picture and of the measurements."""
    folder = tmp_path_factory.mktemp("pictures")
    interpolation.main([str(runs), "--to", str(folder / "paths")])
    return folder


def test_the_ends_are_the_networks_and_the_middle_is_between_their_weights(interpolation, runs, drawn):
    assert sorted(file.name for file in drawn.iterdir()) == ["paths.nc", "paths.png", "paths.svg"]
    conv, dense = (trained_network(runs / name / "seed0") for name in ("conv", "fc-0"))
    config = TrainConfig("digits", padding=0, batch_size=32)
    tests = batches_for_testing(load("digits"), config, next(dense.parameters()).device)
    with xr.open_dataset(drawn / "paths.nc") as data:
        top1 = data["top1"].sel(row="fc-0")
        assert data.attrs["train_images"] == 600
        for kind in ("line", "string", "outputs"):
            assert top1.sel(path=kind).values[0] == evaluate(conv, tests)["top1"]
            assert top1.sel(path=kind).values[-1] == evaluate(dense, tests)["top1"]
        losses = data["train_loss"].sel(row="fc-0")
        np.testing.assert_allclose(losses.std("path").values[[0, -1]], 0, rtol=0, atol=1e-6)
        assert losses.sel(path="string").values[2] < losses.sel(path="line").values[2]
    embedded = DAscoliNetwork(channels=4, space="fc").embed(conv, (1, 8, 8))
    middle = {name: (one + dense.state_dict()[name]) / 2 for name, one in embedded.state_dict().items()}
    embedded.load_state_dict(middle)
    assert top1.sel(path="line").values[2] == evaluate(embedded, tests)["top1"]


def test_the_measurements_are_drawn_again(interpolation, drawn, tmp_path):
    interpolation.main([str(drawn / "paths.nc"), "--to", str(tmp_path / "again")])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.png", "again.svg"]
    with xr.open_dataset(drawn / "paths.nc") as data:
        left, right = interpolation.drawn(data).axes
        lines = {line.get_label(): line.get_ydata() for line in right.get_lines()}
        np.testing.assert_array_equal(lines["string"], data["top1"].sel(row="fc-0", path="string"))
        assert left.get_title(loc="left") == "fc-0: training loss"


@pytest.mark.parametrize("words", [["--rows", "fc-3"], []])
def test_a_folder_without_the_runs_is_refused(interpolation, runs, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        interpolation.main([str(runs if words else tmp_path), *words])
    assert "runs must be a folder with checkpoints of conv and of rows such as fc-0" in capsys.readouterr().err
