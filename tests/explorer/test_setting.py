import math
from dataclasses import fields

import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer.result import simulate_setting
from bioshare.explorer.setting import SLIDERS, Setting, Unstable, rounded


def test_every_field_but_the_checkbox_has_a_slider_and_its_default_lies_on_it():
    assert [field.name for field in fields(Setting)] == [*(slider.name for slider in SLIDERS), "inhibitory_bias"]
    for slider in SLIDERS:
        assert slider.low <= getattr(Setting(), slider.name) <= slider.high


@pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
def test_the_ends_of_a_slider_are_settings_and_what_lies_beyond_is_refused(slider):
    for end, beyond in ((slider.low, slider.low - 1), (slider.high, slider.high + 1)):
        assert getattr(Setting(**{slider.name: end}), slider.name) == end
        with pytest.raises(ValueError, match=f"{slider.name} must be .*the ends of its slider"):
            Setting(**{slider.name: beyond})


@pytest.mark.parametrize(
    ("name", "value"), [("k", 2.5), ("alpha", "10"), ("seed", True), ("gamma", [0.1, 0.2]), ("inhibitory_bias", 1)]
)
def test_what_is_no_number_of_its_kind_is_refused(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        Setting(**{name: value})


def test_the_defaults_are_those_of_fig_4b():
    setting = Setting()
    assert setting.circuit == bs.RateCircuit(alpha=10.0, tau=30.0, bias=1.0, dt=1.0, duration=150.0)
    rule = bs.Hebbian(gamma=0.01, momentum=0.95, learning_rate=bs.rules.InverseSqrtDecay(3e-4, 2, start=50))
    assert setting.rule == rule


def test_the_seed_makes_the_weights_and_they_are_around_1():
    weights = Setting(neurons=400, k=9, seed=3).weights
    np.testing.assert_array_equal(weights, Setting(neurons=400, k=9, seed=3).weights)
    assert not np.array_equal(weights, Setting(neurons=400, k=9, seed=4).weights)
    assert weights.shape == (400, 81)
    assert abs(weights.mean() - 1) < 5 / math.sqrt(400 * 81)
    assert abs(weights.std() - 1) < 5 / math.sqrt(2 * 400 * 81)


@pytest.mark.parametrize("tau", [10.0, 30.0, 50.0])
def test_alpha_is_unstable_from_2_tau_over_dt_minus_1_on(tau):
    limit = 2 * tau - 1
    assert Setting(tau=tau, alpha=limit - 1e-6).unstable is None
    trouble = Setting(tau=tau, alpha=limit).unstable
    assert trouble is not None
    assert (trouble.name, trouble.limit) == ("alpha", pytest.approx(limit, abs=1e-12))
    assert f"Stable below α = 2τ/dt − 1 = {limit:g}" in trouble.words


def test_the_words_name_a_tau_that_would_be_stable():
    trouble = Setting(alpha=80.0).unstable
    assert trouble is not None
    assert "τ above 40.5 ms" in trouble.words
    assert Setting(alpha=80.0, tau=40.6).unstable is None


@pytest.mark.parametrize("k", [1, 3, 6, 9])
def test_below_the_stated_learning_rate_limit_a_sleep_does_not_diverge(k):
    setting = Setting(k=k, presentations=300)
    assert not isinstance(simulate_setting(setting.moved(learning_rate=0.9 * setting.learning_rate_limit)), Unstable)


def test_the_reason_of_a_learning_rate_far_above_the_limit_names_the_limit():
    setting = Setting(learning_rate=0.1, presentations=100)
    trouble = simulate_setting(setting)
    assert isinstance(trouble, Unstable)
    assert (trouble.name, trouble.limit) == ("learning_rate", setting.learning_rate_limit)
    assert "η should stay below about 0.0025; it is 0.1." in trouble.words


def test_below_the_limit_of_the_learning_rate_the_reason_of_a_divergence_names_no_limit():
    words = Setting(alpha=50.0).diverged().words
    assert "Lower the learning rate, η = 0.0003, or the inhibition, α = 50." in words
    assert "below" not in words


def test_a_limit_in_words_lies_on_its_stable_side():
    trouble = Setting(tau=31.47, alpha=90.123).unstable
    assert trouble is not None
    assert "Stable below α = 2τ/dt − 1 = 61.9, or with τ above 45.6 ms" in trouble.words
    assert Setting(tau=31.47, alpha=61.9).unstable is None
    assert Setting(tau=45.6, alpha=90.123).unstable is None


@pytest.mark.parametrize(
    ("value", "down", "up"), [(61.94, 61.9, 62.0), (40.5, 40.5, 40.5), (0.0025173, 0.00251, 0.00252)]
)
def test_numbers_are_rounded_to_three_digits_down_or_up(value, down, up):
    assert (rounded(value), rounded(value, up=True)) == (down, up)
