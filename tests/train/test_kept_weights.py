"""Runs that keep snapshots, and runs that start from them in a larger space."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, weights

from bioshare.bridge import InstantSharing
from bioshare.nn import PatchwiseLinear, deviation, locality, to_fully_connected, to_locally_connected
from bioshare.nn.deviation import shared_by
from bioshare.train import checkpoint, trained_network
from bioshare.train.config import SGD, Convolutional, Every, LocallyConnected, Snapshot
from bioshare.train.networks import DAscoliNetwork
from bioshare.train.saving import network_in
from bioshare.train.stored import config_of, config_text

PLAIN = SGD(0.05, 0.0, 0.0, nesterov=False)
NETWORK = DAscoliNetwork(channels=8)
CONV = dataclasses.replace(
    CONFIG,
    network=NETWORK,
    optimizer=PLAIN,
    phases=(),
    milestones=(),
    padding=0,
    snapshots=(0, 1, 2),
)
BESIDE = Snapshot("../conv", 1)


@pytest.fixture(scope="module")
def conv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "conv"
    run(folder, CONV)
    return folder


def larger(space, **fields):
    network = dataclasses.replace(NETWORK, space=space)
    return dataclasses.replace(CONV, network=network, start_from=BESIDE, snapshots=(0,), **fields)


def test_snapshots_are_the_weights_of_a_run_that_was_as_long(conv, tmp_path):
    assert sorted(path.name for path in conv.glob("epoch-*")) == [f"epoch-{n}.safetensors" for n in range(3)]
    run(tmp_path / "short", dataclasses.replace(CONV, epochs=1, snapshots=()))
    mine, short = (
        checkpoint.read(path)[0] for path in (conv / "epoch-1.safetensors", tmp_path / "short/checkpoint.safetensors")
    )
    assert all(torch.equal(tensor, short[name]) for name, tensor in mine.items() if name.startswith("model."))
    first = CONV.build_network(10, (1, 8, 8)).state_dict()
    for name, tensor in network_in(conv / "epoch-0.safetensors").state_dict().items():
        assert torch.equal(tensor, first[name])


@pytest.mark.parametrize("space", ["lc", "fc"])
def test_a_run_starts_with_the_function_of_the_snapshot(conv, space):
    config, folder = larger(space, epochs=1), conv.parent / space
    assert config_of(config_text(config), folder) == config
    run(folder, config)
    x = torch.randn(5, 1, 8, 8)
    begun = network_in(folder / "epoch-0.safetensors")
    torch.testing.assert_close(begun(x), network_in(conv / "epoch-1.safetensors")(x), rtol=0, atol=1e-5)
    assert deviation(begun).total.delta == 0
    after = deviation(trained_network(folder)).total
    assert (after.off_local > 0) == (space == "fc")
    assert after.unshared > deviation(begun).total.unshared


def test_a_run_that_starts_from_a_snapshot_resumes_to_the_bit_without_the_other_run(conv, tmp_path):
    config = larger("lc", phases=(Every(2, InstantSharing()),))
    whole, parts = conv.parent / "whole", conv.parent / "parts"
    run(whole, config)
    interrupt(parts, 3, config)
    (conv.parent / "moved").mkdir()
    moved = parts.rename(conv.parent / "moved/parts")  # beside no other run
    run(moved, config, resume=True)
    assert_same_ending(whole, moved)


def test_a_matched_step_moves_the_mean_over_positions_as_a_step_of_the_convolution(conv):
    matched = dataclasses.replace(PLAIN, match_positions=True)
    single = {"train_images": 32, "epochs": 1, "start_from": BESIDE, "snapshots": ()}  # one batch
    ends = {}
    for name, space, optimizer in (("conv", "conv", PLAIN), ("lc", "lc", PLAIN), ("lc-matched", "lc", matched)):
        config = dataclasses.replace(
            CONV, network=dataclasses.replace(NETWORK, space=space), optimizer=optimizer, **single
        )
        run(conv.parent / f"step-{name}", config)
        ends[name] = {key: value.double() for key, value in weights(conv.parent / f"step-{name}").items()}
    before = checkpoint.read(conv / "epoch-1.safetensors")[0]
    layers = dict(trained_network(conv.parent / "step-lc").named_modules())
    for name in ("0", "3", "5"):
        key, seen = f"model.{name}.weight", locality(layers[name])
        positions = seen.sum((0, 1))
        assert (positions < math.prod(layers[name].output_size)).any()  # padding
        change = lambda name, key=key: ends[name][key] - before[key]
        mean = lambda name, change=change, seen=seen: (change(name) * seen).sum((0, 1)) / seen.sum((0, 1)).clamp(min=1)
        assert change("conv").abs().max() > 1e-5
        torch.testing.assert_close(mean("lc-matched"), change("conv"), rtol=0, atol=2e-7)
        torch.testing.assert_close(mean("lc") * positions, change("conv"), rtol=0, atol=1e-7 * 25)
    bias = "model.0.bias"
    torch.testing.assert_close(
        ends["lc-matched"][bias].mean((1, 2)) - before[bias], ends["conv"][bias] - before[bias], rtol=0, atol=1e-7
    )


def test_a_matched_step_of_dense_layers_is_faster_inside_the_kernels_alone():
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(2, 3, 3, padding=1).double(), torch.randn(5, 2, 6, 6, dtype=torch.float64)
    models = {name: to_fully_connected(conv, (2, 6, 6)) for name in ("plain", "matched")}
    for model, matched in zip(models.values(), (False, True), strict=True):
        optimizer = SGD(1e-3, 0.0, 0.0, nesterov=False, match_positions=matched).build(model)
        model(x).square().sum().backward()
        optimizer.step()
    first = to_fully_connected(conv, (2, 6, 6)).weight
    plain, faster = (model.weight.detach() - first for model in models.values())
    inside, seen = locality(models["plain"]), shared_by(models["plain"])
    assert sorted(set(seen[inside].tolist())) == [25, 30, 36]  # corners, edges and centre of a kernel, of 36 positions
    torch.testing.assert_close(faster, torch.where(inside, seen * plain, plain), rtol=0, atol=1e-12)
    assert plain[~inside].abs().min() > 0


@pytest.mark.parametrize("capturable", [False, True])
def test_a_built_optimiser_has_the_matched_rates(capturable):
    model = to_fully_connected(torch.nn.Conv2d(1, 2, 3), (1, 6, 6))
    optimizer = SGD(0.5, 0.0, 0.0, nesterov=False, match_positions=True).build(model, capturable)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [8.0, 8.0]
    with pytest.raises(TypeError, match=r"^step must have no closure"):
        optimizer.step(lambda: 0.0)


def test_class_tokens_have_no_matched_rates():
    with pytest.raises(ValueError, match=r"^match_positions must be False for layers with class tokens"):
        SGD(0.5, match_positions=True).build(PatchwiseLinear(5, 3, 3, class_tokens=1))


def test_matched_weights_decay_as_those_of_the_convolution():
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(2, 3, 3).double(), torch.randn(5, 2, 6, 6, dtype=torch.float64)
    local: Any = to_locally_connected(conv, (2, 6, 6), "copy")
    for model in (conv, local):
        optimizer = SGD(1e-3, 0.5, 0.9, match_positions=True).build(model)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).sum().backward()  # the same gradient in every step
            optimizer.step()
    torch.testing.assert_close(local.weight.mean((0, 1)), conv.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(local.bias.mean((1, 2)), conv.bias, rtol=0, atol=1e-12)


def test_a_locally_connected_network_takes_a_residual_networks_weights():
    torch.manual_seed(0)
    conv = Convolutional("resnet8", 0.25).build(10, (1, 8, 8)).eval()
    local = LocallyConnected("resnet8", keep_first=1, width=0.25).embed(conv, (1, 8, 8))
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(local(x), conv(x), rtol=0, atol=1e-5)


def test_a_missing_an_unfinished_and_another_run_are_refused_by_name(conv, tmp_path):
    alone = tmp_path / "fc"
    with pytest.raises(
        ValueError, match=r"start_from must be a snapshot of a run; .*conv keeps no weights, and not of epoch 1"
    ):
        run(alone, larger("fc"))
    interrupt(tmp_path / "conv", 7, CONV)
    with pytest.raises(ValueError, match="start_from must be a snapshot of a finished run; finish the run in"):
        run(alone, larger("fc"))
    with pytest.raises(TypeError, match="start_from must be an object of type Snapshot; got 3"):
        dataclasses.replace(CONV, start_from=3)
    with pytest.raises(ValueError, match="snapshots must be numbers of epochs, at least 0; got -1"):
        dataclasses.replace(CONV, snapshots=(-1,))


@pytest.mark.parametrize(
    "network",
    [DAscoliNetwork(channels=4, space="fc"), DAscoliNetwork("alexnet", 8), Convolutional("resnet8", 0.25)],
    ids=["channels", "alexnet", "resnet"],
)
def test_a_snapshot_of_another_network_is_refused_before_training(network, conv):
    config = dataclasses.replace(CONV, network=network, start_from=BESIDE, snapshots=())
    with pytest.raises(ValueError, match=r"start_from must be a snapshot of a network whose weights .* has, too"):
        run(conv.parent / "other", config)
    assert not (conv.parent / "other/result.nc").exists()


def test_locally_connected_weights_are_drawn_as_those_of_convolutions():
    torch.manual_seed(0)
    conv, local = (DAscoliNetwork(channels=8, space=space).build(10, (1, 8, 8)) for space in ("conv", "lc"))
    for one, other in zip(conv.parameters(), local.parameters(), strict=True):
        if other.ndim > one.ndim:
            torch.testing.assert_close(other.abs().max(), one.abs().max(), rtol=0.3, atol=0)
            first, last = (other[0, 0], other[-1, -1]) if other.ndim > 3 else (other[:, 0, 0], other[:, -1, -1])
            assert (first != last).any()


def test_the_snapshot_is_of_that_epoch_in_the_folder_of_the_seed(tmp_path):
    for epoch in (0, 2, 10):
        path = tmp_path / f"conv/seed3/epoch-{epoch}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    start = Snapshot("../../conv/seed{seed}", 10)
    assert start.file(tmp_path / "fc/seed3", 3) == tmp_path / "conv/seed3/epoch-10.safetensors"
    with pytest.raises(ValueError, match=r"seed3 keeps weights of the epochs 0, 2, 10, and not of epoch 9. Train that"):
        dataclasses.replace(start, epoch=9).file(tmp_path / "fc/seed3", 3)
