"""Two processes with half a batch each do what one does with the whole."""

import dataclasses
import multiprocessing
import os
import signal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import xarray as xr
from torch import nn

from bioshare.bridge import InstantSharing, Mirror
from bioshare.nn import (
    LateralCentring2d,
    LocallyConnected2d,
    with_feedback,
    with_feedback_past_norms,
    with_lateral_centring,
    without_feedback,
)
from bioshare.nn.past_norms import join
from bioshare.train import checkpoint
from bioshare.train.batch_norm import PASSED, SynchronousBatchNorm2d
from bioshare.train.config import AdamW, Every, FeedbackWeights, LocallyConnected, TrainConfig
from bioshare.train.data import Batches, load, training_batches
from bioshare.train.distributed import Processes, joined_processes
from bioshare.train.fitting import CHECKPOINT, RESULT, fit
from bioshare.train.interrupt import Interrupted, TimeUpError
from bioshare.train.phases import CircuitOptions, phase_of
from bioshare.train.run import FINITE, IMAGES, Run

CONFIG = TrainConfig(
    dataset="digits", network=LocallyConnected(), phases=(Every(2, InstantSharing(), "run"),), epochs=1, batch_size=8,
    padding=1, train_images=25,
)  # fmt: skip
"""Four batches; the last has one image, so that one of two processes gets none."""

SLEEP = CircuitOptions(presentations=1, pool=2, moments="share")
ASLEEP = dataclasses.replace(CONFIG, phases=(Every(2, phase_of(SLEEP, CONFIG.seed), "run"),))
BOTH_NIGHTS = dataclasses.replace(
    CONFIG,
    feedback=FeedbackWeights(),
    phases=(
        Every(2, dataclasses.replace(phase_of(SLEEP, 0), feedback=True), "run"),
        Every(1, Mirror(samples=8), "run"),
    ),
)
"""The circuit shares weights and feedback weights, and a mirror learns the feedback weights."""
PAST_NORMS = dataclasses.replace(
    CONFIG, feedback=FeedbackWeights(past_norms=True), phases=(Every(1, Mirror(samples=8), "run"),)
)
"""Learning signals go past the norms, which become norms of both processes."""


def two_processes(work, folder, *arguments):
    """Run work(rank, folder, ...) in two processes as torchrun would start them; what each of them saved."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # on a port that is free, as torchrun
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bioshare.train.fitting", "torch._dynamo"])
    mp.start_processes(_in_process, (work, folder, store.port, *arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _in_process(rank, work, folder, port, *arguments):
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment["TORCHELASTIC_USE_AGENT_STORE"] = True  # the store is the parent's
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.save(work(rank, folder, *arguments), folder / f"{rank}.pt")


def train_in_double(rank, folder, config):
    """All steps of a run in float64: the state after them."""
    model = config.build_network(10, (1, 8, 8)).double()
    with joined_processes("cpu") as process:
        assert (process.rank, process.world) == ((0, 1) if folder is None else (rank, 2))
        return steps_in_double(model, config, process)


def steps_in_double(model, config, process):
    batches = training_batches(load("digits"), config, process.device, process.rank, process.world)
    run = Run(config, model, batches, process)
    for x, y in batches.epoch(0):
        run.step(x.double(), y)
    return checkpoint.state(run.model, run.optimizer) | {"sums": run.totals()[:FINITE]}


@pytest.fixture(
    scope="module", params=[CONFIG, ASLEEP, BOTH_NIGHTS, PAST_NORMS], ids=["instant", "asleep", "mirror", "past norms"]
)
def trained(request, tmp_path_factory):
    """What one process with the whole batches has after all steps, what two have, and how close they must come.

    AdamW amplifies the rounding of gradients that are tiny.
    """
    with torch.random.fork_rng(devices=[]):
        alone = train_in_double(0, None, request.param)
    both = two_processes(train_in_double, tmp_path_factory.mktemp("double"), request.param)
    return alone, both, 1e-10 if request.param is CONFIG else 1e-8


def test_two_processes_train_as_one_with_the_whole_batch(trained):
    alone, (first, _), close = trained
    assert first.keys() == alone.keys()
    torch.testing.assert_close(first, alone, rtol=close, atol=close)
    assert alone["sums"][IMAGES] == 25


def test_all_processes_have_the_same_bits(trained):
    _, (first, second), _ = trained
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def normalise(rank, folder, sizes, dtype):
    """Output, gradients and statistics of one layer for this process's part of a batch."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.BatchNorm2d(3, momentum=0.3).double()
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
    x = 1e3 + torch.randn(sum(sizes), 3, 2, 5, dtype=torch.float64, generator=generator)
    target = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    with joined_processes("cpu") as process:
        parts = [slice(None)] if process.world == 1 else [slice(sizes[0]), slice(sizes[0], None)]
        part = x[parts[process.rank]].to(dtype).requires_grad_()
        model = nn.Sequential(layer)
        if process.world > 1:
            process.synchronise(model)
            assert isinstance(model[0], SynchronousBatchNorm2d)
        assert model[0].weight is layer.weight
        y = model(part)
        (y * target[parts[process.rank]]).sum().backward()
        gradients = {name: process.total(p.grad) for name, p in model.named_parameters()}
        tested = model.eval()(part.detach())
        return {"y": y.detach(), "dx": part.grad, "tested": tested} | gradients | dict(model.state_dict())


@pytest.mark.parametrize("sizes", [(3, 2), (4, 0)], ids=["uneven", "one empty"])
def test_synchronous_normalisation_is_that_of_the_whole_batch(tmp_path, sizes):
    alone = normalise(0, None, sizes, torch.float64)
    first, second = two_processes(normalise, tmp_path, sizes, torch.float64)
    for name in ("y", "dx", "tested"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), alone[name], rtol=1e-9, atol=1e-9)
    for name in alone.keys() - {"y", "dx", "tested"}:
        torch.testing.assert_close(first[name], alone[name], rtol=1e-9, atol=1e-9)
        assert torch.equal(first[name], second[name])


def test_lateral_connections_centre_before_a_synchronised_layer():
    layers = nn.Sequential(LocallyConnected2d(1, 2, 3, input_size=8), nn.BatchNorm2d(2))
    model = with_lateral_centring(layers)
    Processes(torch.device("cpu")).synchronise(model)
    assert [type(layer) for layer in model[1]] == [LateralCentring2d, SynchronousBatchNorm2d]


@pytest.mark.parametrize("convert", [SynchronousBatchNorm2d.of, nn.SyncBatchNorm.convert_sync_batchnorm])
def test_a_synchronous_norm_takes_the_place_of_a_norm_that_feedback_goes_past(convert):
    model = with_feedback(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)))
    model = with_feedback_past_norms(model, (1, 4, 4))
    norm = convert(model[1])
    join(model[0], norm, PASSED[type(norm)])
    model[1] = norm
    assert isinstance(norm, type(convert(nn.BatchNorm2d(2))))
    assert (norm.below[0], model[0].norm[0]) == (model[0], norm)
    assert type(without_feedback(model)[1]) is type(convert(nn.BatchNorm2d(2)))


def test_layers_that_cannot_be_synchronised_are_refused():
    for options in ({"momentum": None}, {"track_running_stats": False}):
        with pytest.raises(ValueError, match="must have running statistics and a momentum"):
            SynchronousBatchNorm2d.of(nn.BatchNorm2d(2, **options))


REPORTED = "train_loss", "train_accuracy", "test_loss", "top1", "top5", "neg_log_snr"


def fit_and_report(rank, folder, config, stop=None, resume=False):
    """A run by `fit`; in one of the processes SIGTERM comes after a step."""
    take = Run.step

    def watched(self, x, y):
        take(self, x, y)
        if stop == (rank, self.steps - 1):
            os.kill(os.getpid(), signal.SIGTERM)

    Run.step = watched
    try:
        result = fit(config, folder, device="cpu", progress=False, resume=resume)
        return {name: torch.from_numpy(result[name].values) for name in REPORTED}
    except Interrupted as error:
        return {"signal": error.signal}
    finally:
        Run.step = take


def test_one_command_in_one_process_or_two(tmp_path):
    """SIGTERM in one of two processes stops both; one process resumes what two began, within float32's noise."""
    config = dataclasses.replace(CONFIG, batch_size=30, train_images=120, optimizer=AdamW(1e-4))
    alone, both = tmp_path / "alone", tmp_path / "both"
    both.mkdir()
    fit_and_report(0, alone, config)
    found = two_processes(fit_and_report, both, config, (1, 1))
    assert found == [{"signal": signal.SIGTERM}] * 2
    assert checkpoint.read_metadata(both / CHECKPOINT)["batch"] == 2
    fit_and_report(0, both, config, resume=True)
    assert_close_endings(both, alone)


def fit_for_seconds(rank, folder, config, seconds):
    """What a run says when its time is up, which comes later for one of the processes."""
    with pytest.raises(TimeUpError) as error:
        fit(config, folder, device="cpu", progress=False, seconds=seconds[rank])
    return str(error.value)


def test_two_processes_agree_when_the_time_is_up(tmp_path):
    messages = two_processes(fit_for_seconds, tmp_path, CONFIG, (600.0, 0.0))
    assert messages == 2 * [
        f"stopped when its time was up after step 1 of the run; {tmp_path / CHECKPOINT} has everything"
    ]
    assert checkpoint.read_metadata(tmp_path / CHECKPOINT)["batch"] == 1


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path):
    folders = [tmp_path / name for name in ("straight", "broken")]
    for folder in folders:
        folder.mkdir()
    straight, other = two_processes(fit_and_report, folders[0], CONFIG)
    assert_equal(straight, other)
    two_processes(fit_and_report, folders[1], CONFIG, (0, 2))
    for resumed in two_processes(fit_and_report, folders[1], CONFIG, None, True):
        assert_equal(resumed, straight)
    found, expected = (checkpoint.read(folder / CHECKPOINT)[0] for folder in folders)
    assert_equal(found, expected)


def assert_equal(found, expected):
    """Equal in every digit; a layer without sharing groups has no SNR in both."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def assert_close_endings(folder, other):
    """Weights and history agree to 1e-3: batch normalisation amplifies float32's rounding from step to step."""
    found, expected = (checkpoint.read(place / CHECKPOINT)[0] for place in (folder, other))
    assert found.keys() == expected.keys()
    for name in expected:
        if name.startswith("model."):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    with xr.open_dataset(folder / RESULT) as result, xr.open_dataset(other / RESULT) as reference:
        for name in ("train_loss", "test_loss", "neg_log_snr"):
            xr.testing.assert_allclose(result[name], reference[name], rtol=1e-2)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes() as process:
        assert (process.rank, process.world) == (0, 1)
        assert process.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        model = nn.Sequential(nn.BatchNorm2d(2))
        made = Run(TrainConfig(), model, Batches(images=4, batch_size=2), process)
        assert made.forward is model
        assert type(model[0]) is nn.BatchNorm2d
        assert process.total(torch.ones(2)).tolist() == [1, 1]
        process.wait()


WHOLE = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "5"}, "has RANK but not LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "abc"}, "has RANK but not"),
        ({"WORLD_SIZE": "2"}, "has WORLD_SIZE but not RANK"),
        ({"WORLD_SIZE": "0"}, "has WORLD_SIZE but not RANK"),
        *[({name: value for name, value in WHOLE.items() if name != left}, f"not {left}") for left in list(WHOLE)[:3]],
        *[(WHOLE | {name: "abc"}, f"{name}=abc") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")],
        *[(WHOLE | {"WORLD_SIZE": number}, f"WORLD_SIZE={number}") for number in ("0", "-3", "1", "1.5", "")],
        (WHOLE | {"RANK": "-1"}, "RANK=-1"),
    ],
)
def test_half_an_environment_of_torchrun_is_refused_before_training(environment, message, monkeypatch, tmp_path):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{message}.*torchrun, or unset {', '.join(environment)}"):
        fit(CONFIG, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match="device must be"), joined_processes(device):
        pass
