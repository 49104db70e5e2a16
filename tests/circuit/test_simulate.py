"""Whole sleeps: the published curves, the closed forms, convergence orders, invariances, and what stops a sleep."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import bioshare as bs
from bioshare import theory
from bioshare.circuit.problem import Problem

assert_close = partial(np.testing.assert_allclose, rtol=0)
both_engines = pytest.mark.parametrize("engine", ["exact", "loop"])
CIRCUITS = {
    "ideal": bs.SteadyState(),
    "steady": bs.SteadyState(10.0),
    "rate": bs.RateCircuit(alpha=10.0, tau=10.0, dt=1.0, duration=12.0),
}
circuits = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
RULE = bs.Hebbian(0.01, 0.9, learning_rate=1e-3)


def initial(*shape, seed=0):
    return np.random.default_rng(seed).normal(1, 1, shape)


def inputs(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def difference(a, b):
    """Largest absolute difference of everything that two runs hold."""
    names = ("weights", "r", "r_inh", "neg_log_snr", "mean_norm", "mean_drift")
    return max(np.abs(getattr(a, name) - getattr(b, name)).max() for name in names)


# The published curves


def curves(circuit, schedule, presentations):
    """-log SNR of Figs. 4A or 4B for k = 3: (presentations, gamma), the mean over 10 runs and its spread."""
    rule = bs.Hebbian(np.array([0.1, 0.01, 0.001]), 0.95, learning_rate=schedule)
    every = presentations[0]
    run = bs.simulate(
        initial(10, 1, 100, 9), bs.stimuli.gaussian(), circuit, rule, presentations=presentations[-1], seed=0,
        record_every=every,
    )  # fmt: skip
    shown = run.neg_log_snr[..., np.array(presentations) // every]
    return shown.mean(0).T, shown.std(0).T


# One run is within 0.1 to 0.23 (standard deviation) of the mean of ten; the milestones are means of two runs.
def test_fig_4a_passes_its_milestones_at_k_3():
    mean, spread = curves(bs.SteadyState(), bs.rules.InverseDecay(0.5, 1000), (200, 2000))
    assert_close(mean, [[-3.2, -3.8, -3.7], [-4.77, -9.26, -13.75]], atol=0.25)
    assert spread.max() < 0.3


def test_fig_4b_passes_its_milestones_at_k_3():
    mean, spread = curves(bs.RateCircuit(), bs.rules.InverseSqrtDecay(3e-4, 2, 50), (500, 2000, 10_000))
    assert_close(mean, [[-3.3, -5.2, -5.6], [-3.2, -6.8, -10.4], [-2.9, -5.2, -9.0]], atol=0.25)
    assert spread.max() < 0.3


# Agreement of the engines


@pytest.mark.parametrize("sigma", [0.0, 0.1], ids=["shared", "noisy"])
@pytest.mark.parametrize("k", [3, 9])
@pytest.mark.parametrize("timed", [False, True], ids=["steady", "rate"])
def test_exact_and_the_loop_agree(timed, k, sigma):
    alpha, gamma = np.array([2.0, 10.0]), np.array([[0.1], [0.01], [0.001]])
    circuit = bs.RateCircuit(alpha=alpha) if timed else bs.SteadyState(alpha)
    schedule = bs.rules.InverseSqrtDecay(3e-4, 2, 50) if timed else bs.rules.InverseDecay(0.5, 1000)
    sleep = partial(
        bs.simulate, initial(30, k**2), bs.stimuli.noise(bs.stimuli.gaussian(), sigma), circuit,
        bs.Hebbian(gamma, 0.95, learning_rate=schedule), presentations=200, seed=4,
    )  # fmt: skip
    exact, loop = sleep(engine="exact"), sleep(engine="loop")
    assert exact.weights.shape == (3, 2, 30, k**2)
    assert np.abs(exact.weights - initial(30, k**2)).max() > 0.5
    assert difference(exact, loop) < 1e-10


@pytest.mark.slow
def test_exact_and_the_loop_agree_in_log_snr_on_10_000_presentations():
    rule = bs.Hebbian(1e-3, 0.95, learning_rate=bs.rules.InverseSqrtDecay(3e-4, 2, 50))
    sleep = partial(
        bs.simulate, initial(20, 9), bs.stimuli.gaussian(), bs.RateCircuit(), rule, presentations=10_000, seed=0,
        record_every=20,
    )  # fmt: skip
    exact, loop = sleep(engine="exact"), sleep(engine="loop")
    assert exact.neg_log_snr.min() < -9
    assert_close(exact.neg_log_snr, loop.neg_log_snr, atol=1e-8)


# Closed forms


def test_long_sleeps_at_a_small_learning_rate_end_at_equations_5_and_24():
    w, gamma, alpha = initial(6, 4), np.array([[0.3], [1.0]]), np.array([np.inf, 10.0])
    stimulus = bs.stimuli.grid(amplitude=2.0)  # C = I
    w_star = theory.fixed_point(w, stimulus.covariance(4), gamma, alpha)
    assert_close(w_star, theory.fixed_point_white(w, gamma, alpha), atol=1e-14)

    def end(eta):
        rule = bs.Hebbian(gamma, 0.5, learning_rate=eta)
        return bs.simulate(
            w, stimulus, bs.SteadyState(alpha), rule, presentations=20_000, seed=0, record_every=1000
        ).weights

    coarse, fine = end(2e-3), end(1e-3)
    assert_close(fine, w_star, atol=0.01)
    assert_close(np.linalg.norm(fine - w_star) / np.linalg.norm(coarse - w_star), 0.5, atol=0.01)
    assert_close(2 * fine - coarse, w_star, atol=5e-5)  # what is left is of second order in the learning rate


@both_engines
def test_the_response_to_a_held_input_settles_at_equation_9(engine):
    w, x, alpha = initial(5, 3), inputs(1, 3), np.array([0.0, 2.0, 10.0])
    circuit = bs.RateCircuit(alpha=alpha, tau=30.0, bias=0.7, dt=1.0, duration=1500.0)
    run = bs.simulate(w, x, circuit, bs.Hebbian(learning_rate=0.0), engine)
    assert_close(run.r, theory.response(w, x, alpha, 0.7), atol=1e-12)
    assert_close(run.r_inh, (w @ x[0]).mean() / (1 + alpha), atol=1e-12)
    assert np.array_equal(run.weights, np.broadcast_to(w, (3, 5, 3)))


# Orders of convergence


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def test_the_biased_circuit_tends_to_the_ideal_one_as_1_over_alpha():
    w, alpha = initial(6, 4), np.logspace(2, 5, 7)
    sleep = lambda circuit: bs.simulate(w, inputs(300, 4), circuit, RULE).weights
    bias = np.linalg.norm(sleep(bs.SteadyState(alpha)) - sleep(bs.SteadyState()), axis=(-2, -1))
    assert abs(slope(alpha, bias) + 1) < 0.1


def test_the_biased_fixed_point_tends_to_the_ideal_one_as_1_over_alpha():
    w, alpha, gamma = initial(6, 4), np.logspace(4, 6, 5), 0.01
    bias = theory.fixed_point(w, np.eye(4), gamma, alpha) - theory.fixed_point(w, np.eye(4), gamma)
    assert abs(slope(alpha, np.linalg.norm(bias, axis=(-2, -1))) + 1) < 0.1


def test_the_rate_circuits_response_tends_to_the_ideal_one_as_1_over_alpha():
    w, x, alpha = initial(6, 4), inputs(1, 4), np.logspace(1.5, 2.5, 6)
    circuit = bs.RateCircuit(alpha=alpha, dt=0.06, duration=900.0)
    run = bs.simulate(w, x, circuit, bs.Hebbian(learning_rate=0.0))
    bias = np.linalg.norm(run.r - 1 - theory.response(w, x), axis=-1)
    assert abs(slope(alpha, bias) + 1) < 0.1


def test_eulers_method_converges_to_the_differential_equations_with_order_1_in_dt():
    w_init, x, rate, gamma, alpha, tau, bias, duration = initial(3, 2), inputs(4, 2), 4e-3, 0.05, 5.0, 16.0, 1.0, 32.0

    def flow(_, state, held):
        w, r, r_inh = state[:6].reshape(3, 2), state[6:9], state[9]
        dw = -rate * ((r - bias)[:, None] * held + gamma * (w - w_init))
        dr = (-r + w @ held - alpha * r_inh + bias) / tau
        return np.concatenate([dw.ravel(), dr, [(-r_inh + r.mean() - bias) / tau]])

    state = np.concatenate([w_init.ravel(), np.zeros(4)])
    for held in x:
        state = solve_ivp(flow, (0, duration), state, args=(held,), rtol=1e-10, atol=1e-12).y[:, -1]
    dt = 2.0 ** -np.arange(1, 6)
    rule = lambda step: bs.Hebbian(gamma, 0.0, learning_rate=rate * step)
    runs = [bs.simulate(w_init, x, bs.RateCircuit(alpha, tau, bias, step, duration), rule(step)) for step in dt]
    assert abs(slope(dt, [np.linalg.norm(run.weights - state[:6].reshape(3, 2)) for run in runs]) - 1) < 0.1
    assert abs(slope(dt, [np.linalg.norm(run.r - state[6:9]) for run in runs]) - 1) < 0.1


# Invariances


@both_engines
@circuits
@given(data=st.data())
def test_permuting_neurons_permutes_weights(engine, circuit, data):
    order = data.draw(st.permutations(range(7)))
    noisy = data.draw(st.booleans())
    w, x = initial(7, 3, seed=data.draw(st.integers(0, 99))), inputs(20, 7, 3)
    sleep = partial(bs.simulate, circuit=circuit, rule=RULE, engine=engine)
    before, after = (
        (sleep(w, x), sleep(w[order], x[:, order])) if noisy else (sleep(w, x[:, 0]), sleep(w[order], x[:, 0]))
    )
    assert_close(after.weights, before.weights[order], atol=1e-13)
    assert_close(after.r, before.r[order], atol=1e-13)
    assert_close(after.r_inh, before.r_inh, atol=1e-13)


@given(neurons=st.integers(2, 40), k=st.integers(1, 12), seed=st.integers(0, 99), gamma=st.sampled_from([0.0, 0.1]))
def test_equal_weights_stay_exactly_equal_under_the_ideal_circuit(neurons, k, seed, gamma):
    w = np.repeat(initial(1, k, seed=seed), neurons, 0)
    run = bs.simulate(w, inputs(20, k), bs.SteadyState(), bs.Hebbian(gamma, 0.9, learning_rate=1e-3))
    assert np.all(run.weights == run.weights[0])
    assert np.all(run.r == run.r[0])
    assert_close(run.weights, w, atol=1e-13)


@both_engines
@given(neurons=st.integers(2, 12), k=st.integers(1, 6), seed=st.integers(0, 99), beta=st.floats(0, 0.95))
def test_without_a_pull_the_ideal_circuit_keeps_the_mean(engine, neurons, k, seed, beta):
    w = initial(neurons, k, seed=seed)
    run = bs.simulate(w, inputs(40, k), bs.SteadyState(), bs.Hebbian(0.0, beta, learning_rate=5e-3), engine)
    assert_close(run.weights.mean(0), w.mean(0), atol=1e-13)
    assert np.abs(run.weights - w).max() > 1e-3
    assert_close(run.mean_drift, 0, atol=1e-13)


@both_engines
@circuits
@pytest.mark.parametrize("sigma", [0.0, 0.2], ids=["shared", "noisy"])
def test_a_batch_equals_its_runs_one_by_one(engine, circuit, sigma):
    w, gamma, beta = initial(3, 1, 6, 4), np.array([0.1, 0.01]), np.array([[[0.0]], [[0.9]]])
    x = inputs(3, 1, 50, 4) if not sigma else inputs(3, 1, 50, 1, 4) + sigma * inputs(3, 1, 50, 6, 4, seed=2)
    batch = bs.simulate(w, x, circuit, bs.Hebbian(gamma, beta, learning_rate=2e-3), engine, record_every=7)
    assert batch.weights.shape == (2, 3, 2, 6, 4)
    for b, run, g in np.ndindex(2, 3, 2):
        rule = bs.Hebbian(gamma[g], beta[b, 0, 0], learning_rate=2e-3)
        alone = bs.simulate(w[run, 0], x[run, 0], circuit, rule, engine, record_every=7)
        assert_close(batch.weights[b, run, g], alone.weights, atol=1e-12)
        assert_close(batch.r[b, run, g], alone.r, atol=1e-12)
        assert_close(batch.r_inh[b, run, g], alone.r_inh, atol=1e-12)
        assert_close(batch.neg_log_snr[b, run, g], alone.neg_log_snr, atol=1e-12)


@both_engines
@circuits
@pytest.mark.parametrize("sigma", [0.0, 0.2], ids=["shared", "noisy"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(engine, circuit, sigma):
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), sigma)
    sleep = partial(bs.simulate, initial(2, 6, 4), stimulus, circuit, RULE, engine, presentations=30)
    first, again, other = (sleep(seed=seed).weights.tobytes() for seed in (5, 5, 6))
    assert first == again != other


@both_engines
def test_a_stimulus_sleeps_as_the_array_that_it_draws(engine):
    w, stimulus = initial(2, 6, 4), bs.stimuli.grid(shuffle=True)
    drawn = bs.simulate(w, stimulus, CIRCUITS["rate"], RULE, engine, presentations=30, seed=3)
    given_as_array = bs.simulate(w, stimulus.draw(30, 4, seed=3, batch=(2,)), CIRCUITS["rate"], RULE, engine)
    assert difference(drawn, given_as_array) == 0


@both_engines
@circuits
def test_the_same_input_for_every_neuron_is_a_shared_input(engine, circuit):
    w, x = initial(6, 4), inputs(50, 4)
    each = np.repeat(x[:, None], 6, 1)
    assert difference(bs.simulate(w, x, circuit, RULE, engine), bs.simulate(w, each, circuit, RULE, engine)) < 1e-12


@both_engines
@pytest.mark.parametrize("sigma", [0.0, 0.2], ids=["shared", "noisy"])
def test_records_are_what_the_weights_were(engine, sigma):
    w, x = initial(6, 4), inputs(40, 4)
    if sigma:
        x = x[:, None] + sigma * inputs(40, 6, 4, seed=2)
    run = bs.simulate(w, x, CIRCUITS["rate"], RULE, engine, record_every=9)
    assert run.presentation.tolist() == [0, 9, 18, 27, 36, 40]
    for record, seen in enumerate(run.presentation):
        then = bs.simulate(w, x[:seen], CIRCUITS["rate"], RULE, engine).weights if seen else w
        assert_close(run.neg_log_snr[record], theory.neg_log_snr(then), atol=1e-12)
        assert_close(run.mean_norm[record], np.linalg.norm(then.mean(0)), atol=1e-13)
        assert_close(run.mean_drift[record], np.linalg.norm(then.mean(0) - w.mean(0)), atol=1e-13)


@both_engines
def test_the_arguments_are_left_as_they_were(engine):
    w, x = initial(6, 4), inputs(20, 4)
    bs.simulate(w, x, CIRCUITS["rate"], RULE, engine)
    assert np.array_equal(w, initial(6, 4))
    assert np.array_equal(x, inputs(20, 4))


# What stops a sleep


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match=r"engine must be one of 'exact', 'brian2', 'loop'; got 'nest'"):
        bs.simulate(initial(6, 4), inputs(20, 4), CIRCUITS["rate"], RULE, engine="nest")
    with pytest.raises(TypeError, match=r"engine must be a name or an engine such as Exact\(\)"):
        bs.simulate(initial(6, 4), inputs(20, 4), CIRCUITS["rate"], RULE, engine=3)


def test_bad_input_reaches_no_engine():
    class Untouched:
        def run(self, problem, progress):
            raise AssertionError("an engine was called")

    with pytest.raises(ValueError, match=r"^weights must be finite"):
        bs.simulate(np.full((6, 4), np.nan), inputs(20, 4), CIRCUITS["rate"], RULE, Untouched())


@both_engines
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_a_sleep_that_diverges_says_in_which_presentation_and_why(engine, noisy):
    w, x = initial(2, 6, 4), inputs(40, 6, 4)
    w, x = (w, np.stack([0 * x, x])) if noisy else (w, np.stack([0 * x[:, 0], x[:, 0]]))
    late = bs.Hebbian(0.01, 0.9, learning_rate=lambda k: np.where(k < 25 * 12, 1e-4, 1e3))
    with pytest.raises(
        bs.DivergenceError, match=r"presentation 25 of batch entry \(1,\); its learning rate .* lower it"
    ) as stopped:
        bs.simulate(w, x, CIRCUITS["rate"], late, engine)
    assert stopped.value.presentation == 25


def interrupt_after(presentations, monkeypatch):
    """Ctrl-C as soon as an engine asks for more inputs."""
    whole = Problem.drawn

    def drawn(self, length):
        for start, x in whole(self, min(length, 16)):
            if start >= presentations:
                raise KeyboardInterrupt
            yield start, x

    monkeypatch.setattr(Problem, "drawn", drawn)


@both_engines
@circuits
@pytest.mark.parametrize("noisy", [False, True], ids=["shared", "noisy"])
def test_ctrl_c_keeps_what_was_computed(engine, circuit, noisy, monkeypatch):
    w, x = initial(2, 6, 4), inputs(2, 80, 6, 4)
    x = x if noisy else x[:, :, 0]
    shorter = bs.simulate(w, x[:, :32], circuit, RULE, engine, record_every=5)
    interrupt_after(32, monkeypatch)
    with pytest.warns(RuntimeWarning, match="interrupted after 32 of 80 presentations"):
        run = bs.simulate(w, x, circuit, RULE, engine, record_every=5)
    assert run.interrupted
    assert not shorter.interrupted
    assert run.presentations == 32
    assert run.presentation.tolist() == [0, 5, 10, 15, 20, 25, 30, 32]
    assert difference(run, shorter) < 1e-13


@both_engines
def test_ctrl_c_before_anything_was_computed_is_passed_on(engine, monkeypatch):
    interrupt_after(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        bs.simulate(initial(6, 4), inputs(20, 4), CIRCUITS["rate"], RULE, engine)


@pytest.mark.parametrize("alpha", [math.inf, 5.0])
def test_noise_moves_the_end_of_sleep_as_theory_says(alpha):
    """The mean over runs and late presentations, which fluctuate around the fixed point."""
    w, stimulus = np.random.default_rng(0).normal(1, 1, (4, 3)), bs.stimuli.noise(bs.stimuli.gaussian(), 0.6)
    rule = bs.Hebbian(0.3, 0.0, learning_rate=0.02)
    runs = np.broadcast_to(w, (400, 4, 3))
    run = bs.simulate(runs, stimulus, bs.SteadyState(alpha), rule, presentations=1500, seed=0, record_every=1500)
    expected = bs.theory.fixed_point(w, stimulus.covariance(3), 0.3, alpha, noise=0.6)
    np.testing.assert_allclose(run.weights.mean(0), expected, rtol=0, atol=0.02)
    without = bs.theory.fixed_point(w, stimulus.covariance(3), 0.3, alpha)
    assert np.abs(without - expected).max() > 0.1


def test_a_rate_circuit_that_never_waits_ends_where_theory_says():
    """Not at the fixed point of Eq. 24, which is that of a circuit that waits until its rates have settled."""
    w, circuit, C = initial(40, 2), bs.RateCircuit(alpha=10.0, duration=120.0), np.eye(2)
    rng = np.random.default_rng(0)
    x = np.sqrt(2) * C[rng.integers(0, 2, 6000)] * rng.choice([-1, 1], (6000, 1))
    slower = lambda k: np.where(k < 4000 * 120, 1e-4, 1e-5)
    ends = {}
    for name, rate in {"on the way": slower, "waits": lambda k: np.where(k % 120 == 119, 120 * slower(k), 0)}.items():
        run = bs.simulate(w, x, circuit, bs.Hebbian(0.3, 0.0, learning_rate=rate), record_every=100)
        ends[name] = run.neg_log_snr[-20:].mean()
    settled = theory.neg_log_snr(theory.fixed_point(w, C, 0.3, 10.0))
    alpha, gamma = theory.while_settling(10.0, 0.3, circuit.dt_over_tau, 120)
    assert abs(ends["on the way"] - theory.neg_log_snr(theory.fixed_point(w, C, gamma, alpha))) < 0.03
    assert abs(ends["waits"] - settled) < 0.06  # exp(-4) of the way is left after 120 ms
    assert abs(ends["on the way"] - settled) > 0.3


def test_half_the_step_with_half_the_rate_and_the_same_momentum_is_the_same_sleep():
    w, x = initial(20, 4), inputs(40, 4)
    change = [
        bs.simulate(w, x, bs.RateCircuit(dt=dt), bs.Hebbian(0.01, 0.9, learning_rate=2e-5 * dt)).weights - w
        for dt in (1.0, 0.5, 0.25)
    ]
    first, second = (np.abs(change[i] - change[i + 1]).max() for i in (0, 1))
    assert first < 0.02 * np.abs(change[0]).max()
    assert 0.4 < second / first < 0.6  # Euler's method is of first order


def test_a_schedule_with_an_error_says_what_it_is_called_with():
    schedule = lambda k: 1e-3 if k > 2 else 0.0
    with pytest.raises(ValueError, match="truth value") as error:
        bs.simulate(initial(4, 3), inputs(5, 3), bs.SteadyState(), bs.Hebbian(learning_rate=schedule))
    assert "array of update indices k" in error.value.__notes__[0]


def test_rectified_rates_have_no_threshold():
    with pytest.raises(ValueError, match=r"^bias must be >= 0 for rectified rates"):
        bs.simulate(initial(4, 3), inputs(5, 3), bs.RateCircuit(bias=-2.0), RULE, bs.Loop(rectified=True))


def test_weights_may_be_a_tensor_that_requires_gradients():
    x, rule = np.ones((2, 3)), bs.Hebbian(learning_rate=0.1)
    weights = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))
    run = bs.simulate(weights, x, bs.SteadyState(), rule)
    np.testing.assert_array_equal(run.weights, bs.simulate(weights.detach().numpy(), x, bs.SteadyState(), rule).weights)


def test_exactly_equal_weights_have_no_noise_in_any_engine():
    w, x = np.full((100, 3), 0.1), np.random.default_rng(0).normal(size=(5, 3))
    for engine in ("exact", "loop"):
        run = bs.simulate(w, x, bs.SteadyState(), bs.Hebbian(learning_rate=0.01), engine)
        assert run.neg_log_snr[0] == -math.inf


def test_a_run_prints_what_was_done():
    run = bs.simulate(np.eye(3), np.eye(3), bs.SteadyState(), bs.Hebbian(learning_rate=0.1))
    text = repr(run)
    assert "weights (3, 3), 3 presentations" in text
    assert "SteadyState(alpha=inf)" in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stimuli": bs.stimuli.gaussian}, TypeError, r"stimuli must be .* such as stimuli.gaussian\(\)"),
        ({"engine": bs.Exact}, TypeError, "engine must be a name or an engine"),
        ({"weights": np.eye(3, dtype=complex)}, TypeError, "weights must be an array of real numbers"),
        ({"weights": np.ones((1, 4, 3)), "stimuli": np.ones((7, 4, 3))}, ValueError, "add the axis that is missing"),
    ],
)
def test_likely_mistakes_are_distinguished(arguments, error, message):
    usual = {"weights": np.eye(3), "stimuli": np.eye(3), "circuit": bs.SteadyState()}
    with pytest.raises(error, match=message):
        bs.simulate(**usual | arguments, rule=bs.Hebbian(learning_rate=0.1))


@pytest.mark.parametrize("circuit", [bs.RateCircuit(dt=0.5), bs.SteadyState()], ids=["half the step", "no time"])
def test_a_gated_rate_of_another_circuit_is_refused(circuit):
    rule = bs.Hebbian(learning_rate=bs.rules.Gated(1e-4))
    message = rf"of held=150 updates, but a presentation of .* has {circuit.updates_per_presentation}\. Take held="
    with pytest.raises(ValueError, match=message):
        bs.simulate(np.eye(3), np.eye(3), circuit, rule)
