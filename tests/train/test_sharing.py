"""What a configuration's fields make of a sharing."""

import dataclasses
import math

import pytest
import torch

from bioshare.bridge import InstantSharing, Sleep
from bioshare.bridge.scaling import NormalisedRule, PerInput
from bioshare.circuit import stimuli
from bioshare.circuit.circuits import RateCircuit, SteadyState
from bioshare.nn import LocallyConnected2d
from bioshare.train.config import TrainConfig
from bioshare.train.data.order import seed_at
from bioshare.train.sharing import sharing

INSTANT = TrainConfig(locally_connected=True, share_every=3)


def sleep(**fields):
    found = sharing(dataclasses.replace(INSTANT, **fields))
    assert isinstance(found, Sleep)
    return found


def test_without_share_every_nothing_is_shared():
    assert sharing(dataclasses.replace(INSTANT, share_every=None)) is None


def test_instant_sharing_has_border_and_moments():
    assert sharing(INSTANT) == InstantSharing("share", "keep")
    assert sharing(dataclasses.replace(INSTANT, border="keep", moments="share")) == InstantSharing("keep", "share")


def test_the_defaults_are_those_of_the_presets():
    """But for the grid's order: it is random in both."""
    pool_seed = seed_at("pool", INSTANT.seed)
    presets = {"circuit": Sleep.rate_circuit(pool_seed=pool_seed), "ideal": Sleep.steady_state(pool_seed=pool_seed)}
    for name, preset in presets.items():
        assert repr(sleep(sleep=name)) == repr(preset)


@pytest.mark.parametrize("name", ["circuit", "ideal"])
def test_every_field_of_a_sleep_arrives(name):
    found = sleep(
        sleep=name, gamma=0.1, presentations=2.0, strength=0.25, stimulus="gaussian", pool=3, rescale=False,
        moments="share", border="keep", seed=7,
    )  # fmt: skip
    assert isinstance(found.rule, NormalisedRule)
    assert isinstance(found.presentations, PerInput)
    assert (found.rule.gamma, found.rule.strength, found.presentations.times) == (0.1, 0.25, 2.0)
    assert repr(found.stimulus) == repr(stimuli.gaussian())
    assert (found.pool, found.pool_seed, found.rescale) == (3, seed_at("pool", 7), False)
    assert (found.moments, found.border) == ("share", "keep")


def test_the_circuit_has_its_alpha_and_the_ideal_one_an_infinite_one():
    found = sleep(sleep="circuit", alpha=50.0).circuit
    assert isinstance(found, RateCircuit)
    assert found.alpha == 50.0
    assert sleep(sleep="ideal").circuit == SteadyState(math.inf)


@pytest.mark.parametrize("stimulus", ["grid", "gaussian"])
def test_noise_is_that_of_every_neuron(stimulus):
    assert sleep(sleep="circuit", stimulus=stimulus).collapses
    noisy = sleep(sleep="circuit", stimulus=stimulus, noise=0.25)
    assert noisy.stimulus.noise == 0.25
    assert not noisy.collapses


def layer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocallyConnected2d(1, 2, 3, input_size=6)


def slept(share, seed):
    model = layer()
    share(model, seed, progress=False)
    return model.weight


def test_a_run_with_another_seed_has_another_pool():
    """In a pool of one, all sleeps of a run are the same."""
    found = [sleep(sleep="circuit", pool=1, stimulus="gaussian", seed=seed) for seed in (0, 0, 1)]
    one, again, other = (slept(share, seed=5) for share in found)
    assert torch.equal(one, again)
    assert torch.equal(one, slept(found[0], seed=6))
    assert not torch.equal(one, other)


def test_without_a_pool_every_sleep_is_a_new_one():
    share = sleep(sleep="circuit", stimulus="gaussian")
    assert not torch.equal(slept(share, seed=5), slept(share, seed=6))
