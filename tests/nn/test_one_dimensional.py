"""Layers for sequences: convolutions of one dimension with a kernel at every position."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv1d, pad

from bioshare.nn import LocallyConnected1d, PeriodicConv1d, conversion_table, to_convolutional, to_locally_connected

small = st.integers(1, 3)
MODES = ["zeros", "reflect", "replicate", "circular"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@given(
    length=st.integers(5, 9), kernel_size=small, stride=small, dilation=st.integers(1, 2), padding=st.integers(0, 2),
    groups=st.integers(1, 2), bias=st.booleans(), mode=st.sampled_from(MODES),
)  # fmt: skip
def test_every_position_applies_its_own_kernel_and_gradients_follow(length, bias, mode, **options):
    layer = LocallyConnected1d(2, 4, input_size=length, bias=bias, padding_mode=mode, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(*parameter.shape, seed=1))
    x = draw(3, 2, length).requires_grad_()
    padded = pad(x, (options["padding"],) * 2, "constant" if mode == "zeros" else mode)
    kernel, stride, dilation = options["kernel_size"], options["stride"], options["dilation"]
    expected = []  # position by position, each a convolution of a single patch
    for p in range(layer.output_size[1]):
        patch = padded[..., p * stride : p * stride + dilation * (kernel - 1) + 1]
        offset = None if layer.bias is None else layer.bias[:, 0, p]
        expected.append(conv1d(patch, layer.weight[0, p, :, :, 0], offset, 1, 0, dilation, options["groups"]))
    expected, y = torch.cat(expected, -1), layer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    assert torch.equal(layer(x[0]), y[0])
    inputs = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad(result.pow(3).sum(), inputs) for result in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@given(
    length=st.integers(5, 9), kernel_size=small, stride=small, dilation=st.integers(1, 2), groups=st.integers(1, 2),
    padding=st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 2)), bias=st.booleans(),
    padding_mode=st.sampled_from(MODES), layout=st.sampled_from(["contiguous", "channels_last"]),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_every_convolution_goes_there_and_back(length, stride, padding, layout, **options):
    conv = nn.Conv1d(2, 4, stride=1 if padding == "same" else stride, padding=padding, **options).double()
    layer = to_locally_connected(conv, (2, length), init="copy", layout=layout)
    torch.testing.assert_close(layer(draw(3, 2, length)), conv(draw(3, 2, length)), rtol=0, atol=1e-6)
    again = to_convolutional(layer)
    assert repr(again) == repr(conv)
    for ours, theirs in zip(again.parameters(), conv.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Spectrogram(nn.Module):
    """Convolves sequences first, then images of the channels over time."""

    def __init__(self):
        super().__init__()
        self.filters, self.norm, self.image = nn.Conv1d(1, 6, 4, 2), nn.BatchNorm1d(6), nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.image(self.norm(self.filters(x))[:, None])


def test_layers_of_one_and_two_dimensions_are_converted_side_by_side():
    model = Spectrogram().eval()
    table, lc = conversion_table(model, (1, 20)), to_locally_connected(model, (1, 20), init="copy")
    assert [row.shape for row in table.layers] == [(1, 9, 6, 1, 1, 4), (4, 7, 2, 1, 3, 3)]
    torch.testing.assert_close(lc(draw(3, 1, 20).float()), model(draw(3, 1, 20).float()), rtol=0, atol=1e-6)
    assert str(to_convolutional(lc)) == str(model)
    kept = to_locally_connected(model.filters, (1, 20), keep_first=1)
    assert isinstance(kept, nn.Conv1d)


def test_weights_are_drawn_as_for_a_layer_of_two_dimensions():
    layer = LocallyConnected1d(2, 64, 3, input_size=100)
    assert math.isclose(layer.weight.std().item(), math.sqrt(2 / (64 * 3)), rel_tol=0.03)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of torch.jit.script
def test_tools_of_pytorch_see_the_layer():
    layer, x = LocallyConnected1d(2, 3, 3, padding=1, input_size=7).double(), draw(4, 2, 7)
    graph = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert torch.equal(graph(x), layer(x))
    by_sample = torch.vmap(lambda image: layer(image))(x)
    torch.testing.assert_close(by_sample, layer(x), rtol=0, atol=1e-12)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    with pytest.raises(TypeError, match="LocallyConnected1d can't be scripted"):
        torch.jit.script(layer)


@pytest.mark.parametrize("shape", [(4, 2, 8), (4, 3, 7), (4, 2, 1, 7), (7,)])
def test_sequences_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, 2, 7\); got \(.*input_size"):
        LocallyConnected1d(2, 3, 3, input_size=7)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": (3, 3)}, TypeError, r"kernel_size must be a whole number; got \(3, 3\)"),
        ({"stride": 0}, ValueError, "stride must be a whole number"),
        ({"padding": "sme"}, ValueError, 'padding must be .*"same" or "valid"'),
        ({"padding": 7, "padding_mode": "reflect"}, ValueError, "padding must be smaller than input_size"),
        ({"input_size": 2.5}, TypeError, "input_size must be a whole number; got 2.5"),
        ({"kernel_size": 9}, ValueError, "kernel_size must fit"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        LocallyConnected1d(**({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "input_size": 7} | arguments))


@pytest.mark.parametrize("size", [(2,), (2, 7, 1, 1), 7, "27"])
def test_the_size_of_a_sequence_is_asked_for(size):
    with pytest.raises((ValueError, TypeError), match=r"input_size must be \(channels, length\) or \(channels, rows"):
        to_locally_connected(nn.Conv1d(2, 3, 3), size)


def test_a_periodic_convolution_of_sequences_has_its_kernels_in_turn():
    weight, bias, x = draw(1, 2, 3, 2, 1, 3), draw(1, 2, 3, seed=1), draw(4, 2, 8, seed=2)
    layer = PeriodicConv1d(weight, bias, padding=(1, 1, 0, 0))
    full = [conv1d(x, weight[0, i, :, :, 0], bias[0, i], padding=1) for i in range(2)]
    expected = torch.where(torch.arange(8) % 2 == 0, *full)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert torch.equal(layer(x[0]), layer(x)[0])


def test_the_text_of_a_layer_has_the_arguments_of_its_constructor():
    expected = "LocallyConnected1d(2, 3, kernel_size=3, input_size=20, padding=1, bias=True)"
    assert repr(eval(expected)) == expected
