"""How far a network is from convolutions: three orthogonal parts, masks, and pictures."""

import math
from copy import deepcopy
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import (
    LocallyConnected2d,
    PatchwiseLinear,
    deviation,
    draw_block,
    draw_filter,
    keeping,
    locality,
    to_fully_connected,
    to_locally_connected,
)
from bioshare.nn.deviation import shared_by

pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
GRID = {
    "size": pairs(5, 6), "kernel_size": pairs(1, 3), "stride": pairs(1, 2), "padding": pairs(0, 2),
    "dilation": pairs(1, 2), "groups": st.integers(1, 2),
    "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]), "padded": st.booleans(),
}  # fmt: skip


def convolutions(options, groups):
    """The dense weights of every single weight of a convolution, (weights of the convolution, outputs, inputs)."""
    size, padded = options.pop("size"), options.pop("padded")
    conv = nn.Conv2d(2, 2, groups=groups, bias=False, **options).double()
    dense: Any = to_fully_connected(conv, (2, *size), padded)
    columns = []
    for index in range(conv.weight.numel()):
        with torch.no_grad():
            conv.weight.zero_().view(-1)[index] = 1
        unit: Any = to_fully_connected(conv, (2, *size), padded)
        columns.append(unit.weight.detach())
    return dense, torch.stack(columns)


@settings(max_examples=25, deadline=None)
@given(**GRID)
@example(  # pixels that several taps of a kernel see
    size=(5, 6), kernel_size=(3, 2), stride=(1, 2), padding=(1, 1), dilation=(1, 1), groups=2,
    padding_mode="replicate", padded=False,
)  # fmt: skip
def test_the_parts_are_the_projections_of_least_squares(groups, **options):
    torch.manual_seed(0)
    dense, columns = convolutions(options, groups)
    with torch.no_grad():
        theta = dense.weight.normal_().detach().flatten()
    phi = columns.flatten(1).T
    shared = phi @ torch.linalg.lstsq(phi, theta[:, None], driver="gelsd").solution[:, 0]
    mask = (columns != 0).any(0)
    assert torch.equal(locality(dense), mask)
    local = theta * mask.flatten()
    row = deviation(dense).total
    np.testing.assert_allclose(
        [row.shared, row.unshared, row.off_local],
        [float(part.norm()) for part in (shared, local - shared, theta - local)],
        rtol=0,
        atol=1e-10,
    )
    squares = row.shared**2 + row.unshared**2 + row.off_local**2
    np.testing.assert_allclose(squares, float(theta.square().sum()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(row.delta, float((theta - local).norm() / theta.norm()), rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(size=pairs(4, 6), kernel_size=pairs(1, 3), stride=pairs(1, 2), padding=pairs(0, 2), groups=st.integers(1, 2))
def test_a_locally_connected_layer_has_the_parts_of_the_dense_layer_with_its_function(size, **options):
    torch.manual_seed(0)
    local = LocallyConnected2d(2, 4, input_size=size, dtype=torch.float64, **options)
    ours, theirs = deviation(local).total, deviation(to_fully_connected(local, (2, *size))).total
    for name in ("shared", "unshared", "off_local"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_an_embedded_convolution_has_no_deviation(padded):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, 2)).double()
    for copy in (to_locally_connected(model, (2, 6, 6), "copy"), to_fully_connected(model, (2, 6, 6), padded)):
        report = deviation(copy)
        assert [row.name for row in report.layers] == ["0", "2"]
        assert report.total.delta == 0
        assert report.total.unshared < 1e-12 < report.total.shared
        assert report.to_xarray()["shared"].values[1] == report.layers[1].shared
        assert "delta" in str(report)


@pytest.mark.parametrize(("padded", "printed"), [(True, 0.9749), (False, 0.9613)])
def test_delta_of_the_papers_network_from_random_weights(padded, printed):
    """The paper prints 97 % (Fig. 4). Independent of the number of channels, once these are equal."""
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 8, 4, 2, 2), nn.Conv2d(8, 8, 5, 1, 2), nn.Conv2d(8, 8, 3, 1, 1)
    pool = lambda: nn.MaxPool2d(3, 2)
    model = nn.Sequential(convs[0], pool(), convs[1], pool(), convs[2], pool())
    dense: Any = to_fully_connected(model, (3, 32, 32), padded)
    with torch.no_grad():
        for layer in (dense[0], dense[2], dense[4]):
            layer.weight.uniform_(-1, 1).div_(math.sqrt(layer.weight.shape[1]))
    assert abs(deviation(dense).total.delta - printed) < 1e-3


def test_the_local_and_the_other_weights_alone_add_up_without_a_nonlinearity():
    torch.manual_seed(0)
    dense: Any = to_fully_connected(nn.Conv2d(2, 3, 3, padding=1).double(), (2, 5, 5))
    convolution = dense.weight.detach().clone()
    with torch.no_grad():
        dense.weight += torch.randn_like(dense.weight) * ~locality(dense)
    moved, x = dense.weight.detach().clone(), torch.randn(4, 2, 5, 5, dtype=torch.float64)
    with keeping(dense, "local"):
        assert torch.equal(dense.weight, convolution)
        local = dense(x)
    with keeping(dense, "off-local"):
        rest = dense(x)
    assert torch.equal(dense.weight, moved)
    torch.testing.assert_close(local + rest, dense(x), rtol=0, atol=1e-12)
    assert rest.abs().max() > 0.1


def test_pictures_show_the_logarithm_of_weights():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    dense: Any = to_fully_connected(conv, (2, 5, 5))
    kernel = conv.weight[1].detach().square().mean(0).sqrt().log()
    shown = draw_filter(dense, 1, (2, 3)).images[0].get_array()
    np.testing.assert_allclose(shown[1:4, 2:5], kernel, rtol=0, atol=1e-12)
    assert shown.max() == shown[1:4, 2:5].max()
    block = draw_block(dense, 1, 0).images[0].get_array()
    np.testing.assert_allclose(block[7, 7], conv.weight[1, 0, 1, 1].detach().abs().log(), rtol=0, atol=1e-12)
    later: Any = to_fully_connected(conv, (2, 5, 5))
    with torch.no_grad():
        later.weight[(1 * 5 + 2) * 5 + 3, 0] += math.sqrt(2)
    change = draw_filter(later, 1, (2, 3), before=dense).images[0].get_array()
    np.testing.assert_allclose(change[0, 0], 0, rtol=0, atol=1e-12)
    plt.close("all")
    with pytest.raises(ValueError, match=r"position must lie within the output .*\(3, 5, 5\); got 5"):
        draw_filter(dense, 0, (0, 5))


def test_a_network_of_convolutions_is_refused():
    with pytest.raises(ValueError, match="model must have a locally or fully connected layer"):
        deviation(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("part", ["local", "off-local"])
def test_parts_are_kept_under_autocast_and_do_not_outlast_the_block(part):
    """Autocast keeps copies of weights in bfloat16."""
    torch.manual_seed(0)
    dense = to_fully_connected(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)), (1, 4, 4))
    with torch.no_grad():
        dense[0].weight.add_(0.1)
    x = torch.randn(5, 1, 4, 4)
    with keeping(dense, part), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = dense(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = dense(x)
        with keeping(dense, part):
            assert torch.equal(dense(x), expected)
        assert torch.equal(dense(x), before)
    assert not torch.equal(before, expected)


def test_class_tokens_share_with_no_other_token():
    layer = PatchwiseLinear(5, 3, 3, class_tokens=1)
    with torch.no_grad():
        layer.weight[1:] = layer.weight[1].clone()
    (found,) = deviation(layer).layers
    assert (found.name, found.unshared) == ("(model)", 0.0)
    assert found.shared == pytest.approx(2 * float(layer.weight[1].detach().double().norm()), abs=1e-12)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("space", ["local", "full", "padded columns"])
def test_a_step_times_the_sharing_positions_is_that_of_the_convolution(space, padding_mode):
    """For equal gradients: the nearest convolution moves as a convolution, whose gradients add up."""
    torch.manual_seed(0)
    options = {"padding_mode": padding_mode, "bias": False, "dtype": torch.float64}
    conv, size = nn.Conv2d(4, 6, 3, (2, 1), (1, 2), (1, 2), 2, **options), (4, 5, 6)
    unshared: Any = {
        "local": lambda conv: to_locally_connected(conv, size, "copy"),
        "full": lambda conv: to_fully_connected(conv, size),
        "padded columns": lambda conv: to_fully_connected(conv, size, padded_columns=True),
    }[space]
    layer = unshared(conv)
    inside = locality(layer)
    with torch.no_grad():
        layer.weight.add_(shared_by(layer) * inside)  # a gradient of 1
        moved = deepcopy(conv)
        counts = shared_by(to_locally_connected(conv, size)).amax((0, 1))
        moved.weight.add_(counts if space != "padded columns" else math.prod(layer.output_size))
    parts, expected = deviation(layer).layers[0], deviation(unshared(moved)).layers[0]
    assert parts.shared == pytest.approx(expected.shared, rel=1e-12)
