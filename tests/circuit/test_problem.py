"""A sleep is checked before any work starts: each refusal names the argument, what came, what was expected."""

from functools import partial

import numpy as np
import pytest

import bioshare as bs
from bioshare.circuit.prepare import largest_learning_rate, prepare_sleep
from bioshare.circuit.problem import Problem, divergence

STEADY, RATE = bs.SteadyState(), bs.RateCircuit()
RULE = bs.Hebbian(learning_rate=1e-6)
W, X = np.ones((5, 3)), np.ones((4, 3))


def spoiled(array, value):
    """A copy with one element replaced."""
    array = array.copy()
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (np.ones(3), r"axes \(\.\.\., N, K\).*got shape \(3,\)"),
        (np.ones((5, 0)), r"none of them empty; got shape \(5, 0\)"),
        (spoiled(W, np.nan), r"finite; weights\[1, 2\] is nan"),
        (spoiled(W, -np.inf), r"finite; weights\[1, 2\] is -inf"),
    ],
)
def test_impossible_weights_are_refused(weights, problem):
    with pytest.raises(ValueError, match=f"^weights must .*{problem}"):
        prepare_sleep(weights, X, STEADY, RULE)


@pytest.mark.parametrize(
    ("weights", "stimuli", "problem"),
    [
        (W, spoiled(X, np.nan), r"finite; stimuli\[1, 2\] is nan"),
        (W, np.ones((4, 2)), r"shape \(\.\.\., P, 3\) .* or \(P, 5, 3\) .*; got \(4, 2\)"),
        (W, np.ones((4, 6, 3)), r"or \(P, 5, 3\) .*; got \(4, 6, 3\).*weights\[None\]"),
        (W, np.ones((2, 4, 5, 3)), r"got \(2, 4, 5, 3\)"),
        (W, np.ones((0, 3)), r"none of them empty; got shape \(0, 3\)"),
        (np.ones((2, 5, 3)), np.ones((4, 7, 5, 6, 3)), r"got \(4, 7, 5, 6, 3\)"),
    ],
)
def test_stimuli_that_do_not_fit_are_refused(weights, stimuli, problem):
    with pytest.raises(ValueError, match=f"^stimuli must .*{problem}"):
        prepare_sleep(weights, stimuli, STEADY, RULE)


@pytest.mark.parametrize(("name", "weights", "stimuli"), [("weights", "heavy", X), ("stimuli", W, "bright")])
def test_what_is_not_an_array_of_numbers_is_refused(name, weights, stimuli):
    with pytest.raises(TypeError, match=f"^{name} must be an array of real numbers.*got '"):
        prepare_sleep(weights, stimuli, STEADY, RULE)


def test_circuit_and_rule_of_another_kind_are_refused():
    with pytest.raises(TypeError, match=r"^circuit must be"):
        prepare_sleep(W, X, "rate", RULE)
    with pytest.raises(TypeError, match=r"^rule must be"):
        prepare_sleep(W, X, STEADY, 1e-3)


def test_record_every_counts_presentations():
    with pytest.raises(ValueError, match=r"^record_every must be"):
        prepare_sleep(W, X, STEADY, RULE, record_every=0)
    with pytest.raises(TypeError, match=r"^record_every must be"):
        prepare_sleep(W, X, STEADY, RULE, record_every=0.5)


@pytest.mark.parametrize("missing", ["presentations", "seed"])
def test_a_stimulus_needs_presentations_and_seed(missing):
    arguments = {"presentations": 4, "seed": 0, missing: None}
    with pytest.raises(TypeError, match=r"presentations and seed are needed to draw from Grid"):
        prepare_sleep(W, bs.stimuli.grid(), STEADY, RULE, **arguments)


@pytest.mark.parametrize("given", [{"presentations": 4}, {"seed": 0}])
def test_an_array_of_stimuli_needs_neither_presentations_nor_seed(given):
    with pytest.raises(TypeError, match="presentations and seed belong to a Stimulus"):
        prepare_sleep(W, X, STEADY, RULE, **given)


def test_leading_axes_that_do_not_broadcast_are_refused_by_name():
    with pytest.raises(ValueError, match=r"broadcast.* got weights \(2,\), stimuli \(2,\), gamma \(3,\)"):
        prepare_sleep(np.ones((2, 5, 3)), np.ones((2, 4, 3)), STEADY, bs.Hebbian([0.1, 0.2, 0.3], learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"got alpha \(2,\), momentum \(3,\)"):
        prepare_sleep(W, X, bs.SteadyState([1.0, 2.0]), bs.Hebbian(momentum=[0.1, 0.2, 0.3], learning_rate=1e-3))


@pytest.mark.parametrize(("circuit", "updates"), [(STEADY, 4), (RATE, 600)])
def test_the_schedule_is_asked_for_every_update_of_the_sleep(circuit, updates):
    asked = []
    rule = bs.Hebbian(learning_rate=lambda k: asked.append(k) or np.zeros(len(k)))
    assert prepare_sleep(W, X, circuit, rule).rates.shape == (4, updates // 4)
    assert asked[0].tolist() == list(range(updates))


@pytest.mark.parametrize("circuit", [STEADY, bs.SteadyState(10.0), RATE, bs.RateCircuit(alpha=3.0, dt=2.0)], ids=repr)
def test_a_learning_rate_above_the_limit_is_refused_and_one_below_is_not(circuit):
    limit = float(largest_learning_rate(prepare_sleep(W, X, circuit, RULE), 3.0))
    rule = partial(bs.Hebbian, RULE.gamma, RULE.momentum)
    with pytest.raises(ValueError, match=r"learning_rate is above the stability limit in 100 % .*presentation 0"):
        prepare_sleep(W, X, circuit, rule(learning_rate=1.001 * limit))
    prepare_sleep(W, X, circuit, rule(learning_rate=0.999 * limit))


def test_the_advice_on_a_too_large_learning_rate_works():
    with pytest.raises(ValueError, match="Divide the learning rate by") as refusal:
        prepare_sleep(W, X, STEADY, bs.Hebbian(learning_rate=5.0))
    factor = float(str(refusal.value).split("Divide the learning rate by ")[1].split()[0])
    prepare_sleep(W, X, STEADY, bs.Hebbian(learning_rate=5.0 / factor))


def test_the_steady_state_refuses_a_single_presentation_above_the_limit():
    spike = bs.Hebbian(0.01, 0.5, learning_rate=lambda k: np.where(k == 2, 2.0, 1e-3))
    with pytest.raises(ValueError, match=r"learning_rate is above the stability limit in 25 % .*presentation 2"):
        prepare_sleep(W, X, STEADY, spike)


def test_the_limit_is_that_of_the_longest_input_of_any_neuron():
    noisy = np.ones((4, 5, 3))
    noisy[3, 4] = 10
    prepare_sleep(W, np.ones((4, 5, 3)), STEADY, bs.Hebbian(learning_rate=0.1))
    with pytest.raises(ValueError, match=r"25 % .*presentation 3"):
        prepare_sleep(W, noisy, STEADY, bs.Hebbian(learning_rate=0.1))


def test_leading_axes_of_weights_stimuli_and_parameters_broadcast():
    circuit, rule = bs.SteadyState(np.ones((3, 1, 1))), bs.Hebbian(np.ones((4, 1)), learning_rate=1e-6)
    problem = prepare_sleep(np.ones((2, 5, 3)), np.ones((2, 7, 3)), circuit, rule)
    assert problem.batch == (3, 4, 2)
    assert problem.weights.shape == (24, 5, 3)
    assert problem.presentations == 7
    assert [x.shape for _, x in problem.blocks(4)] == [(24, 4, 3), (24, 3, 3)]


def test_the_points_of_a_parameter_grid_sleep_under_the_same_stimuli():
    circuit = bs.SteadyState(np.array([[1.0], [2.0]]))
    noisy = bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)
    problem = prepare_sleep(np.ones((3, 5, 2)), noisy, circuit, RULE, presentations=4, seed=0)
    ((_, x),) = problem.blocks(4)
    first, second = x.reshape(2, 3, 4, 5, 2)
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_bytes_of_the_inputs_do_not_depend_on_the_length_of_the_blocks(sigma):
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), sigma)

    def inputs(length):
        problem: Problem = prepare_sleep(np.ones((2, 5, 3)), stimulus, STEADY, RULE, presentations=23, seed=1)
        starts, blocks = zip(*problem.blocks(length), strict=True)
        assert list(starts) == list(range(0, 23, length))
        return np.concatenate(blocks, 1).tobytes()

    assert inputs(1) == inputs(4) == inputs(23) == inputs(100)


def test_noise_has_the_std_that_it_says_and_is_every_neurons_own():
    stimulus = bs.stimuli.noise(bs.stimuli.grid(), 0.3)
    problem = prepare_sleep(np.ones((50, 4)), stimulus, STEADY, RULE, presentations=400, seed=0)
    ((_, x),) = problem.blocks(400)
    xi = x[0] - bs.stimuli.grid().draw(400, 4, seed=0)[:, None]
    np.testing.assert_allclose(xi.std(), 0.3, rtol=0, atol=0.005)
    np.testing.assert_allclose(np.einsum("pik,pjk->ij", xi, xi) / 1600, 0.09 * np.eye(50), rtol=0, atol=0.012)


def test_noise_beside_an_array_is_that_of_a_stimulus():
    """The same seed, the same noise: whether the patterns are drawn or given."""
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), 0.3)
    drawn = prepare_sleep(W, stimulus, STEADY, RULE, presentations=4, seed=2)
    given = prepare_sleep(W, stimulus.draw(4, 3, seed=2), STEADY, RULE, noise=0.3, seed=2)
    assert given.noise == drawn.noise == 0.3
    assert given.per_neuron
    for (_, a), (_, b) in zip(drawn.blocks(2), given.blocks(2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_is_each_neurons_own_and_each_stimulus_own_but_shared_by_groups_of_one_stimulus():
    weights, stimuli = np.ones((2, 6, 5, 3)), np.zeros((2, 1, 400, 3))
    problem = prepare_sleep(weights, stimuli, STEADY, RULE, noise=0.3, seed=2)
    noise = np.concatenate([x for _, x in problem.blocks(150)], 1).reshape(2, 6, 400, 5, 3)
    np.testing.assert_array_equal(noise, np.broadcast_to(noise[:, :1], noise.shape))
    assert noise.std() == pytest.approx(0.3, abs=0.01)
    apart = np.moveaxis(noise[:, 0], 1, 0).reshape(400, -1)  # of stimuli, neurons and inputs
    correlation = np.corrcoef(apart.T) - np.eye(30)
    assert np.abs(correlation).max() < 0.25


def test_the_noise_does_not_depend_on_how_many_presentations_are_taken_at_once():
    problem = prepare_sleep(np.ones((2, 5, 3)), np.zeros((2, 7, 3)), STEADY, RULE, noise=0.3, seed=2)
    one, all_together = (np.concatenate([x for _, x in problem.blocks(length)], 1) for length in (1, 7))
    np.testing.assert_array_equal(one, all_together)


def test_no_noise_beside_an_array_leaves_it_shared():
    problem = prepare_sleep(W, X, STEADY, RULE, noise=0.0, seed=2)
    assert not problem.per_neuron
    assert problem.noise == 0.0


def test_noise_counts_towards_the_stability_limit():
    limit = bs.theory.max_learning_rate(3 + 3 * 0.5**2, 0.0, 0.0)
    for share, fine in ((0.99, True), (1.01, False)):
        rule = bs.Hebbian(0.0, 0.0, learning_rate=share * float(limit))
        prepare_sleep(W, X, STEADY, rule)  # without noise both are below it
        if fine:
            prepare_sleep(W, X, STEADY, rule, noise=0.5, seed=0)
        else:
            with pytest.raises(ValueError, match="learning_rate is above the stability limit"):
                prepare_sleep(W, X, STEADY, rule, noise=0.5, seed=0)


@pytest.mark.parametrize(("last", "needed"), [(None, 3), (4, 5)])
def test_what_is_said_of_a_divergence_draws_no_presentation_after_it(last, needed, monkeypatch):
    problem = prepare_sleep(W, bs.stimuli.noise(bs.stimuli.gaussian(), 0.1), RATE, RULE, presentations=50, seed=0)
    whole, drawn = Problem.drawn, []

    def counted(self, length):
        for start, x in whole(self, length):
            drawn.append(start)
            yield start, x

    monkeypatch.setattr(Problem, "drawn", counted)
    assert 2 <= divergence(problem, 2, 0, last).presentation < needed
    assert drawn == list(range(needed))
