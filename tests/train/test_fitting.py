"""A training run: its schedule, its sharing, its history; stopped at any moment, it ends with the same weights."""

import dataclasses
import json
import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, stop_at, tiny, varied, weights
from torch import nn

import bioshare.train
from bioshare.bridge import InstantSharing, Phase, neg_log_snr
from bioshare.nn import LocallyConnected2d
from bioshare.train import checkpoint, fitting, saving
from bioshare.train import run as training
from bioshare.train.config import ARCHITECTURES, AdamW, Convolutional, Every, LocallyConnected, TrainConfig
from bioshare.train.data import load
from bioshare.train.data import test_batches as batches_for_testing
from bioshare.train.distributed import Stopwatch
from bioshare.train.evaluation import evaluate
from bioshare.train.fitting import CHECKPOINT, LOOK_EVERY, RESULT, fit, trained_network
from bioshare.train.interrupt import SIGNALS, TimeUpError, TrainingDivergedError, interruptible
from bioshare.train.phases import CircuitOptions
from bioshare.train.results import MEANINGS, History, read_result, seconds_spent
from bioshare.train.stored import config_of
from bioshare.train.tables.feedback import METHODS


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run that nothing interrupted, and its result."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet20", tiny)
        return folder, run(folder)


def test_the_result_has_an_entry_for_every_epoch_and_says_what_made_it(straight):
    folder, result = straight
    assert dict(result.sizes) == {"epoch": 2, "snr_step": 3, "layer": 2}
    assert result.epoch.values.tolist() == [1, 2]
    assert result.learning_rate.values.tolist() == [1e-3, 2.5e-4]
    assert np.isfinite(result.to_array()).all()
    assert ((result.top1 >= 0) & (result.top1 <= result.top5) & (result.top5 <= 100)).all()
    assert np.allclose(result.images_per_second * result.seconds, 150)
    assert result.snr_step.values.tolist() == [0, 5, 10]
    expected = {"torch": torch.__version__, "bioshare": bioshare.__version__, "device": "cpu", "sharings": 4}
    attributes = {name: result.attrs.get(name) for name in expected}
    assert attributes | {"torch": torch.__version__} == expected
    assert config_of(result.attrs["config"], folder) == CONFIG
    with xr.open_dataset(folder / RESULT, engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), result)


def test_a_run_is_a_function_of_its_configuration(straight, tmp_path):
    state = torch.random.get_rng_state()
    torch.rand(3)
    run(tmp_path, progress=True)
    assert_same_ending(tmp_path, straight[0])
    torch.random.set_rng_state(state)
    before = torch.random.get_rng_state()
    run(tmp_path / "other", dataclasses.replace(CONFIG, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(weights(tmp_path / "other")["model.0.weight"], weights(tmp_path)["model.0.weight"])


def test_training_learns(tmp_path):
    config = dataclasses.replace(
        CONFIG, network=Convolutional(), phases=(), epochs=6, train_images=600, optimizer=AdamW(3e-2), padding=0
    )
    result = run(tmp_path, config)
    assert result.train_loss[-1] < result.train_loss[0] / 2
    assert result.top1[-1] > 60
    assert "neg_log_snr" not in result


@pytest.mark.parametrize(
    ("epochs", "milestones", "expected"),
    [
        (8, (0.5, 0.75), [1, 1, 1, 1, 1 / 4, 1 / 4, 1 / 16, 1 / 16]),
        (3, (0.5, 0.75), [1, 1, 1 / 4]),
        (10, (0.7,), 7 * [1] + 3 * [1 / 4]),  # 0.7 * 10 is more than 7 in floating point
        (2, (), [1, 1]),
    ],
)
def test_the_learning_rate_falls_at_its_milestones(epochs, milestones, expected):
    config = TrainConfig(epochs=epochs, milestones=milestones, optimizer=AdamW(0.5))
    assert [config.learning_rate(epoch) for epoch in range(epochs)] == [0.5 * part for part in expected]


def test_the_optimiser_is_that_of_the_configuration():
    found = AdamW(learning_rate=0.3, weight_decay=0.2).build(nn.Linear(2, 3))
    assert (found.defaults["lr"], found.defaults["weight_decay"], found.defaults["fused"]) == (0.3, 0.2, True)


@dataclasses.dataclass(frozen=True)
class Watched(InstantSharing):
    """Instant sharing that notes its seeds and -log SNR before."""

    seen = []  # noqa: RUF012 (no field)

    def __call__(self, model, seed=0, progress=True, measure=True, **options):
        self.seen.append((seed, measure, neg_log_snr(model)["0"]))
        return super().__call__(model, seed, progress, measure, **options)


@pytest.mark.parametrize(
    ("count", "first", "steps"),
    [("epoch", 0, [0, 3, 5, 8]), ("run", 0, [0, 3, 6, 9]), ("epoch", 1, [1, 4, 6, 9]), ("run", 4, [4, 7])],
)
def test_a_phase_follows_the_batches_that_it_should(tmp_path, count, first, steps):
    Watched.seen.clear()
    result = run(tmp_path, varied(Watched(), count=count, first=first), record_snr=1)
    seeds, measured, before = zip(*Watched.seen, strict=True)
    assert list(seeds) == [training.seed_at("sleep", CONFIG.seed, step) for step in steps]
    assert all(measured)
    assert result.snr_step[result.shared == 1].values.tolist() == [step + 1 for step in steps]
    just_before = [int(np.flatnonzero((result.snr_step == step + 1) & (result.shared == 0))[0]) for step in steps]
    assert np.allclose(result.neg_log_snr[just_before, 0], before)
    after = result.neg_log_snr[[index + 1 for index in just_before], 0]
    assert (after.values < result.neg_log_snr[just_before, 0].values - 10).all()
    assert result.snr_step.values.tolist() == sorted([*range(11), *(step + 1 for step in steps)])
    assert result.attrs["sharings"] == len(steps)


@dataclasses.dataclass(frozen=True)
class Scaled(Phase):
    """All weights times a factor, and a note of the seed."""

    factor: float
    seen = []  # noqa: RUF012 (no field)

    def change(self, model, seed=0, *, optimizer=None):
        self.seen.append((self.factor, seed))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(self.factor)


def test_phases_that_fall_due_at_one_batch_run_in_their_order_with_seeds_of_their_own(tmp_path):
    Scaled.seen.clear()
    phases = (Every(4, Scaled(0.5), "run"), Every(2, Scaled(0.25), "run"))
    result = run(tmp_path / "straight", dataclasses.replace(CONFIG, phases=phases), record_snr=1)
    assert [factor for factor, _ in Scaled.seen] == [0.5, 0.25, 0.25, 0.5, 0.25, 0.25, 0.5, 0.25]
    assert Scaled.seen[0][1] == training.seed_at("sleep", CONFIG.seed, 0)
    assert len({seed for _, seed in Scaled.seen}) == 8
    assert result.snr_step.values.tolist() == list(range(11))  # no report of -log SNR, but the measurement
    assert not result.shared.any()
    interrupt(tmp_path / "broken", 4, dataclasses.replace(CONFIG, phases=phases), record_snr=1)
    run(tmp_path / "broken", dataclasses.replace(CONFIG, phases=phases), record_snr=1, resume=True)
    assert_same_ending(tmp_path / "broken", tmp_path / "straight")


def test_a_phase_changes_the_weights_just_after_the_step(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1, train_images=32)
    run(tmp_path / "plain", dataclasses.replace(config, phases=()))
    run(tmp_path / "half", dataclasses.replace(config, phases=(Every(1, Scaled(0.5)),)))
    plain, half = (weights(tmp_path / name)["model.0.weight"] for name in ("plain", "half"))
    assert torch.equal(half, 0.5 * plain)


def test_sharing_in_a_network_without_locally_connected_layers_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="must have a LocallyConnected2d layer"):
        run(tmp_path, dataclasses.replace(CONFIG, network=Convolutional()))
    assert not list(tmp_path.iterdir())


def test_snr_is_measured_in_every_nth_batch(tmp_path):
    result = run(tmp_path, record_snr=2)
    assert list(zip(result.snr_step.values.tolist(), result.shared.values.tolist(), strict=True)) == [
        (0, 0), (1, 0), (1, 1), (3, 0), (5, 0), (6, 0), (6, 1), (8, 0), (10, 0)
    ]  # fmt: skip
    assert result.layer.values.tolist() == ["0", "3"]


SIGNALS_AT = [(signal.SIGTERM, 6), (signal.SIGINT, 4), (signal.SIGTERM, 0), (signal.SIGUSR1, 3), (signal.SIGHUP, 7)]


@pytest.fixture
def hangup():
    """The default effect of SIGHUP, which ``nohup`` ignores."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(("number", "step"), SIGNALS_AT)
def test_a_signal_ends_the_run_after_the_batch_and_resume_ends_with_the_same_weights(straight, tmp_path, number, step):
    handlers = [signal.getsignal(one) for one in SIGNALS]
    stopped = interrupt(tmp_path, step, number=number)
    assert stopped.signal == number
    assert str(stopped).endswith(f"after step {step + 1} of the run; {tmp_path / CHECKPOINT} has everything")
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    metadata = checkpoint.read_metadata(tmp_path / CHECKPOINT)
    assert (metadata["epoch"], metadata["batch"]) in (divmod(step + 1, 5), (step // 5, step % 5 + 1))
    run(tmp_path, resume=True)
    assert_same_ending(tmp_path, straight[0])


def test_a_run_that_is_stopped_after_every_batch_ends_with_the_same_weights(straight, tmp_path):
    for step in range(10):
        interrupt(tmp_path, step, resume=True)
    run(tmp_path, resume=True)
    assert_same_ending(tmp_path, straight[0])


@pytest.mark.usefixtures("hangup")
def test_the_signal_of_a_closed_terminal_stays_ignored_after_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_second_ctrl_c_does_not_wait():
    with interruptible() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals[0] == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_threads_leave_the_handlers_alone():
    found = []

    def work():
        with interruptible() as signals:
            found.append((signal.getsignal(signal.SIGTERM), signals))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), [])]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_resume_is_exact_with_half_types_dropout_and_repetitions(tmp_path, monkeypatch, precision):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", lambda *a, **b: nn.Sequential(tiny(*a, **b), nn.Dropout(0.2)))
    config = varied(count="run", precision=precision, repetitions=4, train_images=37)
    run(tmp_path / "straight", config)
    interrupt(tmp_path / "broken", 6, config)
    metadata = checkpoint.read_metadata(tmp_path / "broken" / CHECKPOINT)
    assert ("scale" in metadata["scaler"]) == (precision == "fp16")
    run(tmp_path / "broken", config, resume=True)
    assert_same_ending(tmp_path / "broken", tmp_path / "straight")


def test_a_run_whose_time_is_up_is_saved_and_goes_on_in_the_next_call(straight, tmp_path):
    for step in (1, 2):
        with pytest.raises(TimeUpError, match=f"its time was up after step {step} of the run; .*{CHECKPOINT} has"):
            run(tmp_path, seconds=0.0, resume=True)
    run(tmp_path, seconds=600.0, resume=True)
    assert_same_ending(tmp_path, straight[0])


def test_the_time_is_counted_from_the_call(tmp_path, monkeypatch):
    now = iter([0.0, *[9.9] * 8, *[10.0] * 99])  # two readings a batch
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: next(now), perf_counter=time.perf_counter))
    with pytest.raises(TimeUpError, match="after step 5 of the run"):
        run(tmp_path, seconds=10.0)


def test_a_stopwatch_on_a_gpu_reads_its_events_when_it_is_asked(monkeypatch):
    clock, recorded = iter([10.0, 14.0, 20.0, 21.0]), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)
            recorded.append(self)

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(torch.device("cuda"))
    for events in (2, 4):
        with watch.running():
            pass
        assert len(recorded) == events
    assert watch.read() == 5
    assert watch.read() == 0


def test_checkpoints_come_when_their_time_has_come(tmp_path, monkeypatch):
    written = []
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *arguments: (written.append(arguments[2]), write(*arguments)))
    run(tmp_path / "a", checkpoint_every=0)
    assert [(m["epoch"], m["batch"]) for m in written] == [
        (0, 0),
        *((e, b) for e in (0, 1) for b in range(1, 6)),
        (2, 0),
    ]
    written.clear()
    run(tmp_path / "b", checkpoint_every=math.inf)
    assert [(m["epoch"], m["batch"]) for m in written] == [(0, 0), (2, 0)]  # a trial before training, and the end


def test_the_result_is_written_when_it_is_old_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(saving, "write_result", lambda path, result: written.append(result.sizes["epoch"]))
    config = dataclasses.replace(CONFIG, epochs=4)
    run(tmp_path / "seldom", config)
    assert written == [1, 4]
    written.clear()
    monkeypatch.setattr(fitting, "PUBLISH_EVERY", 0.0)
    run(tmp_path / "often", config)
    assert written == [1, 2, 3, 4]


def test_a_run_that_is_stopped_leaves_the_result_of_all_its_epochs(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=6)
    interrupt(tmp_path, 3, config)
    assert not (tmp_path / RESULT).exists()
    interrupt(tmp_path, 21, config, resume=True)
    assert read_result(tmp_path / RESULT).epoch.values.tolist() == [1, 2, 3, 4]


def test_the_seconds_of_an_epoch_are_those_of_training_and_of_tests(straight, tmp_path):
    result = straight[1]
    assert (result.test_seconds > 0).all()
    spent = float(result.seconds.sum() + result.test_seconds.sum())
    assert float(seconds_spent(result)) == pytest.approx(spent, rel=0, abs=1e-12)
    old = result.drop_vars("test_seconds")
    assert float(seconds_spent(old)) == pytest.approx(float(result.seconds.sum()), rel=0, abs=1e-12)
    half = xr.concat([result, result.assign(test_seconds=("epoch", [np.nan] * 2))], "seed")
    expected = [spent, float(result.seconds.sum())]
    np.testing.assert_allclose(seconds_spent(half), expected, rtol=0, atol=1e-12)


def test_a_killed_run_without_a_checkpoint_starts_again(straight, tmp_path):
    class KilledError(Exception):
        pass

    def die():
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 7, die)
        with pytest.raises(KilledError):
            run(tmp_path)
    with xr.open_dataset(tmp_path / RESULT) as result:
        assert result.sizes["epoch"] == 1  # the file of the first epoch is whole
    run(tmp_path, resume=True)
    assert_same_ending(tmp_path, straight[0])


def test_a_finished_run_returns_its_result_at_once(straight, monkeypatch):
    folder, result = straight
    monkeypatch.setattr(fitting, "load", lambda *_: pytest.fail("a finished run needs no data"))
    xr.testing.assert_identical(run(folder, resume=True), result)


def test_a_finished_run_goes_on_to_more_epochs_and_ends_as_one_that_was_longer_from_the_start(tmp_path):
    config = dataclasses.replace(CONFIG, milestones=())
    longer = dataclasses.replace(config, epochs=3)
    run(tmp_path / "two", config)
    run(tmp_path / "two", longer, resume=True)
    run(tmp_path / "three", longer)
    assert_same_ending(tmp_path / "two", tmp_path / "three")
    with pytest.raises(ValueError, match="epochs was 3 and is now 2"):
        run(tmp_path / "two", config, resume=True)


def test_the_learning_rate_of_further_epochs_is_that_of_the_longer_schedule(straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    longer = dataclasses.replace(CONFIG, epochs=8)  # milestones at epochs 4 and 6, before at 1 and 1.5
    rates = run(tmp_path, longer, resume=True).learning_rate.values / CONFIG.optimizer.learning_rate
    np.testing.assert_allclose(rates, [1, 1 / 4, 1, 1, 1 / 4, 1 / 4, 1 / 16, 1 / 16], rtol=0, atol=1e-12)


def test_a_run_killed_before_its_last_result_gets_it(straight, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes((straight[0] / CHECKPOINT).read_bytes())
    run(tmp_path, resume=True)
    assert_same_ending(tmp_path, straight[0])


@pytest.mark.parametrize("name", [CHECKPOINT, RESULT])
def test_a_folder_with_a_run_is_refused(straight, tmp_path, name):
    content = (straight[0] / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is there. Go on from it with resume=True"):
        run(tmp_path)
    with pytest.raises(ValueError, match=r"milestones was \(0.5, 0.75\) and is now \(\), seed was 0 and is now 1"):
        run(tmp_path, dataclasses.replace(CONFIG, seed=1, milestones=()), resume=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, content)]


def test_a_run_of_an_older_version_is_refused_by_name(straight, tmp_path):
    tensors, metadata = checkpoint.read(straight[0] / CHECKPOINT)
    metadata["config"] = {"dataset": "digits", "locally_connected": True, "share_every": 3, "seed": 0}
    checkpoint.write(tmp_path / CHECKPOINT, tensors, metadata)
    for read in (lambda: run(tmp_path, resume=True), lambda: trained_network(tmp_path)):
        with pytest.raises(ValueError, match=f"{CHECKPOINT} was written by an older version of bioshare; train"):
            read()


def test_a_function_in_a_phase_is_refused_before_training(tmp_path):
    sleep = dataclasses.replace(bioshare.Sleep.rate_circuit(), presentations=lambda inputs: 2 * inputs)
    with pytest.raises(ValueError, match=r"config\.phases\[0\]\.phase\.presentations must be .*frozen dataclass"):
        run(tmp_path, varied(sleep))
    assert not list(tmp_path.iterdir())


def test_a_history_comes_back_from_its_tensors(straight):
    snr = [(0, False, [0.1, math.inf]), (3, True, [0.2, -1e300])]
    drifts = [(3, [[0.1, 0.2], [0.3, 0.4], [0.5, -math.inf]])]
    history = History([dict.fromkeys(MEANINGS, 0.1)], 2, ["a", "b"], snr, drifts)
    facts = json.loads(json.dumps(history.facts()))
    assert History.restored(facts, history.tensors() | {"sums": torch.ones(1)}) == history
    assert History.restored(History().facts(), History().tensors()) == History()
    assert "snr" not in checkpoint.read_metadata(straight[0] / CHECKPOINT)["history"]


def test_the_trained_network_is_the_one_of_the_result(straight, monkeypatch):
    folder, result = straight
    monkeypatch.setattr(fitting, "load", lambda *_: pytest.fail("a checkpoint needs no data"))
    state = torch.random.get_rng_state()
    model = trained_network(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    tests = batches_for_testing(load("digits"), CONFIG, torch.device("cpu"))
    assert evaluate(model, tests) == {name: result[name].values[-1] for name in ("test_loss", "top1", "top5")}
    with pytest.raises(FileNotFoundError, match=f"there is no .*{CHECKPOINT}; folder must be one"):
        trained_network(folder / "other")


def test_a_damaged_checkpoint_is_refused(straight, tmp_path):
    content = (straight[0] / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{CHECKPOINT} is damaged"):
        run(tmp_path, resume=True)


class Exploding(nn.Module):
    """A network without normalisation, so that large weights make large losses."""

    def __init__(self, classes, in_channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x):
        return self.layers(x).square()


def test_a_loss_that_is_not_finite_stops_the_run_before_it_reaches_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", Exploding)
    config = dataclasses.replace(CONFIG, phases=(), optimizer=AdamW(1e30))
    with pytest.raises(
        TrainingDivergedError, match=r"loss .* epoch 1, step 2 of the run, at the learning rate 1e"
    ) as e:
        run(tmp_path, config, checkpoint_every=0)
    assert (e.value.epoch, e.value.step, e.value.learning_rate) == (0, 1, 1e30)
    assert checkpoint.read_metadata(tmp_path / CHECKPOINT)["batch"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_the_step_of_divergence_is_exact_when_looks_are_rare(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", Exploding)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 50)
    config = dataclasses.replace(CONFIG, phases=(), optimizer=AdamW(1e12), epochs=1)
    with pytest.raises(TrainingDivergedError) as rare:
        run(tmp_path, config, checkpoint_every=0)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 1)
    with pytest.raises(TrainingDivergedError) as every:
        run(tmp_path, config)
    assert rare.value.step == every.value.step > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("phases", "options"),
    [((Every(1, InstantSharing()),), {}), ((), {"checkpoint_every": 0}), ((), {"record_snr": 1})],
    ids=["shared", "saved", "measured"],
)
def test_weights_that_are_not_finite_stop_the_run(tmp_path, monkeypatch, phases, options):
    step = torch.optim.AdamW.step

    def breaking(self, *arguments, **options):
        step(self, *arguments, **options)
        with torch.no_grad():
            self.param_groups[0]["params"][0][0, 0, 0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", breaking)
    config = dataclasses.replace(CONFIG, phases=phases)
    with pytest.raises(TrainingDivergedError, match="a weight is no longer finite in epoch 1, step 1 of the"):
        run(tmp_path, config, **options)
    assert not list(tmp_path.iterdir())


def test_the_error_of_divergence_survives_a_pickle():
    error = pickle.loads(pickle.dumps(TrainingDivergedError("the loss", 1, 7, 0.5)))
    assert (str(error), error.epoch, error.step, error.learning_rate) == ("the loss", 1, 7, 0.5)


def batches_of(x, y):
    return SimpleNamespace(epoch=lambda epoch, start=0: iter([(x[:3], y[:3]), (x[3:], y[3:])]))


def test_evaluate_counts_by_hand():
    """Logits are the images: the class of rank r is the one with the r-th largest pixel."""
    x = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(6, 1)
    y = torch.arange(6)
    model = nn.Identity()
    found = evaluate(model, batches_of(x, y))
    logs = x[0] - x[0].logsumexp(0)
    assert found == pytest.approx({"top1": 100 / 6, "top5": 500 / 6, "test_loss": -logs.mean().item()})
    assert evaluate(model, batches_of(x[:, :3], y % 3))["top5"] == 100


def test_evaluate_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(4))
    evaluate(model, batches_of(torch.randn(6, 4), torch.arange(6) % 4))
    assert model.training
    assert model[0].num_batches_tracked == 0
    evaluate(model.eval(), batches_of(torch.randn(6, 4), torch.arange(6) % 4))
    assert not model.training


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"network": LocallyConnected(keep_first=2)}, {}, "keep_first must leave a convolution of resnet20; got 2"),
        ({}, {"checkpoint_every": -1.0}, "checkpoint_every must be a number of seconds >= 0; got -1"),
        ({}, {"checkpoint_every": None}, "checkpoint_every must be a number of seconds >= 0; got None"),
        ({}, {"seconds": math.nan}, "seconds must be a number of seconds >= 0; got nan"),
        ({}, {"seconds": "9"}, "seconds must be a number of seconds >= 0; got '9'"),
        ({}, {"seconds": True}, "seconds must be a number of seconds >= 0; got True"),
        ({}, {"graphs": "yes"}, "graphs must be one of None, True, False; got 'yes'"),
        ({}, {"form": "best"}, "form must be one of 'auto', 'batched', 'fused', 'plain'; got"),
        ({}, {"record_snr": 0}, "record_snr must be None or a number of batches"),
        ({"train_images": 10_000}, {}, "train_images must be at most"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, config, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(tmp_path, dataclasses.replace(CONFIG, **config), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "forbidden"])
def test_a_folder_that_cannot_be_written_is_refused_before_work_starts(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr(fitting, "load", lambda *_: pytest.fail("work has started"))
    if place == "forbidden":
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # who is root may write everywhere
    with pytest.raises((ValueError, PermissionError), match=r"file is a file|can't be written"):
        run(tmp_path / place / "run")


def test_compile_changes_neither_the_names_nor_the_sharing(tmp_path, monkeypatch, straight):
    """The compiled module is a wrapper around the plain one, as torch's own is."""

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

        def forward(self, x):
            return self._orig_mod(x)

    monkeypatch.setattr(torch, "compile", Wrapper)
    run(tmp_path, dataclasses.replace(CONFIG, compile=True))
    found, expected = weights(tmp_path), weights(straight[0])
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_tensorboard_is_asked_for_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run(tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_history(tmp_path, monkeypatch):
    written = {}
    add = lambda name, value, epoch: written.update({(name, epoch): value})
    closed = []
    writer = SimpleNamespace(add_scalar=add, flush=lambda: None, close=lambda: closed.append(True))
    fake = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    result = run(tmp_path, tensorboard=True)
    of_epochs = {(name, step): value for (name, step), value in written.items() if "/" not in name}
    assert of_epochs == {(n, e): result[n].sel(epoch=e).item() for n in MEANINGS for e in (1, 2)}
    of_layers = {(name, step): value for (name, step), value in written.items() if "/" in name}
    snr = result.neg_log_snr
    assert of_layers == {
        (f"neg_log_snr/{layer}", step): snr[i, j] for i, step in enumerate((0, 5, 10)) for j, layer in enumerate("03")
    }
    assert closed == [True]


KILLED = varied(n=2, train_images=96, epochs=6)
"""Eighteen batches of the real network."""


def train_for_real(folder):
    """Go on with the run in a folder, in a process of its own; a checkpoint after every batch."""
    torch.set_num_threads(1)
    fit(KILLED, folder, device="cpu", progress=False, resume=True, checkpoint_every=0)


def started(folder):
    process = multiprocessing.get_context("forkserver").Process(target=train_for_real, args=(folder,))
    process.start()
    return process


def finish(folder):
    """Go on with the run in a folder to its end."""
    process = started(folder)
    process.join(120)
    assert process.exitcode == 0


def written(folder):
    """When the checkpoint was, 0 for never."""
    return (folder / CHECKPOINT).stat().st_mtime_ns if (folder / CHECKPOINT).exists() else 0


def kill_at_a_random_moment(folder, moments):
    """Kill a run: while it begins, or a few batches after its first checkpoint, most likely while it writes one."""
    before, process = written(folder), started(folder)
    if moments.random() < 0.7:
        deadline = time.monotonic() + 60
        while process.is_alive() and written(folder) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        process.join(moments.uniform(0, 0.8))
    else:
        process.join(moments.uniform(0, 2))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_a_run_killed_ten_times_at_random_moments_ends_with_the_same_weights(tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bioshare.train.fitting", "torch._dynamo"])
    straight, folder = tmp_path / "straight", tmp_path / "killed"
    moments, kills, reached = random.Random(0), 0, set()
    finish(straight)
    while kills < 10:
        kills += kill_at_a_random_moment(folder, moments)
        reached.add(written(folder))
        if (folder / RESULT).exists() and checkpoint.read_metadata(folder / CHECKPOINT)["epoch"] == KILLED.epochs:
            finish(folder)
            assert_same_ending(folder, straight)
            folder = tmp_path / f"killed{kills}"  # the kills that are left are another run's
    finish(folder)
    assert len(reached) > 5  # the kills hit the training, not only its start
    assert_same_ending(folder, straight)


def test_the_generator_of_a_step_is_the_one_that_torch_would_seed(monkeypatch):
    seeds = [training.seed_at("step", 0, step) for step in range(3)]
    for seed in seeds:
        torch.manual_seed(seed)
        expected = torch.rand(4)
        training._seed_generators(torch.device("cpu"), seed)
        assert torch.equal(torch.rand(4), expected)
    seen = []
    generators = [
        SimpleNamespace(manual_seed=lambda seed, index=index: seen.append((index, seed))) for index in range(3)
    ]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    for device in ("cuda", "cuda:1"):
        training._seed_generators(torch.device(device), 7)
    assert seen == [(2, 7), (1, 7)]


def test_seeds_of_different_purposes_and_moments_differ():
    purposes, moments = ("step", "sleep", "pool"), [(), (0,), (1,), (0, 0), (1, 0), (0, 1)]
    seeds = [training.seed_at(purpose, seed, *when) for purpose in purposes for seed in (0, 1) for when in moments]
    assert len(set(seeds)) == len(seeds)


def test_importing_the_package_loads_no_torch_and_its_names_lead_somewhere():
    code = "import sys, bioshare.train; dir(bioshare.train); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert (bioshare.train.fit, bioshare.train.TrainConfig) == (fit, TrainConfig)
    assert (
        set(bioshare.train.__all__) == {"TrainConfig", "evaluate", "fit", "trained_network"} == set(dir(bioshare.train))
    )
    with pytest.raises(AttributeError, match="attribute sleepy"):
        _ = bioshare.train.sleepy


def test_the_network_is_the_locally_connected_one_of_the_seed():
    state = torch.random.get_rng_state()
    configs = [dataclasses.replace(CONFIG, seed=seed, network=LocallyConnected(keep_first=1)) for seed in (0, 0, 1)]
    models = [config.build_network(10, (1, 8, 8)) for config in configs]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [type(model[i]) for model in models[:1] for i in (0, 3)] == [nn.Conv2d, LocallyConnected2d]
    first, second, other = (model[3].weight for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("sleep", [InstantSharing(), CircuitOptions()], ids=["instant", "circuit"])
def test_every_device_trains_and_resumes(tmp_path, device, precision, sleep):
    config = varied(sleep, precision=precision)
    options = {"device": device, "progress": False}
    straight = fit(config, tmp_path / "straight", **options)
    assert np.isfinite(straight.train_loss).all()
    with pytest.raises(TimeUpError):
        fit(config, tmp_path / "broken", seconds=0.0, **options)
    result = fit(config, tmp_path / "broken", resume=True, **options)
    np.testing.assert_allclose(result.train_loss, straight.train_loss, rtol=0, atol=1e-2)
    assert fit(config, tmp_path / "broken", resume=True, **options).identical(result)


GRAPHS = [
    varied(InstantSharing(moments="share"), n=1),
    varied(CircuitOptions(moments="share", pool=2), n=1),
    dataclasses.replace(CONFIG, compile=True),
    METHODS["kp"].applied(CONFIG),
    METHODS["mirror-norms"].applied(CONFIG),
]


@needs_gpu
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # and its advice for fp32
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("config", GRAPHS, ids=["instant", "circuit", "compiled", "kp", "mirror"])
def test_graphs_on_a_gpu_train_as_ordinary_steps_do(tmp_path, precision, config):
    config = dataclasses.replace(config, precision=precision, epochs=6)
    losses = [
        fit(config, tmp_path / str(graphs), device="cuda", progress=False, graphs=graphs).train_loss.values
        for graphs in (False, True)
    ]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-2)  # the order of sums on a GPU is not fixed


def test_a_finished_run_without_a_checkpoint_does_not_begin_again(tmp_path):
    run(tmp_path, CONFIG)
    (tmp_path / "checkpoint.safetensors").unlink()
    before = (tmp_path / "result.nc").read_bytes()
    with pytest.raises(ValueError, match=r"^epochs must be those of the finished run in .*whose checkpoint is gone"):
        run(tmp_path, dataclasses.replace(CONFIG, epochs=CONFIG.epochs + 1), resume=True)
    assert (tmp_path / "result.nc").read_bytes() == before
    assert run(tmp_path, CONFIG, resume=True).sizes["epoch"] == CONFIG.epochs


@dataclasses.dataclass(frozen=True)
class Replacing(Phase):
    def change(self, model, seed=0, *, optimizer=None):
        layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def test_a_phase_with_new_parameters_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^phase must change parameters in place"):
        run(tmp_path, dataclasses.replace(CONFIG, phases=(Every(2, Replacing()),)))
