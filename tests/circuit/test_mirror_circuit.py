"""The weight mirror in time: three engines agree, a mirror is a linear map, and B becomes a multiple of W."""

import dataclasses
from functools import partial

import brian2 as b2
import numpy as np
import pytest
import xarray as xr
from brian2.devices.device import get_device
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import bioshare as bs

assert_close = partial(np.testing.assert_allclose, rtol=0)
STATE = "feedback", "angle", "ratio", "y", "below", "above", "presentation"
SMALL = bs.MirrorCircuit(tau=10.0, tau_crosstalk=4.0, rate=0.01, duration=12.0, gate=5.0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def assert_agree(a, b):
    for name in STATE:
        assert_close(getattr(a, name), getattr(b, name), atol=1e-10, err_msg=name)


@pytest.fixture
def numpy_in_brian():
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = "numpy"  # no compiler
    yield
    b2.prefs.codegen.target = before


@given(
    tau=st.floats(1, 50),
    tau_crosstalk=st.floats(1, 50),
    baseline=st.floats(-2, 2),
    rate=st.floats(1e-4, 0.2),
    decay=st.floats(0, 3),
    gate=st.none() | st.integers(1, 6).map(float),
    record_every=st.integers(1, 4),
)
def test_exact_and_loop_agree(record_every, **parameters):
    circuit = bs.MirrorCircuit(**parameters, duration=6.0)
    mirror = partial(bs.simulate_mirror, normal(0, 3, 4), normal(1, 7, 4), circuit, feedback=normal(2, 3, 4))
    assert_agree(mirror("exact", record_every), mirror("loop", record_every))


def test_three_engines_agree_over_leading_axes(numpy_in_brian):
    tau, rate = np.array([[10.0], [20.0]]), np.array([0.01, 0.02, 0.03])
    circuit = bs.MirrorCircuit(tau, 4.0, rate=rate, duration=12.0, gate=5.0)
    mirror = partial(bs.simulate_mirror, normal(0, 3, 2, 4), normal(1, 5, 4), circuit, feedback=normal(2, 2, 1, 2, 4))
    device, floats = get_device(), b2.prefs["core.default_float_dtype"]
    runs = [mirror(engine, 2) for engine in ("exact", "loop", "brian2")]
    assert runs[0].feedback.shape == (2, 3, 2, 4)
    assert_agree(runs[0], runs[1])
    assert_agree(runs[0], runs[2])
    assert (get_device(), b2.prefs["core.default_float_dtype"]) == (device, floats)


def test_many_presentations_in_parts_agree_with_the_loop():
    circuit = dataclasses.replace(SMALL, duration=3.0, gate=None)
    mirror = partial(bs.simulate_mirror, normal(0, 2, 3), normal(1, 600, 3), circuit, record_every=280)
    assert_agree(mirror("exact"), mirror("loop"))
    assert mirror().presentation.tolist() == [0, 280, 560, 600]


def test_small_steps_come_to_the_solution_of_the_differential_equations():
    """An integrator with adaptive steps, one presentation after another, as the oracle."""
    w, x, rate, decay, tau, tau_c = normal(0, 2, 3), normal(1, 2, 3), 0.02, 0.7, 10.0, 4.0

    def slope(_, state, x):
        y, above, below, b = np.split(state, [2, 4, 7])
        b = rate * (np.outer(above - 1, below - 1) - decay * b.reshape(2, 3))
        return np.concatenate([(-y + w @ x + 1) / tau, (-above + y) / tau_c, (-below + x + 1) / tau_c, b.ravel()])

    state = np.concatenate([np.ones(7), np.zeros(6)])
    for held in x:
        state = solve_ivp(slope, (0, 12), state, args=(held,), rtol=1e-10, atol=1e-12).y[:, -1]
    error = []
    for dt in (0.02, 0.01):
        run = bs.simulate_mirror(w, x, bs.MirrorCircuit(tau, tau_c, 1.0, rate, decay, dt, duration=12.0))
        found = np.concatenate([run.y, run.above, run.below, run.feedback.ravel()])
        error.append(np.abs(found - state).max())
    assert error[1] < 1e-3
    assert error[0] / error[1] == pytest.approx(2, abs=0.05)  # Euler's method is of first order


def test_a_mirror_is_a_linear_map_of_the_weights_and_of_the_feedback_before():
    """B_T = (1 - L)^T B_0 + W S: S comes from the columns of the identity, and serves any number of neurons."""
    x = normal(1, 9, 4)
    mirror = bs.mirror_map(x, SMALL)
    assert float(mirror.kept) == pytest.approx((1 - SMALL.forgetting) ** 9, abs=1e-12)
    assert_close(mirror.S, bs.simulate_mirror(np.eye(4), x, SMALL, "loop").feedback, atol=1e-12)
    for w, b in ((normal(2, 5, 4), normal(3, 5, 4)), (normal(4, 2, 1, 4), normal(5, 1, 4))):
        assert_close(mirror(w, b), bs.simulate_mirror(w, x, SMALL, "loop", feedback=b).feedback, atol=1e-12)
    drawn = bs.mirror_map(bs.stimuli.gaussian(), SMALL, inputs=4, presentations=9, seed=3)
    of_drawn = bs.mirror_map(bs.stimuli.gaussian().draw(9, 4, seed=3), SMALL)
    assert np.array_equal(drawn.S, of_drawn.S)


def test_feedback_becomes_a_multiple_of_the_weights():
    """White noise of variance 1: gain / decay times W."""
    decay = np.array([0.5, 1.0])
    circuit = bs.MirrorCircuit(rate=1e-4, decay=decay, gate=50.0)
    w = normal(0, 30, 9)
    run = bs.simulate_mirror(w, bs.stimuli.grid(amplitude=3.0), circuit, presentations=4500, seed=0, record_every=900)
    gain = bs.theory.mirror_gain(bs.MirrorCircuit(gate=50.0))
    assert_close(run.ratio[:, -1], gain / decay, atol=0.02)
    assert (run.angle[:, -1] < 3).all()
    assert np.isnan(run.angle[:, 0]).all()
    assert (run.ratio[:, 0] == 0).all()


def test_feedback_does_not_depend_on_the_baseline_and_rates_are_higher_by_it():
    runs = [
        bs.simulate_mirror(normal(0, 3, 4), normal(1, 5, 4), dataclasses.replace(SMALL, baseline=beta))
        for beta in (0.0, 7.0)
    ]
    assert_close(runs[0].feedback, runs[1].feedback, atol=1e-12)
    for name in ("y", "below", "above"):
        assert_close(getattr(runs[0], name) + 7, getattr(runs[1], name), atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_above_the_smallest_baseline_no_rate_is_negative_at_any_time(seed):
    w, x = normal(seed, 6, 4), normal(seed + 10, 3, 4)
    smallest = bs.theory.mirror_baseline(w, x)
    circuit = dataclasses.replace(SMALL, baseline=float(smallest))
    in_time = dataclasses.replace(circuit, duration=1.0, gate=None)  # a state after every time step
    rates = []
    for steps in range(1, 16):
        run = bs.simulate_mirror(w, x.repeat(5, 0)[:steps], in_time)
        rates.append(min(run.y.min(), run.above.min(), run.below.min(), (x + smallest).min()))
    assert min(rates) >= -1e-12
    lasting = dataclasses.replace(circuit, duration=400.0)
    ends = [bs.simulate_mirror(w, held[None], lasting) for held in x]
    assert min(min(run.y.min(), run.below.min()) for run in ends) == pytest.approx(0, abs=1e-6)


def test_inputs_of_a_stimulus_and_of_a_function_are_those_of_the_seed():
    w = normal(0, 2, 3, 4)
    mirror = partial(bs.simulate_mirror, w, circuit=SMALL, presentations=6)
    a, b, c = (mirror(bs.stimuli.gaussian(), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(a.feedback, b.feedback)
    assert not np.array_equal(a.feedback, c.feedback)
    x = bs.stimuli.gaussian().draw(6, 4, seed=1, batch=(2,))
    assert np.array_equal(a.feedback, bs.simulate_mirror(w, x, SMALL).feedback)
    of_function = mirror(lambda presentations, inputs, rng: rng.normal(size=(presentations, inputs)), seed=1)
    assert np.array_equal(a.feedback, of_function.feedback)


def test_labelled_axes_units_and_netcdf(tmp_path):
    circuit = dataclasses.replace(SMALL, rate=np.array([[0.01], [0.02]]), gate=None)
    run = bs.simulate_mirror(normal(0, 5, 3, 4), bs.stimuli.grid(), circuit, record_every=2, presentations=7, seed=0)
    data = run.to_xarray()
    assert dict(data.sizes) == {"rate": 2, "run": 5, "neuron": 3, "input": 4, "presentation": 5}
    assert data.feedback.dims == data.weights.dims == ("rate", "run", "neuron", "input")
    assert data.angle.dims == data.ratio.dims == ("rate", "run", "presentation")
    assert (data.y.dims[-1], data.above.dims[-1], data.below.dims[-1]) == ("neuron", "neuron", "input")
    assert (data.rate.attrs["units"], data.angle.attrs["units"]) == ("ms-1", "degree")
    expected = {"tau": 10.0, "duration": 12.0, "gate": "none", "presentations": 7, "seed": 0, "engine": "exact"}
    assert {name: data.attrs[name] for name in expected} == expected
    data.to_netcdf(tmp_path / "mirror.nc")
    with xr.open_dataset(tmp_path / "mirror.nc") as read:
        xr.testing.assert_identical(read.load(), data)


@pytest.mark.parametrize("gate", [None, 5.0])
def test_a_mirror_comes_back_from_a_file(gate, tmp_path):
    circuit = dataclasses.replace(SMALL, tau=np.array([[[10.0]], [[20.0]]]), rate=np.array([0.01, 0.02]), gate=gate)
    w, stimulus = normal(0, 2, 3, 2, 3, 4), bs.stimuli.gaussian()
    run = bs.simulate_mirror(w, stimulus, circuit, record_every=2, presentations=7, seed=3)
    run.to_xarray().to_netcdf(tmp_path / "mirror.nc")
    back = bs.MirrorRun.load(tmp_path / "mirror.nc")
    for name in ("weights", *STATE):
        assert np.array_equal(getattr(back, name), getattr(run, name), equal_nan=True), name
    assert (back.engine, back.stimulus, back.seed, back.presentations) == ("exact", stimulus, 3, 7)
    assert back.circuit.gate == gate
    assert len(run.to_dataframe()) == 12 * len(run.presentation)
    again = bs.simulate_mirror(back.weights, back.stimulus, back.circuit, presentations=7, seed=back.seed)
    assert_close(again.feedback, run.feedback, atol=1e-12)
    of_array = bs.simulate_mirror(normal(0, 3, 4), normal(1, 5, 4), SMALL)
    of_array.to_xarray().to_netcdf(tmp_path / "array.nc")
    back = bs.MirrorRun.load(tmp_path / "array.nc")
    assert (back.stimulus, back.seed) == (None, None)
    assert repr(back) == repr(of_array)


def test_a_file_without_a_mirror_is_refused(tmp_path):
    xr.Dataset({"weights": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=r"^path must be a file of MirrorRun"):
        bs.MirrorRun.load(tmp_path / "other.nc")


def test_the_figure_has_the_records_as_lines():
    circuit = dataclasses.replace(SMALL, rate=np.array([0.01, 0.02]))
    run = bs.simulate_mirror(normal(0, 3, 4), normal(1, 5, 4), circuit)
    angle, ratio = run.plot().axes
    for panel, values in ((angle, run.angle), (ratio, run.ratio)):
        assert len(panel.lines) == 2
        for line, expected in zip(panel.lines, values, strict=True):
            assert np.array_equal(line.get_ydata(), expected, equal_nan=True)
    assert [text.get_text() for text in angle.get_legend().get_texts()] == ["rate = 0.01", "rate = 0.02"]
    assert "5 presentations" in repr(run)


def test_times_with_units_are_milliseconds():
    assert bs.MirrorCircuit(0.03 * b2.second, gate=50 * b2.ms) == bs.MirrorCircuit(30.0, gate=50.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tau": 0.0}, "tau must be a time in milliseconds; got 0"),
        ({"rate": 0.0}, "rate must be a positive learning rate per millisecond; got 0"),
        ({"decay": -1.0}, "decay must be a finite decay >= 0; got -1"),
        ({"dt": 20.0, "duration": 100.0}, "dt must be at most tau and tau_crosstalk, 10 ms; got 20"),
        ({"duration": 100.5}, r"duration must be a multiple of dt; got duration=100\.5 ms, dt=1 ms\. Try duration=100"),
        ({"gate": 0.4}, r"gate must be a multiple of dt; got gate=0\.4 ms, dt=1 ms\. Try gate=1"),
        ({"gate": 151.0}, "gate must be at most duration=150 ms; got 151"),
        ({"rate": 2.0}, r"rate \* decay \* dt must be at most 1"),
    ],
)
def test_parameters_without_sense_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        bs.MirrorCircuit(**parameters)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {"stimuli": np.ones((5, 3))}, r"stimuli must be \(\.\.\., P, 4\)"),
        (ValueError, {"feedback": np.ones((2, 4))}, r"feedback must be \(\.\.\., N, K\) as weights, \(3, 4\)"),
        (ValueError, {"stimuli": np.ones((2, 5, 4)), "feedback": np.ones((3, 3, 4))}, r"leading axes .*stimuli \(2,\)"),
        (TypeError, {"circuit": bs.RateCircuit()}, "circuit must be a MirrorCircuit"),
        (ValueError, {"engine": "euler"}, "engine must be one of 'exact', 'brian2', 'loop'; got 'euler'"),
        (TypeError, {"seed": 3}, "presentations and seed belong to a Stimulus"),
        (TypeError, {"stimuli": bs.stimuli.grid()}, "presentations and seed are needed"),
        (ValueError, {"record_every": 0}, "record_every must be"),
    ],
)
def test_arguments_without_sense_are_refused(error, arguments, message):
    valid = {"weights": normal(0, 3, 4), "stimuli": normal(1, 5, 4), "circuit": SMALL}
    with pytest.raises(error, match=message):
        bs.simulate_mirror(**valid | arguments)


def test_maps_beyond_the_memory_are_refused():
    many = bs.MirrorCircuit(tau=np.linspace(10, 20, 20_000), duration=1.0)
    with pytest.raises(
        ValueError, match=r"stimuli must be smaller: 20000 maps of 3000 x 3000 numbers need 1\.44e\+03 GB"
    ):
        bs.mirror_map(np.ones((1, 3000)), many)


def test_inputs_of_their_own_for_every_neuron_are_refused():
    noisy = bs.stimuli.noise(bs.stimuli.grid(), 0.1)
    with pytest.raises(ValueError, match="stimuli must be the same for all neurons of a layer"):
        bs.simulate_mirror(normal(0, 3, 4), noisy, SMALL, presentations=2, seed=0)
    with pytest.raises(TypeError, match="inputs, the number K of weights per neuron, is needed"):
        bs.mirror_map(bs.stimuli.grid(), SMALL, presentations=2, seed=0)
    mirror = bs.mirror_map(normal(0, 5, 4), SMALL)
    with pytest.raises(ValueError, match="weights must have 4 inputs as this map"):
        mirror(normal(1, 3, 5))
    with pytest.raises(ValueError, match=r"feedback must be .* \(3, 4\); got shape \(2, 4\)"):
        mirror(normal(1, 3, 4), normal(2, 2, 4))
