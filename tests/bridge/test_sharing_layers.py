"""The loop over a model's layers: order, norms of means, and calls without measurement."""

import copy
import math

import pytest
import torch
from small_layers import RATE, after, after_network, assert_agree, gentle, layer, modes, network, positions
from torch import nn

import bioshare as bs

circuits = pytest.mark.parametrize("circuit", [bs.SteadyState(2.0), RATE], ids=repr)
forms = pytest.mark.parametrize(
    "options", [{}, {"stimulus": bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)}], ids=["one map", "noise"]
)


def means(weight, model, border="share"):
    """The mean weight vector of every group, (modules, out, K)."""
    return torch.stack([weight[rows, columns].mean(0).flatten(1) for rows, columns in positions(model, border)])


@circuits
@forms
@pytest.mark.parametrize("border", ["share", "keep"])
def test_rescaling_brings_every_groups_mean_back_to_its_norm(circuit, options, border):
    model = layer(kernel_size=3, padding=1)
    before = means(model.weight.detach(), model, border)
    plain, rescaled = (
        means(after(gentle(circuit, border=border, rescale=rescale, **options), model), model, border)
        for rescale in (False, True)
    )
    assert (plain.norm(dim=-1) / before.norm(dim=-1) - 1).abs().min() > 1e-4
    assert_agree(rescaled.norm(dim=-1), before.norm(dim=-1), atol=1e-12)
    direction = lambda vectors: vectors / vectors.norm(dim=-1, keepdim=True)
    assert_agree(direction(rescaled), direction(plain), atol=1e-12)


@circuits
@forms
def test_rescaling_scales_a_whole_group_by_one_number(circuit, options):
    model = layer(kernel_size=3, padding=1)
    plain, rescaled = (after(gentle(circuit, rescale=rescale, **options), model) for rescale in (False, True))
    for rows, columns in positions(model):
        ratio = (rescaled / plain)[rows, columns].transpose(0, 1).flatten(1)  # (out, N K)
        assert_agree(ratio, ratio[:, :1].expand_as(ratio), atol=1e-9)


def test_rescaling_leaves_the_ideal_circuit_and_means_of_0_alone():
    model = layer(kernel_size=3, padding=1)
    plain, rescaled = (after(gentle(bs.SteadyState(), rescale=rescale), model) for rescale in (False, True))
    assert_agree(plain, rescaled, atol=1e-13)
    with torch.no_grad():
        model.weight.zero_()
    assert not after(gentle(bs.SteadyState(2.0), rescale=True), model).any()


def test_the_report_tells_the_shrinkage_that_rescaling_undoes():
    for rescale in (False, True):
        for row in bs.Sleep.rate_circuit(10.0, rescale=rescale)(network()).layers:
            assert row.mean_norm == pytest.approx(0.8, abs=0.01)


@modes
def test_an_unmeasured_sharing_gives_the_same_weights(mode):
    model = network()
    measured, unmeasured = (after_network(mode("share"), model, measure=measure) for measure in (True, False))
    assert all(map(torch.equal, measured, unmeasured))
    assert all(math.isfinite(row.neg_log_snr_before) for row in mode("share")(copy.deepcopy(model)).layers)
    rows = mode("share")(copy.deepcopy(model), measure=False).layers
    assert all(math.isnan(row.neg_log_snr_before) for row in rows)
    assert [row.modules for row in rows] == [9, 9]


@modes
def test_layers_without_positions_to_tie_and_other_modules_are_left_alone(mode):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 3), layer(kernel_size=3)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mode("share")(model)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["3.weight"]


@modes
def test_a_bias_is_no_weight_that_is_shared(mode):
    model = layer(kernel_size=3, bias=True)
    with torch.no_grad():
        model.bias.normal_(generator=torch.Generator().manual_seed(0))
    before = model.bias.detach().clone()
    mode("share")(model)
    assert torch.equal(model.bias, before)


@modes
def test_a_layer_that_is_used_twice_sleeps_once(mode):
    shared = layer(kernel_size=3, padding=1, inputs=4)
    once = after(mode("share"), nn.Sequential(copy.deepcopy(shared))[0])
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(mode("share")(twice).layers) == 1
    assert torch.equal(shared.weight, once)
