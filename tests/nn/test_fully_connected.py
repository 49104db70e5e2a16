"""A fully connected copy computes the function of the convolutional or locally connected network."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import to_fully_connected, to_locally_connected
from bioshare.nn.fully_connected import FullyConnected2d

pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=40, deadline=None)
@given(
    size=pairs(5, 8), kernel_size=pairs(1, 3), stride=pairs(1, 3), padding=pairs(0, 2), dilation=pairs(1, 2),
    groups=st.integers(1, 2), bias=st.booleans(), mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    padded=st.booleans(), init=st.sampled_from(["conv", "copy", "independent"]),
    close=st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-5)]),
)  # fmt: skip
def test_the_copy_has_the_scores_of_the_network(size, mode, padded, init, close, **options):
    torch.manual_seed(0)
    dtype, tolerance = close
    model = nn.Sequential(nn.Conv2d(2, 4, padding_mode=mode, **options), nn.Tanh(), nn.Conv2d(4, 3, 1)).to(dtype)
    if init != "conv":
        model = to_locally_connected(model, (2, *size), init)
    x = torch.randn(3, 2, *size, dtype=dtype)
    dense = to_fully_connected(model, (2, *size), padded)
    assert not any(isinstance(layer, nn.Conv2d) for layer in dense.modules())
    torch.testing.assert_close(dense(x), model(x), rtol=0, atol=tolerance)


def test_the_copies_gradients_add_up_and_a_step_moves_their_mean_by_one_over_the_positions():
    torch.manual_seed(0)
    conv: Any
    conv, x = nn.Conv2d(2, 3, 3, bias=False).double(), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    dense: Any = to_fully_connected(conv, (2, 6, 6))
    for layer in (conv, dense):
        layer(x).square().sum().backward()
    grad = dense.weight.grad.view(3, 4, 4, 2, 6, 6)
    kernels = torch.stack([grad[:, i, j, :, i : i + 3, j : j + 3] for i in range(4) for j in range(4)])
    torch.testing.assert_close(kernels.sum(0), conv.weight.grad, rtol=0, atol=1e-11)
    torch.testing.assert_close(kernels.mean(0), conv.weight.grad / 16, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_a_dense_layer_can_be_traced(padded):
    torch.manual_seed(0)
    dense = to_fully_connected(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()), (2, 5, 5), padded)
    graph, x = torch.fx.symbolic_trace(dense), torch.randn(4, 2, 5, 5)
    assert torch.equal(graph(x), dense(x))
    assert torch.equal(graph(x[0]), dense(x[0]))
    with pytest.raises(ValueError, match="x must have the shape"):
        graph(x[..., 1:])


@pytest.mark.parametrize(("padded", "weights"), [(False, 73_928_704), (True, 110_582_784)])
def test_sizes_of_the_vanilla_cnn_of_the_paper(padded, weights):
    convs = nn.Conv2d(3, 64, 4, 2, 2), nn.Conv2d(64, 64, 5, 1, 2), nn.Conv2d(64, 64, 3, 1, 1)
    pool = lambda: nn.MaxPool2d(3, 2)
    model = nn.Sequential(convs[0], pool(), convs[1], pool(), convs[2], pool()).to("meta")
    dense: Any = to_fully_connected(model, (3, 32, 32), padded)
    assert sum(dense[i].weight.numel() for i in (0, 2, 4)) == weights
    assert [layer.output_size[0] ** 2 for layer in (dense[0], dense[2], dense[4])] == [289, 64, 9]


def test_too_large_a_network_is_refused_with_its_memory(monkeypatch):
    with pytest.raises(MemoryError, match=r"need 17,584\.67 GB .* more than this machine has"):
        to_fully_connected(nn.Conv2d(1, 1, 1, bias=False), (1, 1448, 1448))

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(FullyConnected2d, "to_empty", full)
    with pytest.raises(MemoryError, match=r"need 0\.00 MB .* more than is free"):
        to_fully_connected(nn.Conv2d(1, 1, 1, bias=False), (1, 2, 2))
