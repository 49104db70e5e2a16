"""The engine "exact": the collapsed map, precision, device, threads, and the blocks of presentations."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs
from bioshare.circuit.exact import engine as exact

assert_close = partial(np.testing.assert_allclose, rtol=0)
CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady": bs.SteadyState(10.0),
    "rate": bs.RateCircuit(alpha=10.0, tau=10.0, dt=1.0, duration=12.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
RULE = bs.Hebbian(0.01, 0.9, learning_rate=bs.rules.InverseDecay(0.5, 1000))


def initial(*shape, seed=0):
    return np.random.default_rng(seed).normal(1, 1, shape)


def inputs(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


@circuits
@given(neurons=st.integers(2, 12), k=st.integers(1, 6), presentations=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_sleep_map_sleeps_any_weights_as_the_engine_does(circuit, neurons, k, presentations, seed):
    w, x = initial(neurons, k, seed=seed), inputs(presentations, k)
    assert_close(bs.sleep_map(x, circuit, RULE)(w), bs.simulate(w, x, circuit, RULE).weights, atol=1e-12)


def test_the_sleep_maps_of_a_grid_are_those_of_its_points():
    x, alpha, gamma = inputs(3, 1, 40, 4), np.array([1.0, 5.0]), np.array([[[0.1]], [0.2 * np.ones(1)]])
    circuit = bs.RateCircuit(alpha=alpha, tau=10.0, duration=12.0)
    grid = bs.sleep_map(x, circuit, bs.Hebbian(gamma, learning_rate=1e-4))
    assert grid.A.shape == grid.B.shape == (2, 3, 2, 4, 4)
    assert grid.c.shape == (2, 3, 2, 4)
    for g, run, a in np.ndindex(2, 3, 2):
        point = bs.RateCircuit(alpha=alpha[a], tau=10.0, duration=12.0)
        alone = bs.sleep_map(x[run, 0], point, bs.Hebbian(gamma[g, 0, 0], learning_rate=1e-4))
        for part, expected in zip(grid, alone, strict=True):
            assert_close(part[g, run, a], expected, atol=1e-13)


def test_an_ideal_sleep_maps_every_mean_to_itself():
    ideal = bs.sleep_map(inputs(40, 4), bs.SteadyState(), RULE)
    assert np.array_equal(ideal.B, np.eye(4))
    assert not ideal.c.any()
    assert np.linalg.norm(ideal.A) < 0.9 * np.linalg.norm(np.eye(4))


def test_a_sleep_map_of_a_stimulus_is_that_of_its_draw():
    stimulus = bs.stimuli.gaussian()
    of_stimulus = bs.sleep_map(stimulus, CIRCUITS["rate"], RULE, inputs=4, presentations=30, seed=2)
    of_draw = bs.sleep_map(stimulus.draw(30, 4, seed=2), CIRCUITS["rate"], RULE)
    assert all(np.array_equal(a, b) for a, b in zip(of_stimulus, of_draw, strict=True))


def test_a_sleep_map_refuses_noise_and_a_stimulus_without_a_length():
    noisy = bs.stimuli.noise(bs.stimuli.grid(), 0.1)
    with pytest.raises(ValueError, match="stimuli must be the same for all neurons"):
        bs.sleep_map(noisy, bs.SteadyState(), RULE, inputs=4, presentations=3, seed=0)
    with pytest.raises(TypeError, match="inputs, the number K of weights per neuron, is needed"):
        bs.sleep_map(bs.stimuli.grid(), bs.SteadyState(), RULE, presentations=3, seed=0)


def test_a_sleep_map_that_diverges_says_in_which_presentation():
    late = bs.Hebbian(0.01, 0.9, learning_rate=lambda k: np.where(k < 25 * 12, 1e-4, 1e3))
    with pytest.raises(bs.DivergenceError, match="diverged in presentation 25"):
        bs.sleep_map(inputs(40, 4), CIRCUITS["rate"], late)


@circuits
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 47])
def test_a_sleep_may_have_any_number_of_presentations(circuit, length):
    w, x = initial(6, 4), inputs(length, 4)
    run, loop = (bs.simulate(w, x, circuit, RULE, engine) for engine in ("exact", "loop"))
    assert_close(run.weights, loop.weights, atol=1e-13)
    assert_close(run.r, loop.r, atol=1e-13)
    assert run.neg_log_snr.shape == (length + 1,)


@circuits
@pytest.mark.parametrize("neurons", [1, 2, 4, 5, 30])
def test_a_group_may_have_more_or_fewer_neurons_than_inputs(circuit, neurons):
    w, x = initial(neurons, 4), inputs(30, 4)
    run, loop = (bs.simulate(w, x, circuit, RULE, engine) for engine in ("exact", "loop"))
    assert_close(run.weights, loop.weights, atol=1e-13)
    assert_close(run.neg_log_snr, loop.neg_log_snr, atol=1e-10)


@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_presentations_taken_together_do_not_change_a_sleep(noisy, monkeypatch):
    w, x = initial(2, 6, 4), inputs(2, 70, 6, 4)
    sleep = partial(bs.simulate, w, x if noisy else x[:, :, 0], CIRCUITS["rate"], RULE, record_every=3)
    together = sleep()
    monkeypatch.setattr(exact, "TOGETHER", 1)
    monkeypatch.setattr(exact, "NOISE", 1)
    few = sleep()
    assert_close(few.weights, together.weights, atol=1e-14)
    assert_close(few.neg_log_snr, together.neg_log_snr, atol=1e-13)


@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_threads_change_neither_the_result_nor_torchs_settings(noisy):
    w, x, before = initial(5, 6, 4), inputs(5, 40, 6, 4), torch.get_num_threads()
    x = x if noisy else x[:, :, 0]
    one, three = (bs.simulate(w, x, CIRCUITS["rate"], RULE, bs.Exact(threads=count)) for count in (1, 3))
    assert_close(three.weights, one.weights, atol=1e-14)
    assert_close(three.neg_log_snr, one.neg_log_snr, atol=1e-13)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("first", ["one", "other"])
def test_sleeps_of_several_threads_leave_torchs_settings_as_they_were_whichever_ends_first(first):
    before, wanted, left = torch.get_num_threads(), {"one": 3, "other": 4}, {}
    inside = {name: threading.Event() for name in wanted}
    leave = {name: threading.Event() for name in wanted}

    def sleep(name):
        with bs.Exact(threads=wanted[name]).torch_threads(1):
            assert torch.get_num_threads() == wanted[name]
            inside[name].set()
            assert leave[name].wait(10)
        left[name] = torch.get_num_threads()

    def seen_by_a_new_thread():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    last = "other" if first == "one" else "one"
    with ThreadPoolExecutor(2) as pool:
        sleeps = []
        for name in wanted:
            sleeps.append(pool.submit(sleep, name))
            assert inside[name].wait(10)
        for name in (first, last):
            leave[name].set()
            sleeps.pop(0 if name == "one" or len(sleeps) == 1 else 1).result()
    assert left == {"one": before, "other": before}
    assert seen_by_a_new_thread() == torch.get_num_threads() == before


def test_a_sleep_in_a_sleep_leaves_the_threads_of_the_one_around_it():
    before = torch.get_num_threads()
    with bs.Exact(threads=3).torch_threads(1):
        with bs.Exact(threads=4).torch_threads(1):
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_a_divergence_names_the_entry_of_the_batch():
    x = np.zeros((4, 40, 4))
    x[3] = inputs(40, 4)
    late = bs.Hebbian(0.01, 0.9, learning_rate=lambda k: np.where(k < 25 * 12, 1e-4, 1e3))
    with pytest.raises(bs.DivergenceError, match=r"presentation 25 of batch entry \(3,\)"):
        bs.simulate(initial(4, 6, 4), x, CIRCUITS["rate"], late)


@circuits
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_single_precision_is_close_to_double(circuit, noisy):
    w, x = initial(6, 4), inputs(100, 6, 4)
    sleep = partial(bs.simulate, w, x if noisy else x[:, 0], circuit, RULE)
    single, double = sleep(engine=bs.Exact(dtype="float32")), sleep()
    assert single.weights.dtype == np.float32
    assert 0 < np.abs(single.weights - double.weights).max() < 1e-5
    assert_close(single.neg_log_snr, double.neg_log_snr, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
@circuits
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_the_gpu_computes_what_the_cpu_does(circuit, noisy):
    w, x = initial(3, 6, 4), inputs(3, 100, 6, 4)
    sleep = partial(bs.simulate, w, x if noisy else x[:, :, 0], circuit, RULE)
    gpu, cpu = sleep(engine=bs.Exact(device="cuda")), sleep()
    assert_close(gpu.weights, cpu.weights, atol=1e-12)
    assert_close(gpu.neg_log_snr, cpu.neg_log_snr, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "float16"}, {"device": "abacus"}, {"device": "meta:x"}, {"threads": 0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} must be"):
        bs.Exact(**settings)
