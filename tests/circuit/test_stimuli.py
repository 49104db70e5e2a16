"""Seeded streams of presentations: their moments, their bytes, and what is refused."""

import numpy as np
import pytest

import bioshare as bs

STREAMS = [bs.stimuli.gaussian(1.0, 0.5), bs.stimuli.grid(shuffle=True)]
streams = pytest.mark.parametrize("stimulus", STREAMS, ids=lambda s: type(s).__name__)


@streams
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(stimulus):
    first, again, other = (stimulus.draw(40, 6, seed=seed).tobytes() for seed in (3, 3, 4))
    assert first == again != other


@streams
def test_batch_entries_are_drawn_independently(stimulus):
    x = stimulus.draw(40, 6, seed=0, batch=(2, 3))
    assert x.shape == (2, 3, 40, 6)
    assert len({entry.tobytes() for entry in x.reshape(6, -1)}) == 6


@streams
def test_the_global_generator_is_left_alone(stimulus):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    stimulus.draw(10, 4, seed=0)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


@streams
def test_noise_is_added_by_the_neurons_and_not_to_the_shared_input(stimulus):
    noisy = bs.stimuli.noise(stimulus, 0.3)
    assert noisy.noise == 0.3
    assert noisy.draw(20, 6, seed=0).tobytes() == stimulus.draw(20, 6, seed=0).tobytes()


def test_gaussian_inputs_have_the_covariance_that_they_say():
    x = bs.stimuli.gaussian(mean=1.0, std=0.5).draw(100_000, 3, seed=0)
    np.testing.assert_allclose(x.mean(0), 1.0, rtol=0, atol=0.01)
    np.testing.assert_allclose(x.T @ x / len(x), bs.stimuli.gaussian(1.0, 0.5).covariance(3), rtol=0, atol=0.02)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_grid_has_exactly_the_covariance_that_it_says(shuffle):
    stimulus = bs.stimuli.grid(shuffle, amplitude=3.0)
    x = stimulus.draw(4 * 5, 5, seed=0)
    np.testing.assert_allclose(x.T @ x / len(x), stimulus.covariance(5), rtol=0, atol=1e-14)


@streams
def test_the_covariance_is_that_of_the_shared_input_whatever_the_noise(stimulus):
    np.testing.assert_array_equal(bs.stimuli.noise(stimulus, 0.3).covariance(4), stimulus.covariance(4))


@pytest.mark.parametrize(
    "stimulus",
    [*STREAMS, bs.stimuli.grid(amplitude=3.0), bs.stimuli.noise(bs.stimuli.gaussian(2.0, 0.1), 0.3)],
    ids=repr,
)
def test_the_power_is_the_trace_of_the_covariance(stimulus):
    for inputs in (1, 5):
        expected = np.trace(stimulus.covariance(inputs))
        assert stimulus.power(inputs) == pytest.approx(expected, abs=1e-12)
        assert super(type(stimulus), stimulus).power(inputs) == pytest.approx(expected, abs=1e-12)


def test_a_grid_visits_the_inputs_in_order():
    assert np.argmax(bs.stimuli.grid().draw(7, 3, seed=0), -1).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_shuffled_grid_visits_every_input_once_in_every_cycle_in_a_new_order():
    x = bs.stimuli.grid(shuffle=True, amplitude=2.0).draw(10 * 6, 6, seed=0)
    assert np.all(np.sort(x, -1) == [0, 0, 0, 0, 0, 2])
    cycles = np.argmax(x, -1).reshape(10, 6)
    assert np.all(np.sort(cycles, -1) == np.arange(6))
    assert len({tuple(cycle) for cycle in cycles}) > 5


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: bs.stimuli.gaussian(std=-1.0), "std"),
        (lambda: bs.stimuli.gaussian(mean=np.nan), "mean"),
        (lambda: bs.stimuli.grid(amplitude=0.0), "amplitude"),
        (lambda: bs.stimuli.noise(bs.stimuli.grid(), -0.1), "noise"),
        (lambda: bs.stimuli.noise(bs.stimuli.grid(), np.inf), "noise"),
        (lambda: bs.stimuli.grid().draw(0, 3, seed=0), "presentations"),
        (lambda: bs.stimuli.grid().draw(3, 3, seed=-1), "seed"),
    ],
)
def test_an_impossible_value_is_refused(make, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: bs.stimuli.gaussian(std=[1.0, 2.0]), "std"),
        (lambda: bs.stimuli.grid().draw(2.5, 3, seed=0), "presentations"),
        (lambda: bs.stimuli.grid().draw(3, 3, seed=0.5), "seed"),
        (lambda: bs.stimuli.grid().draw(3, 3, seed=None), "seed"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(make, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        make()
