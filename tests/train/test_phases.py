"""Phases by the words of the command line."""

import math

import pytest
import torch
from torch import nn

from bioshare.bridge import HebbianSharing, InstantSharing, Sleep
from bioshare.bridge.scaling import NormalisedRule, PerInput
from bioshare.circuit import stimuli
from bioshare.circuit.circuits import RateCircuit, SteadyState
from bioshare.nn import LocallyConnected2d, to_locally_connected
from bioshare.train.phases import (
    PHASES,
    CircuitOptions,
    HebbianOptions,
    IdealOptions,
    NoisyCircuitOptions,
    NoisyIdealOptions,
    phase_of,
)
from bioshare.train.seeds import seed_at
from bioshare.train.tables.miniature import SMALL


def test_a_phase_is_its_own_options():
    assert PHASES["instant"] is InstantSharing
    assert phase_of(InstantSharing("keep", "share"), seed=3) == InstantSharing("keep", "share")


def test_the_defaults_are_those_of_the_presets():
    """But for the grid's order: it is random in both."""
    assert repr(phase_of(CircuitOptions(), 0)) == repr(Sleep.rate_circuit())
    assert repr(phase_of(IdealOptions(), 0)) == repr(Sleep.steady_state())
    assert repr(phase_of(HebbianOptions(), 0)) == repr(HebbianSharing())


@pytest.mark.parametrize("options", [IdealOptions, CircuitOptions])
def test_every_field_of_a_sleep_arrives(options):
    found = options(
        gamma=0.1, presentations=2.0, strength=0.25, stimulus="gaussian", pool=3, rescale=False, moments="share",
        border="keep",
    ).phase(7)  # fmt: skip
    assert isinstance(found.rule, NormalisedRule)
    assert isinstance(found.presentations, PerInput)
    assert (found.rule.gamma, found.rule.strength, found.presentations.times) == (0.1, 0.25, 2.0)
    assert repr(found.stimulus) == repr(stimuli.gaussian())
    assert (found.pool, found.pool_seed, found.rescale) == (3, seed_at("pool", 7), False)
    assert (found.moments, found.border) == ("share", "keep")


@pytest.mark.parametrize("options", [IdealOptions, CircuitOptions, NoisyIdealOptions, NoisyCircuitOptions])
def test_a_sleep_is_rescaled_unless_it_has_a_gain(options):
    norms = lambda **given: (lambda sleep: (sleep.rescale, sleep.gain))(options(**given).phase(0))
    assert norms() == norms(rescale=True) == norms(rescale=True, gain=1.0) == (True, 1.0)
    assert norms(rescale=False) == norms(gain=1.0) == (False, 1.0)
    assert norms(gain=1.25) == norms(gain=1.25, rescale=False) == (False, 1.25)
    with pytest.raises(ValueError, match="gain must be 1 with rescale=True"):
        options(gain=1.25, rescale=True).phase(0)


@pytest.mark.parametrize("options", [IdealOptions, CircuitOptions])
def test_patterns_arrive(options):
    phase = options(stimulus="gaussian", patterns="simultaneous").phase(7)
    assert phase.patterns == "simultaneous"
    assert not phase.capturable


def test_every_field_of_hebbian_sharing_arrives():
    options = HebbianOptions(updates=3, alpha=5.0, border="keep", moments="reset")
    assert options.phase(7) == HebbianSharing(updates=3, alpha=5.0, border="keep", moments="reset")


def test_the_circuit_has_its_alpha_and_the_ideal_one_an_infinite_one():
    found = CircuitOptions(alpha=50.0).phase(0).circuit
    assert isinstance(found, RateCircuit)
    assert found.alpha == 50.0
    assert IdealOptions().phase(0).circuit == SteadyState(math.inf)


@pytest.mark.parametrize("stimulus", ["grid", "gaussian"])
@pytest.mark.parametrize("options", [NoisyIdealOptions, NoisyCircuitOptions])
def test_noise_is_that_of_every_neuron(options, stimulus):
    noisy = options(stimulus=stimulus, noise=0.25).phase(0)
    assert noisy.stimulus.noise == 0.25
    assert not noisy.capturable
    assert CircuitOptions(stimulus=stimulus).phase(0).capturable


def layer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocallyConnected2d(1, 2, 3, input_size=6)


def slept(phase, seed):
    model = layer()
    phase(model, seed, progress=False)
    return model.weight


def test_the_recommended_sleep_is_that_of_the_table_in_miniature():
    phase = SMALL["lc-ws10-recommended"].sleep.phase(3)
    assert phase == Sleep.recommended(pool_seed=seed_at("pool", 3))
    with pytest.raises(TypeError, match=r"border must be left out: Sleep\.recommended sets moments, border itself"):
        Sleep.recommended(border="keep")
    with pytest.raises(ValueError, match=r'moments="share" needs the optimizer'):
        Sleep.recommended()(to_locally_connected(nn.Conv2d(1, 2, 3), (1, 8, 8)))


def test_a_run_with_another_seed_has_another_pool():
    """In a pool of one, all sleeps of a run are the same."""
    found = [CircuitOptions(pool=1, stimulus="gaussian").phase(seed) for seed in (0, 0, 1)]
    one, again, other = (slept(phase, seed=5) for phase in found)
    assert torch.equal(one, again)
    assert torch.equal(one, slept(found[0], seed=6))
    assert not torch.equal(one, other)


def test_without_a_pool_every_sleep_is_a_new_one():
    phase = CircuitOptions(stimulus="gaussian").phase(0)
    assert not torch.equal(slept(phase, seed=5), slept(phase, seed=6))
