import math
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import LocallyConnected2d, locality, to_convolutional, to_fully_connected, to_locally_connected


def network():
    """A net with a stride, a grouped and a 1 x 1 convolution, a nested block, batch normalisation and dropout."""
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), block, nn.Dropout(0.5), nn.Conv2d(4, 3, 1))


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_copy_computes_the_same_function_and_gradients():
    conv = network().double().eval()
    lc = to_locally_connected(conv, (2, 9, 8), init="copy")
    batch = x(3, 2, 9, 8).double()
    torch.testing.assert_close(lc(batch), conv(batch), rtol=0, atol=1e-12)
    for model in (lc, conv):
        model(batch).square().sum().backward()
    torch.testing.assert_close(lc[1][0].weight.grad.sum((0, 1)), conv[1][0].weight.grad, rtol=0, atol=1e-10)


def test_only_the_convolutions_are_replaced_and_the_model_stays():
    conv = network().train()
    conv[1][1].eval()
    conv[3].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in conv.state_dict().items()}
    lc = to_locally_connected(conv, (2, 9, 8))
    kinds = [type(m) for m in lc.modules()]
    assert kinds.count(LocallyConnected2d) == 3
    assert nn.Conv2d not in kinds
    for name, value in conv.state_dict().items():
        assert torch.equal(value, state[name])
    assert lc[1][1].num_batches_tracked == 0
    assert lc[1][1].weight is not conv[1][1].weight
    assert [m.training for m in lc.modules()] == [m.training for m in conv.modules()]
    assert [p.requires_grad for p in lc.parameters()] == [p.requires_grad for p in conv.parameters()]
    assert lc[3].weight.shape == (5, 4, 3, 4, 1, 1)


def test_independent_kernels_come_from_the_default_generator():
    weights = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            weights.append(to_locally_connected(nn.Conv2d(2, 3, 3), (2, 5, 5)).weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0][0, 0], weights[0][1, 1])


def test_the_first_convolutions_may_stay():
    convs = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)))
    kinds = [type(layer) for layer in to_locally_connected(convs, (2, 5, 5), keep_first=2).modules()]
    assert kinds == [nn.Sequential, nn.Conv2d, nn.Sequential, nn.Conv2d, LocallyConnected2d]
    with pytest.raises(ValueError, match="keep_first must be"):
        to_locally_connected(convs, (2, 5, 5), keep_first=-1)


def test_a_layer_used_twice_stays_one_layer():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    lc = to_locally_connected(nn.Sequential(conv, nn.ReLU(), conv), (2, 5, 5))
    assert lc[0] is lc[2]


def test_a_network_may_be_converted_in_part_and_then_in_whole():
    conv = network().double().eval()
    part = to_locally_connected(conv, (2, 9, 8), init="copy", keep_first=2)
    whole = to_locally_connected(part, (2, 9, 8), init="copy")
    assert not any(isinstance(layer, nn.Conv2d) for layer in whole.modules())
    batch = x(3, 2, 9, 8).double()
    torch.testing.assert_close(whole(batch), conv(batch), rtol=0, atol=1e-12)


def test_a_layer_outside_the_module_lists_is_replaced_too():
    conv = nn.Conv2d(2, 2, 3)
    model = nn.Sequential(nn.ModuleDict({"a": nn.ModuleList([conv])})["a"][0])
    model.order = [conv]
    lc = to_locally_connected(model, (2, 5, 5))
    assert lc.order[0] is lc[0]
    assert isinstance(lc[0], LocallyConnected2d)


pairs = lambda high: st.tuples(st.integers(1, high), st.integers(1, high))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel_size=pairs(3),
    stride=pairs(3),
    padding=st.one_of(st.just("same"), st.just("valid"), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    dilation=pairs(2),
    groups=st.integers(1, 2),
    bias=st.booleans(),
)
def test_every_convolution_goes_there_and_back(size, stride, padding, **options):
    stride = (1, 1) if padding == "same" else stride
    conv = nn.Conv2d(2, 4, stride=stride, padding=padding, dtype=torch.float64, **options)
    lc = to_locally_connected(conv, (2, *size), init="copy")
    batch = x(3, 2, *size).double()
    torch.testing.assert_close(lc(batch), conv(batch), rtol=0, atol=1e-12)
    again = to_convolutional(lc)
    assert repr(again) == repr(conv)
    for ours, theirs in zip(again.parameters(), conv.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_positions_must_agree_to_become_a_convolution():
    lc = nn.Sequential(nn.ReLU(), LocallyConnected2d(2, 3, 2, input_size=5, bias=True))
    lc[1].weight.requires_grad_(False)
    with torch.no_grad():
        lc[1].weight[:] = 4.0
        lc[1].weight[1, 2, 0, 0, 0, 0] = 4.16  # the mean over 16 positions is 4.01
    message = r"model.1.weight must be the same at every position, to 0.01 of the largest, 4.16; some are 0.15 from"
    with pytest.raises(ValueError, match=message):
        to_convolutional(lc, tolerance=0.01)
    mean = torch.full((3, 2, 2, 2), 4.0)
    mean[0, 0, 0, 0] = 4.01
    for tolerance in (0.04, math.inf):
        conv = to_convolutional(lc, tolerance=tolerance)[1]
        torch.testing.assert_close(conv.weight, mean, rtol=1e-6, atol=0)
        assert not conv.weight.requires_grad
        assert conv.bias.requires_grad
    with torch.no_grad():
        lc[1].bias[2, 1, 1] = 1.0
    with pytest.raises(ValueError, match=r"model.1.bias must .* tolerance=math.inf to take the mean anyway"):
        to_convolutional(lc, tolerance=0.04)
    assert to_convolutional(lc, tolerance=math.inf)[1].bias.tolist() == [0, 0, 1 / 16]
    with torch.no_grad():
        lc[1].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="some are nan from"):
        to_convolutional(lc, tolerance=1e6)
    with pytest.raises(ValueError, match="tolerance must be a fraction of at least 0"):
        to_convolutional(lc, tolerance=math.nan)


def test_only_the_locally_connected_layers_become_convolutions():
    model = network().train()
    lc = to_locally_connected(model, (2, 9, 8), init="copy")
    lc(x(3, 2, 9, 8))  # running statistics
    lc[1][0].eval()
    conv = to_convolutional(lc)
    assert [type(m) for m in conv.modules()] == [type(m) for m in model.modules()]
    assert [m.training for m in conv.modules()] == [m.training for m in lc.modules()]
    state = lc[1][1].state_dict()
    assert state["num_batches_tracked"] == 1
    assert all(torch.equal(value, state[name]) for name, value in conv[1][1].state_dict().items())
    assert conv[1][1].weight is not lc[1][1].weight
    shared = LocallyConnected2d(2, 2, 3, padding=1, input_size=5)
    conv = to_convolutional(nn.Sequential(shared, nn.ReLU(), shared), tolerance=math.inf)
    assert conv[0] is conv[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept_and_the_way_back_is_exact(dtype):
    model = network().to(dtype)
    lc = to_locally_connected(model, (2, 9, 8), init="copy")
    again = to_convolutional(lc, tolerance=0)
    assert {p.dtype for p in chain(lc.parameters(), again.parameters())} == {dtype}
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert {p.dtype for p in to_locally_connected(model, (2, 9, 8)).parameters()} == {dtype}


def test_a_model_without_data_stays_without_data():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 1000, 3), nn.Conv2d(1000, 1000, 3))
    lc = to_locally_connected(model, (3, 1000, 1000))  # 34 TiB, if there were data
    assert lc[1].weight.shape == (996, 996, 1000, 1000, 3, 3)
    assert {p.device.type for p in chain(lc.parameters(), model.parameters())} == {"meta"}
    assert to_convolutional(lc, tolerance=math.inf)[1].weight.is_meta


class Wide(nn.Module):
    """Takes the input to a size that no memory would hold, and back."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        vast = self.first(x).tile(1, 1 << 40, 1, 1)
        return self.second(input=vast.sum(1, keepdim=True)[..., :2, :1])


def test_sizes_are_found_without_computing():
    lc = to_locally_connected(Wide(), (1, 4, 4))
    assert (lc.first.input_size, lc.second.input_size) == ((4, 4), (2, 1))


class Counting(nn.Module):
    """Notes its passes in a buffer, a plain tensor and a list, and makes tensors of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.seen = nn.Conv2d(2, 2, 3), torch.ones(2, 1, 1), []
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        self.seen.append(x)
        return self.conv(x * self.scale + torch.ones(1))


def test_the_pass_leaves_no_trace():
    model = nn.Sequential(Counting(), nn.BatchNorm2d(2))
    fired = []
    model[0].register_forward_hook(lambda module, x, y: fired.append(y))
    model[1].register_forward_pre_hook(lambda module, x: fired.append(x[0].sum().item()))
    generator = torch.random.get_rng_state()
    lc = to_locally_connected(model, (2, 5, 5), init="copy")
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert not fired
    for counting in (model[0], lc[0]):
        assert counting.passes == 0
        assert not counting.seen
        assert counting.scale.device.type == "cpu"
    for passes, network in enumerate((model, lc), 1):  # both have the hooks
        network(x(3, 2, 5, 5))
        assert len(fired) == 2 * passes


def test_an_optimiser_of_the_model_does_not_reach_the_copy():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    lc = to_locally_connected(model, (1, 3, 3))  # to 1 x 1, where batch normalisation cannot train on one image
    places = [{p.data_ptr() for p in network.parameters()} for network in (model, lc, to_convolutional(lc, math.inf))]
    assert len(set.union(*places)) == 3 * 4


class Widened(nn.Conv2d):
    pass


def changed(change):
    conv = nn.Conv2d(2, 2, 3)
    change(conv)
    return conv


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Widened(2, 2, 3), "model.1 is a Widened"),
        (nn.ConvTranspose2d(2, 2, 3), "model.1 is a ConvTranspose2d"),
        (nn.ConvTranspose1d(2, 2, 3), "model.1 is a ConvTranspose1d"),
        (nn.Conv3d(2, 2, 3), "model.1 is a Conv3d; only Conv1d and Conv2d have counterparts"),
        (nn.LazyConv2d(2, 3), "model.1 is lazy"),
        (nn.LazyLinear(2), "model.1 is lazy, without a shape yet; run the model once on a batch"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), "model.1 has a reparametrised weight"),
        (nn.utils.spectral_norm(nn.Conv2d(2, 2, 3)), "model.1 has hooks, a reparametrised weight"),
        (changed(lambda conv: conv.register_full_backward_hook(print)), "model.1 has hooks"),
        (changed(lambda conv: setattr(conv, "forward", print)), "model.1 has hooks"),
        (changed(lambda conv: conv.add_module("adapter", nn.ReLU())), "model.1 has hooks"),
    ],
)
def test_what_cannot_be_converted_is_named(layer, message):
    with pytest.raises(TypeError, match=message):
        to_locally_connected(nn.Sequential(nn.ReLU(), layer), (2, 5, 5))


def test_what_stays_a_convolution_may_be_of_any_kind():
    model = nn.Sequential(Widened(2, 2, 3), nn.Conv2d(2, 2, 3))
    lc = to_locally_connected(model, (2, 5, 5), keep_first=1)
    assert [type(layer) for layer in lc] == [Widened, LocallyConnected2d]


def test_the_parts_around_a_layer_that_cannot_be_converted_are():
    """The remedy of the message."""
    model = nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), nn.ConvTranspose2d(3, 3, 3), nn.Conv2d(3, 2, 1))
    expected = model(x(2, 2, 6, 5))
    with pytest.raises(TypeError, match=r"model\.1 .* keep it: convert the parts of the model without it"):
        to_locally_connected(model, (2, 6, 5), init="copy")
    for part, size in ((0, (2, 6, 5)), (2, (3, 6, 5))):
        model[part] = to_locally_connected(model[part], size, init="copy")
    torch.testing.assert_close(model(x(2, 2, 6, 5)), expected, rtol=0, atol=1e-6)


class Special(LocallyConnected2d):
    pass


def test_what_cannot_become_a_convolution_is_named():
    with pytest.raises(
        TypeError, match="model is a Special; only LocallyConnected1d, LocallyConnected2d and PatchwiseLinear have"
    ):
        to_convolutional(Special(1, 1, 1, input_size=2))
    layer = LocallyConnected2d(1, 1, 1, input_size=2)
    layer.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="model has hooks"):
        to_convolutional(layer)


def test_tied_weights_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    model[1].weight = model[0].weight
    with pytest.raises(TypeError, match=r"model\.0 shares a parameter with another layer"):
        to_locally_connected(model, (2, 5, 5))


def test_a_compiled_model_is_refused():
    compiled = torch.compile(nn.Conv2d(2, 2, 3), backend="eager")
    with pytest.raises(TypeError, match="model is compiled; convert first"):
        to_locally_connected(compiled, (2, 5, 5))


def test_sizes_must_be_known():
    conv = nn.Conv2d(2, 2, 3)
    with pytest.raises(ValueError, match=r"model.0 must get inputs of one size .* sizes \[\(3, 3\), \(5, 5\)\]"):
        to_locally_connected(nn.Sequential(conv, conv), (2, 5, 5))
    unused = nn.Sequential(nn.ReLU())
    unused[0].extra = conv
    with pytest.raises(ValueError, match=r"model.0.extra must get .* got no input"):
        to_locally_connected(unused, (2, 5, 5))
    with pytest.raises(ValueError, match="init must be"):
        to_locally_connected(conv, (2, 5, 5), init="ones")


class Choosing(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def test_a_model_that_needs_data_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"run on an input of shape \(1, 2, 5, 5\) without data.* looks at values"):
        to_locally_connected(nn.Sequential(Choosing(2, 2, 3), nn.Conv2d(2, 2, 3)), (2, 5, 5), keep_first=1)


@pytest.mark.parametrize("size", [8, (5, 5), (2, 5, 0), (2, 5, 5.0), (4, 2, 5, 5), (3, 5, 5)])
def test_a_wrong_input_size_is_named(size):
    message = "got RuntimeError: .* See that input_size is right" if size == (3, 5, 5) else "input_size must be"
    with pytest.raises(TypeError if size == (2, 5, 5.0) else ValueError, match=message):
        to_locally_connected(nn.Conv2d(2, 2, 3), size)


def test_what_is_no_model_or_size_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module; got str"):
        to_locally_connected("resnet20", (3, 8, 8))
    with pytest.raises(TypeError, match="keep_first must be a number of convolutions; got True"):
        to_locally_connected(nn.Conv2d(1, 1, 1), (1, 8, 8), keep_first=True)


def test_what_a_layer_has_beside_its_weights_is_not_lost_in_silence():
    conv = nn.Conv2d(2, 2, 3)
    conv.register_buffer("mask", torch.ones(2))
    with pytest.raises(TypeError, match=r"model.0 has hooks, .* buffers"):
        to_locally_connected(nn.Sequential(conv), (2, 5, 5))
    conv = nn.Conv2d(2, 2, 3)
    conv.register_state_dict_post_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"model.0 has hooks"):
        to_locally_connected(nn.Sequential(conv), (2, 5, 5))


def test_the_first_parameter_may_have_another_type_than_the_convolutions():
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    model.register_parameter("steps", nn.Parameter(torch.tensor(3), requires_grad=False))
    assert to_locally_connected(model, (2, 5, 5))[0].weight.dtype == torch.float32


def test_weights_for_zeros_around_the_image_have_no_part_in_the_convolution():
    """Training leaves them as they were, whatever the others do."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    local: Any = to_locally_connected(conv, (2, 4, 4))
    with torch.no_grad():
        local.weight.copy_(torch.where(locality(local), conv.weight, local.weight))
        local.bias.copy_(conv.bias[:, None, None])
    back = to_convolutional(local)
    assert torch.equal(back.weight, conv.weight)
    assert torch.equal(back.bias, conv.bias)
    with torch.no_grad():
        local.weight[0, 1] += 1e-3  # seen by the lower two rows of its kernels
    with pytest.raises(ValueError, match=r"model\.weight must be the same at every position"):
        to_convolutional(local)
    seen, mean = locality(local), to_convolutional(local, math.inf).weight
    torch.testing.assert_close(mean, (local.weight * seen).sum((0, 1)) / seen.sum((0, 1)), rtol=0, atol=1e-15)


def test_there_is_no_way_back_from_dense_layers():
    dense = to_fully_connected(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 4, 4))
    for convert in (to_convolutional, lambda model: to_locally_connected(model, (1, 4, 4))):
        with pytest.raises(TypeError, match=r"model\.0 is fully connected"):
            convert(dense)


def test_reparametrised_weights_are_named_with_the_remedy():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3)))
    with pytest.raises(TypeError, match=r"model\.0 has a reparametrised weight.*remove_parametrizations"):
        to_locally_connected(model, (1, 4, 4))
