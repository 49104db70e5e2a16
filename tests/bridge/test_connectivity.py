"""Groups found by correlations of the inputs, against a count of the taps that see the same input of the pattern."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from small_layers import after, any_layers, assert_agree, geometries, layer, network, patches, periodic, positions
from torch import nn

import bioshare as bs
from bioshare.bridge import LearnedGroups
from bioshare.nn import LocallyConnected2d


def correlations(model):
    """Taps with the same input of the pattern, over the root of both numbers of taps inside the image."""
    image = nn.functional.pad(torch.ones(model.in_channels // model.groups, *model.input_size), model.pad)
    inside = patches(model, image).flatten(2).flatten(0, 1).numpy()
    seen = periodic(model).flatten(2).flatten(0, 1).numpy()
    common = ((seen[:, None] == seen) * inside[:, None] * inside).sum(2)
    size = np.sqrt(inside.sum(1))
    return common / np.maximum(size[:, None] * size, 1)


def same_partition(a, b):
    return len({*a}) == len({*b}) == len({*zip(a, b, strict=True)})


@given(model=any_layers(), threshold=st.floats(0.15, 0.85))
def test_the_groups_are_the_connected_components_of_equal_inputs(model, threshold):
    expected = correlations(model)
    assume(np.abs(expected - threshold).min() > 0.15)  # five standard errors at a single common tap
    found = LearnedGroups(images=1000, threshold=threshold).groups(model)
    assert found.shape == model.output_size
    assert same_partition(found.flatten().tolist(), connected_components(expected > threshold)[1].tolist())


@geometries
def test_in_the_interior_the_groups_are_the_modules(geometry):
    model = layer(**geometry)
    found = LearnedGroups().groups(model)
    modules = positions(model, "keep")
    assert modules
    numbers = [found[rows, columns].unique().tolist() for rows, columns in modules]
    assert all(len(number) == 1 for number in numbers)
    assert len({number for (number,) in numbers}) == len(numbers)
    for (number,), (rows, _) in zip(numbers, modules, strict=True):
        assert (found == number).sum() == len(rows)


def test_a_layer_without_padding_becomes_what_instant_sharing_makes_of_it():
    model = layer(kernel_size=3)
    assert_agree(after(LearnedGroups(), model), after(bs.InstantSharing(), model), atol=1e-14)


def test_modules_with_equal_patches_are_one_group():
    model = layer(kernel_size=3, stride=3, input_size=(20, 16))
    assert LearnedGroups().groups(model).unique().tolist() == [0]
    weights = after(LearnedGroups(), model)
    assert_agree(weights, model.weight.detach().mean((0, 1)).expand_as(weights), atol=1e-14)


def test_edges_have_groups_of_their_own_and_corners_are_single():
    model = layer(kernel_size=3, padding=1, input_size=12)
    found = LearnedGroups().groups(model)
    for row, column in ((0, 0), (0, 11), (11, 0), (11, 11)):
        assert (found == found[row, column]).nonzero().tolist() == [[row, column]]
    assert (found == found[0, 1]).nonzero().tolist() == [[0, 1], [0, 4], [0, 7], [0, 10]]
    assert (found == found[2, 11]).nonzero().tolist() == [[2, 11], [5, 11], [8, 11]]


@pytest.mark.parametrize("size", [4, 8, 16])
def test_at_a_low_threshold_the_border_belongs_to_the_modules(size):
    model = layer(kernel_size=3, padding=1, input_size=size)
    assert_agree(after(LearnedGroups(threshold=0.2), model), after(bs.InstantSharing(), model), atol=1e-14)


def test_noise_lowers_the_correlation_to_one_over_one_plus_its_variance():
    model = layer(kernel_size=3)
    whole = LearnedGroups().groups(model)
    for noise in (0.5, 1.0):
        correlation = 1 / (1 + noise**2)
        assert torch.equal(LearnedGroups(400, correlation - 0.1, noise).groups(model), whole)
        assert LearnedGroups(400, correlation + 0.1, noise).groups(model).unique().numel() == whole.numel()


def test_the_border_is_padded_as_the_layer_pads():
    """A circular image of whole periods has no border."""
    model = LocallyConnected2d(1, 1, 3, padding=1, padding_mode="circular", input_size=9)
    assert LearnedGroups().groups(model).unique().numel() == 9
    assert LearnedGroups().groups(LocallyConnected2d(1, 1, 3, padding=1, input_size=9)).unique().numel() > 9


def test_the_result_depends_on_the_fields_alone():
    model = layer(kernel_size=2, inputs=1)
    few = [LearnedGroups(2, 0.5, 0.5, images_seed=seed).groups(model) for seed in (0, 0, 1)]
    assert torch.equal(few[0], few[1])
    assert not torch.equal(few[0], few[2])
    assert torch.equal(after(LearnedGroups(), model, seed=1), after(LearnedGroups(), model, seed=2))


def test_every_layer_of_a_model_shares_in_place():
    model = network().float()
    expected = [after(LearnedGroups(), part) for part in model]
    parameters = [*model.parameters()]
    report = LearnedGroups()(model, measure=True)
    assert report.phase == "LearnedGroups(images=100, threshold=0.9, noise=0.0, images_seed=0)"
    assert all(map(torch.equal, model.parameters(), expected))
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": 0}, "images must be a number of images, at least 1; got 0"),
        ({"threshold": 1.0}, "threshold must be a correlation between 0 and 1; got 1"),
        ({"threshold": 0.0}, "threshold must be a correlation between 0 and 1; got 0"),
        ({"noise": -1.0}, "noise must be a standard deviation >= 0; got -1"),
        ({"images_seed": -1}, "images_seed must be a non-negative integer, at least 0; got -1"),
    ],
)
def test_a_field_out_of_range_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LearnedGroups(**fields)


def test_a_model_without_locally_connected_layers_is_refused():
    with pytest.raises(ValueError, match=r"^model must have a LocallyConnected2d layer"):
        LearnedGroups()(nn.Linear(1, 1))
