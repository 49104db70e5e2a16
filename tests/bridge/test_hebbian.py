"""`HebbianSharing`: a few updates, each for a batch of patterns, on every module's own neurons."""

import math

import numpy as np
import pytest
import torch
from small_layers import after, assert_agree, borders, geometries, layer, network, positions, weights

import bioshare as bs
from bioshare.bridge import modules
from bioshare.bridge.scaling import PerInput
from bioshare.circuit.problem import DivergenceError
from bioshare.circuit.stimuli import derived

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
        ({"rule": 0.1}, TypeError, "rule must be a Hebbian, a callable that takes K to one, or None; got 0.1"),
        ({"stimulus": "grid"}, TypeError, "stimulus must be a Stimulus"),
        ({"stimulus": bs.stimuli.noise(bs.stimuli.grid(), 0.1)}, ValueError, "stimulus must have no noise"),
        ({"alpha": -1.0}, ValueError, "alpha must be a strength of inhibition >= 0; got -1"),
        ({"border": "ignore"}, ValueError, "border must be one of 'share', 'keep', 'scale'"),
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
    sharing = bs.HebbianSharing(rule=lambda inputs: RULE if inputs < 20 else 0.1)
    assert_refused(sharing, model, TypeError, "rule must return a Hebbian for 36 inputs; got 0.1")
    assert_refused(
        bs.HebbianSharing(stimulus=bs.stimuli.gaussian(std=0.0)), model, ValueError, "stimulus must have inp"
    )
    model.append(layer(kernel_size=2, dilation=2))
    assert_refused(bs.HebbianSharing(), model, ValueError, "layer '2' has kernel_size=.* share a factor")


def test_scalars_that_are_arrays_are_refused_by_name():
    with pytest.raises(ValueError, match=r"alpha must be one number for all groups of a model; got shape \(2,\)"):
        bs.HebbianSharing(alpha=np.array([1.0, 2.0]))
    arrays = bs.Hebbian(np.array([0.1, 0.2]), learning_rate=0.1)
    with pytest.raises(ValueError, match="gamma must be one number for all groups of a model"):
        bs.HebbianSharing(rule=arrays)
    of_inputs = bs.HebbianSharing(rule=lambda inputs: arrays)
    assert_refused(of_inputs, network(), ValueError, "gamma must be one number for all groups of a model")


def test_a_rate_that_is_too_high_for_one_layer_is_refused_before_any_weight_changes():
    rules = lambda inputs: bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.3 if inputs < 20 else 2.0)
    problem = r"layer '1': learning_rate is above the stability limit in 100 % of the updates: in update \d it is 2 and"
    assert_refused(bs.HebbianSharing(rule=rules), network(), ValueError, problem)
    mean = bs.stimuli.gaussian(mean=1.0)  # its x x^T has an eigenvalue that grows as K
    assert_refused(bs.HebbianSharing(stimulus=mean), network(), ValueError, "layer '0': learning_rate is above the sta")


def test_weights_that_diverge_below_that_limit_leave_the_model_as_it_was():
    """Momentum and rates that go up and down."""
    pumped = bs.Hebbian(gamma=0.0, momentum=0.9, learning_rate=lambda k: np.where(k % 2, 0.01, 0.99) * 3.8 * 36)
    rules = lambda inputs: RULE if inputs < 20 else pumped
    sharing = bs.HebbianSharing(200, PerInput(1), rules, bs.stimuli.grid())
    problem = r"the weights diverged in update \d+, at the learning rate .*: lower learning_rate"
    assert_refused(sharing, network(), DivergenceError, problem)


@pytest.mark.parametrize(
    "stimulus",
    [bs.stimuli.gaussian(std=0.1), bs.stimuli.gaussian(std=3.0)],
    ids=repr,
)
def test_by_default_the_amplitude_of_the_patterns_does_not_matter(stimulus):
    model = layer(kernel_size=3, padding=1)
    assert_agree(after(bs.HebbianSharing(stimulus=stimulus), model), after(bs.HebbianSharing(), model), atol=1e-12)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("cycles", [1, 2])
def test_by_default_an_update_of_grid_cycles_removes_two_fifths_for_every_number_of_inputs(shuffle, cycles):
    stimulus = bs.stimuli.grid(shuffle, amplitude=2.0)
    for inputs in (1, 3, 16):
        model = layer(kernel_size=1, inputs=inputs)
        shared = after(bs.HebbianSharing(3, PerInput(cycles), stimulus=stimulus), model)
        mean = model.weight.detach().mean((0, 1))
        assert_agree(shared - mean, 0.6**3 * (model.weight.detach() - mean), atol=1e-12)
