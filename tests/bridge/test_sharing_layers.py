"""The loop over a model's layers: order, norms of means, and calls without measurement."""

import copy
import dataclasses
import math

import pytest
import torch
from small_layers import (
    RATE,
    after,
    after_network,
    assert_agree,
    borders,
    gentle,
    layer,
    modes,
    network,
    positions,
    weights,
)
from torch import nn

import bioshare as bs
from bioshare.bridge import LearnedGroups
from bioshare.bridge.controls import LayerMean

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


def biased(**geometry):
    """A layer with independent biases."""
    model = layer(bias=True, **geometry)
    with torch.no_grad():
        model.bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


@modes
@borders
def test_biases_of_a_group_become_the_mean_and_weights_are_as_without_biases(mode, border):
    model = biased(kernel_size=3, padding=1)
    remaining = getattr(mode(border), "spread", 0.0)
    expected = model.bias.detach().clone()
    for rows, columns in positions(model, border):
        group = expected[:, rows, columns]
        expected[:, rows, columns] = group.mean(1, keepdim=True) * (1 - remaining) + group * remaining
    unbiased = layer(kernel_size=3, padding=1)
    for one in (model, unbiased):
        mode(border)(one)
    assert_agree(model.bias.detach(), expected, atol=1e-14)
    assert torch.equal(model.weight, unbiased.weight)


def test_a_1_x_1_layer_with_a_bias_becomes_a_convolution():
    model = biased(kernel_size=1)
    bs.InstantSharing()(model)
    x = torch.randn(2, 2, 11, 10, generator=torch.Generator().manual_seed(1)).double()
    assert_agree(bs.nn.to_convolutional(model)(x), model(x), atol=1e-12)


def test_a_frozen_bias_is_left_alone():
    model = biased(kernel_size=3)
    before = model.bias.detach().clone()
    model.bias.requires_grad_(False)
    bs.InstantSharing()(model)
    assert torch.equal(model.bias, before)


@pytest.mark.parametrize("treatment", ["share", "reset", "keep"])
def test_the_moments_of_a_bias_follow_the_bias(treatment):
    model = biased(kernel_size=3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 2, 11, 10, generator=torch.Generator().manual_seed(1)).double()).square().sum().backward()
    optimizer.step()
    state = optimizer.state[model.bias]
    before = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")}
    bs.InstantSharing(moments=treatment)(model, optimizer=optimizer)
    for name, values in before.items():
        expected = values.clone() if treatment != "reset" else torch.zeros_like(values)
        for rows, columns in positions(model) if treatment == "share" else ():
            expected[:, rows, columns] = expected[:, rows, columns].mean(1, keepdim=True)
        assert_agree(state[name], expected, atol=1e-14)


CHANGES = {
    "instant": bs.InstantSharing(),
    "hebbian": bs.HebbianSharing(),
    "sleep": bs.Sleep.steady_state(),
    "relayed": gentle(bs.SteadyState(), patterns="relayed"),
    "simultaneous": gentle(bs.SteadyState(), patterns="simultaneous"),
    "groups": LearnedGroups(),
    "control": LayerMean(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_frozen_layers_are_left_alone(change):
    model = nn.Sequential(network(), layer(inputs=4, kernel_size=1))
    model[0][1].weight.requires_grad_(False)
    for call in (change, change.change):
        before = weights(model)
        call(model)
        assert torch.equal(before[1], model[0][1].weight)
        if call is change:
            assert not any(torch.equal(before[i], weights(model)[i]) for i in (0, 2))
    model.requires_grad_(False)
    before = weights(model)
    for call in (change, change.change):
        with pytest.raises(ValueError, match=r"^model must have a locally connected layer that learns; all 3 have"):
            call(model)
        with pytest.raises(ValueError, match=r"^model must have a LocallyConnected2d layer"):
            call(nn.Linear(2, 2))
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("name", ["instant", "hebbian", "sleep"])
def test_maps_made_before_layers_were_frozen_change_the_layers_that_still_learn(name):
    change = CHANGES[name]
    model, expected = (nn.Sequential(network(), layer(inputs=4, kernel_size=1)) for _ in range(2))
    tensors = change.tensors(model, 3)
    for each in (model, expected):
        each[0][0].weight.requires_grad_(False)
    change.apply(model, tensors)
    change.change(expected, 3)
    assert all(map(torch.equal, weights(model), weights(expected)))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^model must have a locally connected layer that learns"):
        change.apply(model, tensors)


@pytest.mark.parametrize("name", ["hebbian", "sleep"])
def test_a_layer_that_learns_or_is_cast_after_the_maps_were_made_has_no_map(name):
    model = network()
    model[1].weight.requires_grad_(False)
    tensors = CHANGES[name].tensors(model, 3)
    for change in (lambda: model[1].weight.requires_grad_(True), lambda: model[0].float()):
        change()
        before = weights(model)
        with pytest.raises(ValueError, match=r"^tensors must have a map for layer '[01]', with K = .*; got none"):
            CHANGES[name].apply(model, tensors)
        assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("name", ["instant", "hebbian", "sleep", "relayed"])
def test_named_layers_share_alone_and_even_if_frozen(name):
    model = nn.Sequential(network(), layer(inputs=4, kernel_size=1))
    model.requires_grad_(False)
    before = weights(model)
    report = dataclasses.replace(CHANGES[name], layers=("0.*",))(model)
    assert [row.name for row in report.layers] == ["0.0", "0.1"]
    assert report.left_alone == ("1",)
    assert "left alone (frozen, or not chosen): 1" in repr(report)
    assert list(map(torch.equal, before, weights(model))) == [False, False, True]


def test_names_of_layers_must_be_known():
    sharing = bs.InstantSharing(layers=("0", "2"))
    for call in (sharing, sharing.check, sharing.change):
        with pytest.raises(ValueError, match=r"^layers must name locally connected layers; got '2'\. Nearest: "):
            call(network())
    for wrong in ("0", ["0"], (0,)):
        with pytest.raises(TypeError, match=r"^layers must be a tuple of names"):
            bs.InstantSharing(layers=wrong)


@modes
def test_a_layer_that_is_used_twice_sleeps_once(mode):
    shared = layer(kernel_size=3, padding=1, inputs=4)
    once = after(mode("share"), nn.Sequential(copy.deepcopy(shared))[0])
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(mode("share")(twice).layers) == 1
    assert torch.equal(shared.weight, once)
