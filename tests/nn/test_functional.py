import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import LocallyConnected2d, batched, functional
from bioshare.nn.batched import ProductPlan
from bioshare.nn.functional import locally_connected2d, physical

pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unfolded(x, weight, stride, padding, dilation, groups):
    """The product as one writes it in PyTorch: unfold and einsum. All patches are in memory."""
    patches = nn.functional.unfold(nn.functional.pad(x, padding), weight.shape[4:], dilation, 0, stride)
    patches = patches.unflatten(1, (groups, -1)).unflatten(3, weight.shape[:2])
    kernels = weight.flatten(3).unflatten(2, (groups, -1))
    return torch.einsum("bgkhw,hwgok->bgohw", patches, kernels).flatten(1, 2)


@pytest.fixture(scope="module", params=["batched", pytest.param("fused", marks=pytest.mark.slow)])
def device(request):
    """Where the products run, each in one of its forms: fused ones on a GPU, or in Triton's interpreter on the CPU."""
    if torch.cuda.is_available():
        with functional.prefer(request.param):
            yield "cuda"
        return
    names = ("forward", "input_gradient", "weight_gradient")
    if request.param == "fused":
        fused = pytest.importorskip("bioshare.nn.fused", reason="needs Triton")
        planned = lambda product, first, second, plan, *dtype: product(first, second, ProductPlan(*plan), *dtype)
        for name in names:
            getattr(functional, name).register_kernel("cpu")(partial(planned, getattr(fused, name)))
    yield "cpu"
    for name in names:
        getattr(functional, name).register_kernel("cpu")(getattr(batched, name))


@given(
    output_size=pair(1, 4),
    kernel_size=pair(1, 3),
    stride=pair(1, 3),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=pair(1, 2),
    groups=st.integers(1, 2),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 3),
    slack=pair(0, 2),
    chunk_bytes=st.sampled_from([0, 2**12, 2**28]),
)
def test_product_and_gradients_are_those_of_unfold_and_einsum(
    device, output_size, kernel_size, stride, padding, dilation, groups, channels, outputs, slack, chunk_bytes
):
    left, right, top, bottom = padding
    size = [
        (n - 1) * s + (k - 1) * d + 1 + min(extra, s - 1) - pad
        for n, s, k, d, extra, pad in zip(
            output_size, stride, kernel_size, dilation, slack, (top + bottom, left + right), strict=True
        )
    ]
    if min(size) < 1:
        return
    geometry = stride, padding, dilation, groups
    x = draw(3, channels * groups, *size).to(device).requires_grad_()
    weight = draw(*output_size, outputs * groups, channels, *kernel_size, seed=1).to(device).requires_grad_()
    expected = unfolded(x, weight, *geometry)
    cotangent = draw(*expected.shape, seed=2).to(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(batched.CHUNK_BYTES, device, chunk_bytes)
        y = locally_connected2d(x, weight, None, *geometry)
        gradients = torch.autograd.grad(y, (x, weight), cotangent)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, weight), cotangent), rtol=0, atol=1e-12)


GEOMETRIES = [
    ((1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((2, 1), (1, 0, 2, 0), (1, 2), 2),
    ((1, 3), (0, 0, 0, 0), (2, 1), 1),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_first_and_second_derivatives(device, geometry):
    x = draw(1, 2, 3, 2)
    y = nn.functional.conv2d(
        nn.functional.pad(x, geometry[1]), draw(2, 2 // geometry[3], 2, 2), None, geometry[0], 0, *geometry[2:]
    )
    weight = physical(draw(*y.shape[2:], 2, 2, 2, 2 // geometry[3]))
    leaves = [t.to(device).requires_grad_() for t in (x, weight)]
    function = lambda x, weight: locally_connected2d(x, weight, None, *geometry)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_the_products_are_well_behaved_operators_of_pytorch():
    x, grad = draw(3, 4, 5, 6).float(), draw(3, 4, 3, 3).float()
    weight = physical(draw(3, 3, 4, 2, 3, 2).float())
    plan = [*ProductPlan.of(x, weight, (2, 2), (1, 0, 1, 1), (1, 1), 2)]
    for product, inputs in (
        (functional.forward, (x, weight, plan)),
        (functional.input_gradient, (grad, weight, plan)),
        (functional.weight_gradient, (x, grad, plan, torch.float32)),
    ):
        outcomes = torch.library.opcheck(product, inputs)
        assert set(outcomes.values()) == {"SUCCESS"}


def test_layouts_other_than_the_fast_ones_give_the_same_result():
    x, weight = draw(3, 2, 5, 4), draw(5, 4, 3, 2, 3, 3)
    geometry = (1, 1), (1, 1, 1, 1), (1, 1), 1
    fast_x = x.contiguous(memory_format=torch.channels_last)
    fast_weight = physical(physical(weight).contiguous())
    results = []
    for inputs in itertools.product((x, fast_x), (weight, fast_weight)):
        leaves = [t.detach().requires_grad_() for t in inputs]
        y = locally_connected2d(*leaves, None, *geometry)
        assert y.is_contiguous(memory_format=torch.channels_last)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-12)


FULL, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(FULL, FULL), (HALF, HALF), (BRAIN, BRAIN), (HALF, FULL), (BRAIN, FULL)],
)
@pytest.mark.parametrize(("channels", "groups"), [(28, 1), (10, 5), (5, 5)])
def test_products_and_gradients_are_rounded_once(device, dtype, weights, channels, groups):
    """Up to 256 terms in float32, rounded at the end: to the type of x, or for the weights' gradient to theirs."""
    layer = LocallyConnected2d(channels, channels, 3, padding=1, groups=groups, input_size=3).to(device, weights)
    x = draw(4, channels, 3, 3).to(device, dtype).requires_grad_()
    with torch.autocast(device, dtype) if weights != dtype else nullcontext():
        y = layer(x)
    cotangent = draw(*y.shape).to(device, dtype)
    values = [y, *torch.autograd.grad(y, (x, layer.weight), cotangent)]
    assert [value.dtype for value in values] == [dtype, dtype, weights]
    leaves = x.detach().double().requires_grad_(), layer.weight.detach().to(dtype).double().requires_grad_()
    exact = locally_connected2d(*leaves, None, padding=(1, 1, 1, 1), groups=groups)
    expected = [exact, *torch.autograd.grad(exact, leaves, cotangent.double())]
    for value, truth in zip(values, expected, strict=True):
        error = (value.double() - truth).abs().max() / truth.abs().max()
        assert error <= (8 if value.dtype == torch.float32 else 2) * torch.finfo(value.dtype).eps


def test_autocast_casts_what_a_convolution_would():
    x, weight = draw(2, 3, 4, 4), draw(4, 4, 2, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        for x_type, expected in (
            (torch.float32, torch.bfloat16),
            (torch.float16, torch.bfloat16),
            (torch.float64, torch.float64),
        ):
            for weights in (torch.float32, torch.float16):
                y = locally_connected2d(x.to(x_type), weight.to(weights), None, padding=(1, 1, 1, 1))
                assert y.dtype == expected


def test_two_types_are_refused_without_autocast():
    with pytest.raises(TypeError, match=r"x must have the weights' type torch.float64; got torch.float32"):
        locally_connected2d(draw(2, 3, 4, 4).float(), draw(4, 4, 2, 3, 3, 3), None, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stride": (2, 1)}, ValueError, "weight must have 2 x 4 kernels, .*; got 4 x 4 kernels"),
        ({"padding": (0, 0, 0, 0)}, ValueError, "weight must have 2 x 2 kernels"),
        ({"dilation": 2}, ValueError, "weight must have 2 x 2 kernels"),
        ({"weight": draw(4, 4, 2, 3, 5, 5)}, ValueError, "weight must have 2 x 2 kernels"),
        ({"weight": draw(4, 4, 2, 2, 3, 3)}, ValueError, r"x must be \(batch, in, H, W\) and weight \(H_out"),
        ({"weight": draw(2, 3, 3, 3)}, ValueError, r"got \(2, 3, 4, 4\) and \(2, 3, 3, 3\)"),
        ({"x": draw(3, 4, 4)}, ValueError, r"got \(3, 4, 4\) and"),
        ({"groups": 3}, ValueError, "with groups=3 equal blocks of channels"),
        ({"groups": 0}, ValueError, "groups must be"),
        ({"bias": draw(2)}, ValueError, r"bias must be \(out, H_out, W_out\), \(2, 4, 4\); got \(2,\)"),
        ({"padding": (1, 1)}, TypeError, r"padding must be four whole numbers \(left, right, top, bottom\)"),
        ({"padding": (1, 1, 1, -1)}, ValueError, "padding must be four whole numbers, at least 0; got -1"),
        ({"stride": (1, 1, 1)}, TypeError, "stride must be an int or a pair"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes, error, message):
    arguments = {"x": draw(2, 3, 4, 4), "weight": draw(4, 4, 2, 3, 3, 3), "padding": (1, 1, 1, 1)}
    assert locally_connected2d(**arguments, stride=1, dilation=(1, 1)).shape == (2, 2, 4, 4)
    with pytest.raises(error, match=message):
        locally_connected2d(**arguments | changes)


def test_only_input_and_weights_are_kept_for_the_backward_pass():
    layer = LocallyConnected2d(8, 8, 3, padding=1, input_size=12)
    x, kept = draw(4, 8, 12, 12).float().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert sorted(t.data_ptr() for t in kept) == sorted([x.data_ptr(), layer.weight.data_ptr()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_gpu_computes_what_the_cpu_does(geometry):
    x, results = draw(3, 2, 7, 6), []
    size = nn.functional.conv2d(
        nn.functional.pad(x, geometry[1]), draw(2, 2 // geometry[3], 2, 2), None, geometry[0], 0, *geometry[2:]
    ).shape[2:]
    weight = draw(*size, 2, 2 // geometry[3], 2, 2, seed=1)
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in (x, weight)]
        y = locally_connected2d(*leaves, None, *geometry)
        results.append([t.cpu() for t in (y, *torch.autograd.grad(y.square().sum(), leaves))])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)
