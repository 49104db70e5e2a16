import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer.result import (
    MAX_RECORDS,
    RESPONSE_NEURONS,
    RESPONSE_PRESENTATIONS,
    SettingResult,
    first_responses,
    simulate_setting,
    sweep,
    theory_end,
    theory_minimum,
)
from bioshare.explorer.setting import Setting, Unstable

SETTING = Setting(alpha=7.0, gamma=0.03, k=2, neurons=30, presentations=150, seed=2)


def stable_result(setting, *arguments):
    result = simulate_setting(setting, *arguments)
    assert isinstance(result, SettingResult)
    return result


def literal(setting, presentations=None, record_every=1):
    """The sleep of a setting, every weight at every step in NumPy."""
    return bs.simulate(
        setting.weights,
        bs.stimuli.noise(bs.stimuli.gaussian(), setting.noise),
        bs.RateCircuit(setting.alpha, setting.tau, setting.bias, 1.0, 150.0, setting.inhibitory_bias),
        bs.Hebbian(setting.gamma, 0.95, learning_rate=bs.rules.InverseSqrtDecay(setting.learning_rate, 2, start=50)),
        engine="loop",
        record_every=record_every,
        presentations=presentations or setting.presentations,
        seed=setting.seed,
        progress=False,
    )


@pytest.mark.parametrize(("noise", "inhibitory_bias"), [(0.0, False), (0.3, False), (0.0, True)])
def test_a_result_is_what_the_literal_loop_computes(noise, inhibitory_bias):
    setting = SETTING.moved(noise=noise, inhibitory_bias=inhibitory_bias)
    shown, run = stable_result(setting), literal(setting)
    np.testing.assert_array_equal(shown.presentation, run.presentation)
    np.testing.assert_allclose(shown.neg_log_snr, run.neg_log_snr, rtol=0, atol=1e-10)
    np.testing.assert_allclose(shown.mean_kept, run.mean_norm / run.mean_norm[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(shown.mean_drift, run.mean_drift / run.mean_norm[0], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(shown.before, setting.weights)
    np.testing.assert_allclose(shown.end, run.weights, rtol=0, atol=1e-12)


def test_now_is_the_presentation_of_the_lowest_record_by_itself():
    setting = SETTING.moved(presentations=1500)
    shown = stable_result(setting)
    assert shown.now_at == shown.presentation[shown.best] < 1500
    assert shown.neg_log_snr[shown.best] == shown.neg_log_snr.min()
    assert float(bs.theory.neg_log_snr(shown.now)) == pytest.approx(shown.neg_log_snr.min(), abs=1e-9)


def test_now_may_be_any_presentation_and_0_is_before_sleep():
    np.testing.assert_allclose(stable_result(SETTING, 37).now, literal(SETTING, 37).weights, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(stable_result(SETTING, 0).now, SETTING.weights)
    late = stable_result(SETTING, 10_000)
    assert late.now_at == 150
    np.testing.assert_array_equal(late.now, late.end)


@pytest.mark.parametrize(("noise", "inhibitory_bias"), [(0.0, False), (0.3, False), (0.0, True)])
def test_the_responses_are_those_of_the_first_presentations(noise, inhibitory_bias):
    setting = SETTING.moved(noise=noise, inhibitory_bias=inhibitory_bias)
    responses, run = stable_result(setting).responses, literal(setting, RESPONSE_PRESENTATIONS)
    assert responses.r.shape == responses.r_fixed.shape == (150 * RESPONSE_PRESENTATIONS, RESPONSE_NEURONS)
    np.testing.assert_array_equal(responses.time, np.arange(1, 150 * RESPONSE_PRESENTATIONS + 1))
    np.testing.assert_allclose(responses.r[-1], run.r[:RESPONSE_NEURONS], rtol=0, atol=1e-12)
    np.testing.assert_allclose(responses.r_inh[-1], run.r_inh, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inhibitory_bias", [False, True])
def test_before_plasticity_sets_in_the_responses_reach_the_fixed_point_of_eq_9(inhibitory_bias):
    setting = SETTING.moved(tau=5.0, alpha=2.0, inhibitory_bias=inhibitory_bias)
    responses = stable_result(setting).responses
    np.testing.assert_allclose(responses.r[49], responses.r_fixed[49], rtol=0, atol=1e-3)
    assert responses.r_inh[49] == pytest.approx(responses.r_inh_fixed[49], abs=1e-3)
    mean_drive = (setting.weights @ setting.stimulus.draw(1, 4, seed=2)[0]).mean()
    assert responses.r_inh_fixed[0] == pytest.approx(mean_drive / 3 + inhibitory_bias, abs=1e-12)  # b = 1
    assert np.abs(responses.r[0] - responses.r_fixed[0]).max() > 0.1


def test_with_a_bias_of_the_inhibitory_neuron_weights_do_not_depend_on_b_and_rates_settle_above_0():
    biased = [stable_result(SETTING.moved(inhibitory_bias=True, bias=bias)) for bias in (0.0, 5.0)]
    np.testing.assert_allclose(biased[0].end, biased[1].end, rtol=0, atol=1e-12)
    assert biased[1].responses.r_inh.min() > 0 > stable_result(SETTING.moved(bias=5.0)).responses.r_inh.min()


@pytest.mark.parametrize(("noise", "private"), [(0.0, 0.0), (0.5, 0.25 * (1 - 1 / 30))])
def test_the_minimum_of_theory_is_where_the_ideal_circuit_ends_with_these_weights(noise, private):
    mean = SETTING.weights.mean(0)
    deviations = 0.03 / (1.03 + private) * (SETTING.weights - mean)  # Eq. 5 for C = I; noise of its own adds a leak
    end = 0.03 / (0.03 + private) * mean + deviations
    setting = SETTING.moved(noise=noise)
    assert theory_minimum(setting) == pytest.approx(float(bs.theory.neg_log_snr(end)), abs=1e-9)
    assert stable_result(setting).theory_minimum == theory_minimum(setting)


def test_an_endless_sleep_ends_at_the_end_of_theory():
    setting = SETTING.moved(gamma=0.3, presentations=10_000)
    assert stable_result(setting).neg_log_snr[-20:].mean() == pytest.approx(theory_end(setting), abs=0.03)
    assert theory_end(SETTING.moved(noise=0.5)) > theory_end(SETTING)


@pytest.mark.parametrize("presentations", [100, 400, 401, 1001, 10_000])
def test_there_are_not_more_records_than_a_screen_shows_and_the_last_is_the_end(presentations):
    shown = stable_result(SETTING.moved(presentations=presentations))
    assert len(shown.presentation) <= MAX_RECORDS + 2
    assert (shown.presentation[0], shown.presentation[-1]) == (0, presentations)
    assert np.all(np.diff(shown.presentation) > 0)
    assert len(shown.neg_log_snr) == len(shown.mean_kept) == len(shown.mean_drift) == len(shown.presentation)
    mean, before = shown.end.mean(0), shown.before.mean(0)
    size = np.linalg.norm(before)
    assert shown.neg_log_snr[-1] == pytest.approx(float(bs.theory.neg_log_snr(shown.end)), abs=1e-9)
    assert shown.mean_kept[-1] == pytest.approx(np.linalg.norm(mean) / size, abs=1e-12)
    assert shown.mean_drift[-1] == pytest.approx(np.linalg.norm(mean - before) / size, abs=1e-12)


def test_weights_after_no_whole_number_of_presentations_are_refused():
    for wrong in (-5, 5.0):
        with pytest.raises((TypeError, ValueError), match=r"^now_at must be a number of presentations"):
            simulate_setting(SETTING, wrong)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 1e-1])
def test_result_and_map_agree_on_what_is_stable(rate):
    setting = Setting(learning_rate=rate)
    try:
        swept = float(sweep(setting, [setting.alpha], [setting.gamma]).end.item())
    except (ValueError, bs.DivergenceError):
        swept = None
    shown = simulate_setting(setting)
    if swept is None:
        assert isinstance(shown, Unstable)
    else:
        assert isinstance(shown, SettingResult)
        assert shown.neg_log_snr[-1] == pytest.approx(swept, abs=1e-9)
    assert (swept is not None) == (rate < 0.05)


def test_high_rates_at_the_start_of_a_stable_sleep_do_not_hide_its_first_presentations():
    setting = Setting(learning_rate=1e-2)
    with pytest.raises(ValueError, match="stability limit"):  # by themselves, they are refused
        bs.simulate(
            setting.weights,
            setting.stimulus,
            setting.circuit,
            setting.rule,
            presentations=RESPONSE_PRESENTATIONS,
            seed=setting.seed,
        )
    shown = stable_result(setting, RESPONSE_PRESENTATIONS)
    assert shown.now_at == RESPONSE_PRESENTATIONS
    responses = shown.responses.r
    assert len(responses) == 150 * RESPONSE_PRESENTATIONS
    np.testing.assert_array_equal(responses, first_responses(setting).r)


def test_an_unstable_alpha_needs_no_simulation():
    trouble = simulate_setting(SETTING.moved(alpha=60.0), progress=lambda done: pytest.fail("it was simulated"))
    assert isinstance(trouble, Unstable)


def test_an_exception_of_progress_ends_the_simulation():
    def stop(done):
        raise InterruptedError(done)

    with pytest.raises(InterruptedError):
        simulate_setting(SETTING, progress=stop)
