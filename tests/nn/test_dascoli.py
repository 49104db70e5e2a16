"""The networks of d'Ascoli et al. (2019): sizes, and parameters when fully connected."""

from typing import Any

import pytest
import torch
from torch import nn

from bioshare.nn import LocallyConnected2d, dascoli, to_fully_connected, to_locally_connected


def dense(name, padded):
    model = dascoli(name, 10 if name == "vanilla" else 100).to("meta")
    found: Any = to_fully_connected(model, (3, 32, 32), padded)
    return [layer for layer in found if hasattr(layer, "padded_columns")]


@pytest.mark.parametrize(("padded", "megabytes"), [(False, 295.7), (True, 442.3)])
def test_the_papers_network_fully_connected(padded, megabytes):
    layers = dense("vanilla", padded)
    assert [layer.output_size[0] * layer.output_size[1] for layer in layers] == [289, 64, 9]
    assert round(sum(layer.weight.numel() for layer in layers) * 4 / 1e6, 1) == megabytes
    assert sum(layer.bias.numel() for layer in layers) == 23_168


def test_alexnet_fully_connected_has_the_millions_of_weights_of_the_paper():
    assert [round(layer.weight.numel() / 1e6, 1) for layer in dense("alexnet", True)] == [71.9, 113.2, 16.6, 22.1, 14.7]


def test_the_papers_network_locally_connected():
    found = to_locally_connected(dascoli().to("meta"), (3, 32, 32), "copy")
    layers = [layer for layer in found.modules() if isinstance(layer, LocallyConnected2d)]
    assert sum(layer.weight.numel() for layer in layers) == 7_773_184


@pytest.mark.parametrize("name", ["vanilla", "alexnet"])
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 16), (2, 32, 24)])
def test_scores_of_images_of_any_size(name, size):
    torch.manual_seed(0)
    model = dascoli(name, 7, size, channels=4).double().eval()
    x = torch.randn(2, *size, dtype=torch.float64)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(to_fully_connected(model, size)(x), model(x), rtol=0, atol=1e-12)


def test_the_layers_are_those_of_the_paper():
    kinds = [type(layer) for layer in dascoli()]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.MaxPool2d] * 3 + [nn.Flatten, nn.Linear]
    linear = [layer for layer in dascoli("alexnet", 100) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(256, 512), (512, 512), (512, 100)]
