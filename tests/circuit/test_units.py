"""Quantities with units: times become milliseconds, all others are refused; masked elements are not lost."""

import datetime
from functools import partial

import brian2 as b2
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import bioshare as bs

W = np.random.default_rng(0).normal(1, 1, (5, 3))
X = np.random.default_rng(1).normal(size=(4, 3))
RULE = partial(bs.Hebbian, learning_rate=1e-3)
FORMS = {
    "Brian2": lambda ms: ms * b2.ms,
    "seconds": lambda ms: ms / 1000 * b2.second,
    "0-d": lambda ms: b2.Quantity(np.array(ms) / 1000, dim=b2.second.dim),
    "datetime": lambda ms: datetime.timedelta(milliseconds=ms),
    "NumPy": lambda ms: np.timedelta64(round(1000 * ms), "us"),
}


class Foreign:
    """A quantity as pint, astropy, unyt and quantities have them: a magnitude, units and a conversion."""

    def __init__(self, magnitude, units):
        self.magnitude, self.units = magnitude, units

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.magnitude, dtype)

    def to(self, units):
        factors = {"s": 1000.0, "ms": 1.0}
        return Foreign(self.magnitude * factors[self.units] / factors[units], units)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("tau", "dt", "duration"), [(30.0, 1.0, 150.0), (20.0, 0.3, 0.9), (7.0, 0.1, 12.0)])
def test_times_with_a_unit_become_milliseconds(form, tau, dt, duration):
    circuit = bs.RateCircuit(tau=form(tau), dt=form(dt), duration=form(duration))
    assert circuit == bs.RateCircuit(tau=tau, dt=dt, duration=duration)
    assert [type(getattr(circuit, name)) for name in ("tau", "dt", "duration")] == [float] * 3
    assert "inf" not in repr(circuit)
    assert eval(repr(circuit), {"RateCircuit": bs.RateCircuit}) == circuit


@given(ms=st.integers(1, 10**6).map(lambda n: n / 1000))
def test_every_time_comes_back_as_the_number_in_milliseconds(ms):
    assert bs.RateCircuit(alpha=0.0, tau=1e4, dt=ms * b2.ms, duration=ms).dt == ms


@pytest.mark.parametrize(
    "tau",
    [
        np.array([20.0, 30.0]) * b2.ms,
        [20 * b2.ms, 0.03 * b2.second],
        (20.0, 30 * b2.ms),
        np.array([20, 30], "m8[ms]"),
        Foreign(np.array([0.02, 0.03]), "s"),
    ],
    ids=["array", "list", "mixed", "timedelta64", "foreign"],
)
def test_arrays_and_lists_of_times_become_milliseconds(tau):
    circuit = bs.RateCircuit(tau=tau)
    assert circuit.tau.tolist() == [20.0, 30.0]
    assert type(circuit.tau) is np.ndarray
    assert circuit == bs.RateCircuit(tau=np.array([20.0, 30.0]))


def test_a_sleep_with_times_in_units_is_the_sleep_in_milliseconds_and_is_recorded_so(tmp_path):
    circuit = bs.RateCircuit(tau=0.03 * b2.second, dt=1 * b2.ms, duration=150 * b2.ms)
    run, plain = (bs.simulate(W, X, c, RULE()) for c in (circuit, bs.RateCircuit()))
    assert np.array_equal(run.weights, plain.weights)
    attributes = run.to_xarray().attrs
    assert [attributes[name] for name in ("tau", "dt", "duration")] == [30.0, 1.0, 150.0]


@pytest.mark.parametrize("tau", [30 * b2.mV, 30 * b2.Hz, [30 * b2.mV], Foreign(30.0, "mV"), np.ones(2) * b2.mV])
def test_another_dimension_than_time_is_refused(tau):
    with pytest.raises(TypeError, match=r"^tau must be a positive time .* a plain number or a time with a unit; got"):
        bs.RateCircuit(tau=tau)


REFUSED = {
    "alpha": lambda q: bs.RateCircuit(alpha=q),
    "bias": lambda q: bs.RateCircuit(bias=q),
    "gamma": lambda q: RULE(gamma=q),
    "momentum": lambda q: RULE(momentum=q),
    "learning_rate": lambda q: bs.Hebbian(learning_rate=q),
    "scale": lambda q: bs.rules.InverseDecay(q),
    "offset": lambda q: bs.rules.InverseDecay(0.5, q),
    "period": lambda q: bs.rules.InverseSqrtDecay(period=q),
    "rate": lambda q: bs.rules.Gated(q),
    "mean": lambda q: bs.stimuli.gaussian(mean=q),
    "std": lambda q: bs.stimuli.gaussian(std=q),
    "amplitude": lambda q: bs.stimuli.grid(amplitude=q),
    "noise": lambda q: bs.stimuli.noise(bs.stimuli.grid(), q),
    "gain": lambda q: bs.Sleep(bs.SteadyState(), RULE(), bs.stimuli.grid(), 3, gain=q),
}


@pytest.mark.parametrize("unit", [b2.mV, b2.ms, b2.Hz], ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_a_unit_where_a_plain_number_belongs_is_refused(name, unit):
    for value in (0.5 * unit, [0.5 * unit, 0.2 * unit], datetime.timedelta(1), np.timedelta64(1, "ms")):
        with pytest.raises(TypeError, match=rf"^{name} must be .* a plain number without a unit; got"):
            REFUSED[name](value)


@pytest.mark.parametrize("quantity", [W * b2.mV, [list(row * b2.mV) for row in W], Foreign(W, "mV")], ids=type)
def test_weights_stimuli_and_the_arguments_of_theory_have_no_unit(quantity):
    with pytest.raises(TypeError, match=r"^weights must be an array of real numbers"):
        bs.simulate(quantity, X, bs.SteadyState(), RULE())
    with pytest.raises(TypeError, match=r"^stimuli must be an array of real numbers"):
        bs.simulate(W, quantity, bs.SteadyState(), RULE())
    with pytest.raises(TypeError, match=r"^weights must be"):
        bs.theory.neg_log_snr(quantity)
    with pytest.raises(TypeError, match=r"^w_init must be"):
        bs.theory.fixed_point_white(quantity, 0.1)


def test_a_schedule_returns_plain_rates():
    with pytest.raises(TypeError, match=r"^learning_rate must be a callable that returns an array of rates"):
        bs.simulate(W, X, bs.SteadyState(), bs.Hebbian(learning_rate=lambda k: 1e-3 * np.ones(len(k)) * b2.Hz))


def test_theory_takes_times_with_units_in_milliseconds():
    assert bs.theory.max_dt(59.0, 30 * b2.ms) == bs.theory.max_dt(59.0, 30.0) == 1.0
    assert bs.theory.max_alpha(1 * b2.ms, 0.03 * b2.second) == 59.0
    with pytest.raises(TypeError, match=r"^tau must be"):
        bs.theory.max_dt(10.0, 30 * b2.mV)


@pytest.mark.parametrize("value", [b2.Quantity(0.5), 5 * b2.mV / (10 * b2.mV), Foreign(0.5, "dimensionless")])
def test_numbers_without_a_dimension_are_taken(value):
    assert RULE(gamma=value).gamma == 0.5


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("weights", lambda m: bs.simulate(m, X, bs.SteadyState(), RULE())),
        ("stimuli", lambda m: bs.simulate(W, m[:4], bs.SteadyState(), RULE())),
        ("gamma", lambda m: RULE(gamma=m[0])),
        ("tau", lambda m: bs.RateCircuit(alpha=0.0, tau=m[0], dt=0.01)),
        ("weights", lambda m: bs.theory.snr(m)),
        ("weights", lambda m: bs.simulate(list(m), X, bs.SteadyState(), RULE())),
    ],
)
def test_masked_elements_are_refused_and_a_mask_without_any_is_not(name, make):
    masked = np.ma.array(np.abs(W), mask=np.zeros(W.shape, bool))
    make(masked)
    masked[0, 1] = np.ma.masked
    with pytest.raises(ValueError, match=rf"^{name} must have no masked elements; set them first, as in {name}.filled"):
        make(masked)


def test_tensors_and_plain_arrays_are_as_before():
    plain = bs.simulate(W, X, bs.SteadyState(), RULE()).weights
    for given_ in (torch.tensor(W, requires_grad=True), W.tolist(), np.ma.array(W)):
        assert np.array_equal(bs.simulate(given_, X, bs.SteadyState(), RULE()).weights, plain)


def test_a_time_of_xarray_is_in_milliseconds_or_refused():
    time = lambda units: xr.DataArray(30.0, attrs={"units": units})
    assert bs.RateCircuit(tau=time("ms")).tau == 30.0
    with pytest.raises(TypeError, match=r"^tau must be .*, with the units ms; got 's'"):
        bs.RateCircuit(tau=time("s"))
