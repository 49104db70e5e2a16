"""Sizes of the networks of Moskovitz et al. (2018)."""

import math

import pytest
import torch
from torch import nn

from bioshare.nn import moskovitz, to_locally_connected, with_feedback


def shapes(name, size, classes=10):
    """Shapes of the outputs of all layers with weights, and the number of parameters."""
    with torch.device("meta"):
        model = moskovitz(name, classes, size)
    found = []
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, x, y: found.append(tuple(y.shape[1:])))
    assert model.eval()(torch.empty(2, *size, device="meta")).shape == (2, classes)
    return found, sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_those_of_the_paper():
    assert shapes("mnist", (1, 28, 28)) == ([(32, 28, 28), (64, 14, 14), (1024,), (10,)], 3_274_634)
    cifar = [(64, 24, 24), (64, 12, 12), (384,), (192,), (10,)]
    assert shapes("cifar-1", (3, 24, 24)) == (cifar, 1_068_298)
    widths = [(96, 32), (96, 32), (96, 16), (192, 16), (192, 16), (192, 8), (192, 8), (192, 8), (10, 8)]
    assert shapes("cifar-2", (3, 32, 32)) == ([(c, n, n) for c, n in widths], 1_369_738)
    first = [(192, 150, 150), (192, 38, 38), (512,), (512,), (1000,)]
    assert shapes("imagenet-1", (3, 299, 299), 1000)[0] == first
    widths = [(192, 75), (192, 38), (192, 13), (256, 7), (256, 7), (256, 4), (512, 4), (512, 4), (1000, 4)]
    assert shapes("imagenet-2", (3, 299, 299), 1000)[0] == [(c, n, n) for c, n in widths]


@pytest.mark.parametrize("name", ["cifar-2", "imagenet-2"])
def test_scores_of_a_convolution_are_rectified_before_their_mean(name):
    *_, last, relu, pool, _ = moskovitz(name, 10, (3, 40, 40))
    assert [type(layer) for layer in (last, relu, pool)] == [nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d]


@pytest.mark.parametrize("size", [8, 9])
def test_padding_is_tensorflows(size):
    """SAME pads an odd row below and an odd column on the right: the first window of a stride of 2 starts at 0."""
    model = moskovitz("cifar-2", 10, (3, size, size), dropout=False).double()
    pad, conv = model[6], model[7]
    x = torch.randn(1, 96, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = conv(pad(x))
    assert y.shape[-1] == math.ceil(size / 2)
    start = 0 if size % 2 == 0 else 1  # rows of zeros above
    window = x[0, :, : 3 - start, : 3 - start]
    kernel = conv.weight.detach()[:, :, start:, start:]
    torch.testing.assert_close(y.detach()[0, :, 0, 0], (kernel * window).sum((1, 2, 3)), rtol=0, atol=1e-12)


def test_weights_start_with_the_variance_of_one_over_the_inputs():
    torch.manual_seed(0)
    model = moskovitz("cifar-1", 10, (3, 16, 16))
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(
                math.prod(layer.weight.shape[1:]) ** -0.5, rel=0.1
            )
            assert not layer.bias.any()


def test_dropout_stands_where_the_paper_has_it():
    rates = lambda name, **options: [m.p for m in moskovitz(name, **options) if isinstance(m, nn.Dropout)]
    assert rates("mnist") == [0.5]
    assert rates("cifar-2") == [0.2, 0.5, 0.5]
    assert rates("cifar-2", dropout=False) == []


def test_networks_become_locally_connected_with_feedback():
    model = with_feedback(to_locally_connected(moskovitz("cifar-1", 10, (3, 8, 8)), (3, 8, 8)))
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    with pytest.raises(ValueError, match="name must be one of 'mnist'"):
        moskovitz("alexnet")
