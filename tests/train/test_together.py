"""Several runs at once end as each of them alone, whatever becomes of the others."""

import dataclasses
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import xarray as xr
from tape import Tape
from tiny_runs import CONFIG, assert_same_ending, run, tiny, weights

from bioshare.nn import forms
from bioshare.train import checkpoint, loop, together
from bioshare.train import run as training
from bioshare.train.distributed import Processes
from bioshare.train.interrupt import Interrupted, TimeUpError, TrainingDivergedError
from bioshare.train.loop import CHECKPOINT, RESULT
from bioshare.train.recipe import NETWORKS
from bioshare.train.together import fit_together

CONFIGS = [
    CONFIG,
    dataclasses.replace(CONFIG, seed=1),
    dataclasses.replace(CONFIG, train_images=60, epochs=4, sleep="ideal", pool=2, share_every=2),
    dataclasses.replace(CONFIG, locally_connected=False, share_every=None, precision="bf16"),
]
"""Runs of ten, ten, eight and ten batches."""
NAMES = ["first", "second", "asleep", "conv"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(NETWORKS, "resnet20", tiny)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folders of the runs, trained one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "resnet20", tiny)
        for name, config in zip(NAMES, CONFIGS, strict=True):
            run(folder / name, config)
    return folder


def together_in(folder, configs=CONFIGS, **options):
    jobs = [(config, folder / name) for name, config in zip(NAMES, configs, strict=True)]
    return fit_together(jobs, **{"device": "cpu", "progress": False} | options)


def assert_same_endings(folder, other, names=NAMES):
    for name in names:
        assert_same_ending(folder / name, other / name)


def steps(folder, name):
    """Batches that a checkpoint has seen."""
    metadata = checkpoint.read_metadata(folder / name / CHECKPOINT)
    return metadata["epoch"], metadata["batch"]


def after(patch, config, steps, action):
    """Do something after so many steps of one of the runs."""
    take = training.Run.step

    def watched(self, x, y):
        take(self, x, y)
        if (self.config, self.steps) == (config, steps):
            action()

    patch.setattr(training.Run, "step", watched)


def test_runs_at_once_end_as_each_of_them_alone(alone, tmp_path):
    state = torch.random.get_rng_state()
    results = together_in(tmp_path, progress=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_endings(tmp_path, alone)
    for name, result in zip(NAMES, results, strict=True):
        with xr.open_dataset(tmp_path / name / RESULT, engine="h5netcdf") as read:
            xr.testing.assert_identical(read.load(), result)


def test_runs_take_their_steps_in_turn(tmp_path, monkeypatch):
    seen, take = [], training.Run.step

    def watched(self, x, y):
        seen.append(self.config.seed)
        take(self, x, y)

    monkeypatch.setattr(training.Run, "step", watched)
    configs = [dataclasses.replace(CONFIG, seed=seed, epochs=1) for seed in range(4)]
    together_in(tmp_path, configs)
    assert seen == [0, 1, 2, 3] * 5


def test_recorded_runs_at_once_end_as_each_of_them_alone(alone, tmp_path, monkeypatch):
    """Without another learning rate, which a recording does not see on a CPU."""
    configs = [dataclasses.replace(config, milestones=()) for config in CONFIGS]
    for name, config in zip(NAMES, configs, strict=True):
        run(tmp_path / "alone" / name, config)
    monkeypatch.setattr(loop, "recorder", lambda graphs, here: Tape)
    together_in(tmp_path / "together", configs)
    assert_same_endings(tmp_path / "together", tmp_path / "alone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_all_runs_and_resume_ends_with_the_same_weights(alone, tmp_path, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        after(patch, CONFIG, 7, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=rf"signal {number}: 4 of 4 runs are not complete; their ch") as stopped:
            together_in(tmp_path)
    assert stopped.value.signal == number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert [steps(tmp_path, name) for name in NAMES] == [(1, 2), (1, 2), (3, 1), (1, 2)]
    together_in(tmp_path, resume=True)
    assert_same_endings(tmp_path, alone)


def test_a_run_that_fails_leaves_the_others_alone(alone, tmp_path):
    def fail():
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        after(patch, CONFIGS[1], 7, fail)
        results = together_in(tmp_path)
    assert isinstance(results[1], OSError)
    assert not (tmp_path / "second" / ".lock").exists()
    assert_same_endings(tmp_path, alone, ["first", "asleep", "conv"])
    together_in(tmp_path, resume=True)
    assert_same_endings(tmp_path, alone)


def test_a_run_that_diverges_leaves_its_exception_and_its_checkpoint(alone, tmp_path):
    configs = [CONFIGS[0], dataclasses.replace(CONFIGS[1], learning_rate=1e18), *CONFIGS[2:]]
    results = together_in(tmp_path, configs, checkpoint_every=0)
    assert isinstance(results[1], TrainingDivergedError)
    with pytest.raises(TrainingDivergedError) as error:
        run(tmp_path / "diverging alone", configs[1])
    assert str(results[1]) == str(error.value)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "second").values())
    assert_same_endings(tmp_path, alone, ["first", "asleep", "conv"])


def test_when_the_time_is_up_all_runs_are_saved_and_the_next_call_goes_on(alone, tmp_path):
    for call in range(1, 4):
        with pytest.raises(TimeUpError, match="the time was up: 4 of 4 runs are not complete"):
            together_in(tmp_path, seconds=0, resume=True)
        assert steps(tmp_path, "first") == (0, call)
    together_in(tmp_path, seconds=600, resume=True)
    assert_same_endings(tmp_path, alone)


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_what_ended_before_all_were_stopped_is_handed_on(alone, tmp_path, number):
    """The first is complete, the second fails, and the others are stopped in their third batch."""
    run(tmp_path / "first", CONFIG)

    def fail():
        raise OSError("no space left")

    options = {"seconds": 0, "resume": True}
    with pytest.MonkeyPatch.context() as patch:
        after(patch, CONFIGS[1], 1, fail)
        if number:
            options = {"resume": True}
            after(patch, CONFIGS[2], 3, lambda: os.kill(os.getpid(), number))
        told = "2 of 4 runs are not complete; their checkpoints have everything; 1 failed"
        with pytest.raises((Interrupted, TimeUpError), match=told) as stopped:
            together_in(tmp_path, **options)
    assert type(stopped.value) is (Interrupted if number else TimeUpError)
    first, second, *others = stopped.value.outcomes
    assert isinstance(first, xr.Dataset)
    assert isinstance(second, OSError)
    assert stopped.value.__cause__ is second
    assert others == [None, None]
    together_in(tmp_path, resume=True)
    assert_same_endings(tmp_path, alone)


def test_complete_runs_are_read_and_refused_ones_stand_in_the_list(alone, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    jobs = [
        (CONFIGS[0], alone / "first"),
        (CONFIGS[0], alone / "second"),
        (CONFIGS[1], tmp_path / "file" / "run"),
    ]
    monkeypatch.setattr(together, "load", lambda *_: pytest.fail("nothing is left to train"))
    result, other, file = fit_together(jobs, device="cpu", progress=False, resume=True)
    with xr.open_dataset(alone / "first" / RESULT, engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), result)
    assert isinstance(other, ValueError)
    assert "seed was 1 and is now 0" in str(other)
    assert isinstance(file, ValueError)
    assert fit_together([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": -1.0}, "seconds must be a number of seconds >= 0; got -1"),
        ({"graphs": True}, "graphs must be None or False for the device 'cpu'"),
        ({"device": "gpu"}, "device must be"),
        ({"form": "best"}, "form must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        together_in(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder_and_several_processes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"runs must have folders of their own; got .*run more than once"):
        fit_together([(CONFIG, tmp_path / "run"), (CONFIGS[1], tmp_path / "run")])
    with pytest.raises(TypeError, match="second"):
        fit_together([(CONFIG, tmp_path)], second=3)

    @contextmanager
    def two(device):
        yield Processes(torch.device("cpu"), 0, 2)

    monkeypatch.setattr(loop, "processes", two)
    with pytest.raises(ValueError, match="runs must be trained one by one in 2 processes"):
        fit_together([(CONFIG, tmp_path)])


@pytest.mark.parametrize(("outer", "form", "seen"), [("auto", "batched", "batched"), ("batched", "auto", "batched")])
def test_products_have_the_form_that_was_asked_for_or_the_one_around_the_call(tmp_path, monkeypatch, outer, form, seen):
    found, take = set(), training.Run.step

    def watched(self, x, y):
        found.add(forms._preferred)
        take(self, x, y)

    monkeypatch.setattr(training.Run, "step", watched)
    config = dataclasses.replace(CONFIG, epochs=1)
    with forms.prefer(outer):
        run(tmp_path / "alone", config, form=form)
        fit_together([(config, tmp_path / "first")], device="cpu", progress=False, form=form)
        assert forms._preferred == outer
    assert found == {seen}


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["row/seed0", "row/seed1"], ["seed0: ", "seed1: "]),
        (["sweep/rate-1/seed0", "sweep/rate-2/seed0"], ["rate-1/seed0: ", "rate-2/seed0: "]),
        (["one", "one/more"], ["one: ", "one/more: "]),
        (["row/seed0"], ["seed0: "]),
    ],
)
def test_bars_are_labelled_by_what_tells_the_runs_apart(folders, labels):
    assert together._labels([Path(folder) for folder in folders]) == labels


def test_every_run_has_a_stream_of_its_own_and_data_that_all_share(monkeypatch, tmp_path):
    """On a GPU that is only spoken of."""
    log, entered = [], []

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            entered.append(self.name)

        def __exit__(self, *error):
            entered.append("out")

    monkeypatch.setattr(Processes, "stream", lambda here: Stream(f"stream {len(log)}") if not log.append(1) else None)
    seen = []
    make = together.steps

    def watched(config, dataset, folder, session, label, line):
        seen.append((dataset, label, line))
        for _ in range(2):
            assert entered[-1] == f"stream {line + 1}"
            yield
        return (yield from make(config, dataset, folder, session, label, line))

    monkeypatch.setattr(together, "steps", watched)
    together_in(tmp_path)
    assert len({id(dataset) for dataset, _, _ in seen}) == 1
    assert [(label, line) for _, label, line in seen] == [(f"{name}: ", line) for line, name in enumerate(NAMES)]
    assert set(entered[1::2]) == {"out"}
