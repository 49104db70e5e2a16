import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import LocallyConnected2d

pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
geometries = st.fixed_dictionaries(
    {
        "kernel_size": pair(1, 3),
        "stride": pair(1, 3),
        "padding": pair(0, 2),
        "dilation": pair(1, 2),
        "groups": st.integers(1, 2),
        "bias": st.booleans(),
    }
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(input_size, *, kernel_size, padding, dilation, **options):
    """A layer with 2 input and 4 output channels, or None where the kernel does not fit."""
    axes = zip(input_size, kernel_size, padding, dilation, strict=True)
    if min(n + 2 * p - d * (k - 1) - 1 for n, k, p, d in axes) < 0:
        return None
    options |= {"kernel_size": kernel_size, "padding": padding, "dilation": dilation}
    return LocallyConnected2d(2, 4, input_size=input_size, **options).double()


@settings(max_examples=80, deadline=None)
@given(input_size=pair(1, 8), geometry=geometries)
def test_one_kernel_everywhere_is_a_convolution(input_size, geometry):
    layer = make(input_size, **geometry)
    if layer is None:
        return
    conv = nn.Conv2d(2, 4, **geometry).double()
    with torch.no_grad():
        layer.weight.copy_(conv.weight)
        if geometry["bias"]:
            layer.bias.copy_(conv.bias[:, None, None])
    x = draw(3, 2, *input_size)
    torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), conv(x[0]), rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(input_size=pair(1, 6), geometry=geometries)
def test_every_position_applies_its_own_kernel(input_size, geometry):
    layer = make(input_size, **geometry)
    if layer is None:
        return
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed))
    x = draw(2, 2, *input_size, seed=7)
    (ph, pw), (sh, sw), (dh, dw), (kh, kw) = layer.padding, layer.stride, layer.dilation, layer.kernel_size
    padded = nn.functional.pad(x, (pw, pw, ph, ph))
    expected = torch.zeros(2, 4, *layer.output_size, dtype=torch.float64)
    for h in range(layer.output_size[0]):
        for w in range(layer.output_size[1]):
            patch = padded[:, :, h * sh :: dh, w * sw :: dw][:, :, :kh, :kw].unflatten(1, (layer.groups, -1))
            kernels = layer.weight[h, w].unflatten(0, (layer.groups, -1))
            expected[:, :, h, w] = torch.einsum("bgikl,goikl->bgo", patch, kernels).flatten(1)
    if layer.bias is not None:
        expected += layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "groups": 2, "bias": True}, {"dilation": (1, 2)}])
def test_gradients(options):
    layer = LocallyConnected2d(2, 2, (3, 2), input_size=(4, 3), **options).double()
    x = draw(2, 2, 4, 3).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    function = lambda x, *values: torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_initial_weights_are_independent_draws_of_kaiming_variance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = LocallyConnected2d(8, 16, (3, 2), input_size=20, padding=1, bias=True)
    weight = layer.weight.detach().double()
    std = math.sqrt(2 / (16 * 3 * 2))
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * std)
    between_positions = (weight[:-1] * weight[1:]).mean().item()
    assert between_positions == pytest.approx(0, abs=0.01 * std**2)
    assert not layer.bias.any()


def test_weight_axes():
    layer = LocallyConnected2d(4, 6, (3, 2), input_size=(9, 7), stride=(2, 1), padding=(1, 0), groups=2, bias=True)
    assert layer.weight.shape == (5, 6, 6, 2, 3, 2)
    assert layer.bias.shape == (6, 5, 6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel_size": 6, "padding": 0}, ValueError, "kernel_size must fit into the padded input"),
        ({"groups": 2}, ValueError, "in_channels must be a positive multiple of groups=2 >= 1; got 3"),
        ({"groups": 3}, ValueError, "out_channels must be a positive multiple of groups=3"),
        ({"groups": 0}, ValueError, "multiple of groups=0 >= 1"),
        ({"out_channels": 0}, ValueError, "out_channels must be"),
        ({"stride": 0}, ValueError, "stride must be at least 1; got 0"),
        ({"padding": -1}, ValueError, "padding must be at least 0"),
        ({"padding": "same"}, TypeError, "padding must be an int or a pair"),
        ({"dilation": (1, 2, 3)}, TypeError, "dilation must be an int or a pair"),
    ],
)
def test_arguments_are_checked(options, error, message):
    arguments = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "input_size": 5} | options
    with pytest.raises(error, match=message):
        LocallyConnected2d(**arguments)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 4, 5, 5), (5, 5), (1, 2, 3, 5, 5)])
def test_an_input_of_the_wrong_size_is_named(shape):
    layer = LocallyConnected2d(3, 4, 3, input_size=5)
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, 3, 5, 5\); got"):
        layer(torch.zeros(shape))
