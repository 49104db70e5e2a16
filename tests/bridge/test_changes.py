"""The linear map of a sleep on a layer's weights: what lowered precision may not take from the mean."""

import pytest
import torch
from small_layers import IDEAL, after, assert_agree, layer

import bioshare as bs
from bioshare.bridge.changes import LinearSleep
from bioshare.circuit.exact import SleepMap

MODES = {
    "grid": lambda rescale: bs.Sleep.steady_state(rescale=rescale),
    "gaussian": lambda rescale: bs.Sleep.steady_state(rescale=rescale, stimulus=bs.stimuli.gaussian()),
    "hebbian": lambda rescale: bs.HebbianSharing(),
}
ideal = pytest.mark.parametrize("make", MODES.values(), ids=MODES)
rescaled = pytest.mark.parametrize("rescale", [True, False])


@pytest.fixture(params=["medium", "high", "highest"])
def matmul_precision(request):
    """How precise torch's products of float32 are: bfloat16 or TF32 below "highest", where the hardware has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def convolution(dtype=torch.float32):
    """A layer of 16 x 16 channels whose positions have equal weights."""
    model = layer(kernel_size=3, padding=1, inputs=16, outputs=16).to(dtype)
    with torch.no_grad():
        model.weight.copy_(model.weight[0, 0].clone())
    return model


@ideal
@rescaled
@pytest.mark.usefixtures("matmul_precision")
def test_a_convolution_stays_one_whatever_the_precision_of_products(make, rescale):
    model = convolution()
    assert_agree(after(make(rescale), model), model.weight.detach(), atol=1e-6)  # weights up to 5: their last place


@ideal
@rescaled
@pytest.mark.usefixtures("matmul_precision")
def test_a_small_update_survives_the_next_sleep_whatever_the_precision_of_products(make, rescale):
    model, sleep = convolution(), make(rescale)
    sleep(model)
    old = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 5e-4 * old.abs().mean() * torch.randn(old.shape[2:], generator=torch.Generator().manual_seed(1))
    update = model.weight.detach() - old
    sleep(model, seed=1)
    kept = ((model.weight.detach() - old) * update).sum() / update.square().sum()
    assert kept == pytest.approx(1.0, abs=0.05 if rescale else 1e-3)  # along the mean, rescaling takes an update back


@pytest.mark.parametrize("neurons", [2, 64, 65, 200])
def test_the_mean_of_many_neurons_is_that_of_float64(neurons):
    model = layer(kernel_size=1, input_size=(1, neurons), inputs=3).float()
    with torch.no_grad():
        model.weight += 1000.0
    (module,) = bs.bridge.modules(model)
    groups, (A, B) = module.groups(model.weight.detach()), torch.stack([torch.zeros(3, 3), torch.eye(3)]).double()
    slept = LinearSleep.of(SleepMap(A.numpy(), B.numpy(), torch.zeros(3).double().numpy()), groups)
    expected = groups.double().mean(1, keepdim=True).float().expand_as(groups)
    assert torch.equal(slept.apply(module, groups, slept.c), expected)


@pytest.mark.parametrize(("dtype", "narrow"), [(torch.bfloat16, 4), (torch.float32, 4), (torch.float64, 8)], ids=str)
def test_the_mean_passes_in_float64_and_deviations_in_the_precision_of_the_layer(dtype, narrow):
    weight = torch.zeros(1, dtype=dtype)
    sleep = LinearSleep.of(bs.circuit.exact.sleep_map(torch.eye(3).numpy(), bs.SteadyState(), IDEAL), weight)
    assert (sleep.A.element_size(), sleep.B.dtype, sleep.c.dtype) == (narrow, torch.float64, torch.float64)
    assert sleep.bytes == 9 * narrow + (9 + 3) * 8
