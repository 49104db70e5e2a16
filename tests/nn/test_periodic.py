"""Convolutions with several kernels in turn, against a convolution for every position."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, pad
from torch.utils.flop_counter import FlopCounterMode

from bioshare.nn import PeriodicConv2d

pair = lambda numbers: st.tuples(numbers, numbers)
small = pair(st.integers(1, 3))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@given(
    period=small, kernel=small, stride=small, dilation=small, size=pair(st.integers(3, 9)),
    padding=st.tuples(*[st.integers(0, 2)] * 4), groups=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]), bias=st.booleans(),
)  # fmt: skip
def test_every_position_has_its_kernel_of_the_period(
    period, kernel, stride, dilation, size, padding, groups, mode, bias
):
    weight, x = normal(*period, 2 * groups, 2, *kernel), normal(2, 2 * groups, *size, seed=1)
    biases = normal(*period, 2 * groups, seed=2)
    padded = pad(x, padding, "constant" if mode == "zeros" else mode)
    assume(all(d * (k - 1) < n for n, d, k in zip(padded.shape[2:], dilation, kernel, strict=True)))
    full = [
        [conv2d(padded, weight[i, j], biases[i, j] * bias, stride, 0, dilation, groups) for j in range(period[1])]
        for i in range(period[0])
    ]
    expected = torch.empty_like(full[0][0])
    for h in range(expected.shape[2]):
        for w in range(expected.shape[3]):
            expected[:, :, h, w] = full[h % period[0]][w % period[1]][:, :, h, w]
    layer = PeriodicConv2d(weight, biases if bias else None, stride, padding, dilation, groups, mode)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=0, atol=1e-12)


def test_the_cost_is_a_convolutions():
    """Where the period divides the output, to the operation; elsewhere, rounded up to whole periods."""
    conv, x = nn.Conv2d(4, 8, 3, padding=1), torch.ones(2, 4, 12, 12)
    flops = []
    for layer in (conv, PeriodicConv2d(torch.ones(3, 3, 8, 4, 3, 3), padding=(1, 1, 1, 1))):
        with FlopCounterMode(display=False) as counter:
            layer(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of PyTorch's forward derivatives
def test_the_layer_is_differentiable_in_every_way():
    layer, x = PeriodicConv2d(normal(2, 2, 3, 2, 2, 2), normal(2, 2, 3)), normal(2, 2, 5, 4)
    weight, bias = (p.detach().requires_grad_() for p in layer.parameters())
    call = lambda x, weight, bias: torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
    assert torch.autograd.gradcheck(call, (x.requires_grad_(), weight, bias), check_forward_ad=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.ones(2, 2, 3, 3)}, r"weight must have the axes \(rows, columns, out"),
        ({"bias": torch.ones(2)}, r"bias must have the shape \(2, 2, 4\); got \(2,\)"),
        ({"groups": 3}, "groups must divide the 4 output channels of weight; got 3"),
        ({"padding_mode": "zero"}, "padding_mode must be one of 'zeros'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PeriodicConv2d(**({"weight": torch.ones(2, 2, 4, 2, 3, 3)} | arguments))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torch_fx_sees_one_step_and_a_script_is_refused():
    layer = PeriodicConv2d(torch.randn(2, 3, 4, 2, 3, 3), padding=(1, 1, 1, 1))
    graph, x = torch.fx.symbolic_trace(layer), torch.randn(2, 2, 7, 8)
    assert torch.equal(graph(x), layer(x))
    torch.testing.assert_close(graph(x[0]), layer(x)[0])
    with pytest.raises(TypeError, match=r"can't be scripted; use torch\.export\.export"):
        torch.jit.script(layer)
