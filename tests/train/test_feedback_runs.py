"""Runs whose errors travel back through feedback weights: resumed to the bit, in two processes, and by name."""

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_runs import assert_same_ending, interrupt, run, stop_at, weights
from torch import nn
from torch.nn.functional import cross_entropy

from bioshare.bridge import InstantSharing, KolenPollack, Mirror, SignSymmetry, Sleep
from bioshare.circuit.theory import mirror_angle
from bioshare.nn import angles, to_locally_connected, with_feedback
from bioshare.nn.feedback import feedback_layers
from bioshare.train.commands.sweep import grid_points
from bioshare.train.config import (
    SGD,
    Adam,
    AdamW,
    DirectFeedback,
    Every,
    FeedbackWeights,
    Network,
    TrainConfig,
)
from bioshare.train.data import load, training_batches
from bioshare.train.experiments import TABLES, find, matching
from bioshare.train.fitting import trained_network
from bioshare.train.networks import AkroutNetwork, PlainNetwork
from bioshare.train.phases import CircuitOptions, phase_of
from bioshare.train.signals import NAMES, Signals
from bioshare.train.stored import config_of, config_text
from bioshare.train.tables import feedback
from bioshare.train.tables.feedback import METHODS, MOSKOVITZ_METHODS, Method


@dataclasses.dataclass(frozen=True)
class SmallNetwork(Network):
    """Two convolutions and a dense layer, perhaps locally connected."""

    local: bool = True

    def build(self, num_classes, input_size):
        model = nn.Sequential(
            nn.Conv2d(input_size[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1),
            nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, num_classes),
        )  # fmt: skip
        return to_locally_connected(model, input_size) if self.local else model


CONFIG = TrainConfig(
    dataset="digits", network=SmallNetwork(), epochs=2, batch_size=32, train_images=150, padding=1,
    optimizer=AdamW(1e-2),
)  # fmt: skip

SMALL_MIRROR = Mirror(samples=16, first_updates=2)
WAYS = {
    "fixed": (AdamW(1e-2), Method(FeedbackWeights())),
    "noise": (SGD(0.02), Method(FeedbackWeights("weights", noise=1.0, backpropagates=True))),
    "alignment": (Adam(1e-2), Method(FeedbackWeights(backpropagates=True, alignment=0.01))),
    "signs": (Adam(1e-2), METHODS["sn"]),
    "kolen-pollack": (SGD(0.02, 0.05), METHODS["kp"]),
    "mirror": (SGD(0.02, momentum=0.0, nesterov=False), Method(FeedbackWeights(), (SMALL_MIRROR,))),
    "past norms": (AdamW(1e-2), Method(FeedbackWeights(past_norms=True), (SMALL_MIRROR,))),
    "direct": (AdamW(1e-2), METHODS["dfa"]),
    "dense": (AdamW(1e-2), Method(DirectFeedback(dense=True))),
    "signs and norms": (Adam(1e-2), MOSKOVITZ_METHODS["const-ei"]),
    "late signs": (Adam(1e-2), feedback.SIGN_METHODS["fixed-50"]),
}


def configured(way, **changes):
    """A configuration that sleeps every third step and has a way for errors to travel back."""
    optimizer, method = WAYS[way]
    asleep = dataclasses.replace(
        CONFIG, phases=(Every(3, InstantSharing(feedback=way == "mirror")),), optimizer=optimizer
    )
    return dataclasses.replace(method.applied(asleep), **changes)


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_ends_with_the_bits_of_an_uninterrupted_one(way, tmp_path):
    config = configured(way)
    run(tmp_path / "whole", config)
    interrupt(tmp_path / "stopped", 7, config)
    run(tmp_path / "stopped", config, resume=True)
    assert_same_ending(tmp_path / "stopped", tmp_path / "whole")


def train_and_die(folder, step=None):
    """Go on with a run of feedback, mirror and simulated sleep of W and B, and perhaps die in a step."""
    torch.set_num_threads(1)
    asleep = phase_of(CircuitOptions(presentations=1, moments="share", border="scale", feedback=True), CONFIG.seed)
    config = WAYS["mirror"][1].applied(dataclasses.replace(CONFIG, phases=(Every(3, asleep),)))
    with pytest.MonkeyPatch.context() as patch:
        if step is not None:
            stop_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        run(folder, config, resume=True, checkpoint_every=0)


def test_a_killed_run_with_both_nights_ends_with_the_bits_of_another(tmp_path):
    for folder, step, code in (("whole", None, 0), ("killed", 7, -signal.SIGKILL), ("killed", None, 0)):
        arguments = tmp_path / folder, step
        process = multiprocessing.get_context("forkserver").Process(target=train_and_die, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == code
    assert_same_ending(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("way", WAYS)
def test_a_configuration_is_stored_and_its_network_comes_back(way, tmp_path):
    config = configured(way, epochs=1, train_images=64)
    assert config_of(config_text(config), tmp_path) == config
    run(tmp_path, config)
    model = trained_network(tmp_path)
    x = torch.ones(1, 1, 8, 8)
    assert torch.equal(model.eval()(x), trained_network(tmp_path).eval()(x))


def test_alignment_is_a_term_of_the_loss():
    """The pull in front of a step is the gradient of lambda |W - B|^2."""
    config = dataclasses.replace(
        CONFIG, feedback=FeedbackWeights(backpropagates=True, alignment=0.3), network=SmallNetwork(False)
    )
    x, y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    models = [config.build_network(10, (1, 8, 8)) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    config.feedback.attach(models[0], optimizers[0])
    for model, optimizer, factor in zip(models, optimizers, (0, 0.3), strict=True):
        penalty = sum((layer.weight - layer.feedback).square().sum() for _, layer in feedback_layers(model))
        (cross_entropy(model(x), y) + factor * penalty).backward()
        optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_pull_of_alignment_is_scaled_as_the_gradients_in_half_precision():
    config = dataclasses.replace(
        CONFIG, feedback=FeedbackWeights(backpropagates=True, alignment=0.3), network=SmallNetwork(False)
    )
    models = [config.build_network(10, (1, 8, 8)) for _ in range(2)]
    x, y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    for model, scaled in zip(models, (False, True), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
        config.feedback.attach(model, optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        scaler.scale(cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_learning_rates_warm_up_and_fall():
    config = TrainConfig(optimizer=SGD(0.8), milestones=(32 / 90, 62 / 90, 82 / 90), divisor=10.0, warm_up=6, epochs=90)
    rates = [config.learning_rate(epoch) for epoch in range(90)]
    assert rates[:6] == pytest.approx([0.8 * n / 6 for n in range(1, 7)])
    assert [rates[n] for n in (6, 31, 32, 61, 62, 81, 82, 89)] == pytest.approx(
        [0.8, 0.8, 0.08, 0.08, 8e-3, 8e-3, 8e-4, 8e-4]
    )


def test_feedback_weights_are_drawn_from_the_seed_of_the_run():
    networks = [
        dataclasses.replace(CONFIG, feedback=FeedbackWeights(), seed=seed).build_network(10, (1, 8, 8))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(networks[0][3].feedback, networks[1][3].feedback)
    assert not torch.equal(networks[0][3].feedback, networks[2][3].feedback)
    plain = CONFIG.build_network(10, (1, 8, 8))
    assert torch.equal(plain[3].weight, networks[0][3].weight)


def test_phases_prepare_the_network():
    made = lambda *phases: dataclasses.replace(
        CONFIG, feedback=FeedbackWeights(), phases=tuple(Every(1, phase) for phase in phases)
    ).build_network(10, (1, 8, 8))
    assert torch.equal(made(SignSymmetry())[3].feedback.sign(), made()[3].weight.sign())
    assert hasattr(made(KolenPollack())[3], "difference")
    assert not torch.equal(made(SMALL_MIRROR)[3].feedback, made()[3].feedback)


def test_the_tables_have_the_numbers_and_settings_of_the_papers():
    row = find("moskovitz/cifar10/cifar-2-init-ei")
    assert (row.paper.top1, row.paper.top1_diff) == (82.2, -6.8)
    assert row.setting.optimizer == SGD(0.05, 1e-3)
    (signs, symmetry) = row.config.phases
    assert (signs.first, symmetry.first, signs.count) == (0.05, 0, "run")
    assert find("akrout/imagenet/resnet50-mirror").paper.top1 == 76.6
    before = find("akrout/imagenet/resnet18-sn-before")
    assert (before.paper.top1, before.paper.top1_diff) == (62.2, -7.7)
    assert before.setting == dataclasses.replace(
        find("akrout/imagenet/resnet18-sn").setting, network=AkroutNetwork(18, norm_after=False)
    )
    assert isinstance(before.setting.network.build(10, (3, 64, 64)).stem[1], nn.BatchNorm2d)
    mnist = find("moskovitz/mnist/mnist-fa").config
    assert [round(mnist.learning_rate(epoch), 12) for epoch in (0, 19, 20, 24)] == [1e-4, 1e-4, 1e-5, 1e-5]
    assert find("moskovitz/mnist/mnist-dense-fa").paper.top1 == 99.3
    assert find("moskovitz/imagenet/imagenet-1-fa").paper.top1 == 4.8
    assert len(matching("night")) == 16
    fixed = find("signs/cifar10-16/fixed-20").config.phases
    assert [type(every.phase).__name__ for every in fixed] == ["FixedSigns", "FixedNorms", "SignSymmetry"]
    assert [every.first for every in fixed] == [0.2, 0, 0]
    assert [every.first_of(79, 30) for every in fixed] == [474, 0, 0]
    row, shared = (find(f"night/cifar10-16/lc-asleep-mirror{end}") for end in ("", "-shared"))
    sleep, mirror = row.config.phases
    assert (sleep.phase, mirror.phase) == (Sleep.recommended(pool=8, pool_seed=sleep.phase.pool_seed), feedback.MIRROR)
    assert (sleep.n, mirror.n) == (10, 1)
    assert shared.config.phases[0].phase == dataclasses.replace(sleep.phase, feedback=True)
    assert shared.config.phases[1] == mirror
    assert row.references == ("lc-asleep", "conv-mirror")
    assert find("night/cifar10-16/conv-fa").home == find("feedback/cifar10-16/conv-fa").home
    assert {"moskovitz", "akrout", "feedback", "night", "signs"} <= TABLES.keys()


def test_chosen_rates_are_points_of_the_grids_and_those_of_the_rows(monkeypatch):
    rows = {one.row: one for one in (*matching("night"), *matching("feedback"))}
    for row, chosen in feedback.CHOSEN.items():
        assert rows[row].config.optimizer == chosen
        assert chosen in grid_points(rows[row])
    monkeypatch.setitem(feedback.CHOSEN, "lc-kp", AdamW(5e-3, 0.1))
    assert feedback._row("lc", METHODS["kp"], "lc-kp", ()).setting.optimizer == AdamW(5e-3, 0.1)


def test_akrouts_mirror_averages_over_positions():
    mirror = find("akrout/imagenet/resnet18-mirror")
    assert mirror.paper.top1 == 69.8
    (every,) = mirror.config.phases
    assert every == Every(1, Mirror(samples=2048, positions=7, first_updates=1251), "run")
    # tan^2 = 1.36 (K + 2) / (n (2 - L) / L) with L = 0.05 in the widest layers
    assert mirror_angle(49 * 2048, 512 * 9, every.phase.forgetting) == pytest.approx(2.3, rel=0, abs=0.05)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="depth must be one of 18, 50; got 34"):
        AkroutNetwork(34)
    with pytest.raises(ValueError, match="name must be one of 'mnist', 'cifar-1'"):
        PlainNetwork("cifar")


def test_akrouts_schedules_are_those_of_appendix_c():
    rates = {name: find(f"akrout/imagenet/resnet50-{name}").config for name in ("bp", "sn", "mirror")}
    assert [rates["sn"].learning_rate(epoch) for epoch in (6, 32)] == pytest.approx([0.5, 0.05])
    plain, mirror = rates["bp"], rates["mirror"]
    # the rate of a mirror network grows over epochs 3 to 8, and shrinks after the same epochs as of backpropagation
    ours = [mirror.learning_rate(epoch - 3) for epoch in (3, 8, 32, 33, 62, 63, 82, 83, 90)]
    assert ours[:2] == pytest.approx([plain.learning_rate(0), 0.8])
    assert ours[2:] == pytest.approx([plain.learning_rate(epoch - 1) for epoch in (32, 33, 62, 63, 82, 83, 90)])


def test_bad_parts_are_refused():
    with pytest.raises(TypeError, match="feedback must be an object of type FeedbackWeights or DirectFeedback"):
        dataclasses.replace(CONFIG, feedback="random")
    with pytest.raises(ValueError, match="alignment must be a finite number of at least 0; got -1"):
        FeedbackWeights(alignment=-1)
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        SGD(momentum=0)
    with pytest.raises(ValueError, match="model must have feedback weights"):
        dataclasses.replace(CONFIG, phases=(Every(1, KolenPollack()),)).build_network(10, (1, 8, 8))
    with pytest.raises(ValueError, match="divisor must be a number of at least 1; got 0"):
        dataclasses.replace(CONFIG, divisor=0)


@pytest.mark.parametrize("way", ["mirror", "direct", "dense"])
def test_the_last_angles_of_a_result_are_those_of_the_trained_network(way, tmp_path):
    config = configured(way)
    result = run(tmp_path, config)
    names = ["0", "3", "7"]
    assert result["feedback_layer"].values.tolist() == names
    assert result["weight_angle"].dims == ("epoch", "feedback_layer")
    assert result["weight_angle"].shape == (2, 3)
    batches = training_batches(load("digits"), config, torch.device("cpu"))
    x, y = next(batches.epoch(0, 0))
    model = trained_network(tmp_path).train()
    report = angles(model, x[:16], lambda scores: cross_entropy(scores, y[:16])).to_xarray()
    for field, name in NAMES.items():
        np.testing.assert_allclose(result[name].isel(epoch=-1), report[field], rtol=0, atol=1e-4)
    first = config.build_network(10, (1, 8, 8))
    for number, name in enumerate(map(int, names)):
        changed = (model[name].weight.sign() != first[name].weight.sign()).double().mean().item()
        assert float(result["changed_signs"][-1, number]) == pytest.approx(100 * changed, rel=0, abs=1e-10)
        assert 0 < changed < 1
    np.testing.assert_allclose(result["signal_angle"].sel(feedback_layer="7"), 0, rtol=0, atol=1e-2)
    assert (result["signal_angle"][:, :2] > 1).all()
    assert result["weight_angle"].isnull().all() == result["local_angle"].isnull().all() == (way == "direct")
    with xr.open_dataset(tmp_path / "result.nc") as stored:
        xr.testing.assert_equal(stored.load(), result)


def test_fixed_signs_stay_those_after_the_first_step(tmp_path):
    setting = dataclasses.replace(CONFIG, optimizer=Adam(1e-2))
    for name in ("fixed-0", "never"):
        first, last = run(tmp_path / name, feedback.SIGN_METHODS[name].applied(setting))["changed_signs"]
        assert (first == last).all() == (name == "fixed-0")


def test_measured_angles_leave_the_training_as_it_is(tmp_path, monkeypatch):
    config = configured("mirror")
    run(tmp_path / "measured", config)
    monkeypatch.setattr(Signals, "measure", lambda *arguments: None)
    plain = run(tmp_path / "plain", config)
    assert "weight_angle" not in plain
    measured, others = weights(tmp_path / "measured"), weights(tmp_path / "plain")
    assert measured.keys() - others.keys() == {"signals"}
    for name, tensor in others.items():
        torch.testing.assert_close(measured[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_run_from_before_the_angles_goes_on(tmp_path, monkeypatch):
    config = configured("mirror")
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "measure", lambda *arguments: None)
        interrupt(tmp_path, 7, config)
    result = run(tmp_path, config, resume=True)
    assert result["weight_angle"].isnull().all("feedback_layer").values.tolist() == [True, False]


def test_signs_keep_the_norm_of_the_weights_and_angles_of_controls_are_those_of_signals_through_b(tmp_path):
    signs = run(tmp_path / "signs", configured("signs"))
    dense = signs.sel(feedback_layer="7")  # without padding, so that no weights are left out
    np.testing.assert_allclose(dense["weight_ratio"], 1, rtol=0, atol=1e-5)
    control = run(tmp_path / "control", configured("alignment"))  # its angles are those of signals through B
    angles = control["signal_angle"].isel(epoch=-1)
    np.testing.assert_allclose(angles[-1], 0, rtol=0, atol=1e-2)
    assert (angles[:-1] > 10).all()


def test_a_layer_that_is_used_twice_is_trained_without_angles(capsys):
    once, signals = nn.Linear(3, 3), Signals()
    model = with_feedback(nn.Sequential(once, once))
    for _ in range(2):
        signals.measure(model, torch.ones(2, 3), torch.zeros(2, dtype=torch.long), {})
    assert signals.variables(2) == {}
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("no angles of the learning signals are recorded: layer '0' must") == 1


def test_measurements_of_another_form_are_refused():
    values = {"signals": torch.zeros(1, len(NAMES) + 1, 2)}
    assert Signals.restored(["a", "b"], values, 1).layers == ["a", "b"]
    for layers, epochs in ((["a"], 1), (["a", "b"], 0)):
        with pytest.raises(ValueError, match="history must have the angles of"):
            Signals.restored(layers, values, epochs)


def test_tensorboard_gets_the_angles_of_an_epoch(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = run(tmp_path, configured("fixed", epochs=1), tensorboard=True)
    seen = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert seen.Scalars("weight_angle/3")[-1].value == pytest.approx(float(result["weight_angle"][0, 1]), abs=1e-4)
