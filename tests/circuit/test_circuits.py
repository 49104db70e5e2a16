"""Parameters that make no sense are refused on creation, with what to change."""

import dataclasses
from functools import partial

import numpy as np
import pytest

import bioshare as bs
from bioshare import theory

nan, inf = np.nan, np.inf


@pytest.mark.parametrize("alpha", [-1.0, nan, -inf, [10.0, -1.0]])
def test_steady_state_refuses_an_impossible_inhibition(alpha):
    with pytest.raises(ValueError, match=r"alpha must be a strength of inhibition >= 0; got (-1|nan|-inf)"):
        bs.SteadyState(alpha)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -1.0),
        ("alpha", nan),
        ("alpha", inf),
        ("tau", 0.0),
        ("tau", -30.0),
        ("tau", nan),
        ("tau", [30.0, -1.0]),
        ("bias", nan),
        ("bias", inf),
        ("dt", 0.0),
        ("dt", -1.0),
        ("dt", nan),
        ("duration", 0.0),
        ("duration", -150.0),
        ("duration", inf),
    ],
)
def test_rate_circuit_refuses_an_impossible_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        bs.RateCircuit(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("tau", "slow"), ("alpha", {}), ("dt", [1.0, 2.0]), ("duration", [150])])
def test_rate_circuit_refuses_what_is_not_a_number(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        bs.RateCircuit(**{name: value})


@pytest.mark.parametrize(("duration", "dt"), [(150.0, 151.0), (150.0, 40.0), (1.0, 0.3)])
def test_a_dt_that_does_not_divide_the_duration_is_refused_and_the_advice_works(duration, dt):
    circuit = partial(bs.RateCircuit, alpha=0.0, tau=1000.0)
    with pytest.raises(ValueError, match=r"duration must be a multiple of dt; got .* Try duration=") as refusal:
        circuit(duration=duration, dt=dt)
    other_duration, other_dt = map(float, str(refusal.value).split("Try duration=")[1].split(", or dt="))
    assert circuit(duration=other_duration, dt=dt).updates_per_presentation == max(1, duration // dt)
    assert circuit(duration=duration, dt=other_dt).updates_per_presentation == duration // dt + 1


@pytest.mark.parametrize(("duration", "dt", "updates"), [(150.0, 1.0, 150), (150.0, 0.1, 1500), (0.3, 0.1, 3)])
def test_dt_divides_the_duration_up_to_rounding(duration, dt, updates):
    assert bs.RateCircuit(duration=duration, dt=dt).updates_per_presentation == updates


def test_the_steady_state_is_updated_once_per_presentation():
    assert bs.SteadyState(10.0).updates_per_presentation == 1


@pytest.mark.parametrize(("tau", "alpha"), [(30.0, 59.0), (30.0, 100.0), ([30.0, 5.0], 10.0), (30.0, [10.0, 60.0])])
def test_a_dt_above_the_stability_limit_is_refused_with_the_largest_that_works(tau, alpha):
    largest = np.min(theory.max_dt(alpha, tau))
    with pytest.raises(ValueError, match=rf"dt=1 ms is unstable.* = {largest:g} ms here"):
        bs.RateCircuit(alpha=alpha, tau=tau, dt=1.0)
    assert bs.RateCircuit(alpha=58.9, tau=30.0, dt=1.0).alpha == 58.9


def test_parameters_cannot_be_changed():
    given = np.array([1.0, 2.0])
    circuit = bs.SteadyState(given)
    given[0] = -1
    assert circuit.alpha[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        circuit.alpha[0] = -1
    with pytest.raises(dataclasses.FrozenInstanceError):
        circuit.alpha = 3.0


def test_circuits_with_equal_parameters_are_equal():
    assert bs.SteadyState([1.0, 2.0]) == bs.SteadyState(np.array([1, 2]))
    assert hash(bs.RateCircuit(alpha=[1.0, 2.0])) == hash(bs.RateCircuit(alpha=(1.0, 2.0)))
    assert bs.SteadyState([1.0, 2.0]) != bs.SteadyState([1.0, 3.0])
    assert bs.SteadyState(1.0) != bs.RateCircuit(alpha=1.0)


def test_a_circuit_prints_as_it_is_made():
    circuit = bs.RateCircuit(alpha=10.0, dt=0.5)
    assert eval(repr(circuit), {"RateCircuit": bs.RateCircuit}) == circuit
