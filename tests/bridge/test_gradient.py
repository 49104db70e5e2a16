"""Gradients through a sleep: the weights of `simulate`, and derivatives equal to its differences."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bioshare as bs
from bioshare.bridge.gradient import differentiable_sleep
from bioshare.circuit.problem import DivergenceError

CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady state": bs.SteadyState(3.0),
    "rate circuit": bs.RateCircuit(5.0, 10.0, 0.3, duration=12.0),
    "bias in both neurons": bs.RateCircuit(5.0, 10.0, 0.3, duration=12.0, inhibitory_bias=True),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
DECAY = bs.rules.InverseDecay(0.5, 40.0)
RULE = bs.Hebbian(gamma=0.2, momentum=0.6, learning_rate=DECAY)


def drawn(neurons=5, inputs=3, presentations=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, (neurons, inputs)), rng.normal(size=(presentations, inputs))


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def gradient(tensor):
    assert tensor.grad is not None
    return tensor.grad.numpy()


@settings(max_examples=30, deadline=None)
@given(
    circuit=st.sampled_from(list(CIRCUITS.values())), gamma=st.floats(0.0, 1.0), momentum=st.floats(0.0, 0.9),
    neurons=st.integers(1, 12), inputs=st.integers(1, 9), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_weights_are_those_of_simulate(circuit, gamma, momentum, neurons, inputs, seed):
    w, x = drawn(neurons, inputs, seed=seed)
    rule = bs.Hebbian(gamma, momentum, learning_rate=bs.rules.InverseDecay(0.1, 50.0))
    expected = bs.simulate(w, x, circuit, rule, "loop", progress=False).weights
    slept = differentiable_sleep(torch.from_numpy(w), x, circuit, rule)
    np.testing.assert_allclose(slept, expected, rtol=0, atol=1e-10)


@circuits
def test_leading_axes_of_the_weights_are_groups(circuit):
    x, groups = drawn()[1], np.stack([[drawn(seed=3 * i + j)[0] for j in range(3)] for i in range(2)])
    slept = differentiable_sleep(torch.from_numpy(groups), x, circuit, RULE)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(slept[i, j], bs.simulate(groups[i, j], x, circuit, RULE).weights, rtol=0, atol=1e-10)


@circuits
def test_gradients_are_the_differences_of_simulate(circuit):
    """Of -log SNR, with respect to alpha, gamma, the learning rate of every update, weights and stimuli."""
    w, x = drawn()
    rates = RULE.rates(len(x) * circuit.updates_per_presentation)
    values = {"alpha": np.array(4.0), "gamma": np.array(0.2), "learning_rate": rates, "weights": w, "stimuli": x}

    def simulated(alpha, gamma, learning_rate, weights, stimuli):
        rule = dataclasses.replace(RULE, gamma=gamma, learning_rate=bs.rules.Tabulated(learning_rate))
        return bs.simulate(weights, stimuli, dataclasses.replace(circuit, alpha=alpha), rule).neg_log_snr[-1]

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
    slept = differentiable_sleep(circuit=circuit, rule=RULE, **tensors)
    (slept.var(0, correction=0) / slept.mean(0) ** 2).mean().log().backward()
    rng = np.random.default_rng(1)
    for name, value in values.items():
        direction = rng.normal(size=value.shape) * (np.abs(value) if name == "learning_rate" else 1.0)
        up, down = (simulated(**(values | {name: value + sign * 1e-5 * direction})) for sign in (1, -1))
        along = float((gradient(tensors[name]) * direction).sum())
        assert abs(along) > 1e-4, name
        assert along == pytest.approx((up - down) / 2e-5, rel=0, abs=1e-6), name


@circuits
def test_pytorchs_own_check_of_gradients_passes(circuit):
    w, x = drawn(neurons=3, inputs=2, presentations=4)
    scale = torch.from_numpy(RULE.rates(len(x) * circuit.updates_per_presentation))
    sleep = lambda weights, stimuli, alpha, gamma, rate: differentiable_sleep(
        weights, stimuli, circuit, RULE, alpha=alpha, gamma=gamma, learning_rate=rate * scale
    )
    tensors = (torch.tensor(w, requires_grad=True), torch.tensor(x, requires_grad=True))
    assert torch.autograd.gradcheck(sleep, (*tensors, scalar(4.0), scalar(0.2), scalar(1.0)), atol=1e-7, rtol=0)


def test_the_derivative_of_a_mean_with_respect_to_alpha_and_a_constant_rate_is_the_closed_form():
    """One input held for P presentations without pull and momentum: mu (1 - eta / (1 + alpha))^P."""
    alpha, eta = scalar(4.0), scalar(0.3)
    rule = bs.Hebbian(0.0, 0.0, learning_rate=0.1)
    w = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    slept = differentiable_sleep(w, np.ones((6, 1)), bs.SteadyState(), rule, alpha=alpha, learning_rate=eta)
    slept.mean().backward()
    left = 1 - 0.3 / 5
    assert slept.mean().item() == pytest.approx(2 * left**6, rel=0, abs=1e-14)
    assert gradient(alpha) == pytest.approx(12 * left**5 * 0.3 / 25, rel=0, abs=1e-14)
    assert gradient(eta) == pytest.approx(-12 * left**5 / 5, rel=0, abs=1e-14)


def test_deviations_do_not_depend_on_alpha():
    (w, x), alpha = drawn(), scalar(4.0)
    slept = differentiable_sleep(torch.from_numpy(w), x, CIRCUITS["rate circuit"], RULE, alpha=alpha)
    (slept - slept.mean(0)).square().sum().backward()
    assert abs(gradient(alpha)) < 1e-13


def test_single_precision_and_autocast_keep_the_precision_of_the_weights():
    w, x = drawn()
    expected = bs.simulate(w, x, CIRCUITS["rate circuit"], RULE).weights
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slept = differentiable_sleep(torch.from_numpy(w).float(), x, CIRCUITS["rate circuit"], RULE)
    assert slept.dtype == torch.float32
    np.testing.assert_allclose(slept, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "problem"),
    [
        ({"weights": np.ones((2, 3))}, TypeError, "weights must be a tensor; got array"),
        ({"weights": torch.full((2, 3), math.nan)}, ValueError, "weights must be finite"),
        ({"stimuli": bs.stimuli.gaussian()}, TypeError, "stimuli must be"),
        ({"stimuli": np.ones((4, 2, 3))}, ValueError, r"stimuli must have the axes \(P, K\).*; got shape \(4, 2, 3\)"),
        ({"stimuli": np.ones((4, 2))}, ValueError, "stimuli must have shape"),
        ({"circuit": 3.0}, TypeError, "circuit must be a RateCircuit or a SteadyState"),
        ({"rule": 3.0, "learning_rate": torch.tensor(0.1)}, TypeError, "rule must be a Hebbian"),
        ({"circuit": bs.SteadyState(np.ones(2))}, ValueError, "alpha must be one number"),
        ({"rule": bs.Hebbian(np.ones(2), learning_rate=0.1)}, ValueError, "gamma must be one number"),
        ({"alpha": 3.0}, TypeError, r"alpha must be a tensor; got 3\.0"),
        ({"alpha": torch.tensor(-1.0)}, ValueError, "alpha must be a strength of inhibition >= 0; got -1"),
        ({"gamma": torch.tensor([0.1, 0.2])}, ValueError, "gamma must be one number"),
        ({"learning_rate": torch.ones(5)}, ValueError, r"learning_rate must be one rate, or .* 4 updates; got shape"),
        ({"learning_rate": torch.tensor(9.0)}, ValueError, "learning_rate is above the stability limit"),
    ],
)
def test_bad_arguments_are_named(changed, error, problem):
    arguments = {
        "weights": torch.ones(2, 3), "stimuli": np.ones((4, 3)), "circuit": bs.SteadyState(),
        "rule": bs.Hebbian(learning_rate=0.1),
    }  # fmt: skip
    differentiable_sleep(**arguments)
    with pytest.raises(error, match=f"^{problem}"):
        differentiable_sleep(**(arguments | changed))


def test_a_divergence_is_an_error():
    """Rates above the limit in a third of the presentations, as in `simulate`."""
    (w, _), x = drawn(), np.tile(np.random.default_rng(0).normal(size=3), (60, 1))
    burst = bs.rules.Tabulated(np.where(np.arange(600) % 300 < 100, 40.0, 0.0))
    rule = bs.Hebbian(0.0, 0.9, learning_rate=burst)
    circuit = bs.RateCircuit(5.0, duration=10.0)
    for sleep in (bs.simulate, differentiable_sleep):
        with pytest.raises(DivergenceError, match="the weights diverged"):
            sleep(torch.from_numpy(w), x, circuit, rule)
