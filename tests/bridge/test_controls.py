"""Controls against their definitions, computed by hand on every position and output channel."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_layers import after, any_layers, assert_agree, geometries, layer, network, positions, weights
from test_moments import OPTIMIZERS, state_of, stepped
from torch import nn

import bioshare as bs
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking

CONTROLS = [RandomGroups(), RandomGroups(5), LayerMean(), Shrinking()]
controls = pytest.mark.parametrize("control", CONTROLS, ids=repr)


def kernels(weight):
    """The weights of every position, (H_out x W_out, out, K)."""
    return weight.flatten(3).flatten(0, 1)


def groups_of(weight):
    """Sorted groups of positions with equal weights, each a sorted tuple of numbers."""
    numbers = kernels(weight).flatten(1).unique(dim=0, return_inverse=True)[1]
    return sorted(tuple(torch.nonzero(numbers == one).flatten().tolist()) for one in numbers.unique())


@geometries
@pytest.mark.parametrize("seed", [0, 1])
def test_random_groups_have_the_sizes_of_modules_and_become_their_means(geometry, seed):
    model = layer(**geometry)
    before, changed = kernels(model.weight.detach()), after(RandomGroups(seed), model)
    groups = groups_of(changed)
    assert sorted(map(len, groups)) == sorted(map(len, groups_of(after(bs.InstantSharing(), model))))
    for group in groups:
        expected = before[list(group)].mean(0)
        assert_agree(kernels(changed)[list(group)], expected.expand(len(group), -1, -1), atol=1e-13)


def test_random_groups_are_fixed_by_their_seed_alone_and_differ_between_layers():
    model, other = (layer(seed=seed, kernel_size=3, padding=1) for seed in (0, 1))
    groups = lambda seed, model, call=0: groups_of(after(RandomGroups(seed), model, seed=call))
    assert groups(0, model) == groups(0, other) == groups(0, model, call=7)
    assert groups(0, model) != groups(1, model)
    assert groups(0, model) != groups_of(after(bs.InstantSharing(), model))
    both = nn.Sequential(copy.deepcopy(model), copy.deepcopy(model))
    RandomGroups()(both)
    assert groups_of(both[0].weight.detach()) == groups(0, model)
    assert groups_of(both[1].weight.detach()) != groups(0, model)


@geometries
def test_all_positions_of_a_layer_become_one_mean_and_the_layer_a_convolution(geometry):
    model = layer(**geometry)
    mean = model.weight.detach().mean((0, 1))
    changed = after(LayerMean(), model)
    assert_agree(changed, mean.expand_as(changed), atol=1e-13)
    LayerMean()(model)
    bs.nn.to_convolutional(model)  # which refuses positions that differ


@geometries
def test_shrinking_multiplies_the_kernels_of_a_module_and_channel_by_one_number(geometry):
    model = layer(**geometry)
    expected = model.weight.detach().clone()
    for rows, columns in positions(model):
        for channel in range(model.out_channels):
            group = expected[rows, columns, channel].flatten(1)  # (N, K)
            factor = group.mean(0).norm() / (group**2).sum(1).mean().sqrt()
            expected[rows, columns, channel] *= factor
    assert_agree(after(Shrinking(), model), expected, atol=1e-13)
    assert not torch.equal(expected, model.weight)


@given(any_layers())
def test_shrinking_leaves_the_norms_of_averaging(model):
    shared, shrunk = after(bs.InstantSharing(), model), after(Shrinking(), model)
    for rows, columns in positions(model):
        rms = [w[rows, columns].flatten(2).square().sum(-1).mean(0).sqrt() for w in (shared, shrunk)]
        assert_agree(*rms, atol=1e-10)


@controls
def test_equal_kernels_and_kernels_of_0_stay(control):
    model = layer(kernel_size=3, padding=1)
    for kernel in (model.weight[0, 0].detach().clone(), torch.zeros(())):
        with torch.no_grad():
            model.weight.copy_(kernel)
        assert_agree(after(control, model), model.weight.detach(), atol=1e-13)


@controls
@given(st.floats(0.1, 10))
def test_a_control_of_scaled_weights_is_scaled(control, factor):
    model = layer(kernel_size=3, padding=1)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.weight.mul_(factor)
    assert_agree(after(control, scaled), factor * after(control, model), atol=1e-12)


@controls
def test_a_change_is_a_call_and_leaves_moments_and_parameters(control):
    models = [network() for _ in range(2)]
    optimizers = [stepped(OPTIMIZERS["AdamW"], model) for model in models]
    pointer, moments = models[0][0].weight.data_ptr(), state_of(optimizers[0], models[0][0].weight)
    assert control(models[0], seed=3, optimizer=optimizers[0]).layers == ()
    control.change(models[1], seed=4, optimizer=optimizers[1])
    assert all(map(torch.equal, weights(models[0]), weights(models[1])))
    assert models[0][0].weight.data_ptr() == pointer
    now = state_of(optimizers[0], models[0][0].weight)
    assert all(torch.equal(now[name], value) for name, value in moments.items())


@controls
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_controls_of_less_precision_are_rounded_once(control, dtype):
    model = layer(kernel_size=3, padding=1).to(dtype)
    expected = after(control, copy.deepcopy(model).double()).to(dtype)
    assert (after(control, model) == expected).double().mean() > 0.99


@controls
def test_models_that_cannot_share_are_refused(control):
    with pytest.raises(ValueError, match="model must have a LocallyConnected2d layer"):
        control(nn.Linear(2, 2))
    model = network()
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer '1' must have finite weights"):
        control(model)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError), (True, TypeError)])
def test_the_seed_of_groups_is_a_number(seed, error):
    with pytest.raises(error, match="groups_seed must be a non-negative integer"):
        RandomGroups(seed)
