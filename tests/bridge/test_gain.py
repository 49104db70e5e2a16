"""A constant gain after sleep: weights, moments, report, and the loss that a gain makes up for."""

import pytest
import torch
from small_layers import RATE, after, assert_agree, borders, gentle, layer, network, positions, weights
from test_moments import OPTIMIZERS, stepped

import bioshare as bs
from bioshare.bridge.moments import LINEAR, SQUARES

FORMS = {
    "one map": {},
    "pool": {"pool": 2},
    "relayed": {"patterns": "relayed"},
    "noise": {"stimulus": bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)},
    "neuron by neuron": {"engine": "loop"},
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


@forms
@borders
@pytest.mark.parametrize("measure", [True, False])
def test_a_gain_multiplies_all_weights_that_slept_and_no_others(options, border, measure):
    """Relayed patterns don't depend on the length of the weights before, but for rounding."""
    start, plain, scaled = network(), network(), network()
    gentle(RATE, border=border, **options)(plain, seed=2)
    gentle(RATE, border=border, gain=1.5, **options)(scaled, seed=2, measure=measure)
    for part, one, other in zip(start, plain, scaled, strict=True):
        expected = part.weight.detach().clone()
        for rows, columns in positions(part, border):
            expected[rows, columns] = 1.5 * one.weight.detach()[rows, columns]
        assert_agree(other.weight.detach(), expected, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_gain_makes_up_for_the_loss_of_the_presets(kernel_size):
    model = layer(kernel_size=kernel_size, input_size=(20, 20))
    norms = lambda weight: torch.stack([weight[r, c].mean(0).flatten(1).norm(dim=-1) for r, c in positions(model)])
    slept = norms(after(bs.Sleep.rate_circuit(10.0, gain=1 / 0.8025), model)) / norms(model.weight.detach())
    assert_agree(slept, torch.ones_like(slept), atol=5e-3)


def test_the_report_tells_the_loss_of_the_circuit_and_the_snr_of_the_new_weights():
    model = network()
    (plain, *_), (scaled, *_) = (bs.Sleep.rate_circuit(gain=gain)(network()).layers for gain in (1.0, 2.0))
    assert scaled.mean_norm == plain.mean_norm == pytest.approx(0.8, abs=0.01)
    assert scaled.spread == pytest.approx(2 * plain.spread, abs=1e-12)
    report = bs.Sleep.rate_circuit(gain=2.0)(model)
    assert {row.name: row.neg_log_snr_after for row in report.layers} == bs.bridge.neg_log_snr(model)


@pytest.mark.parametrize("norms", [{"gain": 1.5}, {"rescale": True}], ids=["gain", "rescaled"])
@pytest.mark.parametrize("name", ["AdamW, amsgrad", "SGD", "RMSprop"])
@borders
def test_sums_of_gradients_get_the_factor_of_the_weights_and_sums_of_squares_none(norms, name, border):
    model, plain, start = (layer(kernel_size=3, padding=1) for _ in range(3))
    optimizers = [stepped(OPTIMIZERS[name], one) for one in (model, plain, start)]
    gentle(RATE, border=border, moments="share", **norms)(model, seed=2, optimizer=optimizers[0])
    gentle(RATE, border=border, moments="share")(plain, seed=2, optimizer=optimizers[1])
    factor = model.weight.detach() / plain.weight.detach()  # of every weight
    assert (factor - 1).abs().max() > 0.1
    scaled, unscaled = (optimizer.state[next(iter(optimizer.state))] for optimizer in optimizers[:2])
    for moment in scaled.keys() & {*LINEAR}:
        assert_agree(scaled[moment], factor * unscaled[moment], atol=1e-9)
    for moment in scaled.keys() & {*SQUARES}:
        assert torch.equal(scaled[moment], unscaled[moment])


def test_a_gain_of_1_changes_no_bit():
    for one, other in zip(*(weights(slept(gain)) for gain in (None, 1.0)), strict=True):
        assert torch.equal(one, other)


def slept(gain):
    """A network asleep with a gain, or without one."""
    model = network()
    gentle(RATE, **({} if gain is None else {"gain": gain}))(model, seed=2)
    return model


@pytest.mark.parametrize("preset", [bs.Sleep.rate_circuit, bs.Sleep.steady_state])
def test_rescaling_and_a_gain_exclude_each_other(preset):
    assert (preset().rescale, preset().gain) == (True, 1.0)
    assert (preset(gain=1.25).rescale, preset(gain=1.25).gain) == (False, 1.25)
    with pytest.raises(ValueError, match=r"gain must be 1 with rescale=True.*; got 1\.25"):
        preset(rescale=True, gain=1.25)
    with pytest.raises(ValueError, match="gain must be 1 with rescale=True"):
        gentle(RATE, rescale=True, gain=0.5)


@pytest.mark.parametrize(
    ("gain", "error"), [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), (True, TypeError)]
)
def test_a_gain_is_a_positive_number(gain, error):
    with pytest.raises(error, match="gain must be a positive factor"):
        gentle(RATE, gain=gain)
