"""The effect of a presentation on deviations and means, whatever the number K of inputs."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_layers import after, layer

import bioshare as bs
from bioshare.bridge.scaling import HELD, MOMENTUM, TAU, NormalisedRule, PaperRule, PerInput, settling_circuit
from bioshare.circuit.exact import sleep_map

CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady, alpha = 10": bs.SteadyState(10.0),
    "rate circuit, alpha = 0": settling_circuit(0.0),
    "rate circuit, alpha = 10": settling_circuit(10.0),
    "rate circuit, alpha = 50": settling_circuit(50.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
rate_circuits = pytest.mark.parametrize("circuit", list(CIRCUITS.values())[2:], ids=list(CIRCUITS)[2:])
strengths = pytest.mark.parametrize("strength", [0.1, 0.25, 0.5, 1.0])


def once(circuit, strength, inputs, amplitude=1.0):
    """What one presentation of one of the inputs does to a deviation and to a mean along it, and adds to the mean.

    Darkness before it lets the circuit come to rest, darkness after it lets the momentum run out.
    """
    x = np.zeros((60, inputs))
    x[1, 0] = amplitude * math.sqrt(inputs)
    stimulus = bs.stimuli.gaussian(std=amplitude)
    sleep = sleep_map(x, circuit, NormalisedRule(strength, circuit, stimulus)(inputs))
    assert np.allclose(sleep.A[1:, 1:], np.eye(inputs - 1), rtol=0, atol=1e-12)
    return sleep.A[0, 0], sleep.B[0, 0], sleep.c[0]


@rate_circuits
@strengths
def test_in_time_deviations_shrink_to_between_1_minus_s_and_exp_minus_s(circuit, strength):
    deviation, _, _ = once(circuit, strength, 9)
    assert 1 - strength - 1e-3 < deviation < math.exp(-strength) + 1e-3


@pytest.mark.parametrize("alpha", [math.inf, 10.0, 1.0])
@strengths
def test_in_a_single_update_deviations_shrink_to_1_minus_s(alpha, strength):
    """What momentum adds later comes without a response."""
    deviation, mean, _ = once(bs.SteadyState(alpha), strength, 9)
    spent = 1 - 0.95**59  # the rest is in the momentum
    assert deviation == pytest.approx(1 - strength * spent, abs=1e-12)
    assert mean == pytest.approx(1 - strength * spent / (1 + alpha), abs=1e-12)


@circuits
@pytest.mark.parametrize(("strength", "atol"), [(0.1, 0.005), (0.25, 0.03), (0.5, 0.11)])
def test_means_shrink_less_by_the_inhibition(circuit, strength, atol):
    """To about exp(-s / (1 + alpha)); without inhibition as deviations do."""
    _, mean, offset = once(circuit, strength, 9)
    assert mean == pytest.approx(math.exp(-strength / (1 + circuit.alpha)), abs=2e-3 if circuit.alpha else atol)
    assert offset == pytest.approx(0.0, abs=1e-3)


@circuits
@pytest.mark.parametrize("amplitude", [0.1, 3.0])
def test_the_amplitude_of_the_inputs_does_not_matter(circuit, amplitude):
    ours, theirs = (once(circuit, 0.4, 9, a)[:2] for a in (1.0, amplitude))
    assert ours == pytest.approx(theirs, abs=1e-12)


@circuits
@pytest.mark.parametrize("inputs", [2, 30, 90])
def test_the_number_of_inputs_does_not_matter(circuit, inputs):
    assert once(circuit, 0.4, inputs)[:2] == pytest.approx(once(circuit, 0.4, 9)[:2], abs=1e-12)


@pytest.mark.parametrize("circuit", [bs.SteadyState(), settling_circuit(10.0)], ids=["ideal", "rate circuit"])
@pytest.mark.parametrize(
    ("stimulus", "expected"),
    [
        pytest.param(bs.stimuli.grid(shuffle=True), -3.3, id="grid"),
        pytest.param(bs.stimuli.gaussian(), -1.8, id="gaussian"),
    ],
)
def test_with_momentum_five_presentations_per_input_leave_as_much_spread_for_many_inputs(circuit, stimulus, expected):
    spreads = []
    for inputs in (72, 144, 216):
        x = np.concatenate([np.zeros((1, inputs)), stimulus.draw(5 * inputs, inputs, seed=1)])
        sleep = sleep_map(x, circuit, NormalisedRule(0.5, circuit, stimulus)(inputs))
        spreads.append(math.log(np.linalg.norm(sleep.A) / math.sqrt(inputs)))
    assert max(spreads) - min(spreads) < 0.1
    assert np.mean(spreads) == pytest.approx(expected, abs=0.2)


def channels(inputs):
    """A layer with a kernel of 1 and so many inputs per neuron."""
    return layer(kernel_size=1, inputs=inputs, input_size=(6, 5))


def left(phase, model):
    """Deviations after a sleep without rescaling over those before it, averaged for every input, (K,)."""
    slept = after(phase, model).flatten(0, 1).flatten(2)
    before = model.weight.detach().flatten(0, 1).flatten(2)
    return (slept.std(0) / before.std(0)).mean(0).numpy()


@pytest.mark.parametrize("inputs", [1, 3, 9, 16, 144])
def test_five_cycles_at_the_fixed_point_leave_a_half_to_the_fifth_of_every_input(inputs):
    model = channels(inputs)
    for phase in (bs.Sleep.steady_state(), bs.Sleep.steady_state(stimulus=bs.stimuli.grid(amplitude=3.0))):
        np.testing.assert_allclose(left(phase, model), 0.5**5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("inputs", [1, 3, 9, 16])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("times", "expected"), [(1, 0.554), (5, 0.05)])
def test_a_cycle_of_the_rate_circuit_shrinks_the_spread_of_every_input_alike(inputs, shuffle, times, expected):
    phase = bs.Sleep.rate_circuit(times=times, stimulus=bs.stimuli.grid(shuffle), rescale=False)
    np.testing.assert_allclose(left(phase, channels(inputs)), expected, rtol=0, atol=1e-2 if times == 1 else 3e-3)


@pytest.mark.parametrize(("alpha", "norm"), [(5.0, 0.66), (10.0, 0.80), (50.0, 0.95)])
def test_means_shrink_as_the_docs_say(alpha, norm):
    report = bs.Sleep.rate_circuit(alpha)(layer(kernel_size=3, padding=1), progress=False)
    assert report.layers[0].mean_norm == pytest.approx(norm, abs=6e-3)


def test_presets_have_momentum_where_presentations_are_many():
    for preset in (bs.Sleep.rate_circuit, bs.Sleep.steady_state):
        assert preset().rule_for(9).momentum == 0.0
        assert preset(stimulus=bs.stimuli.noise(bs.stimuli.grid(), 0.1)).rule_for(9).momentum == 0.0
        assert preset(stimulus=bs.stimuli.gaussian()).rule_for(9).momentum == 0.95


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "spread", "norm", "degrees"),
    [
        (3, 16, 32, 0.29, 0.81, 11),
        pytest.param(16, 16, 32, 0.23, 0.75, 10, marks=pytest.mark.slow),
        pytest.param(64, 64, 8, 0.40, 0.86, 6, marks=pytest.mark.slow),
    ],
)
def test_the_sleep_of_the_paper_leaves_of_fresh_layers_what_its_docstring_says(
    channels, outputs, size, spread, norm, degrees
):
    """Means of fresh layers are small, a tenth of the spread, so that the constant of the map turns them, too."""
    model = layer(inputs=channels, outputs=outputs, kernel_size=3, padding=1, input_size=size)
    with torch.no_grad():
        model.weight.normal_(0, math.sqrt(2 / (9 * outputs)), generator=torch.Generator().manual_seed(0))
    (row,) = bs.Sleep.paper()(model, seed=0, progress=False).layers
    assert row.spread == pytest.approx(spread, abs=0.015)
    assert row.mean_norm == pytest.approx(norm, abs=0.02)
    assert row.mean_angle == pytest.approx(degrees, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "spread", "norm", "degrees"), [(27, 0.29, 0.80, 6.4), (144, 0.23, 0.75, 9.6), (576, 0.40, 0.86, 5.6)]
)
def test_the_sleep_of_the_paper_turns_large_means_less(inputs, spread, norm, degrees):
    """Means beside which the constant of the map is nothing."""
    phase = bs.Sleep.paper()
    x = phase.stimulus.draw(phase.length(inputs), inputs, seed=0)
    slept = sleep_map(x, phase.circuit, phase.rule_for(inputs), progress=False)
    mean = np.random.default_rng(0).normal(size=(500, inputs))
    after_it = mean @ slept.B.T
    lengths = np.linalg.norm(mean, axis=1), np.linalg.norm(after_it, axis=1)
    angle = np.degrees(np.arccos((mean * after_it).sum(1) / lengths[0] / lengths[1]))
    assert np.linalg.norm(slept.A) / math.sqrt(inputs) == pytest.approx(spread, abs=0.01)
    assert np.median(lengths[1] / lengths[0]) == pytest.approx(norm, abs=0.01)
    assert np.median(angle) == pytest.approx(degrees, abs=0.5)


@given(
    st.floats(0.01, 1.9),
    st.integers(1, 200),
    st.floats(0.0, 2.0),
    st.floats(0.0, 0.99),
    st.sampled_from(["grid", "gaussian"]),
)
def test_summed_rates_times_power_are_the_strength(strength, inputs, noise, momentum, kind):
    stimulus = bs.stimuli.noise(
        {"grid": bs.stimuli.grid(amplitude=1.5), "gaussian": bs.stimuli.gaussian(0.5)}[kind], noise
    )
    power = (1.5**2 if kind == "grid" else inputs * (1 + 0.5**2)) + inputs * noise**2
    for circuit in (bs.SteadyState(3.0), settling_circuit(10.0)):
        rule = NormalisedRule(strength, circuit, stimulus, 0.02, momentum)(inputs)
        assert (rule.gamma, rule.momentum) == (0.02, momentum)
        steps = circuit.updates_per_presentation
        second = rule.rates(3 * steps)[steps : 2 * steps]
        assert second.sum() * power / (1 - momentum) == pytest.approx(strength, abs=1e-12)


@given(st.floats(0.0, 500.0))
def test_the_settling_circuit_is_stable_and_divides_its_duration(alpha):
    circuit = settling_circuit(alpha)
    assert circuit.alpha == alpha
    assert (circuit.tau, circuit.duration) == (TAU, HELD)
    assert circuit.dt <= min(1.0, bs.theory.max_dt(alpha, TAU) / 5 + 1e-12)
    assert circuit.updates_per_presentation * circuit.dt == pytest.approx(HELD, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 10.0, 50.0, 200.0])
def test_the_settling_circuit_has_settled_when_it_learns(alpha):
    """The mean's eigenvalues are 1 + dt / tau (-1 +- i sqrt(alpha)): what is left of a change after the wait."""
    circuit = settling_circuit(alpha)
    step = abs(1 + circuit.dt / circuit.tau * complex(-1, math.sqrt(alpha)))
    left = step ** round(circuit.updates_per_presentation * 2 / 3)
    assert left < 2 * math.exp(-100 / 30)


def test_the_first_presentation_of_a_rate_circuit_teaches_nothing():
    circuit = settling_circuit(10.0)
    rates = NormalisedRule(0.5, circuit, bs.stimuli.grid())(9).rates(300)
    assert not rates[:250].any()
    assert (rates[250:] > 0).all()


@pytest.mark.parametrize("inputs", [1, 9, 36, 81])
def test_the_papers_rule_is_that_of_fig_4b_up_to_its_largest_layer(inputs):
    rule, k = PaperRule(0.1)(inputs), np.arange(5000)
    expected = np.where(k >= 50, 0.0003 / np.sqrt(1 + k / 2), 0.0)
    np.testing.assert_allclose(rule.rates(5000), expected, rtol=0, atol=1e-18)
    assert (rule.gamma, rule.momentum) == (0.1, MOMENTUM) == (0.1, 0.95)


@pytest.mark.parametrize("inputs", [82, 144, 576, 4608])
def test_beyond_that_rates_fall_as_the_power_grows(inputs):
    ratio = PaperRule()(inputs).rates(200)[60:] / PaperRule()(81).rates(200)[60:]
    np.testing.assert_allclose(ratio * inputs, 81.0, rtol=0, atol=1e-9)


@given(st.floats(1e-3, 50.0), st.integers(1, 5000))
def test_presentations_per_input_are_counted_in_whole_ones(times, inputs):
    count = PerInput(times)(inputs)
    assert isinstance(count, int)
    assert count >= 1
    assert abs(count - times * inputs) <= max(0.5, 1 - times * inputs)


@pytest.mark.parametrize("preset", [bs.Sleep.rate_circuit, bs.Sleep.steady_state], ids=["rate", "steady"])
def test_presets_take_the_fields_of_sleep(preset):
    phase = preset(20.0, gamma=0.1, times=2.0, strength=0.3, stimulus=bs.stimuli.gaussian(), border="keep", pool=3)
    assert (phase.circuit.alpha, phase.border, phase.pool, phase.length(9)) == (20.0, "keep", 3, 18)
    assert phase.silence == isinstance(phase.circuit, bs.RateCircuit)
    assert phase.rule == NormalisedRule(0.3, phase.circuit, bs.stimuli.gaussian(), 0.1)


@pytest.mark.parametrize(
    ("preset", "own"),
    [
        (bs.Sleep.rate_circuit, ["circuit", "rule", "presentations", "silence"]),
        (bs.Sleep.steady_state, ["circuit", "rule", "presentations"]),
        (bs.Sleep.paper, ["circuit", "rule", "stimulus", "presentations"]),
    ],
    ids=["rate", "steady", "paper"],
)
def test_presets_refuse_the_fields_that_they_set(preset, own):
    for name in own:
        with pytest.raises(TypeError, match=f"^{name} must be left out: Sleep.{preset.__name__} sets {', '.join(own)}"):
            preset(**{name: 4})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda: NormalisedRule(0.0, bs.SteadyState(), bs.stimuli.grid()),
            "strength must be a positive number below 2; got 0",
        ),
        (
            lambda: NormalisedRule(2.0, bs.SteadyState(), bs.stimuli.grid()),
            "strength must be a positive number below 2; got 2",
        ),
        (lambda: NormalisedRule(1.0, bs.SteadyState(), bs.stimuli.grid(), gamma=-1.0), "gamma must be .*got -1"),
        (lambda: NormalisedRule(1.0, bs.SteadyState(), bs.stimuli.grid(), momentum=1.0), "momentum must be .*got 1"),
        (lambda: PerInput(0), "times must be a positive number of presentations per input; got 0"),
        (
            lambda: NormalisedRule(1.0, bs.SteadyState(), bs.stimuli.gaussian(std=0.0))(9),
            "stimulus must have inputs other than 0",
        ),
        (lambda: settling_circuit(math.inf), "alpha must be a strength of inhibition from 0 to below 1e6, .*; got inf"),
        (lambda: settling_circuit(-1.0), "alpha must be .*got -1"),
    ],
)
def test_impossible_rules_are_refused_when_they_are_made(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize(
    "circuit",
    [bs.SteadyState(10.0), bs.RateCircuit(alpha=10.0, dt=0.5), bs.RateCircuit(alpha=50.0, dt=0.2)],
    ids=["fixed point", "half the step", "stronger"],
)
def test_the_rule_of_a_preset_follows_a_circuit_that_is_replaced(circuit):
    replaced = dataclasses.replace(bs.Sleep.rate_circuit(10.0), circuit=circuit)
    assert replaced.rule.circuit == circuit
    if isinstance(circuit, bs.RateCircuit):
        assert replaced.rule(9).learning_rate.held == circuit.updates_per_presentation
    torch.manual_seed(0)
    report = replaced(bs.nn.LocallyConnected2d(3, 2, 3, input_size=11), seed=0, progress=False)
    assert 0.02 < report.layers[0].spread < 0.1


def test_the_rule_of_a_preset_follows_a_stimulus_that_is_replaced():
    gaussian = bs.stimuli.gaussian()
    replaced = dataclasses.replace(bs.Sleep.steady_state(10.0), stimulus=gaussian)
    expected = bs.Sleep.steady_state(10.0, stimulus=gaussian).rule
    assert replaced.rule == dataclasses.replace(expected, momentum=0.0)
