"""Plasticity on batches of patterns: Eq. 4 written out, its special cases, and where it ends."""

import math

import numpy as np
import pytest
import torch

import bioshare as bs
from bioshare.circuit.exact import Exact, sleep_map
from bioshare.circuit.exact.batches import batch_map
from bioshare.circuit.problem import DivergenceError

ALPHAS = pytest.mark.parametrize("alpha", [math.inf, 10.0, 1.0, 0.0])
RULE = bs.Hebbian(gamma=0.05, momentum=0.6, learning_rate=lambda k: 0.2 / np.sqrt(1 + k))


def drawn(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape)


def literal(w_init, batches, alpha, rule):
    """Every neuron, pattern and update of its own."""
    w, m = w_init.copy(), np.zeros_like(w_init)
    inhibition = 1.0 if math.isinf(alpha) else alpha / (1 + alpha)
    for batch, eta in zip(batches, rule.rates(len(batches)), strict=True):
        dw = np.zeros_like(w)
        for x in batch:
            z = np.array([weights @ x for weights in w])
            for i in range(len(w)):
                dw[i] -= (z[i] - inhibition * z.mean()) * x / len(batch)
        for i in range(len(w)):
            m[i] = rule.momentum * m[i] + eta * (dw[i] - rule.gamma * (w[i] - w_init[i]))
            w[i] += m[i]
    return w


@ALPHAS
@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_map_is_eq_4_for_every_neuron(alpha, size):
    w_init, batches = drawn(6, 5, mean=1.0), drawn(7, size, 5, seed=1)
    slept = batch_map(batches, bs.SteadyState(alpha), RULE)(w_init)
    assert np.abs(slept - w_init).max() > 0.1
    np.testing.assert_allclose(slept, literal(w_init, batches, alpha, RULE), rtol=0, atol=1e-12)


@ALPHAS
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_batches_of_one_are_presentations(alpha, momentum):
    x, rule = drawn(40, 6), bs.Hebbian(gamma=0.02, momentum=momentum, learning_rate=0.02)
    batched, single = batch_map(x[:, None], bs.SteadyState(alpha), rule), sleep_map(x, bs.SteadyState(alpha), rule)
    for a, b in zip(batched, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@ALPHAS
def test_the_same_batch_again_and_again_ends_at_the_fixed_point_of_its_covariance(alpha):
    w_init, batch = drawn(6, 5, mean=1.0), drawn(9, 5, seed=1)
    rule = bs.Hebbian(gamma=0.1, momentum=0.5, learning_rate=0.3)
    slept = batch_map(np.broadcast_to(batch, (2000, 9, 5)), bs.SteadyState(alpha), rule)(w_init)
    expected = bs.theory.fixed_point(w_init, batch.T @ batch / 9, 0.1, alpha)
    np.testing.assert_allclose(slept, expected, rtol=0, atol=1e-10)


@ALPHAS
def test_the_order_and_the_repetition_of_a_batchs_patterns_do_not_matter(alpha):
    batches, circuit = drawn(5, 4, 3), bs.SteadyState(alpha)
    first = batch_map(batches, circuit, RULE)
    for other in (batches[:, [2, 0, 3, 1]], np.concatenate([batches, batches], 1)):
        for a, b in zip(first, batch_map(other, circuit, RULE), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def test_the_ideal_circuit_keeps_means_exactly():
    sleep = batch_map(drawn(5, 4, 3), bs.SteadyState(), RULE)
    np.testing.assert_array_equal(sleep.B, np.eye(3))
    np.testing.assert_array_equal(sleep.c, np.zeros(3))


def test_single_precision_rounds():
    batches = drawn(5, 4, 3)
    double, single = (
        batch_map(batches, bs.SteadyState(5.0), RULE, engine=Exact(dtype=d)) for d in ("float64", "float32")
    )
    assert single.A.dtype == np.float32
    np.testing.assert_allclose(single.A, double.A, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("size", [3, 9])
def test_divergence_begins_at_the_limit_of_its_docstring(share, diverges, momentum, size):
    """Without the refusal too: the literal updates grow above it and stay bounded below."""
    batch, gamma, w_init = drawn(size, 5), 0.1, drawn(6, 5, seed=1)
    limit = 2 * (1 + momentum) / (np.linalg.eigvalsh(batch.T @ batch / size)[-1] + gamma)
    rule = bs.Hebbian(gamma, momentum, learning_rate=share * limit)
    batches = np.broadcast_to(batch, (1000, size, 5))
    moved = np.abs(literal(w_init, batches, math.inf, rule)).max()
    if diverges:
        assert moved > 100
        message = (
            r"learning_rate is above the stability limit in 100 % of the updates: in update 0 it is .* must stay below"
        )
        with pytest.raises(ValueError, match=message):
            batch_map(batches, bs.SteadyState(), rule)
    else:
        assert moved < 10
        assert np.abs(batch_map(batches, bs.SteadyState(), rule).A).max() < 1.1


@pytest.mark.parametrize(("high", "refused"), [(3, False), (4, True)])
def test_rates_are_refused_that_are_above_the_limit_in_most_updates(high, refused):
    """One batch of few random patterns may be far above the others."""
    batches = np.concatenate([np.ones((6 - high, 9, 5)), 3 * np.ones((high, 9, 5))])
    rule = bs.Hebbian(0.0, 0.0, learning_rate=2.01 / 45)
    if refused:
        with pytest.raises(ValueError, match=r"in 67 % of the updates: in update 2 it is 0.0447 and must .* 0.0444"):
            batch_map(batches, bs.SteadyState(), rule)
    else:
        assert np.abs(batch_map(batches, bs.SteadyState(), rule).A).max() < 2


def test_momentum_can_diverge_below_the_limit_and_is_told():
    rule = bs.Hebbian(gamma=0.0, momentum=0.9, learning_rate=lambda k: np.where(k % 2, 0.01, 0.99) * 3.8)
    with pytest.raises(DivergenceError, match=r"diverged in update \d+, at the learning rate .*: lower") as caught:
        batch_map(np.ones((200, 1, 1)), bs.SteadyState(), rule)
    assert 0 < caught.value.presentation < 200


def test_a_batch_of_nothing_has_no_limit():
    sleep = batch_map(np.zeros((2, 3, 4)), bs.SteadyState(), bs.Hebbian(0.0, 0.0, learning_rate=1e3))
    np.testing.assert_array_equal(sleep.A, np.eye(4))


def test_the_engines_threads_are_used_and_put_back(monkeypatch):
    before, seen, identity = torch.get_num_threads(), [], torch.eye

    def note(*arguments, **options):
        seen.append(torch.get_num_threads())
        return identity(*arguments, **options)

    monkeypatch.setattr(torch, "eye", note)
    batch_map(drawn(5, 4, 3), bs.SteadyState(), RULE, engine=Exact(threads=2))
    assert seen == [2]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("stimuli", "circuit", "rule", "problem"),
    [
        (np.ones((3, 4)), bs.SteadyState(), RULE, r"stimuli must have the axes \(updates, M, K\); got shape \(3, 4\)"),
        (np.ones((1, 2, 3, 4)), bs.SteadyState(), RULE, r"got shape \(1, 2, 3, 4\)"),
        (np.ones((2, 0, 3)), bs.SteadyState(), RULE, "none of them empty"),
        (np.full((2, 2, 3), np.nan), bs.SteadyState(), RULE, r"stimuli must be finite; stimuli\[0, 0, 0\] is nan"),
        (np.ones((2, 2, 3)), bs.SteadyState(np.ones(2)), RULE, "alpha, gamma and momentum must be single numbers"),
        (np.ones((2, 2, 3)), bs.SteadyState(), bs.Hebbian(np.ones(2), learning_rate=0.1), "must be single numbers"),
    ],
)
def test_bad_input_is_named(stimuli, circuit, rule, problem):
    with pytest.raises(ValueError, match=problem):
        batch_map(stimuli, circuit, rule)
