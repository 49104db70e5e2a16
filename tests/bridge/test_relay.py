"""Patterns that layers hand on: read off an image that the layer itself answers to."""

import copy

import numpy as np
import pytest
import torch
from small_layers import GENTLE, after, after_network, assert_agree, gentle, inside, layer
from torch import nn

import bioshare as bs
from bioshare.bridge.relay import Relay, _rectified
from bioshare.circuit.stimuli import derived

GAUSSIAN = bs.stimuli.gaussian(std=0.5)
IDEAL = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1e-3)
FIRST = {
    "stride 1": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 2},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "grouped": {"kernel_size": 3, "groups": 2},
    "even and odd": {"kernel_size": (2, 3), "padding": (1, 0)},
    "patches": {"kernel_size": 3, "stride": 3, "input_size": (20, 16)},
    "stride 2 of 4": {"kernel_size": (4, 3), "stride": 2, "padding": 1, "input_size": (19, 16)},
    "1 x 1": {"kernel_size": 1},
}
first_layers = pytest.mark.parametrize("geometry", FIRST.values(), ids=FIRST)


def averaged(model):
    """A layer whose modules have equal weights, so that every neuron has the mean drive of its group."""
    bs.InstantSharing()(model)
    return model


def answers(model, patterns):
    """One period of what a layer answers to an image made of a pattern: (P, out, kh, kw).

    The image goes on in the padding. All periods of the answer must be the same.
    """
    kh, kw = model.kernel_size
    left, right, top, bottom = model.pad
    rows, columns = torch.arange(-top, model.input_size[0] + bottom), torch.arange(-left, model.input_size[1] + right)
    tiles = torch.from_numpy(patterns).view(len(patterns), -1, kh, kw)[:, :, rows % kh][..., columns % kw]
    images = tiles.repeat(1, model.groups, 1, 1)  # all groups of channels see the same pattern
    unfolded = nn.functional.unfold(images, model.kernel_size, model.dilation, stride=model.stride)
    patches = unfolded.view(len(patterns), model.groups, -1, *model.output_size)
    kernels = model.weight.detach().flatten(3).unflatten(2, (model.groups, -1))
    y = torch.einsum("pgkhw,hwgok->pgohw", patches, kernels).flatten(1, 2)
    for i in range(0, y.shape[2] - kh + 1, kh):
        for j in range(0, y.shape[3] - kw + 1, kw):
            assert_agree(y[:, :, i : i + kh, j : j + kw], y[:, :, :kh, :kw], atol=1e-10)
    return y[:, :, :kh, :kw].numpy()


def relayed(drive):
    """Standardised over the presentations, rectified, as strong as GAUSSIAN on average: in NumPy."""
    rates = np.maximum((drive - drive.mean(0)) / drive.std(0), 0).reshape(len(drive), -1)
    length = np.linalg.norm(rates, axis=1, keepdims=True)
    return 0.5 * np.sqrt(rates.shape[1]) * rates / np.where(length > 0, length, 1)  # some presentations answer nothing


@first_layers
def test_the_second_layer_sees_one_period_of_what_the_first_answers(geometry):
    first = averaged(layer(**geometry))
    second = layer(inputs=4, kernel_size=first.kernel_size)
    relay = Relay(GAUSSIAN, 40)
    drawn = relay.patterns(first, 5)
    np.testing.assert_array_equal(drawn, GAUSSIAN.draw(40, first.weight[0, 0, 0].numel(), seed=5))
    seen = relay.patterns(second, 6)
    np.testing.assert_allclose(seen, relayed(answers(first, drawn)), rtol=0, atol=1e-10)
    np.testing.assert_allclose((seen**2).mean(1)[seen.any(1)], 0.25, rtol=0, atol=1e-12)
    assert (seen >= 0).all()
    assert (seen == 0).any()


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_positions_that_keep_their_weights_add_nothing_to_the_activity(padding):
    """The others have equal weights: the second layer sees what they answer, wherever the border ends."""
    first = averaged(layer(kernel_size=3, padding=padding))
    second = layer(inputs=4, kernel_size=3)
    border = ~inside(first)
    without_border, with_border = Relay(GAUSSIAN, 40, "keep"), Relay(GAUSSIAN, 40, "share")
    expected = relayed(answers(first, without_border.patterns(first, 5)))
    with_border.patterns(first, 5)
    with torch.no_grad():
        first.weight[border] += 7.0 * torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    np.testing.assert_allclose(without_border.patterns(second, 6), expected, rtol=0, atol=1e-10)
    assert np.abs(with_border.patterns(second, 6) - expected).max() > 0.1


@pytest.mark.parametrize("border", ["share", "keep"])
def test_the_border_adds_to_the_activity_if_it_shares(border):
    model = nn.Sequential(layer(kernel_size=3, padding=1), layer(seed=1, inputs=4, kernel_size=3))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[0] += 3.0 * torch.randn(10, 4, 2, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    first, second = (
        after_network(gentle(bs.SteadyState(), patterns="relayed", border=border), each)[1] for each in (model, other)
    )
    assert torch.equal(first, second) == (border == "keep")


def test_a_third_layer_sees_what_the_second_answers_to_that():
    first, second = averaged(layer(kernel_size=3)), averaged(layer(inputs=4, kernel_size=3, stride=2))
    third = layer(inputs=4, kernel_size=3)
    relay = Relay(GAUSSIAN, 40)
    drawn = relay.patterns(first, 5)
    middle = relay.patterns(second, 6)
    np.testing.assert_allclose(
        relay.patterns(third, 7), relayed(answers(second, relayed(answers(first, drawn)))), rtol=0, atol=1e-9
    )
    assert not np.allclose(middle, drawn.mean())


def test_the_sleep_uses_weights_after_sleep_and_the_means_of_groups():
    """A whole sleep by hand: the first layer sees drawn patterns, the second the responses of the first."""
    model = nn.Sequential(layer(kernel_size=3, padding=1), layer(seed=1, inputs=4, kernel_size=3))
    before = model[1].weight.detach().clone()
    phase = bs.Sleep(bs.SteadyState(), IDEAL, GAUSSIAN, lambda inputs: 2 * inputs, patterns="relayed")
    phase(model, seed=3)
    drawn = GAUSSIAN.draw(72, 18, seed=derived(3, 18))  # as long as the longest layer needs, the first uses half
    seen = relayed(answers(averaged(nn.Sequential(model[0])[0]), drawn))
    for module in bs.bridge.modules(model[1]):
        groups, x = module.groups(before).numpy(), seen[:72, module.seen]
        expected = bs.simulate(groups, x, bs.SteadyState(), IDEAL).weights
        assert_agree(module.groups(model[1].weight.detach()), torch.from_numpy(expected), atol=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_layers_that_sleep_at_the_same_time_see_the_means_of_every_part(momentum, gamma):
    """Presentation by presentation with Eq. 4; the pull goes to the weights before the whole sleep."""
    model = nn.Sequential(layer(kernel_size=3, padding=1), layer(seed=1, inputs=4, kernel_size=3))
    first, second = copy.deepcopy(model)
    modules = [(part, module) for part in (first, second) for module in bs.bridge.modules(part)]
    initial = [module.groups(part.weight.detach()).numpy() for part, module in modules]
    groups, moved = [w.copy() for w in initial], [np.zeros_like(w) for w in initial]
    for part in range(5):
        with torch.no_grad():
            for (own, module), w in zip(modules, groups, strict=True):
                module.write(own.weight, torch.from_numpy(w))
        drawn = GAUSSIAN.draw(6, 18, seed=derived(3, 18, part))
        seen = {first: drawn, second: relayed(answers(averaged(copy.deepcopy(first)), drawn))}
        for i, (own, module) in enumerate(modules):
            for x in seen[own][: 3 if own is first else 6, module.seen.numpy()]:
                z = groups[i] @ x  # (out, N)
                gradient = (z - z.mean(1, keepdims=True))[..., None] * x + gamma * (groups[i] - initial[i])
                moved[i] = momentum * moved[i] - 0.02 * gradient
                groups[i] = groups[i] + moved[i]
    rule = bs.Hebbian(gamma=gamma, momentum=momentum, learning_rate=0.02)
    length = lambda inputs: {18: 15, 36: 30}[inputs]
    bs.Sleep(bs.SteadyState(), rule, GAUSSIAN, length, patterns="simultaneous")(model, seed=3)
    for (own, module), w in zip(modules, groups, strict=True):
        slept = model[0 if own is first else 1].weight.detach()
        assert_agree(module.groups(slept), torch.from_numpy(w), atol=1e-10)


def test_the_first_layer_sleeps_on_drawn_patterns():
    model = layer(kernel_size=3, padding=1)
    drawn, first = (after(gentle(bs.SteadyState(), patterns=p), model) for p in ("drawn", "relayed"))
    assert torch.equal(drawn, first)


@pytest.mark.parametrize(
    "misfit",
    [
        {"inputs": 4, "kernel_size": 1},
        {"inputs": 4, "kernel_size": (3, 1)},
        {"inputs": 2, "kernel_size": 3},
        {"inputs": 4, "kernel_size": 3, "groups": 2},
    ],
    ids=["1 x 1", "rectangle", "other channels", "grouped"],
)
def test_a_layer_that_does_not_fit_has_its_patterns_drawn(misfit):
    second, relay = layer(**misfit), Relay(GAUSSIAN, 30)
    relay.patterns(layer(kernel_size=3), 5)
    expected = GAUSSIAN.draw(30, second.weight[0, 0, 0].numel(), seed=6)
    np.testing.assert_array_equal(relay.patterns(second, 6), expected)


def test_the_nearest_fitting_layer_behind_hands_on():
    """A 1 x 1 layer between two of 3 x 3 is passed by; of two that fit, the later one counts."""
    first, narrow, last = averaged(layer(kernel_size=3)), layer(inputs=4, kernel_size=1), layer(inputs=4, kernel_size=3)
    relay = Relay(GAUSSIAN, 30)
    drawn = relay.patterns(first, 5)
    relay.patterns(narrow, 6)
    np.testing.assert_allclose(relay.patterns(last, 7), relayed(answers(first, drawn)), rtol=0, atol=1e-10)
    again = averaged(layer(seed=4, kernel_size=3))
    drawn = relay.patterns(again, 8)
    np.testing.assert_allclose(relay.patterns(last, 9), relayed(answers(again, drawn)), rtol=0, atol=1e-10)


def test_silent_groups_stay_silent():
    drive = torch.randn(50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drive[:, 1] = 2.0
    rates = _rectified(drive)
    assert rates.isfinite().all()
    assert not rates[:, 1].any()
    assert_agree(rates.square().sum(1), torch.ones(50, dtype=torch.float64), atol=1e-12)
    assert not _rectified(torch.ones(5, 2, dtype=torch.float64)).any()


def test_modules_without_neurons_are_silent():
    tiny = layer(kernel_size=3, input_size=(4, 5))  # 2 x 3 positions
    relay = Relay(GAUSSIAN, 30)
    relay.patterns(tiny, 5)
    seen = relay.patterns(layer(inputs=4, kernel_size=3), 6).reshape(30, 4, 3, 3)
    assert not seen[:, :, 2].any()
    assert seen[:, :, :2].any(0).all()


def test_permuting_channels_of_the_first_layer_permutes_what_the_second_sees():
    first, second, order = layer(kernel_size=3), layer(inputs=4, kernel_size=3), [2, 0, 3, 1]
    seen = []
    for channels in (range(4), order):
        permuted, relay = layer(kernel_size=3), Relay(GAUSSIAN, 30)
        with torch.no_grad():
            permuted.weight.copy_(first.weight[:, :, list(channels)])
        relay.patterns(permuted, 5)
        seen.append(relay.patterns(second, 6).reshape(30, 4, 9))
    np.testing.assert_allclose(seen[1], seen[0][:, order], rtol=0, atol=1e-13)


def test_relayed_patterns_need_a_stimulus_that_brings_new_ones_and_no_pool():
    for options, problem in (
        ({"stimulus": bs.stimuli.grid()}, "stimulus must bring new patterns all the time"),
        ({"stimulus": bs.stimuli.grid(shuffle=True)}, "stimulus must bring new patterns all the time"),
        ({"pool": 2}, "pool must be None for relayed patterns"),
    ):
        arguments = {"stimulus": GAUSSIAN, "presentations": 4, "patterns": "relayed"} | options
        with pytest.raises(ValueError, match=problem):
            bs.Sleep(bs.SteadyState(), GENTLE, **arguments)


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0])
def test_relayed_patterns_are_within_the_limit_that_was_checked_before(mean):
    """Where weights have a common mean all drives rise and fall together; no pattern may be longer for it."""
    first, second = layer(kernel_size=3), layer(inputs=4, kernel_size=3)
    with torch.no_grad():
        first.weight += mean - 1.0
    relay = Relay(GAUSSIAN, 200)
    relay.patterns(first, 5)
    power = (relay.patterns(second, 6) ** 2).sum(1)
    assert power.max() == pytest.approx(0.25 * 36, abs=1e-9)
