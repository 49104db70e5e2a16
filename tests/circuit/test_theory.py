"""Closed forms against the paper's equations as printed, against matrices, and against simulated sleeps."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs
from bioshare import theory

assert_close = partial(np.testing.assert_allclose, rtol=0)
alphas = pytest.mark.parametrize("alpha", [0.0, 10.0, np.inf])


def initial(*shape, seed=0):
    return np.random.default_rng(seed).normal(1, 1, shape)


def covariance(inputs, rank=None, seed=1):
    x = np.random.default_rng(seed).normal(size=(rank or 5 * inputs, inputs))
    return x.T @ x / len(x)


def neurons_with_unit_moments(neurons, inputs, mean, std):
    """Weights whose mean over the neurons is ``mean`` and whose population covariance is std^2 I, exactly."""
    w = initial(neurons, inputs)
    q, _ = np.linalg.qr(w - w.mean(0))
    return mean + std * np.sqrt(neurons) * q


@alphas
def test_response_is_equation_9(alpha):
    w, x = initial(5, 3), initial(3, seed=1)
    z = [sum(w[i, j] * x[j] for j in range(3)) for i in range(5)]
    feedback = 1.0 if np.isinf(alpha) else alpha / (1 + alpha)
    assert_close(theory.response(w, x, alpha, 0.7), [0.7 + z_i - feedback * sum(z) / 5 for z_i in z], atol=1e-14)


def test_ideal_response_is_the_deviation_from_the_mean_drive():
    w, x = initial(5, 3), initial(3, seed=1)
    assert_close(theory.response(w, x), w @ x - (w @ x).mean(), atol=1e-14)


@pytest.mark.parametrize(("alpha", "h", "updates"), [(10.0, 1 / 30, 150), (2.0, 0.1, 40), (0.0, 0.5, 3), (4.0, 0.3, 1)])
def test_the_ways_while_settling_are_those_of_eq_8_step_by_step(alpha, h, updates):
    deviation = mean = inhibition = 0.0
    deviations, means = [], []
    for _ in range(updates):  # a unit drive, from rest
        deviation += h * (1 - deviation)
        mean, inhibition = mean + h * (1 - mean - alpha * inhibition), inhibition + h * (mean - inhibition)
        deviations.append(deviation)
        means.append(mean)
    deviation, mean = np.mean(deviations), np.mean(means)
    settling = theory.while_settling(alpha, 0.3, h, updates)
    assert_close(settling, (deviation / mean - 1, 0.3 / deviation), atol=1e-13)


@pytest.mark.parametrize("rank", [2, None])
def test_fixed_point_of_the_ideal_circuit_is_equation_5_and_keeps_the_mean(rank):
    w, C, gamma = initial(6, 4), covariance(4, rank), 0.03
    expected = np.linalg.inv(C + gamma * np.eye(4)) @ (C @ w.mean(0)[:, None] + gamma * w.T)
    w_star = theory.fixed_point(w, C, gamma)
    assert_close(w_star, expected.T, atol=1e-13)
    assert_close(w_star.mean(0), w.mean(0), atol=1e-14)


def test_fixed_point_at_finite_alpha_is_equation_24():
    w, C, gamma, alpha = initial(6, 4), covariance(4), 0.03, 10.0
    mu_star = gamma * np.linalg.inv(C / (1 + alpha) + gamma * np.eye(4)) @ w.mean(0)
    pushed = alpha / (1 + alpha) * C @ mu_star
    expected = np.linalg.inv(C + gamma * np.eye(4)) @ (pushed[:, None] + gamma * w.T)
    w_star = theory.fixed_point(w, C, gamma, alpha)
    assert_close(w_star, expected.T, atol=1e-13)
    assert_close(w_star.mean(0), mu_star, atol=1e-13)


@alphas
def test_the_mean_update_is_zero_at_the_fixed_point(alpha):
    w, C, gamma = initial(6, 4), covariance(4), 0.03
    w_star = theory.fixed_point(w, C, gamma, alpha)
    answered = w_star - (1 - theory.mean_gain(alpha)) * w_star.mean(0)
    assert_close(answered @ C + gamma * (w_star - w), 0, atol=1e-13)


@alphas
def test_white_inputs_give_equations_20_and_25(alpha):
    w, gamma = initial(6, 4), 0.03
    gain = np.inf if np.isinf(alpha) else alpha / (1 + gamma * (1 + alpha))
    white = theory.fixed_point_white(w, gamma, alpha)
    assert_close(white, theory.fixed_point(w, np.eye(4), gamma, alpha), atol=1e-14)
    if np.isinf(alpha):
        assert_close(white, w.mean(0) / (1 + gamma) + gamma / (1 + gamma) * w, atol=1e-14)
    else:
        assert_close(white, gamma / (1 + gamma) * (gain * w.mean(0) + w), atol=1e-14)


def test_fixed_points_of_a_grid_are_those_of_its_points():
    w, gamma, alpha = initial(2, 1, 1, 6, 4), np.array([[0.1], [0.01]]), np.array([1.0, 10.0, np.inf])
    C = np.stack([covariance(4, seed=seed) for seed in range(3)])
    grid, white = theory.fixed_point(w, C, gamma, alpha), theory.fixed_point_white(w, gamma, alpha)
    assert grid.shape == white.shape == (2, 2, 3, 6, 4)
    for run, g, a in np.ndindex(2, 2, 3):
        alone = theory.fixed_point(w[run, 0, 0], C[a], gamma[g, 0], alpha[a])
        assert_close(grid[run, g, a], alone, atol=1e-14)
        assert_close(white[run, g, a], theory.fixed_point_white(w[run, 0, 0], gamma[g, 0], alpha[a]), atol=1e-14)


@pytest.mark.parametrize("gamma", [0.0, -0.1, np.nan, [0.1, 0.0]])
def test_fixed_point_without_a_pull_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma must be positive"):
        theory.fixed_point(initial(6, 4), np.eye(4), gamma)


def test_snr_of_two_neurons_by_hand():
    w = [[1.0, 2.0], [3.0, 6.0]]  # means 2 and 4, population variances 1 and 4
    assert_close(theory.snr(w), 4.0, atol=1e-15)
    assert_close(theory.inverse_snr(w), 0.25, atol=1e-16)
    assert_close(theory.neg_log_snr(w), -2 * np.log(2), atol=1e-15)


def test_the_plotted_ratio_is_inverted_inside_the_mean_over_inputs():
    w = [[1.0, 2.0], [3.0, 2.5]]  # ratios 1 / 4 and 0.0625 / 2.25^2
    small = 0.0625 / 2.25**2
    assert_close(theory.inverse_snr(w), (0.25 + small) / 2, atol=1e-15)
    assert_close(theory.snr(w), (4 + 1 / small) / 2, atol=1e-12)


def test_snr_keeps_its_digits_when_the_weights_are_almost_equal():
    w = 1 + 2.0**-40 * np.array([[1.0], [-1.0]])
    assert_close(theory.neg_log_snr(w), -80 * np.log(2), atol=1e-12)


def test_equal_weights_have_no_noise_at_all():
    w = np.full((3, 5, 2), 0.5)
    assert np.all(theory.neg_log_snr(w) == -np.inf)
    assert np.all(theory.snr(w) == np.inf)


def test_snr_of_a_single_vector_is_refused():
    with pytest.raises(ValueError, match=r"weights must have the axes \(\.\.\., N, K\).*\(4,\)"):
        theory.neg_log_snr(np.ones(4))


def test_smallest_neg_log_snr_for_white_inputs_is_the_papers():
    gamma = np.array([0.1, 0.01, 0.001])
    assert_close(theory.min_neg_log_snr(gamma), [-4.80, -9.23, -13.82], atol=0.005)
    assert_close(theory.min_neg_log_snr(gamma), 2 * np.log(gamma / (1 + gamma)), atol=1e-14)
    assert_close(theory.min_neg_log_snr(gamma, np.eye(3)), theory.min_neg_log_snr(gamma), atol=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.0), (-2.0, 0.3)])
def test_smallest_neg_log_snr_is_that_of_the_fixed_point(mean, std):
    w, gamma = neurons_with_unit_moments(40, 4, mean, std), np.array([0.1, 0.01])
    for C in (np.eye(4), covariance(4), covariance(4, rank=2)):
        reached = theory.neg_log_snr(theory.fixed_point(w, C, gamma))
        assert_close(theory.min_neg_log_snr(gamma, C, mean, std), reached, atol=1e-10)


def spectral_radius(matrix):
    return np.abs(np.linalg.eigvals(matrix)).max(-1)


@pytest.mark.parametrize("alpha", [0.5, 10.0, 100.0])
def test_eulers_method_is_stable_just_below_max_dt_and_unstable_just_above(alpha):
    tau = 30.0

    def radius(dt):  # of the mean response and r_inh under one Euler step of Eq. 8
        h = dt / tau
        return spectral_radius(np.array([[1 - h, -alpha * h], [h, 1 - h]]))

    limit = theory.max_dt(alpha, tau)
    assert_close(radius(limit), 1, atol=1e-12)
    assert radius(0.999 * limit) < 1 - 1e-6 < 1 + 1e-6 < radius(1.001 * limit)
    assert_close(theory.max_alpha(limit, tau), alpha, atol=1e-12)


def held_input_radius(eta, power, gamma, beta, h):
    """Of (u, q, r) along a held input under one weight update; h = 1 is the steady state."""
    respond = np.array([[1, 0, 0], [0, 1, 0], [h, 0, 1 - h]])
    learn = np.array([[1, 0, 0], [-eta * gamma, beta, -eta * power], [0, 0, 1]])
    move = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    return spectral_radius(move @ learn @ respond)


@given(
    power=st.floats(0.01, 100),
    gamma=st.floats(0.001, 10),
    beta=st.floats(0, 0.98),
    h=st.one_of(st.just(1.0), st.floats(0.01, 1.95)),
)
def test_learning_is_stable_below_max_learning_rate_and_unstable_just_above(power, gamma, beta, h):
    limit = float(theory.max_learning_rate(power, gamma, beta, h))
    for share in (0.01, 0.3, 0.9, 0.999):
        assert held_input_radius(share * limit, power, gamma, beta, h) < 1
    assert held_input_radius(1.001 * limit, power, gamma, beta, h) > 1


def test_max_learning_rate_of_the_steady_state_is_the_textbook_one():
    assert_close(theory.max_learning_rate(4.0, 0.5, 0.95), 2 * 1.95 / 4.5, atol=1e-14)


@pytest.mark.parametrize("h", [1.0, 0.03])
@pytest.mark.parametrize("beta", [0.0, 0.95])
def test_without_input_or_pull_no_learning_rate_is_too_high(h, beta):
    assert theory.max_learning_rate(0.0, 0.0, beta, h) == np.inf
    assert theory.max_learning_rate(1e-310, 0.0, beta, h) > 1e307


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_input_moment_is_the_fourth_moment_of_the_noisy_input(sigma):
    patterns = initial(3, 2)
    nodes, weight = np.polynomial.hermite_e.hermegauss(8)
    xi = sigma * np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    chance = np.outer(weight, weight).ravel() / weight.sum() ** 2
    expected = np.mean([chance @ ((x + xi) ** 2).sum(-1) ** 2 for x in patterns])
    assert_close(theory.input_moment(patterns, sigma), expected, atol=1e-12)


# Theorem 1: the ideal circuit without momentum, eta_k = O(1/k), and noise of several sigma.
GAMMA, SIGMA, RUNS = 1.0, np.array([0.05, 0.1, 0.2, 0.4]), 60


def decay(k):
    return 2 / (300 + k)


@pytest.fixture(scope="module")
def world():
    """Weights of four neurons with mean 0, five patterns with |x|^2 = 2, and the weights where sleep ends."""
    rng = np.random.default_rng(0)
    w_init, patterns = rng.normal(size=(4, 2)), rng.normal(size=(5, 2))
    w_init -= w_init.mean(0)
    patterns *= np.sqrt(2) / np.linalg.norm(patterns, axis=-1, keepdims=True)
    return w_init, patterns, theory.fixed_point(w_init, patterns.T @ patterns / len(patterns), GAMMA)


@pytest.fixture(scope="module")
def bound(world):
    return theory.noisy_convergence_bound(*world[:2], GAMMA, SIGMA, decay(np.arange(4000)))


@pytest.mark.parametrize(
    ("k", "loosest"), [(1, 1.1), (30, 3.5), (300, 1000), (1000, 2000), (4000, 1500)], ids=lambda value: str(value)
)
def test_theorem_1_bounds_the_simulated_error_within_a_known_factor(world, bound, k, loosest):
    w_init, patterns, w_star = world
    rng = np.random.default_rng(1)
    x = patterns[rng.integers(len(patterns), size=(RUNS, k))][:, :, None]
    x = x + SIGMA[:, None, None, None, None] * rng.normal(size=(RUNS, k, *w_init.shape))
    start = np.broadcast_to(w_init, (*x.shape[:2], *w_init.shape))
    run = bs.simulate(start, x, bs.SteadyState(), bs.Hebbian(GAMMA, 0.0, learning_rate=decay), record_every=k)
    error = ((run.weights - w_star) ** 2).sum((-2, -1)).mean(-1)
    assert np.all(error < bound[:, k])
    assert np.all(bound[:, k] < loosest * error)


def test_theorem_1_is_not_vacuous(bound):
    assert np.all(bound[:3, -1] < 0.15 * bound[:3, 0])


def test_theorem_1_is_the_recursion_of_equations_53_and_54(world, bound):
    w_init, patterns, w_star = world
    size, start = (w_star**2).sum(), (w_init**2).sum()
    sigma, expected = SIGMA[1], [((w_init - w_star) ** 2).sum()]
    growth = 8 * (2 * theory.input_moment(patterns, sigma) + GAMMA**2)
    for eta in decay(np.arange(50)):
        factor = 1 - GAMMA * eta + eta**2 * growth
        expected.append(factor * expected[-1] + eta * sigma**2 * size + eta**2 * (growth * size + 4 * GAMMA**2 * start))
    assert_close(bound[1, :51], expected, atol=1e-12)
