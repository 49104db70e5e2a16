"""Records of many groups, under a limit of the memory."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
import bioshare as bs

def sleep(presentations):
    w_init = np.random.default_rng(0).normal(1, 1, (100, 100, 2, 1))
    x = np.random.default_rng(1).normal(size=(presentations, 1))
    circuit = bs.SteadyState(np.linspace(1, 10, 100)[:, None])
    rule = bs.Hebbian(np.linspace(0.01, 0.1, 100), learning_rate=1e-3)
    return bs.simulate(w_init, x, circuit, rule, engine=bs.Exact(threads=1), progress=False)

sleep(2)  # imports and compiles
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
records = 3 * 8 * 100 * 100 * 1001
resource.setrlimit(resource.RLIMIT_AS, (size + int(1.6 * records),) * 2)
run = sleep(1000)
assert run.neg_log_snr.shape == (100, 100, 1001) and np.isfinite(run.neg_log_snr).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_records_are_held_once():
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100)
    assert not ended.returncode, ended.stderr[-2000:]
