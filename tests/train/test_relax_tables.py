"""The tables of d'Ascoli et al. (2019): rows, the command on digits, and what is measured."""

import copy
import dataclasses
import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from bioshare import __main__ as command_line
from bioshare.bridge import InstantSharing
from bioshare.nn import deviation, gradient_norm, keeping, locality, to_fully_connected
from bioshare.nn.fully_connected import FullyConnected2d
from bioshare.train import checkpoint, evaluate, relax_measures, trained_network
from bioshare.train.commands import many_runs
from bioshare.train.config import SGD, Adam, Every, Snapshot, TrainConfig
from bioshare.train.data import load, training_batches
from bioshare.train.data import test_batches as batches_for_testing
from bioshare.train.experiments import find, matching
from bioshare.train.fitting import fit
from bioshare.train.networks import DAscoliNetwork
from bioshare.train.relax_measures import RELAXATION, _measured, relaxation, stored_relaxation
from bioshare.train.results import read_result, write_result
from bioshare.train.runs import Outcomes
from bioshare.train.saving import CHECKPOINT, network_in
from bioshare.train.stored import config_of
from bioshare.train.tables.relaxed import relax_times

CPU = torch.device("cpu")


def test_the_relax_times_are_those_of_the_papers_figures():
    assert relax_times(150) == (0, 1, 2, 3, 4, 6, 8, 10, 13, 18, 23, 30, 40, 52, 67, 88, 115, 150)
    assert {11, 78, 100} < set(relax_times(100))


def test_rows_of_the_papers_table():
    conv, dense = find("dascoli/cifar10/conv").config, find("dascoli/cifar10/fc-18").config
    assert conv == TrainConfig(
        "cifar10", DAscoliNetwork(padded_columns=True), SGD(0.1, 0.0, 0.0, nesterov=False), milestones=(), epochs=150,
        batch_size=250, padding=0, snapshots=relax_times(150),
    )  # fmt: skip
    assert dense.start_from is not None
    assert (dense.epochs, dense.optimizer.learning_rate, dense.start_from.epoch) == (100, 0.01, 18)
    assert find("dascoli/cifar10/fc-0").paper.top1 == 62.5
    assert sum(one.row.startswith("fc-") and one.row[3:].isdigit() for one in matching("dascoli/cifar10")) == 18
    network = DAscoliNetwork(padded_columns=True, space="lc")
    assert dense.snapshots == (11, 78)
    dense = dataclasses.replace(dense, snapshots=())  # as the networks without all connections
    for row, others in (("lc-18-ws10", {"phases": (Every(10, InstantSharing()),)}), ("lc-18", {})):
        lc = find(f"dascoli/cifar10/{row}").config
        assert lc == dataclasses.replace(dense, network=network, **others)
    printed = {row: find(f"dascoli/cifar10/{row}").paper.top1 for row in ("conv", "fcn", "fc-18", "conv-adam")}
    assert printed == {"conv": 72.0, "fcn": 57.5, "fc-18": None, "conv-adam": None}
    assert find("dascoli/cifar10/fc-18-adam").config == dataclasses.replace(
        dense, snapshots=(11, 78), optimizer=Adam(1e-4), start_from=Snapshot("../../conv-adam/seed{seed}", 18)
    )
    alexnet = find("dascoli/cifar100/fc-100").config
    assert (alexnet.dataset_name, alexnet.epochs) == ("cifar100", 100)
    assert alexnet.network == DAscoliNetwork("alexnet", space="fc", padded_columns=True)
    assert find("dascoli/cifar10/lc-18-matched").config == dataclasses.replace(
        dense, network=network, optimizer=SGD(0.01, 0.0, 0.0, nesterov=False, match_positions=True)
    )
    both = find("relax/cifar10/lc-3-matched-ws10-alpha10").config
    assert both.optimizer == SGD(0.01, 0.0, 0.0, nesterov=False, match_positions=True)
    assert both.phases == find("relax/cifar10/lc-3-ws10-alpha10").config.phases
    assert both.phases[0].n == 10
    control = find("relax/cifar10/conv-3").config
    assert (control.network.space, control.optimizer.learning_rate, control.epochs) == ("conv", 0.01, 15)
    wide = find("relax/cifar10/lc-3-wide").config
    assert (wide.network.channels, wide.start_from) == (64, Snapshot("../../conv-wide/seed{seed}", 3))
    assert find("relax/cifar10/lcn-wide").config.start_from is None
    matched = find("relax/cifar10/fc-3-matched")
    assert matched.config.optimizer == SGD(0.01, 0.0, 0.0, nesterov=False, match_positions=True)
    assert matched.references == ("conv", "fc-3")
    assert find("relax/cifar10/fc-3").config.start_from == matched.config.start_from


def test_a_network_from_scratch_has_pytorchs_default_weights():
    torch.manual_seed(0)
    model = DAscoliNetwork(channels=8, space="fc").build(10, (1, 8, 8))
    dense = [layer for layer in model.modules() if isinstance(layer, FullyConnected2d)]
    for layer in dense:
        bound = 1 / math.sqrt(layer.weight.shape[1])
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert abs(float(layer.weight.detach().mean())) < 0.05 * bound


ROWS = ["lc-5-ws10", "fc-5", "conv", "lc-5", "fcn"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of the command, in this process, and the lines that it printed."""
    here = tmp_path_factory.mktemp("relaxed")

    def run_all(jobs, run, done, **_):
        outcomes = Outcomes()
        for job in jobs:
            outcomes.results[job.name] = fit(job.config, job.folder, device="cpu", progress=False)
            done(job)
        stages.append([job.name.split("/")[2] for job in jobs])
        return outcomes

    stages = []
    words = [
        "table",
        "dascoli",
        "--dataset",
        "digits",
        "--epochs",
        "5",
        "--seeds",
        "1",
        "--channels",
        "4",
        "--train-images",
        "300",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(many_runs, "run_all", run_all)
        assert command_line.main([*words, "--rows", *ROWS]) == 0
        assert stages == [["conv", "fcn"], ["fc-5", "lc-5", "lc-5-ws10"]]
        assert command_line.main([*words, "--rows", "conv", "fc-5", "--discard-checkpoints", "--to", "elsewhere"]) == 0
    return here


def test_the_command_trains_first_what_others_start_from_and_measures_what_has_moved(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["table", "dascoli", "--dataset", "digits", "--seeds", "1", "--show", "--rows"]
    assert command_line.main([*words, *ROWS]) == 0
    shown = capsys.readouterr().out
    assert "unshared / shared" in shown
    moved = [line.split() for line in shown.splitlines() if "->" in line]
    assert [line[0] for line in moved] == ["fcn", "fc-5", "lc-5", "lc-5-ws10"]
    (file,) = (folder / "runs").glob("*.nc")
    with xr.open_dataset(file) as table:
        delta = table["relaxed_delta"].sel(seed=0, when="end")
        assert np.isnan(delta.sel(row="conv"))
        assert delta.sel(row="lc-5") == 0 < delta.sel(row="fc-5") < delta.sel(row="fcn")
        assert table["relaxed_unshared"].sel(row="lc-5-ws10", when="end") < table["relaxed_unshared"].sel(
            row="lc-5", when="end"
        )
    assert not list((folder / "elsewhere").rglob("checkpoint.safetensors"))
    assert len(list((folder / "elsewhere").rglob(RELAXATION))) == 1


def test_the_measurements_are_of_the_start_and_the_end_of_the_run(folder):
    run = folder / "runs/dascoli/digits/fc-5/seed0"
    with xr.open_dataset(run / RELAXATION) as found:
        model, config = trained_network(run), dataclasses.replace(find("dascoli/digits/fc-5").config, train_images=300)
        conv = network_in(folder / "runs/dascoli/digits/conv/seed0/epoch-5.safetensors")
        digits, start = load("digits"), found.sel(when="start")
        tests = batches_for_testing(digits, config, CPU)
        assert start["top1"] == evaluate(conv, tests)["top1"]
        with keeping(model, "off-local"):
            assert found["top1_off_local"].sel(when="end") == evaluate(model, tests)["top1"]
        assert found["delta"].sel(when="end") == deviation(model).total.delta
        train = dataclasses.replace(training_batches(digits, config, CPU), seed=None, batch_size=300)
        first = next(train.epoch(0))
        embedded = to_fully_connected(conv, (1, 8, 8))
        expected = gradient_norm(embedded, [first], torch.nn.functional.cross_entropy)
        np.testing.assert_allclose(start["gradient_norm"], expected, rtol=0, atol=1e-4)
        loss = evaluate(embedded, train)["test_loss"]
        np.testing.assert_allclose(start["train_loss"], loss, rtol=0, atol=1e-5)
        assert found["residual"].max() <= 0.011 * found["top_eigenvalue"].max()
        dense: Any = embedded
        weights = dense[0].filter(0, 2, 2).detach().numpy()
        np.testing.assert_array_equal(
            found["filter"].sel(when="start"), weights
        )  # (1, 8, 8), to an output in the middle


def test_images_under_the_hessian_are_drawn_where_images_are_in_the_order_of_the_classes(monkeypatch):
    """As in CIFAR-10 as a JPEG copy: the first thousand images are of one class."""
    order = load("digits").train_labels.argsort()
    digits = load("digits")
    ordered = dataclasses.replace(
        digits, train_images=digits.train_images[order], train_labels=digits.train_labels[order]
    )
    seen = []
    monkeypatch.setattr(relax_measures, "load", lambda *_: ordered)
    monkeypatch.setattr(relax_measures, "CURVATURE_IMAGES", 100)
    measure = relax_measures.top_eigenvalue
    monkeypatch.setattr(
        relax_measures,
        "top_eigenvalue",
        lambda model, batches, *rest: seen.extend(batches) or measure(model, batches, *rest),
    )
    config = find("dascoli/digits/lc-5").config
    _measured(config.build_network(10, (1, 8, 8)), config, None)
    assert sum(len(y) for _, y in seen) == 100
    assert torch.cat([y for _, y in seen]).bincount(minlength=10).min() >= 3


def test_filters_are_kept_on_the_way(folder):
    run = folder / "runs/dascoli/digits/fc-5/seed0"
    with xr.open_dataset(run / RELAXATION) as found:
        assert found["kept_epoch"].values.tolist() == [2]  # 16 is after the end
        layer = network_in(run / "epoch-2.safetensors")[0]
        np.testing.assert_array_equal(found["filter_between"].sel(kept_epoch=2), layer.filter(0, 2, 2).detach().numpy())
        assert not np.array_equal(found["filter_between"].sel(kept_epoch=2), found["filter"].sel(when="end"))


def test_measurements_of_an_earlier_version_are_made_anew(folder, tmp_path):
    for name in ("conv", "fc-5"):
        shutil.copytree(folder / f"runs/dascoli/digits/{name}", tmp_path / name)
    run = tmp_path / "fc-5/seed0"
    known = read_result(run / RELAXATION)
    write_result(run / RELAXATION, known.assign(delta=-1 - known["delta"]).assign_attrs(version=1))
    assert stored_relaxation(run) is None
    xr.testing.assert_identical(relaxation(run)["delta"], known["delta"])
    (run / RELAXATION).write_bytes(b"damaged")
    assert stored_relaxation(run) is None


def test_masked_accuracies_and_the_number_of_images_are_those_of_the_network():
    torch.manual_seed(0)
    config = dataclasses.replace(find("dascoli/digits/fc-5").config, train_images=300)
    model = config.build_network(10, (1, 8, 8))  # random weights, large, so that scores depend on images
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, FullyConnected2d):
                layer.weight.mul_(10)
    found, tests = _measured(model, config, None), batches_for_testing(load("digits"), config, CPU)
    assert found.attrs["curvature_images"] == 300
    expected = [evaluate(model, tests)["top1"]]
    for part in ("local", "off-local"):
        masked: Any = copy.deepcopy(model)
        for layer in (layer for layer in masked if isinstance(layer, FullyConnected2d)):
            mask: Any = locality(layer) if part == "local" else ~locality(layer)
            layer.weight.data *= mask
            if part == "off-local" and layer.bias is not None:
                layer.bias.data.zero_()
        expected.append(evaluate(masked, tests)["top1"])
    assert len(set(expected)) == 3
    assert [float(found[name]) for name in ("top1", "top1_local", "top1_off_local")] == expected


def test_a_run_that_went_on_is_measured_again(folder, tmp_path):
    for name in ("conv", "fc-5"):
        shutil.copytree(folder / f"runs/dascoli/digits/{name}", tmp_path / name)
    run = tmp_path / "fc-5/seed0"
    before = relaxation(run)
    xr.testing.assert_identical(relaxation(run), before)
    config = config_of(checkpoint.read_metadata(run / CHECKPOINT)["config"], run)
    fit(dataclasses.replace(config, epochs=6), run, resume=True, device="cpu", progress=False)
    after = relaxation(run)
    assert after["delta"].sel(when="end") == deviation(trained_network(run)).total.delta
    assert after["delta"].sel(when="end") != before["delta"].sel(when="end")


def test_a_run_that_cannot_be_measured_stops_no_other_and_keeps_its_checkpoint(folder, tmp_path, monkeypatch, capsys):
    for name in ("conv", "fc-5", "lc-5"):
        shutil.copytree(folder / f"runs/dascoli/digits/{name}", tmp_path / f"runs/dascoli/digits/{name}")
    fc, lc = (tmp_path / f"runs/dascoli/digits/{name}/seed0" for name in ("fc-5", "lc-5"))
    for run in (fc, lc):
        (run / RELAXATION).unlink()
    measure = many_runs.relaxation

    def without_snapshot(run, data):
        if run == run.parents[1] / "fc-5/seed0":
            raise ValueError("the snapshot is missing")
        return measure(run, data)

    monkeypatch.setattr(many_runs, "relaxation", without_snapshot)
    monkeypatch.chdir(tmp_path)
    words = "table dascoli --dataset digits --epochs 5 --seeds 1 --channels 4 --train-images 300 --discard-checkpoints"
    with pytest.raises(SystemExit, match="1"):
        command_line.main([*words.split(), "--rows", "fc-5", "lc-5"])
    assert "fc-5/seed0: trained, but not measured, and the checkpoint stays: the snapshot" in capsys.readouterr().err
    assert ((fc / CHECKPOINT).exists(), (fc / RELAXATION).exists()) == (True, False)
    assert ((lc / CHECKPOINT).exists(), (lc / RELAXATION).exists()) == (False, True)


def test_a_run_without_measurements_and_without_a_checkpoint_is_named(folder, tmp_path, monkeypatch, capsys):
    for name in ("conv", "lc-5"):
        shutil.copytree(folder / f"runs/dascoli/digits/{name}", tmp_path / f"runs/dascoli/digits/{name}")
    run = tmp_path / "runs/dascoli/digits/lc-5/seed0"
    known = read_result(run / RELAXATION)
    write_result(run / RELAXATION, known.assign_attrs(version=1))
    (run / CHECKPOINT).unlink()
    monkeypatch.chdir(tmp_path)
    words = "table dascoli --dataset digits --epochs 5 --seeds 1 --channels 4 --train-images 300 --rows lc-5"
    with pytest.raises(SystemExit, match="1"):
        command_line.main(words.split())
    assert (
        "lc-5/seed0: trained, but not measured: there is no checkpoint. Train the run anew" in capsys.readouterr().err
    )


def test_a_locally_connected_run_that_keeps_weights_has_no_filters(folder, tmp_path):
    for name in ("conv", "lc-5"):
        shutil.copytree(folder / f"runs/dascoli/digits/{name}", tmp_path / name)
    run = tmp_path / "lc-5/seed0"
    (run / RELAXATION).unlink()
    shutil.copy(tmp_path / "conv/seed0/epoch-1.safetensors", run)
    assert "filter_between" not in relaxation(run)
