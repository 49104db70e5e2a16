"""Stimuli of one's own: functions and arrays, alone, with noise, and in a network."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs

W = np.random.default_rng(0).normal(1, 1, (5, 3))
RULE = bs.Hebbian(0.01, 0.0, learning_rate=0.01)


def normal(presentations, inputs, rng):
    """The inputs of ``stimuli.gaussian()``."""
    return rng.normal(0, 1, (presentations, inputs))


@pytest.mark.parametrize("engine", ["exact", "loop"])
@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_a_function_with_the_draws_of_a_stimulus_gives_the_same_sleep(engine, sigma):
    sleep = lambda stimulus: bs.simulate(
        W, bs.stimuli.noise(stimulus, sigma), bs.RateCircuit(), RULE, engine, presentations=4, seed=3
    )
    assert np.array_equal(sleep(normal).weights, sleep(bs.stimuli.gaussian()).weights)


def test_every_leading_entry_gets_inputs_of_its_own_from_the_seed():
    calls = []

    def counted(presentations, inputs, rng):
        calls.append((presentations, inputs))
        return normal(presentations, inputs, rng)

    sleep = lambda seed: (
        bs.simulate(np.stack([W, W]), counted, bs.SteadyState(), RULE, presentations=6, seed=seed).weights
    )
    first, again, other = sleep(0), sleep(0), sleep(1)
    assert calls == [(6, 3)] * 6
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_a_map_of_a_sleep_takes_a_function():
    of_function, of_stimulus = (
        bs.sleep_map(stimulus, bs.SteadyState(10.0), RULE, inputs=3, presentations=9, seed=2)
        for stimulus in (normal, bs.stimuli.gaussian())
    )
    assert all(np.array_equal(a, b) for a, b in zip(of_function, of_stimulus, strict=True))


@given(rows=st.integers(1, 5), presentations=st.integers(1, 12))
def test_patterns_are_presented_in_turn(rows, presentations):
    array = np.random.default_rng(rows).normal(size=(rows, 3))
    stimulus = bs.stimuli.patterns(array)
    x = stimulus.draw(presentations, 3, seed=0, batch=(2,))
    assert x.shape == (2, presentations, 3)
    for presentation in range(presentations):
        assert np.array_equal(x[:, presentation], [array[presentation % rows]] * 2)
    np.testing.assert_allclose(stimulus.covariance(3), sum(np.outer(a, a) for a in array) / rows, rtol=0, atol=1e-14)
    assert stimulus.power(3) == pytest.approx((array**2).sum(-1).mean(), abs=1e-13)
    assert not stimulus.varies


def test_the_covariance_of_a_function_is_estimated():
    stimulus = bs.stimuli.drawn(lambda presentations, inputs, rng: rng.normal(1, 2, (presentations, inputs)))
    np.testing.assert_allclose(stimulus.covariance(2), 4 * np.eye(2) + 1, rtol=0, atol=0.4)
    assert stimulus.power(2) == pytest.approx(10, abs=0.6)
    assert stimulus.varies


@pytest.mark.parametrize("preset", [bs.Sleep.rate_circuit, bs.Sleep.steady_state])
def test_a_network_sleeps_with_the_patterns_of_an_array_and_of_a_function(preset):
    def slept(stimulus):
        torch.manual_seed(0)
        layer = bs.nn.LocallyConnected2d(1, 2, 2, input_size=6)
        preset(stimulus=stimulus)(layer, seed=0, progress=False)
        return layer.weight.detach().numpy()

    by_stimulus = slept(bs.stimuli.grid())
    for stimulus in (np.eye(4), np.eye(4).tolist(), torch.eye(4), bs.stimuli.patterns(np.eye(4))):
        np.testing.assert_allclose(slept(stimulus), slept(bs.stimuli.patterns(np.eye(4))), rtol=0, atol=0)
    cycle = lambda presentations, inputs, rng: np.eye(inputs)[np.arange(presentations) % inputs]
    in_turn = bs.Sleep(bs.SteadyState(10.0), RULE, cycle, 20)
    grid = bs.Sleep(bs.SteadyState(10.0), RULE, bs.stimuli.grid(), 20)
    layers = [bs.nn.LocallyConnected2d(1, 2, 2, input_size=6) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    in_turn(layers[0], seed=0, progress=False)
    grid(layers[1], seed=0, progress=False)
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert by_stimulus.shape == (5, 5, 2, 1, 2, 2)


def test_patterns_of_another_length_than_the_layers_are_refused_by_name():
    layer = bs.nn.LocallyConnected2d(1, 2, 3, input_size=6)
    with pytest.raises(ValueError, match=r"stimuli must have 9 inputs, as the neurons; got patterns with 4"):
        bs.Sleep(bs.SteadyState(10.0), RULE, np.eye(4), 20)(layer, seed=0)


@pytest.mark.parametrize("function", [bs.stimuli.gaussian, bs.stimuli.Gaussian, lambda rng: rng, np.random.default_rng])
def test_what_cannot_be_called_so_is_refused_with_what_can(function):
    with pytest.raises(TypeError, match=r"^stimuli must be an array, a Stimulus, such as stimuli.gaussian\(\), or a"):
        bs.simulate(W, function, bs.SteadyState(), RULE, presentations=3, seed=0)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (np.ones(3), ValueError, r"^stimuli must return an array of shape .* = \(4, 3\); got shape \(3,\)"),
        (np.ones((3, 4)), ValueError, r"^stimuli must return an array of shape"),
        (np.full((4, 3), np.nan), ValueError, r"^stimuli must be finite"),
        ("noise", TypeError, r"^stimuli must be a function that returns an array"),
    ],
)
def test_a_function_must_return_finite_inputs(returned, error, message):
    with pytest.raises(error, match=message):
        bs.simulate(W, lambda *_: returned, bs.SteadyState(), RULE, presentations=4, seed=0)


def test_a_function_needs_a_number_of_presentations_and_a_seed():
    with pytest.raises(TypeError, match=r"^presentations and seed are needed to draw from Drawn"):
        bs.simulate(W, normal, bs.SteadyState(), RULE)
