"""Sleep itself: every mode against every other, against `simulate` and Brian2, and what all modes have in common."""

import copy
import math
import pickle

import brian2 as b2
import numpy as np
import pytest
import torch
from hypothesis import given
from small_layers import (
    GENTLE,
    IDEAL,
    IDEAL_MODES,
    MODES,
    RATE,
    Wrapped,
    after,
    after_network,
    any_layers,
    assert_agree,
    borders,
    by_position,
    gentle,
    geometries,
    ideal_modes,
    layer,
    modes,
    network,
    positions,
    sleep,
    weights,
)
from torch import nn

import bioshare as bs
from bioshare.bridge import modules, neg_log_snr
from bioshare.bridge.seeds import derived
from bioshare.nn import LocallyConnected2d

circuits = pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(5.0), RATE], ids=repr)


@geometries
@borders
def test_ideal_sleep_is_instant_sharing(geometry, border):
    model = layer(**geometry)
    shared = after(bs.InstantSharing(border), model)
    assert not torch.equal(shared, model.weight)
    assert_agree(after(sleep(bs.SteadyState(), border=border), model), shared, atol=1e-12)
    tiny = bs.Hebbian(gamma=1e-9, momentum=0.5, learning_rate=0.3)
    long = sleep(bs.SteadyState(), tiny, presentations=lambda inputs: 100 * inputs, border=border)
    assert_agree(after(long, model), shared, atol=1e-6)


@geometries
@borders
@circuits
def test_the_collapsed_sleep_is_the_sleep_of_every_neuron(geometry, border, circuit):
    model = layer(**geometry)
    collapsed = after(gentle(circuit, border=border), model, seed=5)
    assert (collapsed - model.weight).abs().max() > 0.01
    assert_agree(after(gentle(circuit, border=border, engine="loop"), model, seed=5), collapsed, atol=1e-10)


@geometries
@borders
@circuits
def test_the_collapsed_sleep_is_simulate_on_every_modules_own_neurons(geometry, border, circuit):
    model = layer(**geometry)
    slept = after(gentle(circuit, border=border), model, seed=5)
    inputs = model.weight[0, 0, 0].numel()
    patterns = bs.stimuli.gaussian().draw(20, inputs, seed=derived(5, inputs))
    for module in modules(model, border):
        groups, seen = module.groups(model.weight.detach()), patterns[:, module.seen]
        run = bs.simulate(groups.numpy(), seen, circuit, GENTLE, engine="exact")
        assert_agree(module.groups(slept), torch.from_numpy(run.weights), atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_sleep_is_simulate_on_hand_made_patches(stride):
    """Show the layer an image of period 3 and read every neuron's patch off the padded image."""
    model, kernel = layer(kernel_size=3, stride=stride, input_size=(24, 24)), 3
    stimulus = bs.stimuli.gaussian()
    slept = after(sleep(RATE, GENTLE, stimulus, presentations=15), model, seed=9)
    patterns = stimulus.draw(15, 18, seed=derived(9, 18)).reshape(15, 2, kernel, kernel)
    images = torch.from_numpy(np.tile(patterns, (1, 1, 8, 8)))
    patches = nn.functional.unfold(images, kernel, stride=stride).unflatten(-1, model.output_size)
    for a in range(kernel):
        for b in range(kernel):
            seen = patches[..., a::kernel, b::kernel].flatten(2)
            assert (seen == seen[..., :1]).all()  # all neurons of a module see the same patch
            mine = model.weight[a::kernel, b::kernel].detach()
            groups = mine.flatten(0, 1).flatten(2).transpose(0, 1).numpy()
            run = bs.simulate(groups, seen[..., 0].numpy(), RATE, GENTLE)
            expected = torch.from_numpy(run.weights).transpose(0, 1).reshape(mine.shape)
            assert_agree(slept[a::kernel, b::kernel], expected, atol=1e-10)


@pytest.fixture
def brian2_in_numpy():
    """Brian2 with a target that needs no compiler."""
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"
    yield bs.Brian2(target="runtime")
    b2.prefs.codegen.target = before


@pytest.mark.parametrize("std", [0.0, 0.1], ids=["shared", "noisy"])
@pytest.mark.parametrize("circuit", [bs.SteadyState(5.0), RATE], ids=repr)
def test_a_layer_sleeps_as_in_brian2(circuit, std, brian2_in_numpy):
    model = layer(kernel_size=2, outputs=2, input_size=(6, 5))
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), std)
    exact, brian2 = (
        after(gentle(circuit, stimulus, presentations=5, engine=engine), model, seed=3)
        for engine in ("exact", brian2_in_numpy)
    )
    assert (exact - model.weight).abs().max() > 0.01
    assert_agree(brian2, exact, atol=1e-9)


@pytest.mark.slow
@borders
def test_a_grouped_and_strided_layer_sleeps_as_in_compiled_brian2(border):
    model = layer(kernel_size=(3, 2), stride=2, padding=1, groups=2)
    exact, brian2 = (after(gentle(RATE, border=border, engine=engine), model) for engine in ("exact", "brian2"))
    assert (exact - model.weight).abs().max() > 0.01
    assert_agree(brian2, exact, atol=1e-9)


@geometries
@borders
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


def constants(model):
    """A different number for each module, in the shape of the layer's weight."""
    rows, columns = (torch.arange(n) % k for n, k in zip(model.output_size, model.kernel_size, strict=True))
    values = model.kernel_size[1] * rows[:, None] + columns + 1.0
    return values.double()[:, :, None, None, None, None].expand(model.weight.shape).clone()


@pytest.mark.parametrize("change", [bs.InstantSharing(), sleep(bs.SteadyState())], ids=["instant", "sleep"])
def test_modules_do_not_mix(change):
    """A different constant in each module survives; anything within a module is averaged."""
    model = layer(kernel_size=(2, 3), padding=1)
    constant = constants(model)
    with torch.no_grad():
        model.weight.copy_(constant)
    assert_agree(after(change, model), constant, atol=1e-13)
    with torch.no_grad():
        model.weight[0, 0] += 12.0  # one of the 6 x 4 positions of its module
    moved = after(change, model) - constant
    inside = torch.zeros_like(moved)
    inside[::2, ::3] = 12.0 / inside[::2, ::3, 0, 0, 0, 0].numel()
    assert_agree(moved, inside, atol=1e-12)


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


@pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(5.0)], ids=repr)
def test_permuting_input_channels_permutes_the_result_of_a_grid(circuit):
    """Where neither pull nor momentum lasts, one input's presentation knows nothing of the others'."""
    model = layer(kernel_size=3, padding=1, inputs=4, groups=1)
    permuted, order = copy.deepcopy(model), [2, 0, 3, 1]
    with torch.no_grad():
        permuted.weight.copy_(model.weight[:, :, :, order].clone())
    dream = sleep(circuit, bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.4))
    assert_agree(after(dream, permuted), after(dream, model)[:, :, :, order], atol=1e-13)


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


@given(any_layers())
def test_an_ideal_sleep_of_any_layer_is_instant_sharing_or_refused(model):
    degenerate = any(math.gcd(k, d) > 1 for k, d in zip(model.kernel_size, model.dilation, strict=True))
    if degenerate:
        with pytest.raises(ValueError, match="share a factor"):
            sleep(bs.SteadyState())(model)
        return
    for border in ("share", "keep"):
        instant, ideal = after(bs.InstantSharing(border), model), after(sleep(bs.SteadyState(), border=border), model)
        assert_agree(ideal, instant, atol=1e-12)


def test_border_positions_keep_their_weights():
    model = layer(kernel_size=3, padding=1, stride=1)
    kept, shared = after(bs.InstantSharing("keep"), model), after(bs.InstantSharing("share"), model)
    inside = torch.zeros(model.output_size, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert torch.equal(by_position(kept == model.weight), ~inside)
    assert not by_position(shared == model.weight).any()


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
    assert [row.name for row in report.layers] == ["0", "2"]
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
    drawn = mode not in (IDEAL_MODES["instant"], IDEAL_MODES["grid"])
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


def test_the_report_measures_groups_and_prints_a_table():
    model = nn.Sequential(layer(kernel_size=1))
    groups = model[0].weight.detach().flatten(0, 1).flatten(2).transpose(0, 1).clone().numpy()
    report = sleep(bs.SteadyState(9.0), presentations=2)(model)
    row = report.layers[0]
    assert row.neg_log_snr_before == pytest.approx(np.median(bs.theory.neg_log_snr(groups)), abs=1e-12)
    assert row.mean_norm == pytest.approx(0.9, abs=1e-12)  # one full update shrinks the mean by 1 / (1 + alpha)
    assert row.mean_cosine == pytest.approx(1.0, abs=1e-12)
    lines = str(report).splitlines()
    assert lines[0].split()[0] == "layer"
    assert "0.9000" in lines[1]
    assert len(lines[0]) == len(lines[1])
    assert "medians over groups" in lines[2]


def test_neg_log_snr_reads_what_a_report_says():
    model = nn.Sequential(layer(kernel_size=3, padding=1))
    before = neg_log_snr(model)
    assert before == {"0": bs.InstantSharing()(model).layers[0].neg_log_snr_before}
    assert neg_log_snr(model)["0"] < before["0"] - 50
