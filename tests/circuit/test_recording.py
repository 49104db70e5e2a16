"""Rates and weights in time: every engine records the steps of the definition, at any interval."""

import dataclasses
from functools import partial

import brian2 as b2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bioshare as bs
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Outcome
from bioshare.circuit.recording import Recording

assert_close = partial(np.testing.assert_allclose, rtol=0)
ALL = ("r", "r_inh", "weights")
RATE = bs.RateCircuit(np.array([2.0, 10.0]), 10.0, np.array([1.0, 0.3]), duration=12.0, inhibitory_bias=True)
RULE = bs.Hebbian(0.1, 0.9, learning_rate=1e-3)
W = np.random.default_rng(0).normal(1, 1, (5, 3))


@pytest.fixture
def runtime():
    """Brian2 in NumPy, which needs no compiler."""
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"
    yield bs.Brian2("runtime")
    b2.prefs.codegen.target = before


def by_hand(w_init, x, circuit, rule):
    """Every state of a sleep of one group, Eq. 8 and 4 step by step: r, r_inh and weights, the first before sleep."""
    w, m, r, r_inh, h = w_init, 0.0, np.full(len(w_init), circuit.bias), circuit.bias, circuit.dt / circuit.tau
    states = [(r, r_inh, w)]
    for presented in x:
        for _ in range(circuit.updates_per_presentation):
            z = w @ presented
            r, r_inh = (
                r + h * (-r + z - circuit.alpha * (r_inh - circuit.bias) + circuit.bias),
                r_inh + h * (r.mean() - r_inh),
            )
            m = 0.9 * m - 1e-3 * (np.outer(r - circuit.bias, presented) + 0.1 * (w - w_init))
            w = w + m
            states.append((r, r_inh, w))
    return [np.array(part) for part in zip(*states, strict=True)]


@pytest.mark.parametrize("every", [1, 5, 12, 30])
@pytest.mark.parametrize("engine", ["exact", "loop", "brian2"])
def test_every_engine_records_the_steps_of_the_definition(engine, every, runtime):
    x = np.random.default_rng(1).normal(size=(6, 3))
    engine = runtime if engine == "brian2" else engine
    run = bs.simulate(W, x, RATE, RULE, engine, record=ALL, sample_every=every, progress=False)
    assert run.update.tolist() == list(range(0, 73, every))
    assert run.time.tolist() == [1.0 * update for update in run.update]
    for group, (alpha, bias) in enumerate(zip(RATE.alpha, RATE.bias, strict=True)):
        circuit = bs.RateCircuit(alpha, 10.0, bias, duration=12.0, inhibitory_bias=True)
        for name, expected in zip(ALL, by_hand(W, x, circuit, RULE), strict=True):
            assert_close(run.recorded[name][group], expected[::every], atol=1e-12, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(
    every=st.integers(1, 40), record_every=st.integers(1, 4), sigma=st.sampled_from([0.0, 0.2]),
    steady=st.booleans(), presentations=st.integers(1, 9),
)  # fmt: skip
def test_recording_changes_nothing_else_and_exact_and_the_loop_agree(every, record_every, sigma, steady, presentations):
    circuit = bs.SteadyState(10.0) if steady else RATE
    sleep = partial(
        bs.simulate, W, bs.stimuli.noise(bs.stimuli.gaussian(), sigma), circuit, RULE, record_every=record_every,
        presentations=presentations, seed=3,
    )  # fmt: skip
    plain = sleep()
    exact, loop = (sleep(engine=engine, record=ALL, sample_every=every) for engine in ("exact", "loop"))
    for run in (exact, loop):
        for name in ("weights", "r", "r_inh", "neg_log_snr", "mean_norm"):
            assert_close(getattr(run, name), getattr(plain, name), atol=1e-11, err_msg=name)
        assert np.array_equal(run.update, every * np.arange(len(run.update)))
    for name in ALL:
        assert_close(exact.recorded[name], loop.recorded[name], atol=1e-12, err_msg=name)
    assert plain.recorded == {}


def test_samples_are_taken_where_the_snr_is_recorded_by_default():
    run = bs.simulate(W, bs.stimuli.grid(), RATE, RULE, presentations=7, seed=0, record_every=2, record="weights")
    assert list(run.recorded) == ["weights"]
    assert (run.update / 12).tolist() == run.presentation[:-1].tolist() == [0, 2, 4, 6]
    recorded = bs.theory.neg_log_snr(run.recorded["weights"])
    assert_close(recorded, run.neg_log_snr[..., :-1], atol=1e-9)


def test_a_steady_state_has_presentations_and_no_time():
    run = bs.simulate(W, bs.stimuli.grid(), bs.SteadyState(), RULE, presentations=4, seed=0, record="r")
    assert run.update.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(AttributeError, match="a SteadyState has no time; use update"):
        _ = run.time


def test_an_interrupted_sleep_has_the_samples_of_the_complete_presentations():
    def stop(done):
        if done >= 3:
            raise KeyboardInterrupt

    sleep = partial(bs.simulate, W, bs.stimuli.gaussian(), RATE, RULE, seed=0, record=ALL, sample_every=5)
    with pytest.warns(RuntimeWarning, match="interrupted after 3 of 9 presentations"):
        run = sleep(presentations=9, progress=stop)
    whole = sleep(presentations=3)
    for name in ALL:
        assert_close(run.recorded[name], whole.recorded[name], atol=1e-13)
    assert_close(run.weights, whole.weights, atol=1e-13)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_divergence_in_a_sample_names_the_presentation(noise):
    late = bs.Hebbian(0.01, 0.9, learning_rate=lambda k: np.where(k < 25 * 12, 1e-4, 10.0))
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), noise)
    sleep = partial(bs.simulate, W, stimulus, RATE, late, presentations=33, seed=0)
    with pytest.raises(bs.DivergenceError) as plain:
        sleep()
    with pytest.raises(bs.DivergenceError) as recorded:
        sleep(record="r", sample_every=5)
    assert 25 <= recorded.value.presentation <= plain.value.presentation < 33


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ({"record": "w"}, ValueError, r"^record must be one of 'r', 'r_inh', 'weights'; got 'w'"),
        ({"record": ("r", 3)}, ValueError, r"^record must be one of"),
        ({"record": "r", "sample_every": 0}, ValueError, r"^sample_every must be a number of weight updates"),
        ({"record": "r", "sample_every": 1.5}, TypeError, r"^sample_every must be a number of weight updates"),
        ({"sample_every": 3}, TypeError, r"^sample_every needs a quantity to record"),
    ],
)
def test_impossible_recordings_are_refused(given_, error, message):
    with pytest.raises(error, match=message):
        bs.simulate(W, np.ones((2, 3)), RATE, RULE, **given_)


def test_more_samples_than_memory_are_refused_with_what_to_change():
    problem = prepare_sleep(W, np.ones((2, 3)), bs.SteadyState(), RULE, record="weights")
    vast = dataclasses.replace(problem, weights=np.broadcast_to(W, (2**40, 5, 3)))
    with pytest.raises(MemoryError, match=r"^record needs 4\.0e\+14 bytes: .* larger sample_every"):
        Recording(vast)


def test_samples_beyond_the_memory_of_brian2_are_refused(runtime):
    engine = bs.Brian2("runtime", memory=2000)
    with pytest.raises(ValueError, match=r"^sample_every is too small: the samples need"):
        bs.simulate(W, np.ones((2, 3)), RATE, RULE, engine, 2, record="weights", sample_every=1)


def test_an_engine_that_does_not_record_is_named():
    class Still:
        def run(self, problem, progress=True):
            nothing = np.zeros((1, 3))
            records = dict.fromkeys(("neg_log_snr", "mean_norm", "mean_drift"), nothing)
            return Outcome(problem.weights, np.zeros((1, 5)), np.zeros(1), records, 2)

    with pytest.raises(ValueError, match=r"^record must be left out: the engine .*Still.* has not recorded r$"):
        bs.simulate(W, np.ones((2, 3)), bs.SteadyState(), RULE, Still(), record="r")
