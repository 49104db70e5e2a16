"""A bias of the inhibitory neuron: the weights of Eq. 8 without bias, and rates that rectification leaves alone."""

from functools import partial

import brian2 as b2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bioshare as bs
from bioshare import theory
from bioshare.circuit.loop import literal_steps
from bioshare.circuit.prepare import prepare_sleep

assert_close = partial(np.testing.assert_allclose, rtol=0)
GRID = np.tile(np.eye(4), (5, 1))
GATED = bs.Hebbian(0.0, 0.0, learning_rate=bs.rules.Gated(0.005, wait=50))
SIGNS = np.array([1.0, -1.0, 0.5, -0.5])


@pytest.fixture
def runtime():
    """Brian2 in NumPy, which needs no compiler."""
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"
    yield partial(bs.Brian2, "runtime")
    b2.prefs.codegen.target = before


def initial(*shape, mean=SIGNS):
    return mean + np.random.default_rng(0).normal(0, 0.3, shape)


def inputs(*shape):
    return np.random.default_rng(1).normal(size=shape)


def rectified_by_hand(weights, stimuli, circuit, rule):
    """Both rectified, with a bias in the inhibitory neuron, step by step: weights and all rates."""
    b, h = circuit.bias, circuit.dt / circuit.tau
    eta = rule.rates(len(stimuli) * circuit.updates_per_presentation)
    w, r, r_inh, rates, k = weights.copy(), np.full(len(weights), b), b, [], 0
    for x in stimuli:
        for _ in range(circuit.updates_per_presentation):
            current = np.maximum(w @ x - circuit.alpha * (r_inh - b) + b, 0)
            r, r_inh = r + h * (current - r), r_inh + h * (max(r.mean(), 0) - r_inh)
            w = w - eta[k] * (r - b)[:, None] * x
            rates.append([*r, r_inh])
            k += 1
    return w, np.array(rates)


@settings(max_examples=20, deadline=None)
@given(
    alpha=st.floats(0.0, 30.0), tau=st.floats(16.0, 60.0), bias=st.floats(-5.0, 5.0),
    sigma=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_weights_are_those_of_the_printed_form_without_bias_and_all_rates_are_larger_by_b(
    alpha, tau, bias, sigma, seed
):
    w = np.random.default_rng(seed).normal(size=(5, 3))
    circuit = partial(bs.RateCircuit, alpha, tau, duration=20.0)
    rule = bs.Hebbian(0.1, 0.9, learning_rate=1e-4)
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), sigma)
    sleep = partial(bs.simulate, w, stimulus, rule=rule, presentations=9, seed=seed)
    biased, loop = (sleep(circuit=circuit(bias, inhibitory_bias=True), engine=engine) for engine in ("exact", "loop"))
    printed = sleep(circuit=circuit(0.0))
    assert np.array_equal(biased.weights, printed.weights)
    assert np.array_equal(biased.neg_log_snr, printed.neg_log_snr)
    assert_close(biased.r, printed.r + bias, atol=1e-14)
    assert_close(biased.r_inh, printed.r_inh + bias, atol=1e-14)
    assert_close(loop.weights, biased.weights, atol=1e-12)
    assert_close(loop.r, biased.r, atol=1e-11)
    assert_close(loop.r_inh, biased.r_inh, atol=1e-11)


@pytest.mark.parametrize("sigma", [0.0, 0.3], ids=["shared", "noisy"])
def test_brian2_and_exact_agree_at_biases_of_several_groups(sigma, runtime):
    circuit = bs.RateCircuit(np.array([2.0, 10.0]), 10.0, np.array([0.5, 3.0]), duration=12.0, inhibitory_bias=True)
    stimulus, rule = bs.stimuli.noise(bs.stimuli.gaussian(), sigma), bs.Hebbian(0.1, 0.9, learning_rate=1e-3)
    sleep = partial(bs.simulate, initial(3, 4), stimulus, circuit, rule, presentations=12, seed=2, progress=False)
    brian, exact = sleep(engine=runtime()), sleep(engine="exact")
    for name in ("weights", "r", "r_inh", "neg_log_snr"):
        assert_close(getattr(brian, name), getattr(exact, name), atol=1e-11, err_msg=name)


@pytest.mark.parametrize("engine", ["exact", "loop", "brian2"])
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "per neuron"])
def test_without_input_all_neurons_stay_at_the_bias_from_the_start(engine, noisy, runtime):
    """The fixed point without input: to the bit, at every step, in groups with different biases."""
    circuit = bs.RateCircuit(bias=np.array([3.0, 0.3]), duration=6.0, inhibitory_bias=True)
    silence, engine = np.zeros((2, 6, 4) if noisy else (2, 4)), runtime() if engine == "brian2" else engine
    sleep = partial(bs.simulate, initial(2, 6, 4), np.broadcast_to(silence, (2, *silence.shape)), circuit)
    run = sleep(bs.Hebbian(learning_rate=0.1), engine, record=("r", "r_inh"), sample_every=1, progress=False)
    assert np.array_equal(run.recorded["r"], np.broadcast_to(circuit.bias[:, None, None], (2, 13, 6)))
    assert np.array_equal(run.recorded["r_inh"], np.broadcast_to(circuit.bias[:, None], (2, 13)))
    assert np.array_equal(run.weights, initial(2, 6, 4))


@pytest.mark.parametrize("inhibitory_bias", [False, True])
def test_the_inhibitory_neuron_settles_at_the_closed_form(inhibitory_bias):
    w, x, alpha = initial(5, 4), inputs(1, 4), np.array([0.0, 2.0, 10.0])
    circuit = bs.RateCircuit(alpha, bias=0.7, duration=1500.0, inhibitory_bias=inhibitory_bias)
    run = bs.simulate(w, x, circuit, bs.Hebbian(learning_rate=0.0))
    assert_close(run.r_inh, theory.inhibition(w, x, alpha, 0.7 * inhibitory_bias), atol=1e-12)
    assert_close(run.r_inh, (w @ x[0]).mean() / (1 + alpha) + 0.7 * inhibitory_bias, atol=1e-12)


@given(alpha=st.floats(0.0, 100.0) | st.just(np.inf), seed=st.integers(0, 1000))
def test_the_least_bias_is_where_the_lowest_rate_is_zero(alpha, seed):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(2, 5, 3)), rng.normal(size=3)
    bias = theory.min_bias(w, x, alpha)
    rates = np.concatenate([theory.response(w, x, alpha, bias), theory.inhibition(w, x, alpha, bias)[:, None]], -1)
    assert_close(rates.min(-1)[bias > 0], 0, atol=1e-12)
    assert rates.min() > -1e-12


def left(w, before):
    """What is left of the mean of every input."""
    return w.mean(-2) / before.mean(-2)


def test_rectified_in_the_printed_form_the_negative_means_are_erased_and_with_the_bias_nothing_is():
    w, x = initial(30, 4), np.concatenate([np.zeros((1, 4)), GRID])
    rectified, linear = bs.Loop(rectified=True), bs.Loop()
    sleep = lambda engine, inhibitory: bs.simulate(
        w, x, bs.RateCircuit(bias=20.0, inhibitory_bias=inhibitory), GATED, engine
    )
    expected = left(sleep(linear, False).weights, w)
    printed, biased = (left(sleep(rectified, inhibitory).weights, w) for inhibitory in (False, True))
    assert expected.min() > 0.7
    assert_close(printed[SIGNS > 0], expected[SIGNS > 0], atol=0.03)
    assert np.abs(printed[SIGNS < 0]).max() < 0.1
    # the printed form has come to exp(-5) of the way to the bias when learning begins
    assert_close(biased, expected, atol=0.03)
    assert_close(biased, left(sleep(linear, True).weights, w), atol=1e-12)


def test_rectified_with_the_bias_the_weights_are_the_same_and_no_rate_is_below_zero():
    w, circuit = initial(8, 4), bs.RateCircuit(bias=20.0, inhibitory_bias=True)
    rule = bs.Hebbian(0.0, 0.0, learning_rate=2e-3)  # from the first update on
    run = bs.simulate(w, GRID, circuit, rule, bs.Loop(rectified=True))
    assert_close(run.weights, bs.simulate(w, GRID, circuit, rule, "exact").weights, atol=1e-11)
    rates = [(r.min(), r_inh.min()) for _, r, r_inh in literal_steps(prepare_sleep(w, GRID, circuit, rule), True)]
    assert np.min(rates) >= 0


def test_the_loop_and_brian2_rectify_as_by_hand(runtime):
    w, x = initial(5, 4), inputs(4, 4)
    circuit = bs.RateCircuit(5.0, 10.0, 0.3, duration=12.0, inhibitory_bias=True)
    rule = bs.Hebbian(0.0, 0.0, learning_rate=1e-2)
    own = runtime(
        neurons="dr/dt = (-r + clip(z - alpha*(r_inh - b) + b, 0, inf)) / tau : 1",
        inhibition="dr_inh/dt = (-r_inh + clip(r_mean, 0, inf)) / tau : 1",
    )
    expected, rates = rectified_by_hand(w, x, circuit, rule)
    assert (rates == 0).sum() + (rates[1:, :-1] < rates[:-1, :-1]).sum() > 0
    for engine in (bs.Loop(rectified=True), own):
        run = bs.simulate(w, x, circuit, rule, engine, progress=False)
        assert_close(run.weights, expected, atol=1e-12)
        assert_close([*run.r, run.r_inh], rates[-1], atol=1e-12)
    assert np.abs(expected - bs.simulate(w, x, circuit, rule).weights).max() > 1e-3


def test_the_map_of_a_sleep_is_the_printed_forms_without_a_constant():
    """From the fixed point without input, weights of 0 stay 0."""
    printed, biased = (
        bs.sleep_map(inputs(6, 4), bs.RateCircuit(bias=2.0, inhibitory_bias=inhibitory), bs.Hebbian(learning_rate=1e-4))
        for inhibitory in (False, True)
    )
    assert np.array_equal(printed.A, biased.A)
    assert np.array_equal(printed.B, biased.B)
    assert not biased.c.any()
    assert np.abs(printed.c).max() > 1e-3


def test_a_rate_of_ones_own_may_follow_from_other_variables(runtime):
    """Instead of equations in time: inhibition at the fixed point of Eq. 8b, from the rates one step before."""
    circuit = bs.RateCircuit(2.0, 10.0, 0.3, duration=12.0, inhibitory_bias=True)
    w, x, rule = initial(5, 4), inputs(4, 4), bs.Hebbian(0.0, 0.0, learning_rate=1e-2)
    run = bs.simulate(w, x, circuit, rule, runtime(inhibition="r_inh = r_mean : 1"), progress=False)
    expected, r = w.copy(), np.full(len(w), 0.3)
    for presented in x:
        for _ in range(12):
            r = r + 0.1 * (-r + expected @ presented - 2.0 * (r.mean() - 0.3) + 0.3)
            expected = expected - 1e-2 * (r - 0.3)[:, None] * presented
    assert_close(run.weights, expected, atol=1e-12)


def test_a_bias_of_the_inhibitory_neuron_is_true_or_false():
    with pytest.raises(TypeError, match=r"^inhibitory_bias must be True or False; got 1"):
        bs.RateCircuit(**{"inhibitory_bias": 1})


def test_nothing_is_rectified_where_no_circuit_is_integrated():
    rule = bs.Hebbian(0.0, 0.0, learning_rate=0.005)
    with pytest.raises(ValueError, match=r"^rectified must be False without a RateCircuit; got SteadyState"):
        bs.simulate(initial(3, 4), inputs(2, 4), bs.SteadyState(), rule, bs.Loop(rectified=True))
    with pytest.raises(ValueError, match=r"^rectified must be one of"):
        bs.Loop(**{"rectified": "yes"})
