"""Centring over connected positions, against slices; and batch normalisation behind the centring."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.nn import LateralCentring2d, LocallyConnected2d, resnet20, to_locally_connected, with_lateral_centring

sizes = st.integers(1, 7)


def activity(*shape):
    return 3 + torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


@given(size=st.tuples(sizes, sizes), period=st.tuples(sizes, sizes))
def test_the_mean_of_every_slice_with_the_period_is_subtracted(size, period):
    x = activity(2, 3, *size)
    expected = x.clone()
    for i in range(period[0]):
        for j in range(period[1]):
            part = expected[:, :, i :: period[0], j :: period[1]]
            part -= part.mean((2, 3), keepdim=True)
    torch.testing.assert_close(LateralCentring2d(period)(x), expected, rtol=0, atol=1e-12)


def test_the_gradient_is_the_derivative():
    x = activity(2, 2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(LateralCentring2d((2, 3)), x)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)], ids=str)
def test_means_of_half_types_are_single(dtype, atol):
    """Beside activity of 300, a mean in a half type would be wrong by up to 0.1 or 1."""
    x = (300 + activity(1, 1, 64, 64)).to(dtype)
    y = LateralCentring2d((1, 1))(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), x.double() - x.double().mean(), rtol=0, atol=atol)


def test_a_period_must_be_two_whole_numbers():
    with pytest.raises(ValueError, match=r"^period must be a whole number or a pair of them, at least 1; got 0$"):
        LateralCentring2d((3, 0))


@pytest.mark.parametrize(("kernel", "stride", "period"), [(3, 2, (3, 3)), (4, 2, (2, 2)), ((2, 3), 2, (1, 3))])
def test_the_period_is_the_distance_of_neurons_with_the_same_patch_of_a_pattern(kernel, stride, period):
    layer = LocallyConnected2d(1, 2, kernel, stride, input_size=20)
    assert with_lateral_centring(nn.Sequential(layer, nn.BatchNorm2d(2)))[1][0].period == period


def column(size=9):
    """A locally connected layer with two neurons or more in each module, with batch normalisation, in float64."""
    layers = nn.Sequential(LocallyConnected2d(2, 4, 3, padding=1, input_size=size), nn.BatchNorm2d(4))
    return layers.double()


def test_the_scale_and_the_offset_of_batch_normalisation_stay_but_the_mean_is_that_of_the_image():
    model = column()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 2, 3, 4]))
        model[1].bias.fill_(7)
    centred, x = with_lateral_centring(model), activity(5, 2, 9, 9)
    y = centred(x) - 7
    for i in range(3):
        for j in range(3):
            torch.testing.assert_close(y[:, :, i::3, j::3].mean((2, 3)), torch.zeros(5, 4).double(), rtol=0, atol=1e-12)
    deviation = y.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(deviation, torch.tensor([1.0, 2, 3, 4]).double(), rtol=0, atol=1e-3)  # eps is 1e-5


def test_batch_normalisation_learns_no_mean_so_an_image_alone_is_centred_as_in_its_batch():
    centred, x = with_lateral_centring(column()), activity(5, 2, 9, 9)
    for _ in range(200):
        y = centred(x)
    torch.testing.assert_close(centred[1][1].running_mean, torch.zeros(4).double(), rtol=0, atol=1e-12)
    scale = (5 * 81 / (5 * 81 - 1)) ** 0.5  # the running variance is unbiased
    torch.testing.assert_close(scale * centred.eval()(x[:1]), y[:1], rtol=0, atol=1e-5)


def test_the_model_stays_and_the_copy_has_parameters_of_its_own():
    model = column()
    centred = with_lateral_centring(model)
    assert [type(layer) for layer in model] == [LocallyConnected2d, nn.BatchNorm2d]
    assert [type(layer) for layer in centred[1]] == [LateralCentring2d, nn.BatchNorm2d]
    assert not {*model.parameters()} & {*centred.parameters()}
    assert len([*model.parameters()]) == len([*centred.parameters()])


@pytest.mark.parametrize(("size", "centred"), [(4, False), (5, False), (6, True), ((6, 4), True), ((2, 6), True)])
def test_layers_with_a_module_of_one_neuron_keep_batch_normalisation(size, centred):
    model = column(size)
    if centred:
        assert isinstance(with_lateral_centring(model)[1][0], LateralCentring2d)
    else:
        with pytest.raises(ValueError, match=r"^model must have a BatchNorm2d right behind .* smaller kernels"):
            with_lateral_centring(model)


def test_in_resnet_every_layer_is_centred_with_its_kernel_but_behind_convolutions_and_on_small_maps():
    model = with_lateral_centring(to_locally_connected(resnet20(), (3, 16, 16), keep_first=1))
    periods = {name: module.period for name, module in model.named_modules() if isinstance(module, LateralCentring2d)}
    first = {f"stages.0.{block}.norm{i}.0": (3, 3) for block in range(3) for i in (1, 2)}
    second = {f"stages.1.{block}.norm{i}.0": (3, 3) for block in range(3) for i in (1, 2)}
    shortcuts = {f"stages.{stage}.0.shortcut.1.0": (1, 1) for stage in (1, 2)}
    assert periods == first | second | shortcuts  # 4 x 4 positions in the last stage
    assert model(torch.ones(2, 3, 16, 16)).shape == (2, 10)
