"""Contiguous weights for every PyTorch tool, and weights in channels_last for speed."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from bioshare import InstantSharing
from bioshare.nn import LocallyConnected1d, LocallyConnected2d, to_convolutional, to_locally_connected

LAYOUTS = "contiguous", "channels_last"


def make(layout="contiguous", **options):
    """A layer with a fixed seed."""
    options = {"stride": (2, 1), "padding": 1, "groups": 2, "bias": True, "input_size": (7, 6)} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocallyConnected2d(4, 6, (3, 2), layout=layout, **options)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def process():
    """A group of one process, and its mesh."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_both_layouts_compute_and_learn_the_same_to_the_bit():
    results = []
    for layout in LAYOUTS:
        layer, x = make(layout), draw(3, 4, 7, 6).requires_grad_()
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            y = layer(x)
            y.square().sum().backward()
            optimizer.step()
        InstantSharing()(layer)
        results.append([y, x.grad, *layer.parameters(), layer.weight.grad])
        assert layer.weight.is_contiguous() == layer.bias.is_contiguous() == (layout == "contiguous")
        assert layer.weight.grad.stride() == layer.weight.stride()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


@pytest.mark.parametrize("init", ["independent", "copy"])
def test_a_network_is_converted_to_either_layout(init):
    conv, models = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 2)), []
    for layout in LAYOUTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            models.append(to_locally_connected(conv, (2, 6, 6), init, layout=layout))
        assert all(p.is_contiguous() == (layout == "contiguous") for p in models[-1].parameters())
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_layout_is_refused():
    for refused in (lambda: make("flat"), lambda: to_locally_connected(nn.Conv2d(1, 1, 1), (1, 2, 2), layout="flat")):
        with pytest.raises(ValueError, match="layout must be one of 'contiguous', 'channels_last'; got 'flat'"):
            refused()


def test_safetensors_keep_the_weights(tmp_path):
    layer, other = make(), make(bias=True)
    other.reset_parameters()
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.weight, layer.weight)


def test_parameters_become_one_vector_and_return():
    layer, other = make(), make()
    vector = parameters_to_vector(layer.parameters())
    vector_to_parameters(2 * vector, other.parameters())
    assert torch.equal(other.weight, 2 * layer.weight)


def test_lbfgs_solves_a_linear_problem():
    layer, x = make().double(), draw(2, 4, 7, 6).double()
    wanted = draw(2, 6, *layer.output_size, seed=1).double()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (layer(x) - wanted).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-6)


def test_pruning_silences_the_smallest_weights():
    layer, before = make(), make().weight.detach()
    prune.l1_unstructured(layer, "weight", amount=0.5)
    assert (layer.weight == 0).double().mean() == 0.5
    assert torch.equal(layer.weight, torch.where(before.abs() > before.abs().median(), before, 0))


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_printed_layer_says_in_which_order_its_weights_are(kernel_size):
    options = {"input_size": 5, "bias": True}
    contiguous, layer = (LocallyConnected2d(2, 3, kernel_size, layout=layout, **options) for layout in LAYOUTS)
    assert "layout" not in repr(contiguous)
    assert repr(layer) == repr(contiguous)[:-1] + ", layout='channels_last')"
    assert repr(LocallyConnected1d(2, 3, kernel_size, layout="channels_last", **options)).endswith("'channels_last')")
    for parameter in layer.parameters():
        parameter.data = parameter.data.contiguous()
    assert repr(layer) == repr(contiguous)
    assert eval(repr(contiguous), {"LocallyConnected2d": LocallyConnected2d}).weight.shape == layer.weight.shape


def test_what_pytorch_says_of_weights_in_channels_last_is_in_the_reference_with_the_remedy(process, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "nn.md").read_text()
    refused = {
        "view size is not compatible with input tensor's size and stride": [
            lambda layer: parameters_to_vector(layer.parameters()),
            lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
            one_step_of_lbfgs,
        ],
        "FSDP does not support non-contiguous parameters": [lambda layer: fully_shard(layer, mesh=process)],
        "You are trying to save a non contiguous tensor": [
            lambda layer: save_file(layer.state_dict(), tmp_path / "weights.safetensors")
        ],
    }
    for message, calls in refused.items():
        assert f"| `{message}` |" in page
        for call in calls:
            with pytest.raises((RuntimeError, ValueError), match=message):
                call(make("channels_last"))
            call(make("contiguous"))  # the remedy


def one_step_of_lbfgs(layer):
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = layer(draw(2, 4, 7, 6)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def test_a_sharded_network_computes_the_same_and_is_not_shared(process):
    model, x = nn.Sequential(make(), nn.ReLU()), draw(2, 4, 7, 6)
    y = model(x)
    fully_shard(model, mesh=process)
    for gathered in (False, True):  # after a forward pass the weights are whole, but changes would be lost
        with pytest.raises(TypeError, match=r"model must have whole weights on every process; .* of fully_shard"):
            InstantSharing()(model)
        for convert in (to_convolutional, lambda model: to_locally_connected(model, (4, 7, 6))):
            with pytest.raises(TypeError, match=r"model is sharded .*; convert first, then shard the copy"):
                convert(model)
        if not gathered:
            assert torch.equal(model(x), y)


def test_a_wrapped_model_is_converted_inside(process):
    for wrap in (DistributedDataParallel, DataParallel):
        wrapped = wrap(nn.Sequential(nn.Conv2d(2, 2, 3)))
        for convert in (to_convolutional, lambda model: to_locally_connected(model, (2, 5, 5))):
            with pytest.raises(
                TypeError, match=f"model is a {wrap.__name__}; convert model.module, then wrap the copy"
            ):
                convert(wrapped)


MESSAGE = r"the 2 locally connected layers need 0\.13 MB .*, more than {}; the largest, model\.1, .* input_size"


def test_too_little_memory_names_the_largest_layer(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 64, 3))
    with monkeypatch.context() as patch:
        patch.setattr("bioshare.nn.convert.machine_memory", lambda: 1000.0)
        with pytest.raises(MemoryError, match=MESSAGE.format("this machine has")):
            to_locally_connected(model, (1, 9, 9))
        assert to_locally_connected(model.to("meta"), (1, 9, 9))[1].weight.is_meta

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(LocallyConnected2d, "to_empty", full)
    with pytest.raises(MemoryError, match=MESSAGE.format("is free")):
        to_locally_connected(model, (1, 9, 9))
