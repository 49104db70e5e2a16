"""Phases: a new phase is one method; capturable phases split into tensors and their application."""

import copy
import dataclasses
import pickle

import pytest
import torch
from small_layers import after_network, gentle, network, weights
from torch import nn

import bioshare as bs
from bioshare.bridge import Phase

CAPTURABLE = {
    "instant": bs.InstantSharing(),
    "instant, half": bs.InstantSharing(spread=0.5),
    "hebbian": bs.HebbianSharing(),
    "drawn": gentle(bs.SteadyState(5.0)),
    "pool": bs.Sleep.rate_circuit(pool=2),
    "paper": bs.Sleep.paper(),
    "gain": bs.Sleep.rate_circuit(gain=1.2),
}
OTHERS = {
    "relayed": gentle(bs.SteadyState(), patterns="relayed"),
    "noise": gentle(bs.SteadyState(5.0), bs.stimuli.noise(bs.stimuli.grid(), 0.1)),
    "loop": gentle(bs.SteadyState(), engine="loop"),
}
capturable = pytest.mark.parametrize("phase", CAPTURABLE.values(), ids=CAPTURABLE)
phases = pytest.mark.parametrize("phase", (CAPTURABLE | OTHERS).values(), ids=CAPTURABLE | OTHERS)


@dataclasses.dataclass(frozen=True)
class Halving(Phase):
    def change(self, model, seed=0, *, optimizer=None):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.5)


def test_a_new_phase_is_one_method():
    model = nn.Linear(3, 2)
    before = weights(model)
    report = Halving()(model, seed=1, progress=False, measure=False)
    assert all(torch.equal(new, old / 2) for new, old in zip(model.parameters(), before, strict=True))
    assert (report.phase, report.layers) == ("Halving()", ())
    assert report.seconds > 0
    assert not Halving().capturable
    with pytest.raises(ValueError, match="seed must be"):
        Halving()(model, seed=-1)


def test_a_check_that_fails_leaves_the_weights_as_they_were():
    class Refusing(Halving):
        def check(self, model):
            raise ValueError("no model will do")

    model = nn.Linear(3, 2)
    before = weights(model)
    with pytest.raises(ValueError, match="no model will do"):
        Refusing()(model)
    assert all(map(torch.equal, before, weights(model)))


@capturable
def test_tensors_and_their_application_are_the_whole_change(phase):
    assert phase.capturable
    model = network()
    changed = after_network(phase.change, model, seed=3)
    applied = after_network(lambda each: phase.apply(each, phase.tensors(each, 3)), model)
    assert all(map(torch.equal, changed, applied))
    assert not any(map(torch.equal, changed, weights(model)))
    assert (phase.tensors(model, 3) == ()) == isinstance(phase, bs.InstantSharing)


@pytest.mark.parametrize("phase", OTHERS.values(), ids=OTHERS)
def test_a_sleep_that_depends_on_the_weights_cannot_be_captured(phase):
    assert not phase.capturable
    with pytest.raises(ValueError, match="tensors need the exact engine, no noise, and patterns"):
        phase.tensors(network())


@phases
def test_a_phase_is_made_again_from_its_fields(phase):
    """Nothing hides in a closure: the fields of dataclasses, down to numbers and text, are all there is."""
    again = rebuilt(phase)
    assert again == phase
    assert repr(again) == repr(phase)
    model = network()
    expected = after_network(phase, model, seed=2)
    for other in (again, copy.deepcopy(phase), pickle.loads(pickle.dumps(phase))):
        assert all(map(torch.equal, expected, after_network(other, model, seed=2)))


def rebuilt(value):
    """The same value from its constructor's fields alone."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: rebuilt(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return type(value)(**fields)
    assert value is None or isinstance(value, bool | int | float | str), value
    return value
