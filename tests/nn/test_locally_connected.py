import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import LocallyConnected1d, LocallyConnected2d
from bioshare.nn.locally_connected import PADDING_MODES

pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
geometries = st.fixed_dictionaries(
    {
        "kernel_size": pair(1, 3),
        "stride": pair(1, 3),
        "padding": pair(0, 2),
        "dilation": pair(1, 2),
        "groups": st.integers(1, 2),
        "bias": st.booleans(),
        "padding_mode": st.sampled_from(PADDING_MODES),
    }
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(input_size, *, kernel_size, padding, dilation, padding_mode, **options):
    """A layer with 2 input and 4 output channels, or None where the kernel or the padding does not fit."""
    axes = zip(input_size, kernel_size, padding, dilation, strict=True)
    if min(n + 2 * p - d * (k - 1) - 1 for n, k, p, d in axes) < 0:
        return None
    room = min(n - p for n, p in zip(input_size, padding, strict=True))
    if room < {"reflect": 1, "circular": 0}.get(padding_mode, -math.inf):
        return None
    options |= {"kernel_size": kernel_size, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
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
    gradients = []
    for model in (layer, conv):
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        gradients.append(torch.autograd.grad(y, [inputs, *model.parameters()], draw(*y.shape, seed=1)))
    by_x, by_kernel, *by_bias = gradients[0]
    summed = [by_x, by_kernel.sum((0, 1)), *(b.sum((1, 2)) for b in by_bias)]
    torch.testing.assert_close(summed, list(gradients[1]), rtol=0, atol=1e-11)


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
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(x, (pw, pw, ph, ph), mode=mode)
    expected = torch.zeros(2, 4, *layer.output_size, dtype=torch.float64)
    for h in range(layer.output_size[0]):
        for w in range(layer.output_size[1]):
            patch = padded[:, :, h * sh :: dh, w * sw :: dw][:, :, :kh, :kw].unflatten(1, (layer.groups, -1))
            kernels = layer.weight[h, w].unflatten(0, (layer.groups, -1))
            expected[:, :, h, w] = torch.einsum("bgikl,goikl->bgo", patch, kernels).flatten(1)
    if layer.bias is not None:
        expected += layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kernel_size", [(3, 2), (2, 3), (1, 4)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_padding_same_and_valid_are_a_convolutions(kernel_size, dilation, padding_mode):
    x = draw(2, 2, 9, 8)
    for padding in ("same", "valid"):
        options = {"padding": padding, "dilation": dilation, "padding_mode": padding_mode, "bias": False}
        conv = nn.Conv2d(2, 3, kernel_size, **options).double()
        layer = LocallyConnected2d(2, 3, kernel_size, input_size=(9, 8), **options).double()
        with torch.no_grad():
            layer.weight.copy_(conv.weight)
        torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=1e-12)


def test_the_positional_arguments_are_those_of_a_convolution():
    arguments = 4, 6, 3, 2, 1, 1, 2, True, "circular", "cpu", torch.float64
    layer, conv = LocallyConnected2d(*arguments, input_size=(9, 7)), nn.Conv2d(*arguments)
    for name in ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size"):
        assert getattr(layer, name) == getattr(conv, name)
    assert layer.weight.dtype == layer.bias.dtype == torch.float64


def test_copies_and_state_dicts_keep_weights_and_layout(tmp_path):
    layer = LocallyConnected2d(2, 4, 3, input_size=5, bias=True)
    twin = copy.deepcopy(layer)
    assert twin.weight.stride() == layer.weight.stride()
    other = LocallyConnected2d(2, 4, 3, input_size=5, bias=True)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = draw(2, 2, 5, 5).float()
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(other(x), layer(x))
    assert other.weight.stride() == layer.weight.stride()


def test_a_layer_on_the_meta_device_has_shapes_and_becomes_real():
    layer = LocallyConnected2d(2, 4, 3, input_size=500, device="meta", bias=True)
    assert layer(torch.empty(7, 2, 500, 500, device="meta")).shape == (7, 4, 498, 498)
    small = LocallyConnected2d(2, 4, 3, input_size=5, device="meta").to_empty(device="cpu")
    small.reset_parameters()
    assert small.weight.isfinite().all()
    assert small.weight.stride() == LocallyConnected2d(2, 4, 3, input_size=5).weight.stride()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_automatic_mixed_precision_casts_as_for_a_convolution(dtype, tolerance):
    layer = LocallyConnected2d(3, 4, 3, padding=1, groups=1, input_size=6, bias=True)
    x = draw(5, 3, 6, 6).float().requires_grad_()
    with torch.autocast("cpu", dtype):
        y = layer(x)
        assert y.dtype == nn.Conv2d(3, 4, 3)(x).dtype == dtype
    gradients = torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])
    exact = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    for gradient, expected in zip(gradients, exact, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance * expected.abs().max().item())
    double = copy.deepcopy(layer).double()
    with torch.autocast("cpu", dtype):
        assert double(x.detach().double()).dtype == torch.float64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own
def test_compiling_does_not_break_the_graph_or_change_the_result():
    layers = nn.Sequential(
        LocallyConnected2d(2, 4, 3, padding=1, input_size=(6, 5), bias=True),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        LocallyConnected2d(4, 4, 3, stride=2, padding="valid", input_size=(6, 5)),
    )
    x, results = draw(3, 2, 6, 5).float(), []
    for model in (layers, torch.compile(layers, fullgraph=True)):
        y = model(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(layers.parameters()))])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)


def test_an_exported_layer_takes_batches_of_any_size():
    layer = LocallyConnected2d(2, 4, 3, padding=1, input_size=(6, 5), bias=True).double()
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(layer, (draw(3, 2, 6, 5),), dynamic_shapes=sizes).module()
    x = draw(7, 2, 6, 5)
    assert torch.equal(exported(x), layer(x))


def test_an_optimizer_step_keeps_the_layout_of_the_weights():
    layer = LocallyConnected2d(2, 4, 3, input_size=5, bias=True)
    strides = [p.stride() for p in layer.parameters()]
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(draw(2, 2, 5, 5).float()).square().sum().backward()
    assert [p.grad.stride() for p in layer.parameters()] == strides
    optimizer.step()
    assert [p.stride() for p in layer.parameters()] == strides
    assert optimizer.state[layer.weight]["exp_avg"].stride() == strides[0]


def test_an_empty_batch_gives_zero_gradients():
    layer = LocallyConnected2d(2, 4, 3, input_size=5, bias=True)
    y = layer(torch.zeros(0, 2, 5, 5))
    assert y.shape == (0, 4, 3, 3)
    y.sum().backward()
    assert not layer.weight.grad.any()


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
        ({"groups": 2}, ValueError, "in_channels must be a multiple of groups=2; got 3"),
        ({"groups": 3}, ValueError, "out_channels must be a multiple of groups=3"),
        ({"groups": 0}, ValueError, "groups must be a whole number, at least 1; got 0"),
        ({"in_channels": 3.0}, TypeError, "in_channels must be a whole number; got 3.0"),
        ({"out_channels": 0}, ValueError, "out_channels must be"),
        ({"stride": 0}, ValueError, "stride must be a whole number or a pair of them, at least 1; got 0"),
        ({"padding": -1}, ValueError, "padding must be .*, at least 0; got -1"),
        ({"padding": (1, 2, 3)}, TypeError, "padding must be an int or a pair"),
        ({"padding": "full"}, ValueError, 'padding must be an int, a pair, "same" or "valid"; got \'full\''),
        ({"padding": "same", "stride": 2}, ValueError, 'padding="same" needs stride=1'),
        ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of zeros, reflect"),
        ({"padding": 5, "padding_mode": "reflect"}, ValueError, "padding must be smaller than input_size"),
        ({"padding": 6, "padding_mode": "circular"}, ValueError, "padding must not exceed input_size"),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 1},
        {"stride": (2, 3)},
        {"padding": 0},
        {"padding": "valid"},
        {"padding": (0, 1), "padding_mode": "circular"},
        {"dilation": 2},
    ],
)
def test_sizes_set_afterwards_that_the_weights_do_not_fit_are_refused(changes):
    layer = LocallyConnected2d(3, 4, 3, stride=2, padding=1, input_size=6)
    for name, value in changes.items():
        setattr(layer, name, value)
    with pytest.raises(ValueError, match=r"weight must have \d x \d kernels, .*; got 3 x 3 kernels. A layer keeps"):
        layer(torch.zeros(2, 3, 6, 6))
    with pytest.raises(
        ValueError, match=r"kernels for \(3, 3\) positions, but its sizes now ask for .* make a new layer"
    ):
        _ = layer.output_size


@settings(max_examples=30, deadline=None)
@given(dilation=st.integers(1, 3), padding_mode=st.sampled_from(PADDING_MODES))
def test_sizes_set_afterwards_that_the_weights_fit_are_those_of_a_convolution(dilation, padding_mode):
    layer, conv = LocallyConnected2d(2, 3, 3, padding=1, input_size=7).double(), nn.Conv2d(2, 3, 3, bias=False).double()
    layer.dilation, layer.padding, layer.padding_mode = dilation, dilation, padding_mode
    assert (layer.dilation, layer.padding) == ((dilation, dilation), (dilation, dilation))
    twin = nn.Conv2d(2, 3, 3, padding=dilation, dilation=dilation, padding_mode=padding_mode, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(twin.weight.copy_(conv.weight))
    x = draw(2, 2, 7, 7)
    torch.testing.assert_close(layer(x), twin(x), rtol=0, atol=1e-12)


def test_sizes_are_checked_whenever_they_are_set():
    layer = LocallyConnected2d(3, 4, 3, input_size=5)
    with pytest.raises(ValueError, match="stride must be a whole number or a pair of them, at least 1; got 0"):
        layer.stride = 0
    layer.stride = 1
    assert layer.stride == (1, 1)


def test_a_kernel_size_of_other_weights_is_refused():
    layer = LocallyConnected2d(1, 2, 3, input_size=8, padding=1)
    layer.kernel_size = layer.kernel_size[0] + 2, layer.kernel_size[1] + 2
    layer.padding = 2
    with pytest.raises(ValueError, match=r"kernels of \(2, 1, 3, 3\), but its sizes now ask for \(2, 1, 5, 5\)"):
        layer.output_size  # noqa: B018


@pytest.mark.parametrize("make", [LocallyConnected1d, LocallyConnected2d])
@pytest.mark.parametrize("x", [None, True, 1.5, "x", [[1.0]], {}, nn.ReLU()])
def test_what_is_no_tensor_is_refused(make, x):
    with pytest.raises(TypeError, match=rf"x must be a torch\.Tensor; got {type(x).__name__}"):
        make(1, 1, 1, input_size=2)(x)


@pytest.mark.parametrize("make", [LocallyConnected1d, LocallyConnected2d])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_weights_that_cannot_learn_are_refused(make, dtype):
    with pytest.raises(TypeError, match=f"dtype must be a floating-point or complex type; got {dtype}"):
        make(1, 1, 1, input_size=2, dtype=dtype)


def test_padding_beyond_the_image_is_refused_for_same_too():
    with pytest.raises(ValueError, match=r"^padding must be smaller than input_size"):
        LocallyConnected2d(1, 1, 9, padding="same", padding_mode="reflect", input_size=4)
