import numpy as np
import pytest

import bioshare as bs
from bioshare.explorer.page_data import INPUTS, NEURONS, SnapshotEngine

PRESENTATION = np.array([0, 1, 2, 10, 64, 90, 100])


@pytest.mark.parametrize("noise", [0, 0.3])
def test_snapshots_are_the_ends_of_shorter_sleeps(noise):
    weights = np.random.default_rng(0).normal(1, 1, (40, 16))
    circuit, rule = bs.RateCircuit(np.array([2.0, 10.0])), bs.Hebbian(0.01, learning_rate=bs.rules.InverseSqrtDecay())

    def sleep(presentations, engine):
        arguments = (weights, bs.stimuli.noise(bs.stimuli.gaussian(), noise), circuit, rule, engine)
        return bs.simulate(*arguments, presentations, presentations=presentations, seed=3, progress=False)

    engine = SnapshotEngine(PRESENTATION)
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


def rule(gamma):
    """A rule whose learning rate is too high for a strong pull, in presentations 20 to 29 of 150 updates."""
    return bs.Hebbian(gamma, learning_rate=lambda k: np.where(k // 1500 == 2, 1e-3, 1e-4))


@pytest.mark.parametrize("noise", [0, 0.3])
def test_other_groups_go_on_where_a_group_diverges(noise):
    weights = np.random.default_rng(0).normal(1, 1, (12, 4))
    arguments = (weights, bs.stimuli.noise(bs.stimuli.gaussian(), noise), bs.RateCircuit())
    gamma, engine, reported = np.array([0.01, 5e3, 0.1]), SnapshotEngine(PRESENTATION), []
    options = {"presentations": 100, "seed": 3}
    run = bs.simulate(*arguments, rule(gamma), engine, 100, progress=reported.append, **options)
    assert engine.diverged.tolist() == [False, True, False]
    assert np.isfinite(engine.curves[:, ~engine.diverged]).all()
    found = PRESENTATION >= 64
    assert np.isnan(engine.curves[:, 1, found]).all()
    assert np.isfinite(engine.curves[:, 1, PRESENTATION <= 10]).all()
    np.testing.assert_array_equal(run.weights[1], weights)
    kept = bs.simulate(*arguments, rule(gamma[~engine.diverged]), progress=False, **options)
    np.testing.assert_allclose(run.weights[~engine.diverged], kept.weights, rtol=0, atol=1e-12)
    assert reported[-1] == 100
    with pytest.raises(bs.DivergenceError):
        bs.simulate(*arguments, rule(gamma), progress=False, **options)


def test_where_all_groups_diverge_the_sleep_ends_early():
    weights, reported = np.random.default_rng(0).normal(1, 1, (12, 4)), []
    engine, gamma = SnapshotEngine(np.arange(1001)), np.array([5e3, 6e3])
    arguments = (weights, bs.stimuli.gaussian(), bs.RateCircuit(), rule(gamma), engine, 1000)
    bs.simulate(*arguments, presentations=1000, seed=3, progress=reported.append)
    assert engine.diverged.all()
    assert reported[-1] == 1000
    assert len(reported) < 40
