"""`change` does what a call does, to the bit, and never waits for a GPU: shown on fake tensors and on operations."""

from contextlib import nullcontext

import pytest
import torch
from small_layers import GEOMETRIES, all_borders, assert_agree, borders, gentle, layer, network, weights
from test_moments import OPTIMIZERS, stepped
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import bioshare as bs
from bioshare.bridge import geometry

WAITING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"}
"""Operations of which the host needs the result."""

WAYS = {
    "instant": lambda **options: bs.InstantSharing(**options),
    "instant, half": lambda **options: bs.InstantSharing(spread=0.5, **options),
    "pool": lambda **options: bs.Sleep.rate_circuit(pool=1, **options),
    "pool, not rescaled": lambda **options: bs.Sleep.steady_state(pool=1, rescale=False, **options),
    "pool, gain": lambda **options: bs.Sleep.steady_state(5.0, pool=1, gain=1.2, **options),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
ALL = WAYS | {
    "hebbian": lambda **options: bs.HebbianSharing(**options),
    "drawn": lambda **options: gentle(bs.SteadyState(5.0), **options),
    "relayed": lambda **options: gentle(bs.SteadyState(), patterns="relayed", **options),
}
NOISY = {
    "noise": lambda **options: gentle(bs.SteadyState(5.0), bs.stimuli.noise(bs.stimuli.grid(), 0.1), **options),
}


class Watched(TorchDispatchMode):
    """Notes the operations that wait for a device, or copy from one device to another.

    Attributes:
        operations: how many there were in all.
        waits: those that wait or copy.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.waits = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        name = func.overloadpacket.__name__
        if name in WAITING:  # noted before, as a device without numbers has no answer
            self.waits.append(name)
        found = func(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, torch.Tensor)]
        made = [found] if isinstance(found, torch.Tensor) else []
        devices = {str(tensor.device) for tensor in given + made if tensor.dim() or name in ("copy_", "_to_copy")}
        if len(devices) > 1:
            self.waits.append(name)
        return found


def without_numbers(device):
    """Two layers whose weights lie elsewhere and have no numbers."""
    model = nn.Sequential(*(layer(**GEOMETRIES[name], layout="channels_last") for name in ("stride 2", "grouped")))
    with FakeTensorMode() if device == "cuda" else nullcontext():
        for part in model:
            shape, stride = part.weight.shape, part.weight.stride()
            part.weight = nn.Parameter(torch.empty_strided(shape, stride, dtype=torch.float32, device=device))
    return model


def optimizer_of(model):
    """AdamW after a step, its state where the weights lie."""
    optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
    for weight in model.parameters():
        moments = {name: torch.zeros_like(weight.detach()) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}
    return optimizer


@ways
@all_borders
@pytest.mark.parametrize("moments", ["keep", "share", "reset"])
def test_a_change_waits_for_no_device_and_copies_nothing_to_it(way, border, moments, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which doesn't know the device meta
    model, share = without_numbers("meta"), way(border=border, moments=moments)
    fill(share, model)
    optimizer = optimizer_of(model)
    share.change(model, optimizer=optimizer)  # puts the indices on the device
    with Watched() as watched:
        share.change(model, optimizer=optimizer)
    assert watched.operations
    assert not watched.waits


@borders
@pytest.mark.parametrize("moments", ["keep", "share"])
def test_nor_does_instant_sharing_on_a_gpu(border, moments, forgotten):
    """Of a `Sleep` PyTorch without CUDA can't say it: it can't take slices of what lies on a GPU."""
    model = without_numbers("cuda")
    share = bs.InstantSharing(border, moments)
    with FakeTensorMode(allow_non_fake_inputs=True):
        optimizer = optimizer_of(model)
        share.change(model, optimizer=optimizer)
        with Watched() as watched:
            share.change(model, optimizer=optimizer)
    assert watched.operations
    assert not watched.waits


@pytest.fixture
def forgotten():
    """Forget the indices after a test: they would have no numbers."""
    yield
    geometry._group_means.cache_clear()


def fill(share, model):
    """Give a sleep maps on the device of a model, which nothing can simulate there."""
    for part in model if isinstance(share, bs.Sleep) else ():
        inputs, device = geometry.inputs_of(part), part.weight.device
        square = lambda dtype, inputs=inputs, device=device: torch.empty(inputs, inputs, dtype=dtype, device=device)
        c = torch.empty(inputs, dtype=torch.float64, device=device)
        sleep = bs.bridge.changes.LinearSleep(square(torch.float32), square(torch.float64), c)
        share.pooled[inputs, 0, device, part.weight.dtype] = sleep


def test_what_waits_is_noticed():
    weight = without_numbers("meta")[0].weight.detach()
    examples = {
        "_local_scalar_dense": lambda: bool(torch.ones(3).isfinite().all()),
        "_to_copy": lambda: torch.ones(3).to("meta"),
        "add_": lambda: weight.add_(torch.ones(1)),
    }
    for name, waiting in examples.items():
        with Watched() as watched:
            waiting()
        assert watched.waits == [name]


def test_a_call_asks_once_whether_the_weights_of_all_layers_are_finite(monkeypatch):
    model, asked, tolist = nn.Sequential(*(layer(kernel_size=3) for _ in range(3))), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: asked.append(self.shape) or tolist(self))
    with Watched() as watched:
        bs.InstantSharing()(model, measure=False)
    assert asked == [(3,)]
    assert not watched.waits


@pytest.mark.parametrize("way", [*ALL.values(), *NOISY.values()], ids=[*ALL, *NOISY])
@all_borders
def test_a_change_is_a_call_without_its_report_to_the_bit(way, border):
    models = [network() for _ in range(3)]
    way(border=border)(models[0], seed=3)
    way(border=border)(models[1], seed=3, measure=False)
    assert way(border=border).change(models[2], seed=3) is None
    for measured, called, changed in zip(*map(weights, models), strict=True):
        assert torch.equal(measured, called)
        assert torch.equal(called, changed)


@pytest.mark.parametrize("way", ALL.values(), ids=ALL)
@pytest.mark.parametrize("moments", ["share", "reset"])
def test_moments_follow_a_change_as_they_follow_a_call(way, moments):
    models = [network() for _ in range(2)]
    optimizers = [stepped(OPTIMIZERS["AdamW"], model) for model in models]
    way(moments=moments)(models[0], seed=3, optimizer=optimizers[0])
    way(moments=moments).change(models[1], seed=3, optimizer=optimizers[1])
    for one, other in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        for name in one:
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("way", [WAYS["pool"], ALL["drawn"]], ids=["pool", "drawn"])
def test_layers_of_two_precisions_have_maps_of_their_own(way):
    models = [nn.Sequential(layer(kernel_size=3), layer(kernel_size=3).float(), layer(kernel_size=2)) for _ in range(3)]
    way()(models[0], seed=3)
    way().change(models[1], seed=3)
    tensors = way().tensors(models[2], seed=3)
    way().apply(models[2], tensors)
    for called, changed, applied in zip(*map(weights, models), strict=True):
        assert torch.equal(called, changed)
        assert torch.equal(called, applied)
    inputs = [(geometry.inputs_of(part), part.weight.dtype) for part in models[2]]
    assert [(A.shape[0], A.dtype) for A in tensors[::3]] == inputs


@pytest.mark.parametrize("border", ["share", "keep"])
def test_a_weight_of_another_memory_layout_is_averaged_all_the_same(border):
    usual, model = (layer(**GEOMETRIES["stride 1"], layout=layout) for layout in ("contiguous", "channels_last"))
    model.load_state_dict(usual.state_dict())
    assert model.weight.stride() != usual.weight.stride()
    bs.InstantSharing(border).change(model)
    bs.InstantSharing(border).change(usual)
    assert_agree(model.weight, usual.weight, atol=0)


def test_indices_are_never_forgotten():
    """Replays of a CUDA graph would read what lies in their place by then."""
    for kept in (geometry._modules, geometry._group_means):
        assert kept.cache_parameters()["maxsize"] is None


def test_indices_are_made_once_for_layers_alike():
    first, second = layer(kernel_size=3, padding=1), layer(seed=1, kernel_size=3, padding=1)
    assert geometry.GroupMeans.of_layer(first, "share") is geometry.GroupMeans.of_layer(second, "share")
    assert geometry.GroupMeans.of_layer(first, "share") is not geometry.GroupMeans.of_layer(first, "keep")
    assert geometry.modules(first) is geometry.modules(second)
    module = geometry.modules(first)[4]
    assert module.taps(first.weight.device)[0] is module.taps(torch.device("cpu"))[0]
