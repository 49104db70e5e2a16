"""Plasticity parameters and learning-rate schedules."""

import numpy as np
import pytest

import bioshare as bs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", -1e-3),
        ("gamma", np.nan),
        ("gamma", np.inf),
        ("gamma", [0.1, -0.1]),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("momentum", np.nan),
        ("learning_rate", -1e-3),
        ("learning_rate", np.nan),
    ],
)
def test_an_impossible_value_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        bs.Hebbian(**{"learning_rate": 1e-3, name: value})


@pytest.mark.parametrize("value", ["fast", [1e-3, 1e-4]])
def test_a_learning_rate_that_is_neither_number_nor_callable_is_refused(value):
    with pytest.raises(TypeError, match=r"^learning_rate must be"):
        bs.Hebbian(learning_rate=value)


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        (lambda k: 1e-3, r"got shape \(\) for 6 update indices. A constant is given as a number"),
        (lambda k: np.ones(5), r"one rate per update: got shape \(5,\)"),
        (lambda k: np.ones((6, 1)), r"one rate per update: got shape \(6, 1\)"),
        (lambda k: np.where(k == 4, np.nan, 1e-3), "it is nan at update 4"),
        (lambda k: np.where(k >= 2, np.inf, 1e-3), "it is inf at update 2"),
        (lambda k: 1e-3 * (3.0 - k), "it is -0.001 at update 4"),
    ],
)
def test_a_schedule_that_returns_no_rates_is_refused(schedule, problem):
    with pytest.raises(ValueError, match=f"learning_rate must .*{problem}"):
        bs.Hebbian(learning_rate=schedule).rates(6)


def test_a_schedule_sees_every_update_index_from_0():
    rates = bs.Hebbian(learning_rate=lambda k: k).rates(5)
    assert rates.dtype == np.float64
    assert rates.tolist() == [0, 1, 2, 3, 4]


def test_a_number_is_a_constant_rate():
    assert bs.Hebbian(learning_rate=1e-3).rates(3).tolist() == [1e-3] * 3


def test_the_schedule_of_fig_4a_is_half_over_1000_plus_k():
    rates = bs.Hebbian(learning_rate=bs.rules.InverseDecay(0.5, 1000)).rates(2001)
    np.testing.assert_allclose(rates[[0, 1, 1000, 2000]], [5e-4, 0.5 / 1001, 2.5e-4, 0.5 / 3000], rtol=0, atol=1e-18)


def test_the_schedule_of_fig_4b_is_0_for_50_updates_and_then_an_inverse_square_root():
    rates = bs.Hebbian(learning_rate=bs.rules.InverseSqrtDecay(3e-4, 2, 50)).rates(1000)
    assert not rates[:50].any()
    np.testing.assert_allclose(rates[[50, 96, 798]], 3e-4 / np.sqrt([26, 49, 400]), rtol=0, atol=1e-18)


def test_the_schedules_defaults_are_the_papers():
    assert bs.rules.InverseDecay() == bs.rules.InverseDecay(scale=0.5, offset=1000)
    assert bs.rules.InverseSqrtDecay() == bs.rules.InverseSqrtDecay(scale=3e-4, period=2, start=50)
