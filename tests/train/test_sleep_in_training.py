"""Simulated sleep inside training: exact when resumed, measured as it happens, recorded in the history."""

import copy
import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, stop_at, tiny, varied, weights

from bioshare.bridge import InstantSharing, Phase, neg_log_snr
from bioshare.train import checkpoint, distributed
from bioshare.train.config import ARCHITECTURES, LocallyConnected
from bioshare.train.fitting import CHECKPOINT, RESULT
from bioshare.train.phases import CircuitOptions, HebbianOptions, IdealOptions, NoisyCircuitOptions, phase_of
from bioshare.train.results import DRIFTS

ASLEEP = varied(CircuitOptions())
"""Sleeps after the steps 0, 3, 5 and 8 of ten."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


@pytest.mark.parametrize(
    "config",
    [
        varied(CircuitOptions(moments="share", presentations=1.0)),
        varied(CircuitOptions(pool=2, alpha=50.0), precision="bf16"),
        varied(NoisyCircuitOptions(noise=0.01, presentations=0.2, moments="reset")),
        varied(IdealOptions(stimulus="gaussian", strength=0.1, gamma=0.01, rescale=False)),
        varied(IdealOptions(pool=2, moments="share", border="keep"), count="run"),
        varied(HebbianOptions(updates=3, moments="share")),
        varied(IdealOptions(stimulus="gaussian", patterns="simultaneous", gamma=0.1, presentations=1.0)),
        varied(network=LocallyConnected(normalisation="lateral")),
    ],
    ids=["moments", "bf16", "noise", "gaussian", "pool", "hebbian", "simultaneous", "centring"],
)
def test_a_run_that_sleeps_and_is_stopped_ends_with_the_same_weights_moments_and_history(tmp_path, config):
    run(tmp_path / "straight", config, record_snr=1)
    for step in (3, 6):  # right after a sleep, and between two
        interrupt(tmp_path / "broken", step, config, record_snr=1, resume=True)
    result = run(tmp_path / "broken", config, record_snr=1, resume=True)
    assert result.sizes["sleep_step"] == result.attrs["sharings"] == 4
    assert_same_ending(tmp_path / "broken", tmp_path / "straight")


def test_a_run_that_is_killed_between_checkpoints_sleeps_again(tmp_path):
    class KilledError(Exception):
        pass

    def die():
        raise KilledError

    config = varied(CircuitOptions(pool=2, moments="share"))
    run(tmp_path / "straight", config)
    interrupt(tmp_path / "broken", 2, config)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6, die)
        with pytest.raises(KilledError):
            run(tmp_path / "broken", config, resume=True)
    run(tmp_path / "broken", config, resume=True)
    assert_same_ending(tmp_path / "broken", tmp_path / "straight")


def moments_after(folder, moments):
    """AdamW's of the first layer after one step and a sleep, by name; with the weights."""
    run(folder, varied(CircuitOptions(moments=moments), epochs=1, train_images=32))
    return {name.removeprefix("optimizer.0.weight."): tensor for name, tensor in weights(folder).items()}


def test_moments_follow_the_weights_or_start_anew_as_the_configuration_says(tmp_path):
    kept, shared, reset = (moments_after(tmp_path / name, name) for name in ("keep", "share", "reset"))
    assert torch.equal(kept["model.0.weight"], shared["model.0.weight"])
    for name in ("exp_avg", "exp_avg_sq"):
        assert reset[name].eq(0).all()
        spreads = [found[name][::3, ::3].flatten(0, 1).std(0) for found in (kept, shared)]  # one module
        assert (spreads[1] < 0.5 * spreads[0]).all()
    assert (kept["step"], reset["step"]) == (1, 0)


@dataclasses.dataclass(frozen=True)
class Observed(Phase):
    """A phase that notes -log SNR before and after, and the report of the same phase on a copy of the network."""

    phase: Phase
    seen = []  # noqa: RUF012 (no field)

    def change(self, model, seed=0, *, optimizer=None):
        self.phase.change(model, seed, optimizer=optimizer)

    def __call__(self, model, seed=0, progress=True, measure=True, **options):
        assert progress is False
        twin, before = copy.deepcopy(model), neg_log_snr(model)
        report = self.phase(model, seed, progress, measure, **options)
        other = copy.deepcopy(self.phase)(twin, seed, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
        self.seen.append(SimpleNamespace(measure=measure, snr=[before, neg_log_snr(model)], report=other))
        return report


@pytest.fixture
def watched():
    """The phase of options, watched, and all that was seen."""
    Observed.seen.clear()
    return lambda options: varied(Observed(phase_of(options, 0)))


@pytest.mark.parametrize(
    "options",
    [
        CircuitOptions(),
        CircuitOptions(rescale=False, pool=1),
        NoisyCircuitOptions(noise=0.01, presentations=0.2),
        HebbianOptions(updates=3),
        InstantSharing(),
    ],
    ids=["circuit", "unscaled", "noise", "hebbian", "instant"],
)
def test_a_measured_phase_is_recorded_as_a_measurement_before_and_one_after_it(tmp_path, watched, options):
    result = run(tmp_path, watched(options), record_snr=1)
    seen, steps = Observed.seen, [1, 4, 6, 9]
    assert len(seen) == 4
    for shared in (0, 1):
        measured = result.neg_log_snr[result.shared == shared]
        found = measured[np.isin(measured.snr_step, steps)].values
        np.testing.assert_allclose(found, [list(one.snr[shared].values()) for one in seen], rtol=0, atol=1e-9)
    assert result.sleep_step.values.tolist() == steps
    for name, meaning in DRIFTS.items():
        assert result[name].dims == ("sleep_step", "layer")
        assert result[name].attrs["long_name"] == meaning
        assert result[name].values.tolist() == [[getattr(row, name) for row in one.report.layers] for one in seen]
    assert result.layer.values.tolist() == ["0", "3"]
    with xr.open_dataset(tmp_path / RESULT, engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), result)


def test_a_sleep_that_is_not_recorded_is_not_measured(tmp_path, watched):
    result = run(tmp_path, watched(CircuitOptions()), record_snr=5)
    assert [one.measure for one in Observed.seen] == [True, False, True, False]
    assert result.sleep_step.values.tolist() == [1, 6]
    assert "sleep_step" not in run(tmp_path / "other", ASLEEP).dims


def test_a_rescaled_mean_is_as_long_as_before_and_the_history_says_what_it_had_lost(tmp_path):
    scaled, unscaled = (
        run(tmp_path / str(rescale), varied(CircuitOptions(rescale=rescale)), record_snr=10)
        for rescale in (True, False)
    )
    assert scaled.mean_norm[0].values.tolist() == unscaled.mean_norm[0].values.tolist()
    assert (unscaled.mean_norm < 0.9).all()
    assert ((unscaled.mean_norm > 0.7) & (unscaled.mean_angle < 25) & (unscaled.spread < 0.1)).all()


def test_the_time_of_the_sleeps_is_a_part_of_the_epochs(tmp_path):
    awake = run(tmp_path / "awake", dataclasses.replace(CONFIG, phases=()))
    assert awake.sleep_seconds.values.tolist() == [0, 0]
    asleep = run(tmp_path / "asleep", ASLEEP)
    assert ((asleep.sleep_seconds > 0) & (asleep.sleep_seconds < asleep.seconds)).all()


def test_the_time_of_the_sleeps_survives_an_interruption(tmp_path, monkeypatch):
    clock = SimpleNamespace(perf_counter=iter(range(1000)).__next__, monotonic=lambda: 0.0)
    monkeypatch.setattr(distributed, "time", clock)
    interrupt(tmp_path, 3, ASLEEP)
    assert checkpoint.read_metadata(tmp_path / CHECKPOINT)["asleep"] == 2
    assert run(tmp_path, ASLEEP, resume=True).sleep_seconds.values.tolist() == [2, 2]


class Events:
    """TensorBoard's writer: every scalar once."""

    def __init__(self):
        self.scalars = {}

    def add_scalar(self, name, value, step):
        assert (name, step) not in self.scalars
        self.scalars[name, step] = value

    def flush(self):
        pass

    def close(self):
        pass


def test_tensorboard_gets_every_measurement_once_however_often_the_run_was_stopped(tmp_path, monkeypatch):
    events = Events()
    module = SimpleNamespace(SummaryWriter=lambda folder: events)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    for step in (2, 6):
        interrupt(tmp_path, step, ASLEEP, record_snr=1, tensorboard=True, resume=True)
    result = run(tmp_path, ASLEEP, record_snr=1, tensorboard=True, resume=True)
    expected = {}
    for i, layer in enumerate(result.layer.values):
        for values in result.neg_log_snr[:, i]:
            expected[f"neg_log_snr{'_shared' * int(values.shared)}/{layer}", int(values.snr_step)] = values.item()
        for name in DRIFTS:
            expected |= {(f"{name}/{layer}", int(one.sleep_step)): one.item() for one in result[name][:, i]}
    assert {key: value for key, value in events.scalars.items() if "/" in key[0]} == expected
    assert len(expected) == 2 * (1 + 10 + 4 + 3 * 4)
    assert ("sleep_seconds", 2) in events.scalars


def test_instant_sharing_has_no_finite_snr_to_show(tmp_path, monkeypatch):
    events = Events()
    module = SimpleNamespace(SummaryWriter=lambda folder: events)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(tmp_path, CONFIG, record_snr=3, tensorboard=True)
    names = {name for name, _ in events.scalars}
    assert "neg_log_snr/0" in names
    assert "neg_log_snr_shared/0" not in names
    assert all(np.isfinite(value) for value in events.scalars.values())
