"""Closed forms of the weight mirror against simulations and against Monte Carlo."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

import bioshare as bs
from bioshare import theory


def angle(b, w):
    return math.degrees(math.acos((b * w).sum() / np.linalg.norm(b) / np.linalg.norm(w)))


def updates(w, samples, activation, centred, rng):
    """The means of y x^T over samples of Gaussian noise, for ever."""
    while True:
        x = rng.normal(size=(samples, w.shape[1]))
        y = x @ w.T
        y = np.maximum(y, 0) if activation == "relu" else y
        yield (y - (y.mean(0) if centred else 0)).T @ x / samples


@pytest.mark.parametrize(
    ("activation", "centred", "expected"),
    [("relu", True, 17.27), ("relu", False, 20.65), ("linear", True, 14.90)],
)
def test_the_angle_of_an_update(activation, centred, expected):
    """The root of the mean squared tangent of twelve updates: a mean of the noise by chance is seen by all neurons."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(60, 144))
    drawn = updates(w, 2048, activation, centred, rng)
    tangents = [math.tan(math.radians(angle(next(drawn), w))) ** 2 for _ in range(12)]
    found = math.degrees(math.atan(math.sqrt(np.mean(tangents))))
    predicted = theory.mirror_angle(2048, 144, activation=activation, centred=centred)
    assert found == pytest.approx(predicted, abs=0.3)
    assert predicted == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("steps", [2, 10, 40, 150])
def test_the_angle_of_many_updates_with_decay(steps):
    rng = np.random.default_rng(1)
    w = rng.normal(size=(60, 256))
    b = np.zeros_like(w)
    for _, update in zip(range(steps), updates(w, 256, "relu", True, rng), strict=False):
        b += -0.05 * b + 0.1 * update
    predicted = theory.mirror_angle(256, 256, forgetting=0.05, updates=steps)
    assert angle(b, w) == pytest.approx(predicted, abs=0.5)
    if steps == 150:
        assert predicted == pytest.approx(10.62, abs=0.02)
        assert (b * w).sum() / (w * w).sum() == pytest.approx(theory.mirror_scale(0.1, 0.05) * 255 / 256, abs=0.01)


def test_the_angle_and_scale_of_a_mirror_circuit_with_independent_noise():
    """Every presentation is a sample of a linear unit; at the end of a presentation there is little cross-talk."""
    circuit = bs.MirrorCircuit(rate=4e-5, gate=50.0, decay=0.8)
    w = np.random.default_rng(2).normal(size=(40, 100))
    run = bs.simulate_mirror(w, bs.stimuli.gaussian(), circuit, presentations=4000, seed=0, record_every=100)
    later = run.presentation >= 300
    predicted = theory.mirror_angle(1, 100, circuit.forgetting, np.maximum(run.presentation, 1), "linear")
    assert np.abs(run.angle - predicted)[later].max() < 1.5
    assert np.abs(run.angle - predicted)[later].mean() < 0.5
    gain = sum(theory.mirror_gain(circuit, age, age) for age in range(3))
    projection = (run.feedback * w).sum() / (w * w).sum()
    assert projection == pytest.approx(gain / 0.8, abs=0.02)


def test_the_scale_of_a_rectified_neuron_with_a_bias_is_the_chance_to_be_active():
    rng = np.random.default_rng(3)
    w, std, n = rng.normal(size=(5, 9)), 0.7, 400_000
    bias = np.array([-1.0, -0.3, 0.0, 0.5, 2.0])
    x = std * rng.normal(size=(n, 9))
    drive = x @ w.T + bias * std * np.linalg.norm(w, axis=1)
    found = np.maximum(drive, 0).T @ x / n
    scale = theory.mirror_scale(0.3, 0.6, std, "relu", bias)
    np.testing.assert_allclose(found * 0.3 / 0.6, scale[:, None] * w, rtol=0, atol=5 / math.sqrt(n) * np.abs(w).max())
    np.testing.assert_allclose(scale, 0.5 * std**2 * norm.cdf(bias), rtol=0, atol=1e-12)
    linear = (x @ w.T).T @ x / n
    np.testing.assert_allclose(linear, theory.mirror_scale(1.0, 1.0, std, "linear") * w, rtol=0, atol=0.02)


def test_the_two_readings_of_the_decay():
    """The decay inside the rate ends at W behind a rectified layer; Eq. 18 as printed at a tenth, 34 degrees off."""
    rate, decay = 0.1, 0.5
    assert theory.mirror_scale(rate, rate * decay) == pytest.approx(1.0, abs=1e-12)
    assert theory.mirror_scale(rate, decay) == pytest.approx(0.1, abs=1e-12)
    last = theory.mirror_angle(2048, 2048, [decay, rate * decay])
    np.testing.assert_allclose(last, [34.0, 10.6], rtol=0, atol=0.1)
    np.testing.assert_allclose(
        theory.mirror_angle(2048, 2048, [decay, rate * decay], activation="linear"), [30.0, 9.1], rtol=0, atol=0.1
    )


@given(
    st.floats(0.1, 80), st.integers(1, 5000), st.floats(0.001, 1), st.sampled_from(["relu", "linear"]), st.booleans()
)
def test_samples_are_the_inverse_of_the_angle(wanted, inputs, forgetting, activation, centred):
    samples = theory.mirror_samples(wanted, inputs, forgetting, activation, centred)
    found = theory.mirror_angle(samples, inputs, forgetting, activation=activation, centred=centred)
    assert float(found) == pytest.approx(wanted, abs=1e-9)


@given(st.floats(1e-9, 1), st.integers(1, 1000))
def test_b_remembers_the_weighted_number_of_updates(forgetting, number):
    """n = (sum of weights)^2 / sum of squared weights."""
    weights = (1 - forgetting) ** np.arange(number)
    remembered = weights.sum() ** 2 / (weights**2).sum()
    found = theory.mirror_angle(1, 1, forgetting, number, "linear")
    assert float(found) == pytest.approx(math.degrees(math.atan(math.sqrt(2 / remembered))), abs=1e-5)


def test_samples_for_an_angle():
    """Samples of a locally connected layer for 5, 10, 15, 25 and 45 degrees."""
    found = theory.mirror_samples([5, 10, 15, 25, 45], np.array([[27], [576]]))
    expected = [[5.0e3, 1.2e3, 536, 177, 38], [103e3, 25.3e3, 11.0e3, 3.6e3, 787]]
    np.testing.assert_allclose(found / expected, 1, rtol=0, atol=0.05)


@pytest.mark.parametrize(("forgetting", "turn"), [(0.05, 0.5), (0.3, 4.0), (0.01, 40.0), (1.0, 3.0)])
def test_the_lag_behind_weights_that_turn(forgetting, turn):
    b = np.zeros(2)
    for step in range(4000):
        w = np.array([math.cos(math.radians(turn * step)), math.sin(math.radians(turn * step))])
        b = (1 - forgetting) * b + forgetting * w
    behind = math.degrees(math.atan2(b[0] * w[1] - b[1] * w[0], b @ w))
    assert float(theory.mirror_lag(forgetting, turn)) == pytest.approx(behind, abs=1e-9)
    if turn < 1:
        assert behind == pytest.approx((1 - forgetting) / forgetting * turn, abs=0.2)


@given(
    tau=st.floats(1, 60),
    tau_crosstalk=st.floats(1, 60) | st.none(),
    gate=st.integers(1, 20).map(float) | st.none(),
)
def test_gain_and_cross_talk_of_presentations_are_those_of_the_loop(tau, tau_crosstalk, gate):
    """Three inputs that are orthogonal: every product of two has a synapse of its own."""
    tau_crosstalk = tau if tau_crosstalk is None else tau_crosstalk
    circuit = bs.MirrorCircuit(tau, tau_crosstalk, 0.0, rate=1 / (gate or 20.0), decay=0.0, duration=20.0, gate=gate)
    found = bs.simulate_mirror(np.eye(3), np.eye(3), circuit, "loop").feedback
    expected = np.zeros((3, 3))
    for presentation in range(3):
        for a in range(presentation + 1):
            for b in range(presentation + 1):
                expected[a, b] += theory.mirror_gain(circuit, presentation - a, presentation - b)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_nearly_equal_time_constants_keep_their_digits():
    gains = theory.mirror_gain(bs.MirrorCircuit(30.0, 30.0 * (1 + np.array([0.0, 1e-15, 1e-9, 1e-6]))))
    np.testing.assert_allclose(gains, gains[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(gains[:3], gains[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("gate", "scale", "after_one", "after_five"), [(None, 0.81, 13.27, 6.1), (50.0, 0.984, 0.92, 0.42)]
)
def test_grid_mirrors_of_a_circuit_in_time(gate, scale, after_one, after_five):
    """Learning throughout mixes an input with the one before; five cycles in random order mix many of them."""
    updates = 150 if gate is None else 50
    circuit = bs.MirrorCircuit(30.0, tau_crosstalk=1.0, gate=gate, rate=1 / updates, decay=0.0)
    w = np.random.default_rng(0).normal(size=(200, 144))
    one = bs.simulate_mirror(w, np.eye(144), circuit, record_every=144)
    gain, crosstalk = (float(theory.mirror_gain(circuit, age)) for age in (0, 1))
    assert gain == pytest.approx(scale, abs=0.005)
    assert (one.feedback * w).sum() / (w * w).sum() == pytest.approx(gain, abs=0.01)
    predicted = math.degrees(math.atan(crosstalk / gain * math.sqrt(143 / 144)))  # the first has none before it
    assert one.angle[-1] == pytest.approx(predicted, abs=0.2)
    assert one.angle[-1] == pytest.approx(after_one, abs=0.1)
    shuffled = bs.stimuli.grid(shuffle=True)
    five = bs.simulate_mirror(w, shuffled, circuit, presentations=5 * 144, seed=0, record_every=720)
    assert five.angle[-1] == pytest.approx(after_five, abs=0.15)


@pytest.mark.parametrize(
    ("tau", "tau_crosstalk", "expected"),
    [(300.0, 300.0, 0.156), (100.0, 100.0, 0.375), (25.0, 25.0, 0.72), (100.0, 20.0, None)],
)
def test_ornstein_uhlenbeck_noise(tau, tau_crosstalk, expected):
    """Independent noise of 200 cells with correlations of 100 ms, one time step a presentation."""
    kappa = float(theory.mirror_gain_coloured(tau, tau_crosstalk, 100.0))
    if expected:
        a = tau / 100
        assert kappa == pytest.approx((2 + a) / (2 * (1 + a) ** 2), abs=1e-12)
        assert kappa == pytest.approx(expected, abs=5e-4)
    rng, steps, rho = np.random.default_rng(0), 12_000, math.exp(-0.01)
    x = rng.normal(size=(steps, 200))
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * x[t]
    circuit = bs.MirrorCircuit(tau, tau_crosstalk, rate=1 / steps, decay=0.0, duration=1.0)
    found = np.trace(bs.mirror_map(x, circuit).S) / 200
    settling = 2 * tau / steps  # the cells start at rest
    assert found == pytest.approx(kappa * (1 - settling), abs=0.012)


def test_the_baseline_for_gaussian_inputs_is_crossed_with_the_given_chance():
    rng = np.random.default_rng(4)
    w = rng.normal(size=(6, 9))
    x = 2 * rng.normal(size=(200_000, 9))
    baseline = theory.mirror_gaussian_baseline(w, 2.0, 0.01)
    shares = ((x @ w.T) + baseline < 0).mean(0)
    assert shares.max() == pytest.approx(0.01, abs=0.001)
    small = theory.mirror_gaussian_baseline(0.01 * w, 2.0, 0.01)  # the noisy cells themselves decide
    assert (x + small < 0).mean() == pytest.approx(0.01, abs=0.001)


def test_the_baseline_of_a_grid_is_the_size_of_the_smallest_weight():
    w = np.random.default_rng(5).normal(size=(2, 6, 4))
    np.testing.assert_allclose(theory.mirror_baseline(w, 3 * np.eye(4)), -3 * w.min((-2, -1)), rtol=0, atol=1e-12)
    assert theory.mirror_baseline(np.abs(w[0]), np.eye(4)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.mirror_scale(0.1, 1.2), r"forgetting must be a fraction above 0, at most 1; got 1\.2"),
        (lambda: theory.mirror_scale(0.1, 0.1, activation="tanh"), "activation must be one of 'relu', 'linear'"),
        (lambda: theory.mirror_angle(0, 9), "samples must be a positive number of inputs; got 0"),
        (lambda: theory.mirror_samples(90, 9), "angle must be between 0 and 90 degrees; got 90"),
        (lambda: theory.mirror_lag(0.1, -1), "turn must be between 0 and 180 degrees; got -1"),
        (lambda: theory.mirror_gain(bs.MirrorCircuit(), -1), "age_above must be a number of presentations, at least 0"),
        (lambda: theory.mirror_baseline(np.eye(2), np.eye(3)), r"x must be \(\.\.\., 2\)"),
        (lambda: theory.mirror_gain_coloured(30.0, 1.0, 0.0), "tau_noise must be a positive time in milliseconds"),
        (lambda: theory.mirror_gaussian_baseline(np.eye(2), 1.0, 0.6), "chance must be a chance between 0 and 1/2"),
    ],
)
def test_arguments_without_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
