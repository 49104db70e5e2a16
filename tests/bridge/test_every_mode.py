"""What every way to share weights has in common: fixed points, symmetries, the border, precision, and copies."""

import copy
import math
import pickle

import pytest
import torch
from small_layers import (
    IDEAL_MODES,
    MODES,
    Wrapped,
    after,
    after_network,
    all_borders,
    assert_agree,
    borders,
    by_position,
    constants,
    geometries,
    ideal_modes,
    layer,
    modes,
    network,
    positions,
    weights,
)
from torch import nn

import bioshare as bs


@geometries
@all_borders
@ideal_modes
def test_a_convolution_is_a_fixed_point_of_the_ideal_sleep(geometry, border, mode):
    model = layer(**geometry)
    with torch.no_grad():
        model.weight.copy_(model.weight[0, 0].clone())
    assert_agree(after(mode(border), model), model.weight.detach(), atol=1e-13)


@ideal_modes
def test_a_convolutional_network_is_a_fixed_point_of_the_ideal_sleep(mode):
    model = network()
    with torch.no_grad():
        for part in model:
            part.weight.copy_(part.weight[0, 0].clone())
    before = weights(model)
    mode("share")(model)
    for new, old in zip(weights(model), before, strict=True):
        assert_agree(new, old, atol=1e-13)


@geometries
@ideal_modes
def test_a_constant_of_its_own_in_each_module_survives_the_ideal_sleep(geometry, mode):
    model = layer(**geometry)
    with torch.no_grad():
        model.weight.copy_(constants(model))
    assert_agree(after(mode("share"), model), model.weight.detach(), atol=1e-12)


@modes
@borders
def test_what_becomes_of_a_module_depends_on_its_own_weights(mode, border):
    model, other = layer(kernel_size=3, padding=1), layer(kernel_size=3, padding=1)
    rows, columns = positions(model, border)[4]
    inside = torch.zeros(model.output_size, dtype=torch.bool)
    inside[rows, columns] = True
    with torch.no_grad():
        other.weight[rows[0], columns[0]] += 1.0
    first, second = after(mode(border), model), after(mode(border), other)
    assert_agree(first[~inside], second[~inside], atol=1e-13)
    assert not by_position(first == second)[inside].any()


@modes
@pytest.mark.parametrize("groups", [1, 2])
def test_permuting_output_channels_permutes_the_result(mode, groups):
    model = layer(kernel_size=(3, 2), padding=1, groups=groups)
    order = [2, 0, 3, 1]  # across the two groups, too: all of them see the same pattern
    permuted = copy.deepcopy(model)
    with torch.no_grad():
        permuted.weight.copy_(model.weight[:, :, order].clone())
    assert_agree(after(mode("share"), permuted, seed=3), after(mode("share"), model, seed=3)[:, :, order], atol=1e-13)


@modes
@geometries
def test_the_border_means_the_same_in_every_mode(mode, geometry):
    model = layer(**geometry)
    for border in ("share", "keep"):
        takes_part = torch.zeros(model.output_size, dtype=torch.bool)
        for rows, columns in positions(model, border):
            takes_part[rows, columns] = True
        moved = after(mode(border), model)
        assert torch.equal(by_position(moved == model.weight), ~takes_part)
        assert torch.equal(moved[~takes_part], model.weight[~takes_part])


@modes
def test_single_neurons_are_left_alone(mode):
    model = layer(kernel_size=3, input_size=(6, 5))  # 4 x 3 positions: three modules of two, six of one
    assert mode("share")(model).layers[0].modules == 3
    lonely = layer(kernel_size=3, input_size=(5, 5))
    before = lonely.weight.detach().clone()
    report = mode("share")(lonely)
    assert torch.equal(lonely.weight, before)
    assert report.layers[0].modules == 0
    assert math.isnan(report.layers[0].mean_norm)


@modes
def test_a_network_keeps_its_parameters_and_trains_on(mode):
    model = bs.nn.to_locally_connected(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3)), (1, 9, 9))
    model[0].weight.requires_grad_(False)
    parameters, pointers = list(model.parameters()), [p.data_ptr() for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    before = weights(model)
    report = mode("share")(model, seed=1)
    assert [row.name for row in report.layers] == ["2"]
    assert report.left_alone == ("0",)
    assert torch.equal(model[0].weight, before[0])
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * (len(parameters) - 1)]
    assert all(p.grad is None and p.grad_fn is None for p in parameters)
    assert not torch.equal(model[2].weight, before[list(model.state_dict()).index("2.weight")])
    shared = model[2].weight.detach().clone()
    model(torch.ones(1, 1, 9, 9)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[2].weight, shared)


@modes
def test_the_seed_decides(mode):
    first, again, other = (after_network(mode("share"), network(), seed=seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    in_any_order = (
        IDEAL_MODES["default"],
        MODES["rescaled"],
        MODES["gain"],
    )  # neither pull nor momentum lasts from input to input
    instant = IDEAL_MODES["instant"], IDEAL_MODES["instant, half"]
    drawn = mode not in (*instant, IDEAL_MODES["grid"], *in_any_order)
    assert [torch.equal(a, b) for a, b in zip(first, other, strict=True)] == [not drawn] * 2


@modes
def test_a_model_inside_another_sleeps_as_by_itself(mode):
    model = network()
    held = Wrapped(copy.deepcopy(model))
    assert [row.name for row in mode("share")(held).layers] == ["module.0", "module.1"]
    assert all(map(torch.equal, after_network(mode("share"), model), weights(held)))


@modes
def test_autocast_around_the_call_changes_nothing(mode):
    model = network().float()
    plain = after_network(mode("share"), model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = after_network(mode("share"), model)
    assert all(map(torch.equal, plain, cast))


# Half a unit in the last place of numbers below 8, twice: of what sleeps, and of what it becomes.
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 5e-6), (torch.float16, 8e-3), (torch.bfloat16, 6e-2)], ids=str
)
@modes
def test_layers_of_less_precision_get_the_rounded_sleep(mode, dtype, atol):
    model = layer(kernel_size=3, padding=1)
    rounded = copy.deepcopy(model).to(dtype)
    slept = after(mode("share"), rounded)
    assert slept.dtype == dtype
    assert_agree(slept.double(), after(mode("share"), rounded.double()), atol=atol)


@modes
def test_a_change_survives_pickling_and_copying(mode):
    model, change = network(), mode("share")
    pickled, copied = pickle.loads(pickle.dumps(change)), copy.deepcopy(change)
    first = after_network(change, model)
    used = copy.deepcopy(change)  # with the maps that it may have kept
    for other in (pickled, copied, used, pickle.loads(pickle.dumps(change)), mode("share")):
        assert all(map(torch.equal, first, after_network(other, model)))


@modes
def test_the_default_device_is_not_where_a_layer_sleeps(mode):
    model = network()
    expected = after_network(mode("share"), model)
    change = mode("share")
    with torch.device("meta"):
        change(model)
    assert all(map(torch.equal, expected, weights(model)))
