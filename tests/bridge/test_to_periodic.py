"""Layers after sharing as convolutions with a kernel for each module: the same function."""

import math

import pytest
import torch
from hypothesis import given
from small_layers import any_layers, assert_agree, layer

import bioshare as bs
from bioshare.bridge import to_periodic
from bioshare.nn import LocallyConnected2d, PeriodicConv2d


def images(model):
    return torch.randn(2, model.in_channels, *model.input_size, generator=torch.Generator().manual_seed(1)).double()


@given(any_layers())
def test_a_shared_layer_has_the_same_function_and_a_kernel_for_each_module(model):
    bs.InstantSharing()(model)
    periodic = to_periodic(model)
    assert isinstance(periodic, PeriodicConv2d)
    expected = [
        min(n, k // math.gcd(k, s)) for n, k, s in zip(model.output_size, model.kernel_size, model.stride, strict=True)
    ]
    assert list(periodic.weight.shape[:2]) == expected
    assert_agree(periodic(images(model)), model(images(model)), atol=1e-11)


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_of_any_kind_and_biases_go_along(padding_mode):
    model = layer(kernel_size=3, padding=1, padding_mode=padding_mode, bias=True)
    with torch.no_grad():
        model.bias.normal_(generator=torch.Generator().manual_seed(2))
    bs.InstantSharing()(model)
    assert_agree(to_periodic(model)(images(model)), model(images(model)), atol=1e-11)


def test_a_network_keeps_everything_else():
    model = bs.nn.to_locally_connected(bs.nn.cifar_resnet(8, width=0.25), (3, 12, 12)).double().eval()
    bs.InstantSharing()(model)
    periodic = to_periodic(model)
    assert not [one for one in periodic.modules() if isinstance(one, LocallyConnected2d)]
    assert not periodic.training
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    assert_agree(periodic(x), model(x), atol=1e-9)


def test_frozen_layers_stay_frozen():
    model = layer(kernel_size=1, bias=True)
    bs.InstantSharing()(model)
    model.weight.requires_grad_(False)
    periodic = to_periodic(model.eval())
    assert (periodic.weight.requires_grad, periodic.bias.requires_grad, periodic.training) == (False, True, False)


def test_modules_with_different_weights_are_refused_unless_their_means_are_wanted():
    model = layer(kernel_size=3, padding=1)
    with pytest.raises(ValueError, match=r"^model.weight in a module must be the same at every position, to 1e-06"):
        to_periodic(model)
    bs.InstantSharing(border="keep")(model)
    with pytest.raises(ValueError, match=r"^model.weight in a module must be the same"):
        to_periodic(model)
    means = to_periodic(model, tolerance=math.inf)
    bs.InstantSharing()(model)
    assert_agree(means(images(model)), model(images(model)), atol=1e-11)
