import time

import numpy as np
import pytest

from bioshare.explorer import brian_process
from bioshare.explorer.result import SettingResult, simulate_setting
from bioshare.explorer.setting import Setting

SETTING = Setting(k=2, neurons=10, presentations=100, seed=2)


@pytest.mark.slow
def test_another_process_runs_brian2_and_gives_the_same_curve():
    presentation, curve = brian_process.run_brian2_process(SETTING, lambda done: None)
    shown = simulate_setting(SETTING)
    assert isinstance(shown, SettingResult)
    np.testing.assert_array_equal(presentation, shown.presentation)
    np.testing.assert_allclose(curve, shown.neg_log_snr, rtol=0, atol=1e-10)


def test_an_error_of_the_process_is_raised_with_its_last_line(monkeypatch):
    monkeypatch.setattr(brian_process, "CODE", "raise SystemError('no compiler')")
    with pytest.raises(RuntimeError, match="SystemError: no compiler"):
        brian_process.run_brian2_process(SETTING, lambda done: None)


def test_an_exception_of_progress_ends_the_process(monkeypatch, tmp_path):
    alive = tmp_path / "alive"
    monkeypatch.setattr(brian_process, "CODE", f"import time; time.sleep(2); open({str(alive)!r}, 'w')")

    def stop(done):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        brian_process.run_brian2_process(SETTING, stop)
    time.sleep(3)
    assert not alive.exists()
