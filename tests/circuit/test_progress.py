"""A function that learns how far a sleep or a mirror is, in every engine; what it raises stops the sleep."""

import brian2 as b2
import numpy as np
import pytest

import bioshare as bs
from bioshare.circuit.exact import engine as exact

CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady": bs.SteadyState(10.0),
    "rate": bs.RateCircuit(alpha=10.0, tau=10.0, dt=1.0, duration=12.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
both_engines = pytest.mark.parametrize("engine", ["exact", "loop"])
shared_and_noisy = pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
RULE = bs.Hebbian(0.01, 0.9, learning_rate=1e-3)


def initial(*shape):
    return np.random.default_rng(0).normal(1, 1, shape)


def inputs(*shape):
    return np.random.default_rng(1).normal(size=shape)


def few_together(monkeypatch):
    """So that the exact engine tells of a short sleep more than once."""
    for limit in ("TOGETHER", "NOISE"):
        monkeypatch.setattr(exact, limit, 1)


@both_engines
@circuits
@shared_and_noisy
def test_progress_is_told_of_more_and_more_presentations_up_to_the_last(engine, circuit, noisy, monkeypatch):
    few_together(monkeypatch)
    calls, x = [], inputs(150, 6, 4)
    run = bs.simulate(initial(6, 4), x if noisy else x[:, 0], circuit, RULE, engine, progress=calls.append)
    assert calls == ([64, 128, 150] if engine == "exact" and not noisy else [*range(1, 151)])
    assert not run.interrupted


def test_with_noise_no_more_updates_are_computed_at_once_than_are_allowed(monkeypatch):
    monkeypatch.setattr(exact, "UPDATES", 40 * 6 * (12 + 4))
    calls = []
    bs.simulate(initial(6, 4), inputs(150, 6, 4), CIRCUITS["rate"], RULE, progress=calls.append)
    assert calls == [40, 80, 120, 150]


def stopping(calls, last, error):
    """A progress that raises once ``last`` presentations are complete."""

    def progress(done):
        calls.append(done)
        if done >= last:
            raise error

    return progress


@both_engines
@shared_and_noisy
@pytest.mark.parametrize("error", [RuntimeError("enough"), StopIteration("enough")], ids=repr)
def test_what_progress_raises_stops_the_sleep_and_is_passed_on(engine, noisy, error, monkeypatch):
    few_together(monkeypatch)
    calls, x = [], inputs(150, 6, 4)
    with pytest.raises(type(error), match="enough") as stopped:
        bs.simulate(
            initial(6, 4), x if noisy else x[:, 0], CIRCUITS["rate"], RULE, engine, progress=stopping(calls, 60, error)
        )
    assert stopped.value is error
    assert calls[-1] == (64 if engine == "exact" and not noisy else 60)


@both_engines
@shared_and_noisy
def test_ctrl_c_in_progress_keeps_what_was_computed(engine, noisy, monkeypatch):
    few_together(monkeypatch)
    w, x, interrupt = initial(6, 4), inputs(150, 6, 4), stopping([], 64, KeyboardInterrupt())
    x = x if noisy else x[:, 0]
    with pytest.warns(RuntimeWarning, match="interrupted after 64 of 150 presentations"):
        run = bs.simulate(w, x, CIRCUITS["rate"], RULE, engine, progress=interrupt)
    shorter = bs.simulate(w, x[:64], CIRCUITS["rate"], RULE, engine)
    assert run.interrupted
    np.testing.assert_allclose(run.weights, shorter.weights, rtol=0, atol=1e-13)
    np.testing.assert_allclose(run.neg_log_snr, shorter.neg_log_snr, rtol=0, atol=1e-13)


def test_a_sleep_map_tells_its_progress_too():
    calls = []
    bs.sleep_map(inputs(5000, 2), CIRCUITS["steady"], RULE, progress=calls.append)
    assert calls == [4096, 5000]


@both_engines
def test_a_mirror_tells_its_progress_at_every_record_and_at_the_end(engine):
    calls, mirror = [], bs.MirrorCircuit(duration=12.0)
    mirrored = lambda progress: bs.simulate_mirror(
        initial(3, 2), inputs(7, 2), mirror, engine, record_every=3, progress=progress
    )
    run = mirrored(calls.append)
    assert calls == [3, 6, 7]
    assert run.presentation.tolist() == [0, 3, 6, 7]
    np.testing.assert_array_equal(run.feedback, mirrored(False).feedback)
    with pytest.raises(RuntimeError, match="enough"):
        mirrored(stopping([], 6, RuntimeError("enough")))
    with pytest.warns(RuntimeWarning, match="interrupted after 6 of 7 presentations"):
        stopped = mirrored(stopping([], 6, KeyboardInterrupt()))
    assert (stopped.interrupted, stopped.presentations, stopped.presentation.tolist()) == (True, 6, [0, 3, 6])
    np.testing.assert_array_equal(stopped.angle, run.angle[..., :3])


@pytest.mark.parametrize("progress", [1, None, "bar"], ids=repr)
def test_progress_that_is_neither_a_bar_nor_a_function_is_refused(progress):
    with pytest.raises(TypeError, match=r"^progress must be True, False or a function .*; got "):
        bs.simulate(initial(6, 4), inputs(20, 4), CIRCUITS["rate"], RULE, progress=progress)
    with pytest.raises(TypeError, match=r"^progress must be"):
        bs.sleep_map(inputs(20, 4), CIRCUITS["rate"], RULE, progress=progress)
    with pytest.raises(TypeError, match=r"^progress must be"):
        bs.simulate_mirror(initial(3, 2), inputs(7, 2), bs.MirrorCircuit(), progress=progress)


@pytest.fixture
def brian(monkeypatch):
    """Brian2 without a compiler."""
    monkeypatch.setitem(b2.prefs, "codegen.target", "numpy")
    return bs.Brian2(target="runtime")


@shared_and_noisy
def test_brian2_tells_once_at_the_end(brian, noisy):
    calls, x = [], inputs(5, 3, 2)
    bs.simulate(initial(3, 2), x if noisy else x[:, 0], CIRCUITS["rate"], RULE, brian, progress=calls.append)
    assert calls == [5]


@pytest.mark.parametrize("error", [RuntimeError("enough"), KeyboardInterrupt("enough")], ids=repr)
def test_brian2_passes_on_what_progress_raises(brian, error):
    with pytest.raises(type(error), match="enough"):
        bs.simulate(initial(3, 2), inputs(5, 2), CIRCUITS["rate"], RULE, brian, progress=stopping([], 0, error))
