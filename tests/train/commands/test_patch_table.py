"""The table of networks of patches."""

import dataclasses

import xarray as xr

from bioshare import __main__ as command_line
from bioshare.train.commands import table
from bioshare.train.experiments import find
from bioshare.train.networks import UnsharedPatches
from bioshare.train.results import MEANINGS, write_result
from bioshare.train.stored import config_text
from bioshare.train.tables import patches


def fit(config, folder, **_):
    """A stand-in for a training: an accuracy for every kind, network and interval."""
    network = config.network
    top1 = 60.0 + 5 * (network.kind == "vit") - 3 * isinstance(network, UnsharedPatches) + 2 * bool(config.phases)
    values = {name: ("epoch", [top1 + config.seed] * config.epochs) for name in MEANINGS}
    found = xr.Dataset(values, attrs={"config": config_text(config)})
    write_result(folder / "result.nc", found)
    return found


def test_the_table_shows_differences_to_the_shared_and_the_unshared_network(train_here, capsys):
    trained = train_here(table, fit)
    words = ["table", "patches", "--dataset", "cifar10-jpeg-16"]
    assert command_line.main([*words, "--rows", "vit", "vit-unshared", "vit-ws10", "mixer", "mixer-ws10"]) == 0
    assert [job.name for job in trained[:3]] == [f"patches/cifar10-16/vit/seed{seed}" for seed in range(3)]
    assert {job.config.dataset_name for job in trained} == {"cifar10-jpeg-16"}
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("vit", "mixer"))]
    assert shown == [
        ["vit", "3", "66.0", "+-", "1.0", "-", "-", "+3.0", "+-", "0.0", "-"],
        ["vit-unshared", "3", "63.0", "+-", "1.0", "-", "-3.0", "+-", "0.0", "-", "-"],
        ["vit-ws10", "3", "65.0", "+-", "1.0", "-", "-1.0", "+-", "0.0", "+2.0", "+-", "0.0", "-"],
        ["mixer", "3", "61.0", "+-", "1.0", "-", "-", "-", "-"],
        ["mixer-ws10", "3", "60.0", "+-", "1.0", "-", "-1.0", "+-", "0.0", "-", "-"],
    ]
    del trained[:]
    assert command_line.main([*words, "--rows", "vit", "vit-ws10", "--show"]) == 0
    assert trained == []
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:4]] == [
        ["vit", "3", "66.0"],
        ["vit-ws10", "3", "65.0"],
    ]


def test_digits_have_rows_and_the_size_of_the_networks_is_an_option(train_here, capsys):
    trained, tiny = train_here(table, fit), {"patch": 4, "features": 8, "depth": 1}
    words = "table patches --dataset digits --seeds 1 --epochs 2 --features 8 --depth 1 --patch 4"
    assert command_line.main(words.split()) == 0
    assert [job.name for job in trained] == [f"patches/digits/{name}/seed0" for name in patches.TABLES["patches"][0]]
    for job in trained:
        row = find(job.name.removesuffix("/seed0")).config
        assert job.config == dataclasses.replace(row, epochs=2, network=dataclasses.replace(row.network, **tiny))
    assert "features 8 instead of 48" in capsys.readouterr().out
    assert command_line.main([*words.split()[:6], "--features", "6", "--to", "elsewhere"]) == 1
    assert 'features must be a multiple of the 4 heads of a "vit"; got 6' in capsys.readouterr().err
