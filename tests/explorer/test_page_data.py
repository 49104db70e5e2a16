import numpy as np
import pytest

from bioshare.circuit.problem import DivergenceError
from bioshare.circuit.simulate import simulate
from bioshare.explorer import page_data
from bioshare.explorer.page_data import (
    PAGE_ALPHAS,
    PAGE_GAMMAS,
    PAGE_NOISES,
    compute_page_data,
    count_sleeps,
    page_axes,
    record_times,
    snapshot_times,
)
from bioshare.explorer.setting import Setting

SETTING = Setting(alpha=9.5, gamma=0.02, k=2, neurons=12, presentations=100, seed=5)


@pytest.fixture(scope="module")
def grid():
    return compute_page_data(SETTING, progress=False)


def points(grid, number, stable):
    """Some points of the grid, drawn: the index, and the setting there."""
    of_them = np.argwhere((grid.index >= 0) == stable)
    for at in np.random.default_rng(0).choice(of_them, number, replace=False).tolist():
        values = {name: axis[i] for (name, axis), i in zip(grid.axes.items(), at, strict=True)}
        yield tuple(at), grid.setting.moved(**values)


def sleep(setting, presentations, record_every=1):
    return simulate(
        setting.weights,
        setting.stimulus,
        setting.circuit,
        setting.rule,
        record_every=record_every,
        presentations=int(presentations),
        seed=setting.seed,
        progress=False,
    )


def test_the_curves_are_those_of_simulate_to_single_precision(grid):
    for at, setting in points(grid, 6, stable=True):
        run, sleeps = sleep(setting, setting.presentations), grid.index[at]
        norm = run.mean_norm[0]
        for found, expected in (
            (grid.neg_log_snr, run.neg_log_snr),
            (grid.mean_kept, run.mean_norm / norm),
            (grid.mean_drift, run.mean_drift / norm),
        ):
            expected = expected[grid.presentation]
            assert found.dtype == np.float32
            np.testing.assert_allclose(found[sleeps], expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))


def test_the_weights_are_those_of_simulate_to_half_of_a_255th_of_their_range(grid):
    before = SETTING.weights
    assert (grid.low, grid.high) == (before.min(), before.max())
    np.testing.assert_array_equal(grid.before, before)
    for at, setting in points(grid, 4, stable=True):
        lowest = grid.presentation[grid.neg_log_snr[grid.index[at]].argmin()]
        for presentations, kept in zip([*grid.snapshot_at, lowest], grid.weights[grid.index[at]], strict=True):
            expected = sleep(setting, presentations, presentations).weights if presentations else before
            step = (grid.high - grid.low) / 255
            expected = expected.clip(grid.low, grid.high)
            np.testing.assert_allclose(grid.low + step * kept, expected, rtol=0, atol=step / 2 + 1e-6)


def test_an_unstable_alpha_has_the_words_of_its_setting_and_no_sleep(grid):
    limit = 2 * SETTING.tau - 1
    unstable = np.broadcast_to((grid.axes["alpha"] >= limit)[:, None], grid.index.shape)
    np.testing.assert_array_equal(grid.index < 0, unstable)
    for at, setting in points(grid, 3, stable=False):
        assert grid.reasons[-1 - grid.index[at]] == setting.unstable.words
    assert sorted(grid.index[grid.index >= 0]) == list(range(len(grid.neg_log_snr)))


@pytest.mark.parametrize("rate", [0.02, 0.03], ids=["some diverge", "some are refused"])
def test_where_some_sleeps_diverge_the_others_are_as_they_are_alone(rate):
    grid = compute_page_data(SETTING.moved(learning_rate=rate), progress=False)
    fast = grid.index[-1][:, grid.axes["alpha"] < 2 * SETTING.tau - 1]
    assert (fast < 0).any()
    assert (grid.index >= 0).any()
    assert all(grid.reasons[word].startswith("Unstable: the weights grow") for word in -1 - fast[fast < 0])
    for at, setting in list(points(grid, 12, stable=True))[:4]:
        expected = sleep(setting, setting.presentations).neg_log_snr[grid.presentation]
        np.testing.assert_allclose(grid.neg_log_snr[grid.index[at]], expected, rtol=0, atol=1e-4)
    diverging = grid.index < 0
    diverging[:, :, grid.axes["alpha"] >= 2 * SETTING.tau - 1] = False
    for at in np.random.default_rng(0).choice(np.argwhere(diverging), 8, replace=False).tolist():
        values = {name: axis[i] for (name, axis), i in zip(grid.axes.items(), at, strict=True)}
        with pytest.raises((DivergenceError, ValueError)):
            sleep(SETTING.moved(**values), SETTING.presentations)


def test_progress_counts_finished_sleeps_and_can_stop_the_computation():
    reported = []
    compute_page_data(SETTING, reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == count_sleeps(SETTING)
    assert len(reported) > 18

    def stop(done):
        if done > 100:
            raise ValueError("enough")

    with pytest.raises(ValueError, match=r"^enough$"):
        compute_page_data(SETTING, stop)
    with pytest.raises(TypeError, match=r"^progress must be"):
        compute_page_data(SETTING, "bar")


def test_a_setting_without_stable_ones_near_it_is_refused():
    with pytest.raises(ValueError, match="setting must have a stable one near it"):
        compute_page_data(Setting(k=9, neurons=10, presentations=100, learning_rate=0.1), progress=False)


@pytest.mark.parametrize("own", [0.1, 0.55, 1, 9.5, 13, 59, 100])
def test_the_axes_hold_the_values_of_the_setting_in_place_of_near_ones(own):
    alphas = page_axes(Setting(alpha=own))["alpha"]
    assert own in alphas
    assert np.all(np.diff(np.log(alphas)) > np.log(1.14))
    assert len(alphas) == len(PAGE_ALPHAS)


@pytest.mark.parametrize(("own", "expected"), [(0, PAGE_NOISES), (0.02, [0, 0.02, 0.3]), (0.2, [0, 0.1, 0.2])])
def test_there_is_always_a_sleep_without_noise(own, expected):
    np.testing.assert_array_equal(page_axes(Setting(noise=own))["noise"], expected)


def test_the_axes_of_the_default_setting():
    default = page_axes(Setting())
    np.testing.assert_array_equal(default["alpha"], PAGE_ALPHAS)
    np.testing.assert_array_equal(default["gamma"], PAGE_GAMMAS)
    np.testing.assert_array_equal(default["noise"], PAGE_NOISES)
    np.testing.assert_array_equal(default["learning_rate"], [1e-4, 3e-4, 1e-3])


@pytest.mark.parametrize("rate", [1e-5, 1.5e-5, 0.05, 0.1])
def test_learning_rates_stay_on_their_slider(rate):
    rates = page_axes(Setting(learning_rate=rate))["learning_rate"]
    assert rate in rates
    assert rates.min() >= 1e-5
    assert rates.max() <= 0.1


@pytest.mark.parametrize("presentations", [100, 101, 2_000, 10_000])
def test_snapshots_are_records_and_both_end_with_the_sleep(presentations):
    at, kept = record_times(presentations), snapshot_times(presentations)
    assert (at[0], at[-1], kept[-1]) == (0, presentations, presentations)
    assert set(kept) < set(at)
    assert len(kept) == 5
    assert np.all(np.diff(at) > 0)


@pytest.mark.parametrize(("disabled", "shown"), [("", True), ("1", False)])
def test_the_bar_of_a_page_is_switched_off_by_the_environment(monkeypatch, capsys, disabled, shown):
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(page_data, "_simulate_stable", lambda settings, tell: ["diverged"] * len(settings))
    with pytest.raises(ValueError, match="must have a stable one near it"):
        compute_page_data(SETTING, progress=True)
    assert ("sleeps: " in capsys.readouterr().err) == shown
