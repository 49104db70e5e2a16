import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer.watching import INPUTS, NEURONS, Watching

PRESENTATION = np.array([0, 1, 2, 10, 64, 90, 100])


@pytest.mark.parametrize("noise", [0, 0.3])
def test_what_is_written_down_on_the_way_is_what_shorter_sleeps_end_with(noise):
    weights = np.random.default_rng(0).normal(1, 1, (40, 16))
    circuit, rule = bs.RateCircuit(np.array([2.0, 10.0])), bs.Hebbian(0.01, learning_rate=bs.rules.InverseSqrtDecay())

    def sleep(presentations, engine):
        arguments = (weights, bs.stimuli.noise(bs.stimuli.gaussian(), noise), circuit, rule, engine)
        return bs.simulate(*arguments, presentations, presentations=presentations, seed=3, progress=False)

    engine = Watching(PRESENTATION)
    whole = sleep(100, engine)
    assert engine.weights.shape == (len(PRESENTATION), 2, NEURONS, INPUTS)
    for i, presentations in enumerate(PRESENTATION[1:], start=1):
        run = sleep(int(presentations), "exact")
        np.testing.assert_allclose(engine.weights[i], run.weights[:, :NEURONS, :INPUTS], rtol=0, atol=1e-12)
        for curve, name in zip(engine.curves, ("neg_log_snr", "mean_norm", "mean_drift"), strict=True):
            np.testing.assert_allclose(curve[:, [0, i]], getattr(run, name), rtol=0, atol=1e-10)
    np.testing.assert_allclose(whole.weights, run.weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.r, run.r, rtol=0, atol=1e-10)
    np.testing.assert_allclose(whole.r_inh, run.r_inh, rtol=0, atol=1e-10)
