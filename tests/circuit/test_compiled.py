"""The exact engine on the CPU: the code that Numba compiles computes the same as the code in torch."""

from functools import partial

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs
from bioshare.circuit.exact import compiled, noise, stepping
from bioshare.circuit.exact.blocks import SharedGroups
from bioshare.circuit.exact.compiled import CompiledGroups
from bioshare.circuit.exact.engine import CACHED, groups_for
from bioshare.circuit.exact.noise import CompiledNoise, NoisyGroups
from bioshare.circuit.prepare import prepare_sleep

assert_close = partial(np.testing.assert_allclose, rtol=0)
ALPHA, GAMMA = np.array([0.5, 10.0]), np.array([[0.3], [0.01], [0.0]])
CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady": bs.SteadyState(ALPHA),
    "rate": bs.RateCircuit(ALPHA, tau=np.array([[10.0], [20.0], [15.0]]), bias=np.array([1.0, 0.2]), duration=12.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
noises = pytest.mark.parametrize("sigma", [0.0, 0.5], ids=["shared", "noisy"])
RULE = bs.Hebbian(GAMMA, np.array([0.9, 0.0]), learning_rate=bs.rules.InverseDecay(0.5, 1000))


def problem(circuit, sigma, *shape, presentations=20, seed=0):
    weights, stimulus = np.random.default_rng(seed).normal(1, 1, shape), bs.stimuli.gaussian()
    stimulus = bs.stimuli.noise(stimulus, sigma)
    return prepare_sleep(weights, stimulus, circuit, RULE, presentations=presentations, seed=seed)


def by_numba(posed, dtype="float64"):
    return (CompiledNoise if posed.per_neuron else CompiledGroups)(posed, dtype)


def by_torch(posed, dtype="float64"):
    return (NoisyGroups if posed.per_neuron else SharedGroups)(posed, bs.Exact(dtype=dtype).tensor)


@torch.no_grad()
def asleep(groups, posed, together, every=1):
    """Weights, r, r_inh, means and norms of the deviations, some presentations at a time."""
    state, means, spreads = groups.at_rest(), [], []
    for start, x in posed.drawn(together):
        recorded = [t for t in range(x.shape[1]) if (start + t + 1) % every == 0]
        state, within, mean, spread = groups.advance(state, x, start, recorded)
        assert within.all()
        means.append(mean)
        spreads.append(spread)
    return *map(np.asarray, groups.end(state)), np.concatenate(means, -1), np.concatenate(spreads, -1)


@circuits
@noises
@given(data=st.data())
def test_numba_computes_what_torch_does(circuit, sigma, data):
    draw = lambda least, most: data.draw(st.integers(least, most))
    posed = problem(circuit, sigma, draw(1, 40), draw(1, 20), presentations=draw(1, 20), seed=draw(0, 99))
    sleep = partial(asleep, posed=posed, together=draw(1, 20), every=draw(1, 5))
    expected = sleep(by_torch(posed))
    assert np.isfinite(expected[0]).all()
    for part, by in zip(sleep(by_numba(posed)), expected, strict=True):
        assert part.shape == by.shape
        assert_close(part, by, atol=1e-12)


@circuits
@noises
def test_more_presentations_than_are_stepped_together_are_computed_as_by_torch(circuit, sigma):
    posed = problem(circuit, sigma, 5, 4, presentations=compiled.SPAN + 3)
    for part, by in zip(*(asleep(form(posed), posed, 1000) for form in (by_numba, by_torch)), strict=True):
        assert_close(part, by, atol=1e-12)


@circuits
@noises
def test_in_single_precision_numba_is_as_close_as_torch(circuit, sigma):
    posed = problem(circuit, sigma, 30, 9, presentations=100)
    exact = asleep(by_torch(posed), posed, 8)[0]
    single, expected = (asleep(form(posed, "float32"), posed, 8)[0] for form in (by_numba, by_torch))
    assert single.dtype == np.float32
    assert 0 < np.abs(single - exact).max() < 2 * np.abs(expected - exact).max()


@circuits
def test_presentation_maps_by_numba_are_those_by_torch(circuit):
    posed = problem(circuit, 0.0, 2, 3, presentations=7)
    constants = stepping.Constants.of(posed, bs.Exact().tensor)
    power, rates = torch.rand(6, 7, dtype=torch.float64, generator=torch.manual_seed(0)), torch.tensor(posed.rates)
    both = stepping.presentation_maps(constants, power, rates), stepping.step_maps(constants, power, rates)
    for part, expected in zip(*both, strict=True):
        assert part.shape == expected.shape
        assert_close(part, expected, atol=1e-14)


@circuits
@pytest.mark.parametrize("engine", ["exact", "loop"])
def test_groups_of_one_stimulus_sleep_as_if_each_were_given_its_inputs(engine, circuit):
    weights = np.random.default_rng(0).normal(1, 1, (3, 2, 6, 4))
    patterns = np.random.default_rng(1).normal(size=(3, 1, 20, 4))
    posed = prepare_sleep(weights, patterns, circuit, RULE, noise=0.5, seed=3)
    assert posed.stimulus_of.tolist() == [0, 0, 1, 1, 2, 2]
    ((_, drawn),) = posed.drawn(20)
    assert drawn.shape == (3, 20, 6, 4)
    given_each = np.repeat(drawn[:, None], 2, axis=1)
    slept = {"exact": bs.Exact, "loop": bs.Loop}[engine]().run(posed, progress=False).weights
    expected = bs.simulate(weights, given_each, circuit, RULE, engine).weights
    assert_close(slept.reshape(expected.shape), expected, atol=1e-13)


@noises
def test_presentations_leave_the_state_before_them_as_it_was(sigma):
    posed = problem(CIRCUITS["rate"], sigma, 6, 4)
    groups = by_numba(posed)
    state = groups.at_rest()
    for start, x in posed.drawn(7):
        before = [part.copy() for part in state]
        after, *_ = groups.advance(state, x, start, [])
        assert all(map(np.array_equal, state, before))
        assert not any(map(np.array_equal, after, before))
        state = after


@pytest.mark.parametrize(
    ("sigma", "device", "inputs", "form"),
    [
        (0.0, "cpu", 4, CompiledGroups),
        (0.0, "cpu", CACHED, SharedGroups),
        (0.0, "meta", 4, SharedGroups),
        (0.5, "cpu", 4, CompiledNoise),
        (0.5, "meta", 4, NoisyGroups),
    ],
)
def test_the_cpu_has_compiled_groups_and_other_devices_and_very_large_groups_torch(sigma, device, inputs, form):
    weights, x = np.ones((2, inputs)), np.zeros((3, inputs))
    posed = prepare_sleep(weights, x, bs.SteadyState(), bs.Hebbian(learning_rate=1e-9), noise=sigma, seed=0)
    assert type(groups_for(posed, bs.Exact(device=device))) is form


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_for_this_process(monkeypatch):
    compile_anew, asked = numba.njit, []

    def njit(function, *, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_anew(function, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert noise.compiled(lambda x: x + 1)(1) == 2
    assert asked == [True, False]
