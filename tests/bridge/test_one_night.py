"""Sleep and feedback in one model: shared weights, shared feedback, and the difference of Kolen and Pollack."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bioshare import InstantSharing, KolenPollack, Mirror, Sleep, stimuli
from bioshare.bridge import HebbianSharing, modules
from bioshare.nn import LocallyConnected2d, with_feedback
from bioshare.nn.feedback import connected, degrees

normal = lambda presentations, inputs, rng: rng.standard_normal((presentations, inputs))

PHASES = {
    "instant": InstantSharing(),
    "partial": InstantSharing(spread=0.3),
    "kept border": InstantSharing(border="keep"),
    "ideal": Sleep.steady_state(rescale=False),
    "circuit": Sleep.rate_circuit(rescale=False),
    "gain": Sleep.rate_circuit(gain=1.25),
    "pull": Sleep.rate_circuit(gamma=0.1, rescale=False),
    "hebbian": HebbianSharing(alpha=5.0),
    "relayed": Sleep.rate_circuit(patterns="relayed", rescale=False, stimulus=normal),
}


def made(padding=1, size=9, init="fan-out"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = LocallyConnected2d(2, 3, 3, padding=padding, input_size=size).double()
    return with_feedback(layer, init)


@pytest.mark.parametrize("name", PHASES)
def test_weights_less_the_difference_stay_feedback_weights_asleep(name):
    """B = W - D, and a sleep is affine: with the linear part applied to D, W - D is a B that slept by the same map."""
    layer = made()
    KolenPollack().prepare(layer)
    feedback = layer.feedback.clone()
    PHASES[name](layer, seed=1)
    other = made()
    with torch.no_grad():
        other.weight.copy_(feedback)
    PHASES[name](other, seed=1)
    torch.testing.assert_close(layer.weight - layer.difference, other.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("phase", [Sleep.steady_state(), InstantSharing(border="scale")])
def test_the_difference_is_scaled_as_the_weights(phase):
    layer = made(init="zeros")  # a difference equal to the weights
    KolenPollack().prepare(layer)
    phase(layer, seed=1)
    torch.testing.assert_close(layer.difference, layer.weight.detach(), rtol=0, atol=1e-12)


def test_the_distance_to_feedback_never_grows_in_sleep_because_the_difference_sleeps():
    layer = made()
    KolenPollack().prepare(layer)
    optimizer = torch.optim.SGD(layer.parameters(), 0.01, weight_decay=0.1)
    asleep, awake = [], []
    for step in range(6):
        x = torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
        Sleep.rate_circuit(rescale=False)(layer, seed=step)
        awake.append(float((layer.weight.detach() - layer.feedback).norm()))  # feedback from before the sleep
        KolenPollack()(layer, optimizer=optimizer)
        asleep.append(float((layer.weight.detach() - layer.feedback).norm()))
    assert all(b < a for a, b in pairwise(asleep))
    assert asleep[0] < awake[0]


def test_a_noisy_sleep_has_no_map_for_the_difference_and_is_refused_in_time():
    layer = made()
    sleep = Sleep.steady_state(stimulus=stimuli.noise(stimuli.grid(), 0.1))
    KolenPollack().prepare(layer)
    before = layer.weight.detach().clone()
    for refusing in (sleep.check, sleep):
        with pytest.raises(ValueError, match=r"KolenPollack, which keeps W - B in layer '', needs a sleep that is one"):
            refusing(layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("asleep", [True, False])
def test_feedback_that_learns_as_the_weights_but_stays_awake_goes_away_from_them(asleep):
    """Kolen and Pollack's rule with two sets of weights: every sleep takes from W alone what both have learned."""
    layer, distances = made(), []
    for step in range(8):
        update = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        with torch.no_grad():
            layer.weight += 0.3 * update
            layer.feedback += 0.3 * update
        InstantSharing(feedback=asleep)(layer)
        distances.append(float((layer.weight.detach() - layer.feedback).norm()))
    growth = np.diff(distances)
    assert (growth < 1e-12).all() if asleep else (growth > 0.1).all()


@pytest.mark.parametrize("name", ["instant", "ideal", "circuit", "hebbian"])
def test_feedback_weights_sleep_by_the_same_map(name):
    phase = replace(PHASES[name], feedback=True)
    layer = made(init="weights")
    phase(layer, seed=1)
    torch.testing.assert_close(layer.feedback, layer.weight.detach(), rtol=0, atol=1e-12)
    layer = made()
    before = layer.feedback.clone()
    PHASES[name](layer, seed=1)
    assert torch.equal(layer.feedback, before)
    phase(layer, seed=1)
    spread = lambda b: float(b.flatten(0, 1)[[0, 3]].std(0).norm())
    assert spread(layer.feedback) < 0.2 * spread(before)


def test_sharing_divides_the_noise_of_the_mirror_by_the_size_of_the_group():
    """Patches of a group do not overlap, so its neurons have independent errors: tan^2 of the angle falls by 1 / N."""
    layer = made(padding=0, size=14)  # 12 x 12 positions, nine modules of 16 neurons
    InstantSharing()(layer)
    assert {module.neurons for module in modules(layer)} == {16}
    tangents = {False: [], True: []}
    for seed in range(6):
        for shared in tangents:
            layer.feedback.zero_()
            Mirror(samples=256)(layer, seed=seed)
            if shared:
                InstantSharing(feedback=True)(layer)
            tangents[shared].append(math.tan(math.radians(degrees(layer.feedback, layer.weight))) ** 2)
    alone, together = (np.mean(tangents[shared]) for shared in (False, True))
    assert alone == pytest.approx(((2 - 2 / math.pi) * 20 - 1) / 256, rel=0.1)
    assert alone / together == pytest.approx(16, rel=0.15)


def test_weights_that_see_padding_alone_follow_their_group():
    """A mirror leaves their B as the group's mean was, so that in the end the mean is that of W."""
    layer = made(size=12)
    InstantSharing()(layer)
    unseen = connected(layer) == 0
    angles = []
    for seed in range(6):
        before = layer.feedback[unseen]
        angles.append(Mirror(samples=256, updates=100)(layer, seed=seed).layers[0].angle)
        assert torch.equal(layer.feedback[unseen], before)
        InstantSharing(feedback=True)(layer)
    shared = degrees(layer.feedback[~unseen], layer.weight[~unseen])
    assert shared == pytest.approx(np.mean(angles) / 4, rel=0.15)  # tan^2 falls by 1 / 16


def test_feedback_without_feedback_weights_is_refused():
    with pytest.raises(ValueError, match="feedback=True needs a model with feedback weights"):
        InstantSharing(feedback=True)(LocallyConnected2d(1, 1, 3, input_size=8))
    with pytest.raises(ValueError, match="feedback=True needs a model with feedback weights"):
        Sleep.rate_circuit(feedback=True)(nn.Sequential(LocallyConnected2d(1, 1, 3, input_size=8)))
