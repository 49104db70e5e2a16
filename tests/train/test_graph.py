"""Steps that are replayed: the same numbers, no call lost or done twice, and nothing that waits for a GPU."""

import contextlib
import dataclasses
import gc
import math
import sys
import weakref
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from tape import Tape, tensors
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, tiny, varied
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bioshare.bridge import InstantSharing, Mirror
from bioshare.nn import resnet20, to_locally_connected
from bioshare.train import run as training
from bioshare.train.config import ARCHITECTURES, AdamW, Convolutional, FeedbackWeights
from bioshare.train.data import Batches
from bioshare.train.data.batches import DecodedBatches
from bioshare.train.data.streams import sent
from bioshare.train.distributed import Processes
from bioshare.train.graph import WARM_UP, CudaRecording, Replayed
from bioshare.train.interrupt import TrainingDivergedError
from bioshare.train.phases import CircuitOptions, HebbianOptions, IdealOptions, NoisyIdealOptions
from bioshare.train.run import Run
from bioshare.train.tables.feedback import METHODS, MOSKOVITZ_METHODS, Method

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONG = dataclasses.replace(CONFIG, epochs=6)
"""Thirty batches, six of them smaller, at three learning rates."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """A tiny network; its learning rate lies where it would on a GPU, beside the weights: on a CPU it rounds apart."""
    build = AdamW.build
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    monkeypatch.setattr(AdamW, "build", lambda self, model: build(self, model, capturable=True))
    Tape.made.clear()


def replayed_run(folder, config, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "recorder", lambda group, graphs: Tape)
        return run(folder, config, **options)


REPLAYED = {
    "instant": LONG,
    "moments": varied(InstantSharing(moments="share"), n=1, epochs=6),
    "border": varied(InstantSharing("keep", "reset"), n=2, epochs=6),
    "fp16": varied(precision="fp16", epochs=6),
    "bf16": varied(precision="bf16", repetitions=2, epochs=6),
    "pool": varied(IdealOptions(pool=1), count="run", epochs=6),
    "circuit": varied(CircuitOptions(moments="share"), n=2, epochs=6),
    "circuits": varied(CircuitOptions(pool=3, moments="reset", border="keep"), n=1, epochs=6),
    "noise": varied(NoisyIdealOptions(noise=0.1, rescale=False), epochs=6),
    "hebbian": varied(HebbianOptions(updates=3), n=2, epochs=6),
    "convolutional": dataclasses.replace(LONG, network=Convolutional(), phases=()),
    **{
        f"feedback {name}": method.applied(LONG)
        for name, method in {
            "Kolen-Pollack": METHODS["kp"],
            "mirror": Method(FeedbackWeights(), (Mirror(samples=16, first_updates=2),)),
            "past norms": Method(FeedbackWeights(past_norms=True), (Mirror(samples=16),)),
            "norms": MOSKOVITZ_METHODS["const-ei"],
        }.items()
    },
}


@pytest.mark.parametrize("name", REPLAYED)
def test_a_run_of_replayed_steps_ends_as_one_of_ordinary_steps(tmp_path, name):
    run(tmp_path / "ordinary", REPLAYED[name])
    replayed_run(tmp_path / "replayed", REPLAYED[name])
    assert_same_ending(tmp_path / "replayed", tmp_path / "ordinary")


@pytest.mark.parametrize("options", [InstantSharing(), IdealOptions(), IdealOptions(pool=2), HebbianOptions(updates=2)])
def test_every_batch_but_the_first_of_a_size_is_replayed(tmp_path, options):
    replayed_run(tmp_path, varied(options, n=1, epochs=6))
    full, small, tested, tested_small = 6 * 4, 6, 6 * 11, 6
    expected = [full, small, tested, tested_small, full + small]  # and one that shares the weights, whatever the map
    assert sorted(tape.replays for tape in Tape.made) == sorted(calls - WARM_UP for calls in expected)


def test_the_sleep_of_every_neuron_is_not_recorded(tmp_path):
    replayed_run(tmp_path, varied(NoisyIdealOptions(noise=0.1), n=1, epochs=6))
    assert len(Tape.made) == 4


def test_a_run_of_replayed_steps_goes_on_from_any_checkpoint(tmp_path, monkeypatch):
    run(tmp_path / "ordinary", LONG)
    monkeypatch.setattr(Processes, "recorder", lambda group, graphs: Tape)
    for step in (1, 7, 17):
        interrupt(tmp_path / "broken", step, LONG, resume=True)
    run(tmp_path / "broken", LONG, resume=True)
    assert_same_ending(tmp_path / "broken", tmp_path / "ordinary")


def test_a_replayed_loss_that_is_not_finite_is_found_at_its_step(tmp_path):
    config = dataclasses.replace(LONG, optimizer=AdamW(1e18), phases=(), milestones=())
    errors = []
    for train in (run, replayed_run):
        with pytest.raises(TrainingDivergedError) as error:
            train(tmp_path / train.__name__, config, checkpoint_every=math.inf)
        errors.append(error.value)
    assert str(errors[0]) == str(errors[1])


def test_a_function_is_recorded_once_for_every_shape_and_done_once_for_every_call():
    total = torch.zeros(())

    def add(x, y):
        total.add_((x * y).sum())
        return x + y

    replayed, expected, counts = Replayed(add, Tape), 0.0, Counter()
    for call in range(12):
        x = torch.full((2 + call % 2, 3), float(call))
        assert torch.equal(replayed(x, x), 2 * x)
        expected += (x * x).sum().item()
        counts[len(x)] += 1
        assert total.item() == expected
    assert len(Tape.made) == 2
    assert [tape.replays for tape in Tape.made] == [count - WARM_UP for count in counts.values()]


def test_a_tape_keeps_the_numbers_of_the_host_as_a_graph_does():
    """Or the tests above could not fail."""
    factor, total = [1.0], torch.zeros(())
    replayed = Replayed(lambda x: total.add_(factor[0] * x), Tape)
    for call in range(WARM_UP + 3):
        factor[0] = float(call)
        replayed(torch.ones(()))
    assert total == 0 + 1 + 2 + 3 + 3 + 3


@pytest.mark.parametrize(("world", "message"), [(1, "the device 'cpu'"), (2, "2 processes")])
def test_graphs_are_refused_where_there_are_none(world, message):
    processes = Processes(CPU, 0, world)
    with pytest.raises(ValueError, match=f"graphs must be None or False for {message}"):
        processes.recorder(True)
    assert processes.recorder(None) is None
    assert processes.recorder(False) is None


def test_a_fit_with_graphs_is_refused_on_a_cpu_before_work_starts(tmp_path):
    with pytest.raises(ValueError, match="graphs must be None or False for the device 'cpu'"):
        run(tmp_path, graphs=True)
    assert not list(tmp_path.iterdir())


def test_the_graphs_of_a_run_share_memory_and_are_captured_in_its_stream(monkeypatch):
    seen = []

    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            seen.append((graph, pool, stream, capture_error_mode))

        def __enter__(self):
            seen.append("begin")

        def __exit__(self, *error):
            seen.append("end")

    graphs = [SimpleNamespace(replay=lambda: seen.append("replay")) for _ in range(2)]
    monkeypatch.setattr(torch.cuda, "CUDAGraph", iter(graphs).__next__)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream")
    record = Processes(torch.device("cuda")).recorder(None)
    assert record is not None
    for graph in graphs:
        recording = record()
        assert isinstance(recording, CudaRecording)
        assert gc.isenabled()
        assert recording.capture(lambda: seen.append("work") or 3 + gc.isenabled()) == 3
        assert gc.isenabled()
        recording.replay()
        assert seen == [(graph, "pool", "stream", "thread_local"), "begin", "work", "end", "replay"]
        seen.clear()


class WaitedError(Exception):
    """What a host would wait for its GPU for."""


class NoWaiting(TorchDispatchMode):
    """Refuses values and shapes that depend on a device's numbers, and copies from one device to another."""

    VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")
    INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
    COPIES = ("_to_copy", "copy_")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, inputs = func.overloadpacket.__name__, tensors((args, kwargs))
        wait = name in self.VALUES
        if name in self.INDEXED:
            places = [place for place in args[1] if place is not None]
            wait = any(place.dtype is torch.bool or place.device != args[0].device for place in places)
        output = func(*args, **(kwargs or {}))
        if name in self.COPIES:
            wait = len({tensor.device for tensor in (*inputs, *tensors(output))}) > 1
        if wait:
            raise WaitedError(name)
        return output


class NoNumbers(TorchFunctionMode):
    """Refuses tensors that are made of the host's numbers, and numbers of the host that are made of tensors."""

    REFUSED = (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor, Tensor.tolist, Tensor.numpy)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.REFUSED:
            raise WaitedError(func.__name__)
        return func(*args, **(kwargs or {}))


def steps_of(model, device, config):
    """One step, and then one that must not wait; the sharing's indices are on the device after the first."""
    made = Run(config, model, Batches(images=150, batch_size=4), Processes(device), record=Tape)  # pyright: ignore[reportArgumentType]
    x, y = torch.zeros(4, 1, 8, 8, device=device), torch.zeros(4, dtype=torch.int64, device=device)
    made.step(x, y)
    with NoWaiting(), NoNumbers():
        made.step(x, y)
    return made


def real_network():
    return to_locally_connected(resnet20(10, 1), (1, 8, 8))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, phases=()),
        varied(n=1),
        varied(InstantSharing("keep", "share"), n=1),
        varied(IdealOptions(pool=1), n=1),
    ],
    ids=["plain", "instant", "moments", "pool"],
)
def test_a_step_depends_on_no_value_of_a_tensor(precision, config):
    made = steps_of(real_network(), CPU, dataclasses.replace(config, precision=precision))
    assert made.scaler.is_enabled() == (precision == "fp16")
    assert made.sums[training.IMAGES] == 8
    assert not Tape.made


def test_learning_copies_nothing_to_its_device(monkeypatch):
    """The device here has shapes and no contents; PyTorch has no autocast and no fused AdamW for it."""
    monkeypatch.setattr(training, "neg_log_snr", lambda *_: {})  # measured once, before the first step
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_: None)
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *_, **__: None)
    model = real_network().to("meta")
    made = steps_of(model, torch.device("meta"), dataclasses.replace(CONFIG, phases=()))
    moments = made.optimizer.state[next(model.parameters())]
    names = "exp_avg", "exp_avg_sq", "step"
    assert {name: tensor.device.type for name, tensor in moments.items()} == dict.fromkeys(names, "meta")


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x.new_tensor(3),
        lambda x: x.to("meta"),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
    ],
    ids=["item", "mask", "tensor", "new_tensor", "to", "bool", "tolist"],
)
def test_what_would_wait_is_seen(work):
    """Or the tests above could not fail."""
    x = torch.ones(3)
    with pytest.raises(WaitedError), NoWaiting(), NoNumbers():
        work(x)


def test_an_optimiser_on_a_gpu_can_be_recorded():
    """Its learning rate is filled in place."""
    made = steps_of(real_network(), CPU, dataclasses.replace(CONFIG, phases=()))
    optimizer = made.optimizer
    assert (optimizer.defaults["capturable"], optimizer.defaults["fused"]) == (True, True)
    rate = optimizer.param_groups[0]["lr"]
    assert rate.item() == pytest.approx(1e-3, abs=1e-9)
    made.epoch, made.batch = 1, 0  # after the first milestone
    made.step(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 2.5e-4


def test_batches_are_pinned_for_a_gpu(monkeypatch):
    seen = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: seen.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking: seen.append((device, non_blocking)) or self)
    for device in (CPU, CUDA):
        sent(torch.ones(3), device)
    assert seen == [(CPU, True), "pinned", (CUDA, True)]


def test_places_of_crops_are_pinned_for_a_gpu(monkeypatch):
    class Pixels:
        device = CUDA

        def __getitem__(self, indices):
            return torch.ones(len(indices), 1, 8, 8)

    seen = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: seen.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking: seen.append((device, non_blocking)) or self)
    facts = {"labels": torch.arange(3), "padding": 0, "side": 8, "mean": torch.zeros(()), "std": torch.ones(())}
    batches = DecodedBatches(images=3, batch_size=3, pixels=Pixels(), **facts)
    ((images, labels),) = batches.epoch(0)
    assert (len(images), labels.tolist()) == (3, [0, 1, 2])
    assert seen == ["pinned", (CUDA, True)]


def test_what_is_no_longer_in_use_does_not_end_in_a_recording(monkeypatch):
    """The end of a graph while another is recorded would be an error."""
    ended = []

    class Old:
        def __init__(self):
            self.itself = self

        def __del__(self):
            ended.append(len(captures))

    captures = []
    capture = lambda *_, **__: contextlib.nullcontext(captures.append("begun"))
    for name, stand_in in (("CUDAGraph", Old), ("graph", capture), ("current_stream", lambda: None)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    Old()
    recording = CudaRecording("pool")
    with pytest.raises(ZeroDivisionError):
        recording.capture(lambda: [[[]] for _ in range(10_000)] and 1 / 0)
    assert ended == [0]
    assert gc.isenabled()


def test_a_run_is_gone_when_its_steps_are(tmp_path, monkeypatch):
    """Its graphs hold it as it holds them: a GPU's memory would wait for the collector of cycles."""
    made, begin = [], Run.__init__

    def watched(self, *arguments, **options):
        made.append(weakref.ref(self))
        begin(self, *arguments, **options)

    monkeypatch.setattr(Run, "__init__", watched)
    gc.disable()
    try:
        replayed_run(tmp_path, varied(n=1))
        assert [run() for run in made] == [None]
    finally:
        gc.enable()
