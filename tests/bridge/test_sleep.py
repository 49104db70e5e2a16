"""Sleep itself: against instant sharing, against `simulate` on every module's own neurons, and against Brian2."""

import copy
import math

import brian2 as b2
import numpy as np
import pytest
import torch
from hypothesis import given
from small_layers import (
    GENTLE,
    RATE,
    after,
    any_layers,
    assert_agree,
    borders,
    by_position,
    constants,
    gentle,
    geometries,
    layer,
    sleep,
)
from torch import nn

import bioshare as bs
from bioshare.bridge import modules, neg_log_snr
from bioshare.circuit.stimuli import derived

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


@circuits
@pytest.mark.parametrize(
    ("std", "patterns"), [(0.0, "drawn"), (0.1, "drawn"), (0.0, "relayed")], ids=["shared", "noisy", "relayed"]
)
def test_a_silence_is_presentations_of_nothing_before_the_first_pattern(circuit, std, patterns):
    """Recomputed by hand for a first layer, whose patterns are drawn either way, and in the literal loop."""
    model, stimulus = layer(kernel_size=3), bs.stimuli.noise(bs.stimuli.gaussian(), std)
    options = {"stimulus": stimulus, "silence": 3}
    slept = after(gentle(circuit, patterns=patterns, **options), model, seed=5)
    assert_agree(after(gentle(circuit, engine="loop", **options), model, seed=5), slept, atol=1e-10)
    drawn = bs.stimuli.gaussian().draw(20, 18, seed=derived(5, 18))
    seen = np.concatenate([np.zeros((3, 18)), drawn])
    for module in modules(model) if not std else ():
        groups = module.groups(model.weight.detach())
        run = bs.simulate(groups.numpy(), seen[:, module.seen], circuit, GENTLE)
        assert_agree(module.groups(slept), torch.from_numpy(run.weights), atol=1e-10)


@circuits
def test_a_silence_without_a_bias_changes_nothing(circuit):
    model, settled = layer(kernel_size=3), circuit
    if isinstance(circuit, bs.RateCircuit):
        settled = bs.RateCircuit(alpha=5.0, bias=0.0, duration=10.0)
    with_it, without = (after(gentle(settled, silence=number), model) for number in (4, 0))
    assert_agree(with_it, without, atol=1e-13)


def test_a_silence_that_is_no_number_of_presentations_is_refused():
    with pytest.raises(ValueError, match="silence must be a number of presentations without input, at least 0; got -1"):
        gentle(bs.SteadyState(), silence=-1)
    with pytest.raises(TypeError, match=r"silence must be a number of presentations without input; got 1\.5"):
        gentle(bs.SteadyState(), silence=1.5)


def test_a_silence_lets_the_rate_circuit_settle_at_its_bias():
    """Without it the weights learn how r rises from 0 to b; after it, next to nothing of that is left."""
    model = layer(kernel_size=3)
    biased, unbiased = (bs.RateCircuit(alpha=5.0, bias=b, duration=150.0) for b in (1.0, 0.0))
    rule = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1e-2)
    learned = []
    for silence in (0, 2):
        first, second = (after(sleep(c, rule, presentations=5, silence=silence), model) for c in (biased, unbiased))
        learned.append(float((first - second).abs().max()))
    assert learned[0] > 1e-2
    assert learned[1] < 1e-4


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
        after(gentle(circuit, stimulus, presentations=5, engine=engine, silence=1), model, seed=3)
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


@pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(5.0)], ids=repr)
def test_permuting_input_channels_permutes_the_result_of_a_grid(circuit):
    """Where neither pull nor momentum lasts, one input's presentation knows nothing of the others'."""
    model = layer(kernel_size=3, padding=1, inputs=4, groups=1)
    permuted, order = copy.deepcopy(model), [2, 0, 3, 1]
    with torch.no_grad():
        permuted.weight.copy_(model.weight[:, :, :, order].clone())
    phase = sleep(circuit, bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.4))
    assert_agree(after(phase, permuted), after(phase, model)[:, :, :, order], atol=1e-13)


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


def test_the_report_measures_groups_and_prints_a_table():
    model = nn.Sequential(layer(kernel_size=1))
    groups = model[0].weight.detach().flatten(0, 1).flatten(2).transpose(0, 1).clone().numpy()
    report = sleep(bs.SteadyState(9.0), presentations=2)(model)
    row = report.layers[0]
    assert row.neg_log_snr_before == pytest.approx(np.median(bs.theory.neg_log_snr(groups)), abs=1e-12)
    assert row.mean_norm == pytest.approx(0.9, abs=1e-12)  # one full update shrinks the mean by 1 / (1 + alpha)
    assert row.mean_angle == pytest.approx(0.0, abs=1e-10)
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
