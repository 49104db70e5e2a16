"""What a sleep refuses: when it is made, or when it is called, before any weight changes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from small_layers import GENTLE, RATE, gentle, layer, modes, network, weights
from torch import nn

import bioshare as bs
from bioshare.circuit.problem import DivergenceError


def assert_refused(phase, model, error, problem, **arguments):
    """The call raises and leaves all weights as they were."""
    before = weights(model)
    with pytest.raises(error, match=problem):
        phase(model, **arguments)
    for now, old in zip(weights(model), before, strict=True):
        torch.testing.assert_close(now, old, rtol=0, atol=0, equal_nan=True)


SIMULTANEOUS = {"patterns": "simultaneous"}
FORMS = {
    "one map": {},
    "pool": {"pool": 2},
    "relayed": {"patterns": "relayed"},
    "simultaneous": SIMULTANEOUS,
    "neuron by neuron": {"engine": "loop"},
    "noise": {"stimulus": bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)},
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


@forms
def test_bad_input_is_named_before_any_weight_changes(options):
    """A first layer that can sleep, and a second one that can't."""
    model, phase = network(), gentle(bs.SteadyState(), **options)
    for seed, error in ((-1, ValueError), (0.5, TypeError), ("0", TypeError)):
        assert_refused(phase, model, error, "seed must be", seed=seed)
    fast = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1.0)
    slow = bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=1e-3)
    arguments = {"rule": slow, "stimulus": bs.stimuli.gaussian(), "presentations": 20} | options
    make = lambda **changed: bs.Sleep(bs.SteadyState(), **(arguments | changed))
    unfit = {
        "layer '1': learning_rate is above the stability limit": (
            ValueError,
            {"rule": lambda k: slow if k < 20 else fast},
        ),
        "layer '1': rule must return a Hebbian": (TypeError, {"rule": lambda k: slow if k < 20 else 0.1}),
        "layer '1': gamma must be one number": (
            ValueError,
            {"rule": lambda k: slow if k < 20 else bs.Hebbian(np.ones(2), learning_rate=1e-3)},
        ),
        "layer '1': presentations must be a number": (TypeError, {"presentations": lambda k: 20 if k < 20 else 1.5}),
        "layer '1': presentations must be": (ValueError, {"presentations": lambda k: 20 if k < 20 else 0}),
        "layer '1': learning_rate must return one rate per update": (
            ValueError,
            {"rule": lambda k: slow if k < 20 else bs.Hebbian(learning_rate=lambda k: k[:2])},
        ),
    }
    for problem, (error, changed) in unfit.items():
        assert_refused(make(**changed), model, error, problem)
    assert_refused(phase, model, ValueError, "keep must name a locally connected layer", keep=("2", 0))
    degenerate = nn.Sequential(*model, layer(inputs=4, kernel_size=(2, 3), dilation=(2, 1)))
    problem = r"layer '2' has kernel_size=\(2, 3\) and dilation=\(2, 1\): they share a factor"
    assert_refused(phase, degenerate, ValueError, problem)


def diverging(inputs):
    """A rule that is above the stability limit in a third of the presentations, but only for a larger K."""
    rate = 1e-3 if inputs < 20 else 1.0
    burst = np.where(np.arange(10_000) % 30 < 10, rate, 0.0)
    return bs.Hebbian(gamma=0.0, momentum=0.9, learning_rate=lambda k: burst[: len(k)])


@pytest.mark.parametrize("form", ["one map", "pool"])
def test_a_divergence_is_an_error_before_any_weight_changes(form):
    """The second layer diverges; no map depends on weights, so the first layer has not slept either."""
    phase = gentle(RATE, **FORMS[form], presentations=60)
    phase = dataclasses.replace(phase, rule=diverging)
    phase.check(network())  # the rates pass, as they do in training
    assert_refused(phase, network(), DivergenceError, "diverged")


@pytest.mark.parametrize("form", ["relayed", "neuron by neuron", "noise"])
def test_a_divergence_that_depends_on_the_weights_leaves_its_own_layer_as_it_was(form):
    model = network()
    before = weights(model)
    phase = dataclasses.replace(gentle(RATE, **FORMS[form], presentations=60), rule=diverging)
    with pytest.raises(DivergenceError, match="diverged"):
        phase(model)
    assert not torch.equal(model[0].weight, before[0])
    assert torch.equal(model[1].weight, before[1])


@modes
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_before_any_changes(mode, value):
    model = network()
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0, 0, 0] = value
    assert_refused(mode("share"), model, ValueError, "layer '1' must have finite weights")


@modes
def test_what_has_no_layers_to_share_is_refused(mode):
    with pytest.raises(ValueError, match="model must have a LocallyConnected2d layer"):
        mode("share")(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got Tensor"):
        mode("share")(torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"circuit": "ideal"}, TypeError, "circuit must be a RateCircuit or a SteadyState; got 'ideal'"),
        ({"circuit": bs.SteadyState(np.ones(2))}, ValueError, "alpha must be one number for all groups of a model"),
        ({"rule": 0.1}, TypeError, "rule must be a Hebbian or a callable"),
        ({"rule": bs.Hebbian(np.ones(2), learning_rate=0.1)}, ValueError, "gamma must be one number for all groups"),
        ({"stimulus": "grid"}, TypeError, "stimulus must be a Stimulus"),
        ({"presentations": 0}, ValueError, "presentations must be .*at least 1; got 0"),
        ({"presentations": 1.5}, TypeError, "presentations must be a number of presentations or a callable; got 1.5"),
        ({"border": "ignore"}, ValueError, "border must be one of 'share', 'keep', 'scale'; got 'ignore'"),
        ({"engine": "exakt"}, ValueError, "engine must be one of 'exact', 'brian2', 'loop'; got 'exakt'"),
        (
            {"patterns": "dreamt"},
            ValueError,
            "patterns must be one of 'drawn', 'relayed', 'simultaneous'; got 'dreamt'",
        ),
        ({"pool": 0}, ValueError, "pool must be None or a number of sleeps to keep, at least 1; got 0"),
        ({"pool": 1.0}, TypeError, "pool must be None or a number of sleeps to keep; got 1.0"),
        ({"pool_seed": -1}, ValueError, "pool_seed must be a non-negative integer"),
        ({"moments": "forget"}, ValueError, "moments must be one of 'keep', 'share', 'reset'; got 'forget'"),
        ({"memory": 0}, ValueError, "memory must be a positive number of bytes; got 0"),
        ({"engine": "loop", "pool": 2}, ValueError, "pool needs a sleep that is one linear map"),
        *(
            ({"patterns": patterns} | form, ValueError, f'^patterns="{patterns}" needs a sleep that is one linear map')
            for patterns in ("relayed", "simultaneous")
            for form in (FORMS["neuron by neuron"], FORMS["noise"], {"engine": bs.Loop()})
        ),
        (SIMULTANEOUS | {"pool": 2}, ValueError, "pool must be None for simultaneous patterns"),
        (
            SIMULTANEOUS | {"stimulus": bs.stimuli.grid()},
            ValueError,
            "stimulus must bring new patterns .* simultaneous",
        ),
    ],
)
def test_impossible_sleeps_are_refused_when_they_are_made(options, error, problem):
    fine = {"circuit": bs.SteadyState(), "rule": GENTLE, "stimulus": bs.stimuli.gaussian(), "presentations": 3}
    bs.Sleep(**fine)
    with pytest.raises(error, match=problem):
        bs.Sleep(**(fine | options))


def test_an_engine_of_another_kind_is_refused_before_any_weight_changes():
    assert_refused(gentle(bs.SteadyState(), engine=3), network(), TypeError, "engine must be a name or an engine")


@modes
@pytest.mark.parametrize("norm", [True, False], ids=["weight norm", "parametrization"])
def test_weights_that_are_computed_are_refused_before_any_changes(mode, norm):
    """A sleep would write into what is computed anew at the next step."""
    model = network()
    if norm:
        nn.utils.parametrizations.weight_norm(model[1])
    else:
        nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Tanh())
    assert_refused(mode("share"), model, TypeError, "layer '1' must have a weight that is a Parameter")
    nn.utils.parametrize.remove_parametrizations(model[1], "weight")
    assert mode("share")(model).layers[1].modules == 9


@modes
def test_weights_without_values_are_refused(mode):
    with pytest.raises(ValueError, match="layer '0' must have weights in memory; got the meta device"):
        mode("share")(network().to("meta"))


@modes
def test_layers_with_one_parameter_are_refused_before_it_changes(mode):
    model = nn.Sequential(layer(kernel_size=3, padding=1), layer(kernel_size=3, inputs=4), layer(kernel_size=3))
    model[2].padding, model[2].weight = (1, 1), model[0].weight
    assert_refused(mode("share"), model, ValueError, "layers '0' and '2' must have a weight each")


def test_complex_weights_are_refused():
    layer = bs.nn.LocallyConnected2d(1, 2, 3, input_size=8, dtype=torch.complex64)
    with pytest.raises(ValueError, match="must have real weights to share"):
        bs.InstantSharing()(layer)
