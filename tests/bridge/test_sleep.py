import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import bioshare as bs
from bioshare.bridge import InstantSharing, modules, neg_log_snr
from bioshare.bridge.seeds import derived
from bioshare.nn import LocallyConnected2d

# An ideal sleep: with one active input of |x|^2 = 1 and learning rate 1, one cycle of the grid removes all deviations.
IDEAL = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1.0)
GEOMETRIES = {
    "stride 1": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 3": {"kernel_size": 3, "stride": 3, "input_size": (20, 16)},
    "1 x 1": {"kernel_size": 1},
    "1 x 1, stride 2": {"kernel_size": 1, "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "even": {"kernel_size": (2, 3), "padding": (1, 0)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
borders = pytest.mark.parametrize("border", ["share", "keep"])


def layer(seed=0, input_size=(11, 10), **geometry):
    """Two input and four output channels in float64, weights 1 + N(0, 1)."""
    made = LocallyConnected2d(2, 4, input_size=input_size, **geometry).double()
    with torch.no_grad():
        made.weight.normal_(1, 1, generator=torch.Generator().manual_seed(seed))
    return made


def sleep(circuit, rule=IDEAL, stimulus=None, presentations=lambda inputs: inputs, **options):
    stimulus = bs.stimuli.grid() if stimulus is None else stimulus
    return bs.Sleep(circuit=circuit, rule=rule, stimulus=stimulus, presentations=presentations, **options)


def after(change, model, **options):
    """The weight of a copy of a layer after a change."""
    changed = copy.deepcopy(model)
    change(changed, **options)
    return changed.weight.detach()


def assert_agree(a, b, atol):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@geometries
@borders
def test_ideal_sleep_is_instant_sharing(geometry, border):
    model = layer(**geometry)
    shared = after(bs.InstantSharing(border), model)
    assert not torch.equal(shared, model.weight)
    assert_agree(after(sleep(bs.SteadyState(), border=border), model), shared, atol=1e-12)
    tiny = bs.Hebbian(gamma=1e-9, momentum=0.5, learning_rate=0.3)
    gentle = sleep(bs.SteadyState(), tiny, presentations=lambda inputs: 100 * inputs, border=border)
    assert_agree(after(gentle, model), shared, atol=1e-6)


@geometries
@borders
@pytest.mark.parametrize("circuit", [bs.SteadyState(5.0), bs.RateCircuit(alpha=5.0, bias=0.3, duration=10.0)], ids=repr)
def test_the_collapsed_sleep_is_the_sleep_of_every_neuron(geometry, border, circuit):
    model = layer(**geometry)
    rule = bs.Hebbian(gamma=0.01, momentum=0.5, learning_rate=0.02)
    arguments = {"rule": rule, "stimulus": bs.stimuli.gaussian(), "presentations": 20, "border": border}
    collapsed = after(sleep(circuit, **arguments), model, seed=5)
    assert (collapsed - model.weight).abs().max() > 0.01
    assert_agree(after(sleep(circuit, **arguments, engine="loop"), model, seed=5), collapsed, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_sleep_is_simulate_on_hand_made_patches(stride):
    """Show the layer an image of period 3 and read every neuron's patch off the padded image."""
    model, kernel = layer(kernel_size=3, stride=stride, input_size=(24, 24)), 3
    circuit = bs.RateCircuit(alpha=5.0, bias=0.3, duration=10.0)
    rule = bs.Hebbian(gamma=0.01, momentum=0.5, learning_rate=0.02)
    stimulus = bs.stimuli.gaussian()
    slept = after(sleep(circuit, rule, stimulus, presentations=15), model, seed=9)
    patterns = stimulus.draw(15, 18, seed=derived(9, 18)).reshape(15, 2, kernel, kernel)
    images = torch.from_numpy(np.tile(patterns, (1, 1, 8, 8)))
    patches = nn.functional.unfold(images, kernel, stride=stride).unflatten(-1, model.output_size)
    for a in range(kernel):
        for b in range(kernel):
            seen = patches[..., a::kernel, b::kernel].flatten(2)
            assert (seen == seen[..., :1]).all()  # all neurons of a module see the same patch
            weights = model.weight[a::kernel, b::kernel].detach()
            groups = weights.flatten(0, 1).flatten(2).transpose(0, 1).numpy()
            run = bs.simulate(groups, seen[..., 0].numpy(), circuit, rule)
            expected = torch.from_numpy(run.weights).transpose(0, 1).reshape(weights.shape)
            assert_agree(slept[a::kernel, b::kernel], expected, atol=1e-10)


@geometries
@borders
def test_a_convolution_is_a_fixed_point_of_the_ideal_sleep(geometry, border):
    model = layer(**geometry)
    with torch.no_grad():
        model.weight.copy_(model.weight[0, 0].clone())
    rule = bs.Hebbian(gamma=0.01, momentum=0.5, learning_rate=0.1)
    slept = after(sleep(bs.SteadyState(), rule, border=border), model)
    assert_agree(slept, model.weight.detach(), atol=1e-13)


@pytest.mark.parametrize("change", [bs.InstantSharing(), sleep(bs.SteadyState())], ids=["instant", "sleep"])
def test_modules_do_not_mix(change):
    """A different constant in each module survives; anything within a module is averaged."""
    model = layer(kernel_size=(2, 3), padding=1)
    rows, columns = (torch.arange(n) % k for n, k in zip(model.output_size, (2, 3), strict=True))
    constant = (3 * rows[:, None] + columns + 1.0).double()[:, :, None, None, None, None]
    with torch.no_grad():
        model.weight.copy_(constant.expand_as(model.weight))
    assert_agree(after(change, model), constant.expand_as(model.weight), atol=1e-13)
    with torch.no_grad():
        model.weight[0, 0] += 12.0  # one of the 6 x 4 positions of its module
    moved = after(change, model) - constant
    inside = torch.zeros_like(moved)
    inside[::2, ::3] = 12.0 / inside[::2, ::3, 0, 0, 0, 0].numel()
    assert_agree(moved, inside, atol=1e-12)


def test_border_positions_keep_their_weights():
    model = layer(kernel_size=3, padding=1, stride=1)
    kept, shared = after(bs.InstantSharing("keep"), model), after(bs.InstantSharing("share"), model)
    unchanged = (kept == model.weight).flatten(2).all(-1)
    inside = torch.zeros(model.output_size, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert torch.equal(unchanged, ~inside)
    assert not (shared == model.weight).flatten(2).all(-1).any()


def test_modules_cover_every_position_once():
    model = layer(kernel_size=(2, 3), stride=2, padding=1)
    count = torch.zeros(model.output_size)
    for module in modules(model):
        count[module.rows, module.columns] += 1
    assert (count == 1).all()


def test_single_neurons_are_left_alone():
    model = layer(kernel_size=3, input_size=(6, 5))  # 4 x 3 positions: three modules of two, six of one
    report = bs.InstantSharing()(model)
    assert report.layers[0].modules == 3
    lonely = layer(kernel_size=3, input_size=(5, 5))
    before = lonely.weight.detach().clone()
    report = sleep(bs.SteadyState())(lonely)
    assert torch.equal(lonely.weight, before)
    assert report.layers[0].modules == 0
    assert math.isnan(report.layers[0].mean_norm)


def test_noise_reaches_every_neuron_but_not_every_channel():
    model = layer(kernel_size=3, padding=1)
    with torch.no_grad():
        model.weight[:, :, 1] = model.weight[:, :, 0]
    rule = bs.Hebbian(gamma=0.01, momentum=0.0, learning_rate=0.05)
    clean, noisy = (
        after(sleep(bs.SteadyState(), rule, stimulus, presentations=40), model, seed=2)
        for stimulus in (bs.stimuli.grid(), bs.stimuli.noise(bs.stimuli.grid(), std=0.1))
    )
    assert 1e-3 < (clean - noisy).abs().max() < 1
    assert torch.equal(noisy[:, :, 0], noisy[:, :, 1])


def test_a_network_keeps_its_parameters_and_trains_on():
    model = bs.nn.to_locally_connected(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3)), (1, 9, 9))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters)
    report = sleep(bs.SteadyState())(model, seed=1)
    assert [row.name for row in report.layers] == ["0", "2"]
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    shared = model[0].weight.detach().clone()
    model(torch.ones(1, 1, 9, 9)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, shared)
    assert model[0].weight.requires_grad


def test_the_seed_decides():
    model = nn.Sequential(layer(kernel_size=3, padding=1), LocallyConnected2d(4, 4, 3, input_size=(11, 10)).double())
    rule = bs.Hebbian(gamma=0.01, momentum=0.0, learning_rate=0.05)
    dream = sleep(bs.SteadyState(), rule, bs.stimuli.gaussian(std=0.1), presentations=10)
    first, again, other = (copy.deepcopy(model) for _ in range(3))
    for copied, seed in ((first, 0), (again, 0), (other, 1)):
        dream(copied, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_float32_layers_get_the_rounded_sleep():
    model = layer(kernel_size=3, padding=1)
    single = copy.deepcopy(model).float()
    dream = sleep(bs.SteadyState(10.0))
    assert_agree(after(dream, single).double(), after(dream, model), atol=1e-5)


def test_the_report_measures_groups_and_prints_a_table():
    model = nn.Sequential(layer(kernel_size=1))
    weights = model[0].weight.detach().flatten(0, 1).flatten(2).transpose(0, 1).clone().numpy()
    report = sleep(bs.SteadyState(9.0), presentations=2)(model)
    row = report.layers[0]
    assert row.neg_log_snr_before == pytest.approx(np.median(bs.theory.neg_log_snr(weights)), abs=1e-12)
    assert row.mean_norm == pytest.approx(0.9, abs=1e-12)  # one full update shrinks the mean by 1 / (1 + alpha)
    assert row.mean_cosine == pytest.approx(1.0, abs=1e-12)
    lines = str(report).splitlines()
    assert lines[0].split()[0] == "layer"
    assert "0.9000" in lines[1]
    assert len(lines[0]) == len(lines[1])
    assert "medians over groups" in lines[2]


def test_bad_input_is_named_before_any_weight_changes():
    fine = layer(kernel_size=3, padding=1)
    model = nn.Sequential(fine, LocallyConnected2d(4, 4, 2, dilation=2, input_size=(11, 10)).double())
    before = fine.weight.detach().clone()
    with pytest.raises(ValueError, match=r"layer '1' has kernel_size=\(2, 2\) and dilation=\(2, 2\)"):
        sleep(bs.SteadyState())(model)
    with pytest.raises(ValueError, match="seed must be"):
        sleep(bs.SteadyState())(fine, seed=-1)
    assert torch.equal(fine.weight, before)
    with pytest.raises(ValueError, match="model must have a LocallyConnected2d layer"):
        bs.InstantSharing()(nn.Linear(2, 2))
    with pytest.raises(ValueError, match='border must be "share" or "keep"'):
        bs.InstantSharing("ignore")
    with pytest.raises(TypeError, match="circuit must be a RateCircuit"):
        sleep("ideal")
    with pytest.raises(TypeError, match="stimulus must be a Stimulus"):
        sleep(bs.SteadyState(), stimulus=np.eye(3))
    with pytest.raises(ValueError, match="presentations must be"):
        sleep(bs.SteadyState(), presentations=0)


def test_a_layer_that_cannot_sleep_is_named_before_any_has_slept():
    model = nn.Sequential(layer(kernel_size=1), layer(kernel_size=3))
    before = [module.weight.detach().clone() for module in model]
    fast = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.25)
    with pytest.raises(ValueError, match="layer '1': learning_rate is above the stability limit"):
        bs.Sleep(bs.SteadyState(), fast, bs.stimuli.gaussian(), presentations=3)(model)
    with pytest.raises(TypeError, match="presentations must be a number"):
        sleep(bs.SteadyState(), presentations=lambda inputs: inputs if inputs < 10 else 1.5)(model)
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0, 0, 0] = math.nan
    before[1] = model[1].weight.detach().clone()
    for sharing in (sleep(bs.SteadyState()), bs.InstantSharing()):
        with pytest.raises(ValueError, match="layer '1' must have finite weights"):
            sharing(model)
    for module, weight in zip(model, before, strict=True):
        torch.testing.assert_close(module.weight.detach(), weight, rtol=0, atol=0, equal_nan=True)


def test_impossible_sleeps_are_refused_when_they_are_made():
    with pytest.raises(ValueError, match="engine must be one of"):
        sleep(bs.SteadyState(), engine="exakt")
    with pytest.raises(ValueError, match="alpha must be one number for all groups"):
        sleep(bs.SteadyState(np.array([1.0, 2.0])))
    with pytest.raises(TypeError, match="model must be a torch"):
        bs.InstantSharing()(torch.zeros(3))


def test_neg_log_snr_reads_what_a_report_says():
    model = nn.Sequential(layer(kernel_size=3, padding=1))
    before = neg_log_snr(model)
    assert before == {"0": bs.InstantSharing()(model).layers[0].neg_log_snr_before}
    assert neg_log_snr(model)["0"] < before["0"] - 50


def test_padding_by_name_and_on_one_side_ties_the_same_positions():
    pairs = [({"padding": "same"}, {"padding": 1}, 3), ({"padding": "valid"}, {}, 3)]
    for named, numbered, kernel in pairs:
        layers = [LocallyConnected2d(1, 2, kernel, input_size=7, **options) for options in (named, numbered)]
        for border in ("share", "keep"):
            first, second = (list(modules(layer, border)) for layer in layers)
            assert [(m.rows, m.columns, m.seen.tolist()) for m in first] == [
                (m.rows, m.columns, m.seen.tolist()) for m in second
            ]
    even = LocallyConnected2d(1, 1, 2, input_size=6, padding="same")  # nothing on the left, one on the right
    assert {(m.rows.start, m.rows.stop) for m in modules(even, "keep")} == {(0, 5), (1, 5)}


def test_an_unmeasured_sharing_gives_the_same_weights():
    measured = nn.Sequential(LocallyConnected2d(2, 3, 3, input_size=7, padding=1))
    unmeasured = copy.deepcopy(measured)
    assert InstantSharing()(measured).layers[0].neg_log_snr_before > -5
    assert math.isnan(InstantSharing()(unmeasured, measure=False).layers[0].neg_log_snr_before)
    assert torch.equal(measured[0].weight, unmeasured[0].weight)
