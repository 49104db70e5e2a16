"""The engine "brian2": it computes what the exact engine does, and leaves the caller's Brian2 as it was."""

import logging
import math
import os
import signal
from functools import partial

import brian2 as b2
import numpy as np
import pytest
from brian2.devices.device import get_device, reset_device, set_device

import bioshare as bs

logging.getLogger("brian2").setLevel(logging.WARNING)  # its diagnostics would fill the report of a failing test

assert_close = partial(np.testing.assert_allclose, rtol=0)
STEADY = bs.SteadyState(np.array([2.0, 10.0]))
RATE = bs.RateCircuit(alpha=np.array([2.0, 10.0]), tau=10.0, dt=1.0, duration=12.0)
small_circuits = pytest.mark.parametrize("circuit", [STEADY, RATE], ids=["steady", "rate"])
RULE = bs.Hebbian(np.array([[0.1], [0.01]]), 0.9, learning_rate=1e-3)
PREFERENCES = "devices.cpp_standalone.openmp_threads", "core.default_float_dtype", "codegen.target"


def initial(*shape):
    return np.random.default_rng(0).normal(1, 1, shape)


def inputs(*shape):
    return np.random.default_rng(1).normal(size=shape)


def assert_agree(a, b, atol):
    for name in ("weights", "r", "r_inh", "neg_log_snr", "mean_norm", "mean_drift"):
        assert_close(getattr(a, name), getattr(b, name), atol=atol, err_msg=name)


@pytest.fixture
def runtime():
    """The runtime target with NumPy, which needs no compiler: the caller's preference."""
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"
    yield bs.Brian2(target="runtime")
    b2.prefs.codegen.target = before


@pytest.fixture
def callers_settings():
    """A caller with preferences and a clock of their own."""
    before, dt = {name: b2.prefs[name] for name in PREFERENCES}, b2.defaultclock.dt
    b2.prefs["devices.cpp_standalone.openmp_threads"] = 3
    b2.prefs["core.default_float_dtype"] = np.float32
    b2.prefs["codegen.target"] = "numpy"
    b2.defaultclock.dt = 0.37 * b2.ms
    yield
    for name, value in before.items():
        b2.prefs[name] = value
    b2.defaultclock.dt = dt


@pytest.fixture
def callers_device():
    """A caller with a standalone network that has been run but not built."""
    set_device("cpp_standalone", build_on_run=False)
    yield get_device()
    get_device().reinit()
    reset_device()


def settings():
    return {name: b2.prefs[name] for name in PREFERENCES}, b2.defaultclock.dt / b2.ms, get_device()


@pytest.mark.parametrize(
    ("k", "sigma"),
    [
        pytest.param(3, 0.0, id="k = 3, shared"),
        pytest.param(3, 0.1, id="k = 3, noisy", marks=pytest.mark.slow),
        pytest.param(9, 0.0, id="k = 9, shared", marks=pytest.mark.slow),
        pytest.param(9, 0.1, id="k = 9, noisy", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("timed", [False, True], ids=["steady", "rate"])
def test_standalone_and_exact_agree(timed, k, sigma):
    alpha, gamma = np.array([2.0, 10.0]), np.array([[0.1], [0.01], [0.001]])
    circuit = bs.RateCircuit(alpha=alpha) if timed else bs.SteadyState(alpha)
    schedule = bs.rules.InverseSqrtDecay(3e-4, 2, 50) if timed else bs.rules.InverseDecay(0.5, 1000)
    sleep = partial(
        bs.simulate, initial(30, k**2), bs.stimuli.noise(bs.stimuli.gaussian(), sigma), circuit,
        bs.Hebbian(gamma, 0.95, learning_rate=schedule), presentations=200, seed=4, progress=False,
    )  # fmt: skip
    assert_agree(sleep(engine="brian2"), sleep(engine="exact"), atol=1e-10)


@small_circuits
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_runtime_and_exact_agree(circuit, noisy, runtime):
    x = inputs(20, 3, 2) if noisy else inputs(20, 2)
    sleep = partial(bs.simulate, initial(3, 2), x, circuit, RULE, record_every=6, progress=False)
    run = sleep(engine=runtime)
    assert_agree(run, sleep(engine="exact"), atol=1e-11)
    assert run.presentation.tolist() == [0, 6, 12, 18, 20]


def test_the_ideal_circuit_and_a_single_run_work_too(runtime):
    sleep = partial(
        bs.simulate, initial(3, 2), inputs(20, 2), bs.SteadyState(), bs.Hebbian(learning_rate=1e-3), progress=False
    )
    assert_agree(sleep(engine=runtime), sleep(engine="exact"), atol=1e-11)


def test_callers_settings_neither_change_nor_matter(callers_settings, runtime):
    before = settings()
    sleep = partial(bs.simulate, initial(3, 2), inputs(20, 2), RATE, RULE, progress=False)
    assert_agree(sleep(engine=runtime), sleep(engine="exact"), atol=1e-11)
    assert settings() == before


@pytest.mark.parametrize("target", ["standalone", "runtime"])
def test_callers_settings_survive_an_error(target, callers_settings, callers_device, monkeypatch):
    before = settings()
    monkeypatch.setattr(b2.Network, "run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bs.simulate(initial(3, 2), inputs(20, 2), RATE, RULE, bs.Brian2(target))
    assert settings() == before
    assert get_device() is callers_device
    assert not callers_device.build_on_run


def test_a_callers_pending_network_is_not_touched(callers_settings, callers_device, runtime):
    group = b2.NeuronGroup(2, "dv/dt = 1/second : 1", method="euler", name="callers_group")
    b2.Network(group).run(10 * b2.ms)
    arrays, codes, before = list(callers_device.arrays), list(callers_device.code_objects), settings()
    bs.simulate(initial(3, 2), inputs(4, 2), RATE, RULE, runtime, progress=False)
    assert settings() == before
    assert (list(callers_device.arrays), list(callers_device.code_objects)) == (arrays, codes)
    assert not callers_device.build_on_run
    assert not callers_device.has_been_run


@pytest.mark.slow
def test_a_callers_pending_network_builds_and_runs_after_a_standalone_sleep_on_two_threads(callers_device, tmp_path):
    group = b2.NeuronGroup(2, "dv/dt = 1/second : 1", method="euler", name="callers_group")
    b2.Network(group).run(10 * b2.ms)
    before = settings()
    sleep = partial(bs.simulate, initial(3, 2), inputs(4, 2), RATE, RULE, progress=False)
    assert_agree(sleep(engine=bs.Brian2(threads=2)), sleep(engine="exact"), atol=1e-11)
    assert settings() == before
    callers_device.build(directory=tmp_path / "callers", run=True)
    assert_close(group.v[:], 0.01, atol=1e-12)


def test_a_callers_own_simulation_goes_on_after_a_sleep(runtime):
    group = b2.NeuronGroup(2, "dv/dt = 1/second : 1", method="euler")
    network = b2.Network(group)
    network.run(5 * b2.ms)
    bs.simulate(initial(3, 2), inputs(4, 2), RATE, RULE, runtime, progress=False)
    network.run(5 * b2.ms)
    assert_close(group.v[:], 0.01, atol=1e-12)


@small_circuits
def test_variables_of_the_caller_have_no_influence(circuit, runtime, monkeypatch):
    sleep = partial(bs.simulate, initial(3, 2), inputs(10, 2), circuit, RULE, runtime, progress=False)
    expected = sleep()
    names = "w", "w_init", "m", "r", "r_inh", "r_mean", "z", "tau", "alpha", "b", "beta", "gamma", "eta", "t", "N"
    for name in (*names, "x", "stimulus", "neurons", "second", "ms"):
        monkeypatch.setitem(globals(), name, 1e3 * b2.mV)
    w, r, tau, alpha, eta, neurons = 1e9, 2e9, 3 * b2.second, "strong", 7, 8  # noqa: F841
    assert_agree(sleep(), expected, atol=0)


@pytest.mark.parametrize("record_every", [1, 4, 50])
def test_a_sleep_that_diverges_is_refused_whatever_is_recorded(record_every, runtime):
    late = bs.Hebbian(0.01, 0.9, learning_rate=lambda k: np.where(k < 25 * 12, 1e-4, 10.0))
    sleep = partial(bs.simulate, initial(2, 3, 2), inputs(2, 33, 2), RATE, late, runtime, record_every)
    with pytest.raises(bs.DivergenceError, match="the weights diverged in presentation") as stopped:
        sleep(progress=False)
    assert 25 <= stopped.value.presentation <= 32
    assert "its learning rate reaches 10" in str(stopped.value)


def test_records_that_need_too_much_memory_are_refused_and_the_advice_works(runtime):
    sleep = partial(bs.simulate, initial(3, 2), inputs(20, 2), STEADY, RULE, progress=False)
    little = bs.Brian2(target="runtime", memory=1500)
    with pytest.raises(ValueError, match=r"record_every is too small.* Try \d+$") as refusal:
        sleep(engine=little)
    every = int(str(refusal.value).split("Try ")[1])
    assert sleep(engine=little, record_every=every).neg_log_snr.shape == (2, 2, 1 + math.ceil(20 / every))


def test_inputs_that_need_too_much_memory_are_refused():
    with pytest.raises(ValueError, match=r"presentations need 1\.3e\+03 bytes of inputs"):
        bs.simulate(initial(3, 2), inputs(20, 2), STEADY, RULE, bs.Brian2(memory=1000))


@pytest.mark.parametrize(
    ("given", "name"),
    [({"target": "gpu"}, "target"), ({"threads": 0}, "threads"), ({"target": "runtime", "threads": 2}, "threads")],
)
def test_impossible_settings_are_refused(given, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        bs.Brian2(**given)


RECTIFIED = "dr/dt = (-r + clip(z - alpha*r_inh + b, 0, inf)) / tau : 1"
PLAIN = bs.Hebbian(0.1, 0.0, learning_rate=1e-2)


def own(runtime, **equations):
    """A circuit of one's own, on the target that needs no compiler."""
    return bs.Brian2(runtime.target, **equations)


def rectified_by_hand(weights, stimuli, circuit, rule):
    """Rectified rates step by step: weights and rates after sleep."""
    w, r, r_inh, h = weights.copy(), np.zeros(len(weights)), 0.0, circuit.dt / circuit.tau
    for x in stimuli:
        for _ in range(circuit.updates_per_presentation):
            current = np.maximum(w @ x - circuit.alpha * r_inh + circuit.bias, 0.0)
            r, r_inh = r + h * (current - r), r_inh + h * (r.mean() - circuit.bias - r_inh)
            w = w - rule.learning_rate * ((r - circuit.bias)[:, None] * x + rule.gamma * (w - weights))
    return w, r


def test_neurons_of_ones_own_take_the_place_of_eq_8a(runtime):
    circuit = bs.RateCircuit(alpha=5.0, tau=10.0, bias=0.2, duration=12.0)
    w, x = initial(5, 2), inputs(20, 2)
    expected, rates = rectified_by_hand(w, x, circuit, PLAIN)
    run = bs.simulate(w, x, circuit, PLAIN, own(runtime, neurons=RECTIFIED), progress=False)
    assert_close(run.weights, expected, atol=1e-12)
    assert_close(run.r, rates, atol=1e-12)
    assert np.abs(run.weights - bs.simulate(w, x, circuit, PLAIN).weights).max() > 0.1


@pytest.mark.parametrize(
    "neurons", [RECTIFIED, "dv/dt = (-v + z - alpha*r_inh + b) / tau : 1\nr = clip(v, 0, inf) : 1"], ids=["rate", "v"]
)
def test_rectified_neurons_are_the_papers_where_the_bias_keeps_all_rates_positive(neurons, runtime):
    circuit = bs.RateCircuit(alpha=5.0, tau=10.0, bias=40.0, duration=12.0)
    x = np.concatenate([np.zeros((30, 2)), inputs(20, 2)])
    waiting = bs.Hebbian(0.1, 0.0, learning_rate=lambda k: np.where(k < 30 * 12, 0.0, 1e-2))
    sleep = partial(bs.simulate, initial(5, 2), x, circuit, waiting, progress=False)
    assert_agree(sleep(engine=own(runtime, neurons=neurons)), sleep(engine="exact"), atol=1e-11)


def test_inhibition_of_ones_own_takes_the_place_of_eq_8b(runtime):
    sleep = partial(bs.simulate, initial(3, 2), inputs(20, 2), rule=PLAIN, progress=False)
    twice = "dr_inh/dt = (-r_inh + 2*(r_mean - b)) / tau : 1"
    run = sleep(circuit=bs.RateCircuit(alpha=2.0), engine=own(runtime, inhibition=twice))
    paper = sleep(circuit=bs.RateCircuit(alpha=4.0), engine="exact")
    assert_close(run.weights, paper.weights, atol=1e-12)
    assert_close(run.r_inh, 2 * paper.r_inh, atol=1e-12)


def test_values_of_ones_own_are_those_before_sleep(runtime):
    """A gain of 1, and a potential that starts at rest, are Eq. 8."""
    w, x, circuit = initial(3, 2), inputs(8, 2), bs.RateCircuit(bias=20.0, duration=20.0, inhibitory_bias=True)
    sleep = partial(bs.simulate, w, x, circuit, RULE, progress=False)
    potential = "du/dt = (-u + gain*z - alpha*(r_inh - b) + b)/tau : 1\nr = clip(u, 0, inf) : 1\ngain : 1"
    given = own(runtime, neurons=potential, values={"u": 20.0, "gain": 1.0})
    assert_agree(sleep(engine=given), sleep(engine="exact"), atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_divergence_of_equations_of_ones_own_speaks_of_them(runtime):
    nothing = own(runtime, neurons="dr/dt = (-r + sqrt(z - 1000))/tau : 1")
    with pytest.raises(bs.DivergenceError, match=r"are no numbers, .* check neurons"):
        bs.simulate(initial(3, 2), inputs(4, 2), RATE, bs.Hebbian(learning_rate=0.0), nothing, progress=False)


def test_plasticity_of_ones_own_takes_the_place_of_eq_4(runtime):
    sleep = partial(bs.simulate, initial(3, 2), inputs(20, 2), RATE, progress=False)
    own_rule = own(runtime, plasticity="w -= eta(t)*((r_post - b_post)*x_pre + 0.1*(w - w_init))")
    expected = sleep(rule=PLAIN, engine="exact")
    assert_agree(sleep(rule=bs.Hebbian(0.7, 0.9, learning_rate=1e-2), engine=own_rule), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neurons": "dr/dt = -r"}, "neurons must be equations"),
        ({"neurons": "z : 1"}, "neurons must be equations"),
        ({"neurons": "dv/dt = -v/tau : 1"}, "neurons must say what r is"),
        ({"neurons": "dr/dt = -r/tau + xi/sqrt(tau) : 1"}, "neurons must have no xi"),
        ({"inhibition": "dr/dt = -r/tau : 1"}, "inhibition must say what r_inh is"),
        ({"plasticity": "m = r_post"}, "plasticity must change w"),
        ({"neurons": "dr/dt = (randn() - r)/tau : 1"}, "neurons must draw no random numbers"),
        ({"plasticity": "w += 0.1*rand()"}, "plasticity must draw no random numbers"),
        ({"plasticity": "theta += r_post\nw += m"}, r"plasticity has the unknown name theta .* defined in neurons="),
        ({"neurons": "r = z - r_inh : 1 (constant over dt)"}, 'neurons must have an equation "dr/dt'),
        ({"neurons": "u = z - r_inh : 1\nr = u : 1"}, 'neurons must have an equation "dr/dt'),
        ({"neurons": "dr/dt = (gain*z - r)/tau : 1\ngain : 1"}, "values must set the parameter gain"),
        ({"neurons": "dr/dt = (z - r)/tau : 1", "values": {"gain": 1.0}}, "values must be variables of neurons"),
        ({"values": {"gain": 1.0}}, "values must be of new variables; got gain"),
    ],
)
def test_equations_that_make_no_circuit_are_refused(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        bs.Brian2(**given)


@pytest.mark.parametrize("value", ["rand()", None, [1.0, 2.0], math.nan])
def test_values_that_are_no_numbers_are_refused(value):
    with pytest.raises(TypeError, match=r"^values must be finite numbers by name"):
        bs.Brian2(neurons="dr/dt = (gain*z - r)/tau : 1\ngain : 1", values={"gain": value})


def test_ctrl_c_ends_a_simulation_at_run_time(runtime, monkeypatch):
    """Brian2 by itself would end the run early, and go on as if it were complete."""
    next_clocks, steps = b2.Network._nextclocks, []

    def interrupted(network):
        steps.append(network)
        if len(steps) == 100:
            os.kill(os.getpid(), signal.SIGINT)
        return next_clocks(network)

    monkeypatch.setattr(b2.Network, "_nextclocks", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    before = b2.prefs["core.stop_on_keyboard_interrupt"]
    try:
        with pytest.raises(KeyboardInterrupt):
            bs.simulate(initial(3, 2), inputs(60, 2), RATE, RULE, runtime, progress=False)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(steps) < 110
    assert b2.prefs["core.stop_on_keyboard_interrupt"] == before


@pytest.mark.parametrize("name", ["neurons", "inhibition", "plasticity"])
def test_equations_that_are_not_text_are_refused(name):
    with pytest.raises(TypeError, match=f"^{name} must be None or text"):
        bs.Brian2(**{name: b2.Equations("dr/dt = -r/second : 1")})


def test_neurons_of_ones_own_are_refused_where_none_is_integrated(runtime):
    with pytest.raises(ValueError, match=r"^neurons must be None without a RateCircuit; got SteadyState"):
        bs.simulate(initial(3, 2), inputs(4, 2), bs.SteadyState(), RULE, own(runtime, neurons=RECTIFIED))
