"""Typing errors in equations of one's own, and machines without a compiler: one sentence with what to change."""

import gc
import logging

import brian2 as b2
import numpy as np
import pytest

import bioshare as bs

W, X, RULE = np.random.default_rng(0).normal(1, 1, (3, 2)), np.ones((2, 2)), bs.Hebbian(learning_rate=1e-3)


@pytest.mark.parametrize(
    ("given", "name", "equation", "remedy"),
    [
        ({"neurons": "dr/dt = (-r + z - alfa*r_inh + b) / tau : 1"}, "alfa", "dr/dt = ", "did you mean alpha"),
        ({"neurons": "dr/dt = -r/tua : 1\na = r : 1"}, "tua", "dr/dt = ", "did you mean tau"),
        ({"neurons": "dr/dt = -r/tau : 1\na = qqq : 1"}, "qqq", "a = qqq", "the names are "),
        ({"neurons": "r = clp(z, 0, inf) : 1"}, "clp", "r = clp", "the names are "),
        (
            {"inhibition": "dr_inh/dt = (-r_inh + r_maen - b) / tau : 1"},
            "r_maen",
            "dr_inh/dt = ",
            "did you mean r_mean",
        ),
        ({"inhibition": "dr_inh/dt = (-r_inh + z) / tau : 1"}, "z", "dr_inh/dt = ", "the names are "),
        ({"plasticity": "m = etta(t)*x_pre\nw += m"}, "etta", "m = etta", "did you mean eta"),
        ({"plasticity": "w -= eta(t)*(r_pots - b_post)*x_pre"}, "r_pots", "w -= ", "did you mean r_post"),
    ],
)
def test_an_unknown_name_is_refused_with_the_equation_and_the_name(given, name, equation, remedy):
    with pytest.raises(ValueError, match=rf"^\w+ has the unknown name {name} in ") as refusal:
        bs.Brian2(**given)
    message = str(refusal.value)
    assert message.startswith(next(iter(given)))
    assert f'in "{equation}' in message
    assert remedy in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    "given",
    [
        {"neurons": "dr/dt = (-r + clip(z - alpha*r_inh + b, 0, inf)) / tau : 1"},
        {"neurons": "dr/dt = (-r + z - a)/tau : 1\nda/dt = (-a + 0.5*(r - b)) / (200*ms) : 1"},
        {"neurons": "dr/dt = (-r + z*exp(-t/second) + sin(2*pi*t/second) + i)/tau : 1"},
        {"inhibition": "dr_inh/dt = (-r_inh + clip(r_mean, 0, inf)) / tau : 1"},
        {"plasticity": "change = eta(t)*(r_post - b_post)*x_pre  # Eq. 4\nw -= change + 0*(i + j)"},
        {"neurons": "r = z + b + a : 1\nda/dt = (1 - a)/tau : 1", "plasticity": "w -= eta(t)*a_post*x_pre"},
    ],
)
def test_all_names_with_a_meaning_are_taken_and_run(given, monkeypatch):
    monkeypatch.setitem(b2.prefs, "codegen.target", "numpy")
    engine, circuit = bs.Brian2("runtime", **given), bs.RateCircuit(duration=5.0)
    run = bs.simulate(W, X, circuit, RULE, engine, progress=False)
    assert np.isfinite(run.weights).all()
    assert not np.array_equal(run.weights, W)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"neurons": "dr/dt = (-r + z - alpha*r_inh + b) : 1"}, "unit"),
        ({"inhibition": "dr_inh/dt = (-r_inh + r_mean - tau) / tau : 1"}, "unit"),
    ],
)
def test_wrong_units_are_a_sentence_with_the_equations(given, cause):
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"
    with pytest.raises(ValueError, match=rf'^{next(iter(given))}=".*" cannot be simulated: .*{cause}') as refusal:
        bs.simulate(W, X, bs.RateCircuit(), RULE, bs.Brian2("runtime", **given), progress=False)
    b2.prefs.codegen.target = before
    assert "\n" not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("name", ["bioshare_input", "mine"])
def test_objects_of_a_refused_circuit_are_deleted_without_a_warning_unlike_objects_of_others(name):
    """Brian2 warns when an object that was in no network is deleted."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("brian2.core.base.unused_brian_object")
    logger.addHandler(handler)
    try:
        group = b2.NeuronGroup(1, "x : 1", name=f"{name}*")
        del group
        gc.collect()
    finally:
        logger.removeHandler(handler)
    assert [name in record.getMessage() for record in records] == ([True] if name == "mine" else [])


def test_without_a_compiler_the_message_says_what_to_install_and_what_does_without(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        RuntimeError, match=r'needs a C\+\+ compiler and make; not found: make, g\+\+.*target="runtime"'
    ):
        bs.simulate(W, X, bs.SteadyState(), RULE, "brian2", progress=False)
