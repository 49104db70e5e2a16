import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer.result import ALPHAS, GAMMAS, SettingResult, simulate_setting, sweep
from bioshare.explorer.setting import SLIDERS, Setting

SETTING = Setting(k=2, neurons=20, presentations=120, seed=1)
GRID = ([2.0, 20.0, 70.0], [0.01, 0.3])


@pytest.fixture(scope="module")
def found():
    return sweep(SETTING, *GRID)


def test_every_stable_cell_is_the_result_of_a_setting(found):
    for alpha in (2.0, 20.0):
        for gamma in GRID[1]:
            cell = found.sel(alpha=alpha, gamma=gamma)
            shown = simulate_setting(SETTING.moved(alpha=alpha, gamma=gamma))
            assert isinstance(shown, SettingResult)
            np.testing.assert_allclose(cell.neg_log_snr, shown.neg_log_snr, rtol=0, atol=1e-10)
            np.testing.assert_allclose(cell.mean_kept, shown.mean_kept, rtol=0, atol=1e-10)
            assert float(cell.end) == pytest.approx(shown.neg_log_snr[-1], abs=1e-10)
            assert float(cell.best) == pytest.approx(shown.neg_log_snr.min(), abs=1e-10)
            assert float(cell.time_of_best) == shown.presentation[shown.best]
            assert float(cell.drift) == pytest.approx(shown.mean_drift[-1], abs=1e-10)


def test_a_map_with_a_bias_of_the_inhibitory_neuron_is_another_map_that_a_file_can_keep(found, tmp_path):
    setting = SETTING.moved(inhibitory_bias=True)
    cell = sweep(setting, [2.0], [0.3])
    shown = simulate_setting(setting.moved(alpha=2.0, gamma=0.3))
    assert isinstance(shown, SettingResult)
    assert float(cell.end.item()) == pytest.approx(shown.neg_log_snr[-1], abs=1e-10)
    assert abs(float(cell.end.item() - found.end.sel(alpha=2.0, gamma=0.3))) > 1e-6
    cell.to_netcdf(tmp_path / "map.nc")


def test_an_unstable_alpha_has_no_numbers(found):
    row = found.sel(alpha=70.0)
    for name in ("end", "best", "time_of_best", "drift", "neg_log_snr"):
        assert np.isnan(row[name]).all()
        assert not np.isnan(found[name].drop_sel(alpha=70.0)).any()


def test_the_map_says_what_it_is_a_map_of(found):
    assert found.attrs == {name: value for name, value in SETTING.values().items() if name not in ("alpha", "gamma")}


def test_the_grid_lies_on_the_sliders_in_three_digits():
    ends = {slider.name: (slider.low, slider.high) for slider in SLIDERS}
    for name, grid in (("alpha", ALPHAS), ("gamma", GAMMAS)):
        assert ends[name][0] <= grid[0] < grid[-1] <= ends[name][1]
        assert [float(f"{value:.3g}") for value in grid] == list(grid)


def test_the_last_record_is_the_end_where_it_lies_between_two():
    setting = SETTING.moved(presentations=401)
    found = sweep(setting, *GRID)
    shown = simulate_setting(setting.moved(alpha=2.0, gamma=0.3))
    assert isinstance(shown, SettingResult)
    np.testing.assert_array_equal(found.presentation, shown.presentation)
    assert found.presentation[-1] == 401
    assert float(found.end.sel(alpha=2.0, gamma=0.3)) == pytest.approx(shown.neg_log_snr[-1], abs=1e-10)
    assert float(found.drift.sel(alpha=2.0, gamma=0.3)) == pytest.approx(shown.mean_drift[-1], abs=1e-10)


def test_progress_ends_at_all_presentations():
    reported = []
    sweep(SETTING, *GRID, progress=reported.append)
    assert reported[-1] == 120


@pytest.mark.parametrize("alphas", [[70.0, 80.0], [3.0, 2.0], [0.0, 1.0], [[1.0]], ["a"]])
def test_alphas_that_make_no_map_are_refused(alphas):
    with pytest.raises((TypeError, ValueError), match="alphas must"):
        sweep(SETTING, alphas)


def test_a_diverging_learning_rate_is_refused():
    with pytest.raises((ValueError, bs.DivergenceError)):
        sweep(SETTING.moved(learning_rate=0.1), *GRID)
