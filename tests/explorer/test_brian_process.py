import os
import subprocess
import sys
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


SCRIPT = """
import sys
import psutil
from bioshare.explorer.brian_process import run_brian2_process
from bioshare.explorer.setting import Setting

def progress(done):
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    if "cc1plus" in names:
        print("compiles", flush=True)
        if sys.argv[1] == "stop":
            raise InterruptedError

run_brian2_process(Setting(), progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_stopped_job_or_a_killed_parent_leaves_neither_processes_nor_files(tmp_path, end):
    """A kernel may be killed while Brian2 compiles."""
    psutil = pytest.importorskip("psutil", reason="needs psutil, which comes with Jupyter")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT, end]
    with psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as parent:
        while b"compiles" not in parent.stdout.readline():
            assert parent.poll() is None
        started = parent.children(recursive=True)
        if end == "kill":
            parent.kill()
        _, alive = psutil.wait_procs([parent, *started], 30)
    assert alive == []
    if end == "stop":  # after a kill, the folder around this one is removed by the server
        assert list(tmp_path.iterdir()) == []
