"""Noise on the CPU: what Numba compiles computes what torch does, and is loaded only there."""

import subprocess
import sys
from functools import partial

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs
from bioshare.circuit import noisy
from bioshare.circuit.exact import groups_of
from bioshare.circuit.groups import NoisyGroups
from bioshare.circuit.prepare import prepare_sleep

assert_close = partial(np.testing.assert_allclose, rtol=0)
ALPHA, GAMMA = np.array([0.5, 10.0]), np.array([[0.3], [0.01], [0.0]])
CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady": bs.SteadyState(ALPHA),
    "rate": bs.RateCircuit(ALPHA, tau=np.array([[10.0], [20.0], [15.0]]), bias=np.array([1.0, 0.2]), duration=12.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
RULE = bs.Hebbian(GAMMA, np.array([0.9, 0.0]), learning_rate=bs.rules.InverseDecay(0.5, 1000))
NOISY = bs.stimuli.noise(bs.stimuli.gaussian(), 0.5)


def problem(circuit, *shape, presentations=20, record_every=1, seed=0):
    weights = np.random.default_rng(seed).normal(1, 1, shape)
    return prepare_sleep(
        weights, NOISY, circuit, RULE, presentations=presentations, seed=seed, record_every=record_every
    )


@torch.no_grad()
def lived(form, posed, together, engine=None):
    """Weights, r, r_inh and records of a sleep in one of the two forms, some presentations at a time."""
    engine = engine or bs.Exact()
    groups = form(posed, engine.tensor)
    state, records = groups.at_rest(), [groups.before()]
    for start, x in posed.drawn(together):
        state, recorded = groups.live(state, engine.tensor(x), start)
        records += recorded
    return (*groups.end(state), torch.cat(records, -1))


@circuits
@given(data=st.data())
def test_the_compiled_form_is_the_form_of_torch(circuit, data):
    draw = lambda least, most: data.draw(st.integers(least, most))
    posed = problem(
        circuit, draw(1, 40), draw(1, 20), presentations=draw(1, 20), record_every=draw(1, 5), seed=draw(0, 99)
    )
    compiled, by_torch = (lived(form, posed, draw(1, 20)) for form in (noisy.CompiledGroups, NoisyGroups))
    assert torch.isfinite(by_torch[0]).all()
    for part, expected in zip(compiled[:3], by_torch[:3], strict=True):
        assert_close(part, expected, atol=1e-12)
    if posed.weights.shape[1] > 1:  # the weights of a single neuron have no noise, up to rounding
        assert_close(compiled[3][0], by_torch[3][0], atol=1e-9)
    assert_close(compiled[3][1:], by_torch[3][1:], atol=1e-12)


@circuits
def test_in_single_precision_the_compiled_form_is_as_close_as_that_of_torch(circuit):
    posed, single = problem(circuit, 30, 9, presentations=100), bs.Exact(dtype="float32")
    exact = lived(NoisyGroups, posed, 8)[0]
    compiled, by_torch = (lived(form, posed, 8, single)[0] for form in (noisy.CompiledGroups, NoisyGroups))
    assert compiled.dtype == torch.float32
    assert 0 < (compiled - exact).abs().max() < 2 * (by_torch - exact).abs().max()


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


def test_presentations_leave_the_state_before_them_as_it_was():
    posed, engine = problem(CIRCUITS["rate"], 6, 4), bs.Exact()
    groups = noisy.CompiledGroups(posed, engine.tensor)
    state = groups.at_rest()
    for start, x in posed.drawn(7):
        before = [part.clone() for part in state]
        after, _ = groups.live(state, engine.tensor(x), start)
        assert all(map(torch.equal, state, before))
        assert not any(map(torch.equal, after, before))
        state = after


def test_the_cpu_has_the_compiled_form_and_other_devices_that_of_torch():
    posed = problem(CIRCUITS["rate"], 6, 4)
    assert type(groups_of(posed, bs.Exact())) is noisy.CompiledGroups
    assert type(groups_of(posed, bs.Exact(device="meta"))) is NoisyGroups


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # an import of it fails
import numpy as np, bioshare as bs
from bioshare.circuit.exact import groups_of
from bioshare.circuit.prepare import prepare_sleep
asked = np.eye(3), np.eye(3), bs.SteadyState(), bs.Hebbian(learning_rate=0.01)
print(bs.simulate(*asked).presentations)
noisy = prepare_sleep(*asked, noise=0.1, seed=0)
print(type(groups_of(noisy, bs.Exact(device="meta"))).__name__)
try:
    groups_of(noisy, bs.Exact())
except ImportError as error:
    print(error.name)
"""


def test_numba_is_loaded_for_noise_on_the_cpu_alone():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "NoisyGroups", "numba"]


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_for_this_process(monkeypatch):
    compile_anew, asked = numba.njit, []

    def njit(function, *, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_anew(function, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert noisy.compiled(lambda x: x + 1)(1) == 2
    assert asked == [True, False]
