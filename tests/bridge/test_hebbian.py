"""`HebbianSharing`: a few updates, each for a batch of patterns, on every module's own neurons."""

import math

import numpy as np
import pytest
import torch
from small_layers import after, assert_agree, borders, geometries, layer, network, positions, weights

import bioshare as bs
from bioshare.bridge import modules
from bioshare.bridge.seeds import derived
from bioshare.circuit.problem import DivergenceError

RULE = bs.Hebbian(gamma=0.02, momentum=0.3, learning_rate=lambda k: 0.3 / (1 + k))


@geometries
@borders
@pytest.mark.parametrize("alpha", [math.inf, 4.0])
def test_every_module_follows_eq_4_with_the_covariance_of_its_batches(geometry, border, alpha):
    """Written out for every update: gradient descent with momentum, all modules on the same shifted patterns."""
    model = layer(**geometry)
    inputs = model.weight[0, 0, 0].numel()
    shared = after(bs.HebbianSharing(3, 5, RULE, alpha=alpha, border=border), model, seed=4)
    patterns = bs.stimuli.gaussian().draw(15, inputs, seed=derived(4, inputs)).reshape(3, 5, inputs)
    for module in modules(model, border):
        w_init = module.groups(model.weight.detach()).numpy()
        w, m = w_init.copy(), np.zeros_like(w_init)
        for k, x in enumerate(patterns[..., module.seen]):
            z = w @ x.T
            r = z - z.mean(1, keepdims=True) * (1.0 if math.isinf(alpha) else alpha / (1 + alpha))
            m = 0.3 * m - 0.3 / (1 + k) * (r @ x / 5 + 0.02 * (w - w_init))
            w = w + m
        assert_agree(module.groups(shared), torch.from_numpy(w), atol=1e-11)


@geometries
@borders
def test_many_updates_are_instant_sharing(geometry, border):
    model = layer(**geometry)
    shared = after(bs.HebbianSharing(200, border=border), model)
    assert_agree(shared, after(bs.InstantSharing(border), model), atol=1e-10)


@pytest.mark.parametrize("updates", [1, 5, 10])
def test_an_update_lowers_the_spread_as_its_docstring_says(updates):
    """Squared deviations shrink to 1 - 2 eta + eta^2 (1 + (K + 1) / M) in every update, on average."""
    model = layer(kernel_size=3, padding=1, inputs=16, input_size=12, outputs=16)
    row = bs.HebbianSharing(updates)(model).layers[0]
    inputs = patterns = 16 * 9
    factor = 1 - 2 * 0.4 + 0.4**2 * (1 + (inputs + 1) / patterns)
    assert 2 * math.log(row.spread) == pytest.approx(updates * math.log(factor), abs=0.1)
    assert row.mean_norm == pytest.approx(1.0, abs=1e-6)


def test_defaults_use_as_many_patterns_as_inputs():
    model = layer(kernel_size=3, padding=1)
    rule = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.4)
    assert torch.equal(after(bs.HebbianSharing(), model), after(bs.HebbianSharing(10, 18, rule), model))


def test_layers_with_as_many_inputs_share_a_map():
    model = torch.nn.Sequential(*(layer(seed=s, kernel_size=3) for s in range(3)), layer(kernel_size=1))
    assert bs.HebbianSharing()(model).maps == 2


def test_one_channel_is_kept_and_the_grid_serves_too():
    model = layer(kernel_size=3, padding=1)
    sharing = bs.HebbianSharing(1, 18, bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=18.0), bs.stimuli.grid())
    report = sharing(model, keep=("", 2))
    assert_agree(report.kept.after, model.weight[:, :, 2].detach(), atol=0.0)
    for rows, columns in positions(model):  # one cycle of the grid in a batch: C = I / K
        group = model.weight[rows, columns].detach()
        assert_agree(group, group.mean(0).expand_as(group), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"updates": 0}, ValueError, "updates must be a number of updates, at least 1; got 0"),
        ({"updates": 1.5}, TypeError, "updates must be a number of updates; got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be .*at least 1; got 0"),
        ({"batch_size": "many"}, TypeError, "batch_size must be a number of patterns or a callable; got 'many'"),
        ({"rule": 0.1}, TypeError, "rule must be a Hebbian; got 0.1"),
        ({"stimulus": np.eye(3)}, TypeError, "stimulus must be a Stimulus"),
        ({"stimulus": bs.stimuli.noise(bs.stimuli.grid(), 0.1)}, ValueError, "stimulus must have no noise"),
        ({"alpha": -1.0}, ValueError, "alpha must be a strength of inhibition >= 0; got -1"),
        ({"border": "ignore"}, ValueError, 'border must be "share" or "keep"'),
        ({"moments": "forget"}, ValueError, "moments must be one of"),
    ],
)
def test_impossible_settings_are_refused_when_it_is_made(options, error, problem):
    with pytest.raises(error, match=problem):
        bs.HebbianSharing(**options)


def assert_refused(sharing, model, error, problem, **arguments):
    """The call raises and leaves all weights as they were."""
    before = weights(model)
    with pytest.raises(error, match=problem):
        sharing(model, **arguments)
    assert all(map(torch.equal, before, weights(model)))


def test_what_does_not_suit_a_layer_is_refused_before_any_weight_changes():
    model = network()
    assert_refused(bs.HebbianSharing(), model, ValueError, "seed must be", seed=-1)
    assert_refused(bs.HebbianSharing(), model, TypeError, "seed must be", seed=0.5)
    for size, error in ((1.5, TypeError), (0, ValueError)):
        sharing = bs.HebbianSharing(batch_size=lambda inputs, size=size: 10 if inputs < 20 else size)
        assert_refused(sharing, model, error, "batch_size must be a number of patterns")
    model.append(layer(kernel_size=2, dilation=2))
    assert_refused(bs.HebbianSharing(), model, ValueError, "layer '2' has kernel_size=.* share a factor")


def test_scalars_that_are_arrays_are_refused_before_any_weight_changes():
    for sharing in (
        bs.HebbianSharing(alpha=np.array([1.0, 2.0])),
        bs.HebbianSharing(rule=bs.Hebbian(np.array([0.1, 0.2]), learning_rate=0.1)),
    ):
        assert_refused(sharing, network(), ValueError, "alpha, gamma and momentum must be single numbers")


def test_a_rate_that_is_too_high_is_told():
    sharing = bs.HebbianSharing(200, rule=bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=5.0))
    with pytest.raises(DivergenceError, match=r"the weights diverged in update .* lower learning_rate"):
        sharing(network())
