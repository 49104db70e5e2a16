"""Maps: simulated once for all that share them, anew or from a pool, whatever was called before."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from small_layers import GENTLE, RATE, after, after_network, assert_agree, gentle, layer, network
from torch import nn

import bioshare as bs
from bioshare.circuit.exact import Exact, sleep_map
from bioshare.circuit.simulate import find_engine
from bioshare.circuit.stimuli import Gaussian, derived

circuits = pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(5.0), RATE], ids=repr)


@pytest.fixture
def simulated(monkeypatch):
    """The number of inputs of every map that is simulated during a test."""
    inputs = []

    def count(patterns, *arguments, **options):
        inputs.append(patterns.shape[1])
        return sleep_map(patterns, *arguments, **options)

    monkeypatch.setattr("bioshare.bridge.sleep.sleep_map", count)
    return inputs


def alike():
    """Three layers with K = 18, one with K = 36."""
    return nn.Sequential(
        layer(seed=1, kernel_size=3),
        layer(seed=2, kernel_size=3, stride=2, padding=1),
        layer(seed=3, inputs=4, kernel_size=3, padding=1),
        layer(seed=4, inputs=4, kernel_size=3, groups=2),
    )


@circuits
@pytest.mark.parametrize("pool", [1, 3])
def test_a_pool_gives_the_exact_result_of_a_sleep_with_those_stimuli(circuit, pool):
    """Recomputed by hand: a map of the patterns of a pool's entry, applied to every module's own neurons."""
    model, phase = layer(kernel_size=3, padding=1), gentle(circuit, pool=pool, pool_seed=7)
    for seed in range(4):
        entry = derived(seed, 18) % pool
        patterns = bs.stimuli.gaussian().draw(20, 18, seed=derived(7, 18, entry))
        slept = after(phase, model, seed=seed)
        for module in bs.bridge.modules(model):
            groups = module.groups(model.weight.detach()).numpy()
            expected = sleep_map(patterns[:, module.seen], circuit, GENTLE)(groups)
            assert_agree(module.groups(slept), torch.from_numpy(expected), atol=1e-12)


def test_a_pool_simulates_no_more_than_its_maps(simulated):
    model, phase = alike(), gentle(bs.SteadyState(), pool=3)
    reports = [phase(model, seed=seed) for seed in range(25)]
    assert sorted(simulated) == [18] * 3 + [36] * 3
    assert sum(report.maps for report in reports) == 6
    assert [report.pool_maps for report in reports][-1] == 6
    assert reports[-1].pool_bytes == 8 * 3 * (18 * (2 * 18 + 1) + 36 * (2 * 36 + 1))
    assert (reports[0].maps, reports[0].pool_maps) == (2, 2)
    assert reports[0].map_seconds > 0
    assert (reports[-1].maps, reports[-1].map_seconds) == (0, 0.0)


def test_the_seeds_visit_all_of_a_pool():
    model = layer(kernel_size=3, padding=1)
    phase = gentle(bs.SteadyState(), pool=4)
    results = [after(phase, model, seed=seed) for seed in range(40)]
    different = [result for number, result in enumerate(results) if not any(map(result.equal, results[:number]))]
    assert len(different) == 4


def test_pools_with_other_seeds_have_other_maps():
    model = layer(kernel_size=3, padding=1)
    first, other = (after(gentle(bs.SteadyState(), pool=1, pool_seed=seed), model) for seed in (0, 1))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("options", [{"pool": 3}, {}, {"stimulus": bs.stimuli.grid()}], ids=["pool", "drawn", "grid"])
def test_no_sleep_depends_on_those_before_it(options):
    model, used = alike(), gentle(bs.SteadyState(5.0), **options)
    for seed in (5, 0, 9, 2):
        used(copy.deepcopy(model), seed=seed)
    for seed in (0, 1, 2):
        fresh = gentle(bs.SteadyState(5.0), **options)
        assert all(map(torch.equal, after_network(used, model, seed=seed), after_network(fresh, model, seed=seed)))


def test_the_unshuffled_grid_is_simulated_once(simulated):
    model = alike()
    for phase in (gentle(bs.SteadyState(), bs.stimuli.grid()), gentle(bs.SteadyState(), bs.stimuli.grid(), pool=5)):
        simulated.clear()
        reports = [phase(model, seed=seed) for seed in range(8)]
        assert sorted(simulated) == [18, 36]
        assert [report.maps for report in reports] == [2] + [0] * 7
        assert [report.pool_maps for report in reports] == [2] * 8


def test_layers_with_as_many_inputs_share_a_map(simulated):
    report = gentle(bs.SteadyState())(alike())
    assert simulated == [18, 36]
    assert (report.maps, report.pool_maps, report.pool_bytes) == (2, 0, 0)


def test_without_a_pool_maps_are_simulated_anew(simulated):
    phase = gentle(bs.SteadyState())
    for seed in (0, 0, 1):
        assert phase(alike(), seed=seed).maps == 2
    assert len(simulated) == 6


def test_every_relayed_layer_has_a_map_of_its_own(simulated):
    assert gentle(bs.SteadyState(), patterns="relayed")(alike()).maps == 4
    assert simulated == [18, 18, 36, 18]


def test_a_layer_that_relays_in_a_simultaneous_sleep_has_a_map_up_to_each_of_five_parts(simulated):
    """Only the second layer, whose responses the third layer sees; before the first part there is no change."""
    assert gentle(bs.SteadyState(), patterns="simultaneous")(alike()).maps == 4 + 4
    assert simulated == [18] * 4 + [18, 18, 36, 18]


def test_layers_of_another_precision_have_maps_of_their_own(simulated):
    phase = gentle(bs.SteadyState(), pool=1)
    model = layer(kernel_size=3, padding=1)
    phase(copy.deepcopy(model).float())
    single = next(iter(phase.pooled.values()))
    assert single.A.dtype == torch.float32
    assert phase(model).maps == 1
    assert {change.A.dtype for change in phase.pooled.values()} == {torch.float32, torch.float64}


def test_another_setting_starts_with_an_empty_pool():
    phase = gentle(bs.SteadyState(), pool=2)
    phase(network())
    other = replace(phase, rule=bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.001))
    assert other(network()).maps == 2
    fresh = gentle(bs.SteadyState(), pool=2)
    assert fresh == phase
    assert hash(fresh) == hash(phase)


@pytest.mark.parametrize("engine", ["exact", Exact(), "loop"])
def test_a_noisy_layer_is_simulated_where_its_weights_lie_or_in_the_engine_given(engine):
    noisy = gentle(bs.SteadyState(), bs.stimuli.noise(bs.stimuli.gaussian(), 0.1), engine=engine)
    (change,) = noisy._changes([("", layer(kernel_size=3).to("meta"))], 0, False, [])
    assert change.engine == (Exact(device="meta") if engine == "exact" else find_engine(engine))


@pytest.mark.parametrize(
    ("options", "times"),
    [({}, 1), ({"engine": "loop"}, 1), ({"silence": 2}, 1), ({"pool": 2}, 1)],
    ids=["map", "neuron by neuron", "silence", "pool"],
)
def test_patterns_are_drawn_once_for_all_layers_with_as_many_inputs(options, times, monkeypatch):
    found, patterns = [], Gaussian._patterns

    def count(stimulus, rng, batch, presentations, inputs):
        found.append(inputs)
        return patterns(stimulus, rng, batch, presentations, inputs)

    monkeypatch.setattr(Gaussian, "_patterns", count)
    gentle(bs.SteadyState(), **options)(alike())
    assert found == [18, 36] * times


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda phase: pickle.loads(pickle.dumps(phase))],
    ids=["copy", "deep", "pickle"],
)
def test_a_copy_of_a_sleep_leaves_the_pools_maps_behind_and_finds_them_again(duplicate):
    model, phase = layer(kernel_size=3, padding=1), gentle(bs.SteadyState(5.0), pool=2, pool_seed=3)
    slept = after(phase, model, seed=1)
    other = duplicate(phase)
    assert other == phase
    assert (len(phase.pooled), len(other.pooled)) == (1, 0)
    assert torch.equal(after(other, model, seed=1), slept)
    assert (len(phase.pooled), len(other.pooled)) == (1, 1)


@circuits
def test_the_engines_settings_are_kept(circuit):
    model = layer(kernel_size=3, padding=1)
    double, single = (after(gentle(circuit, engine=Exact(dtype=d)), model) for d in ("float64", "float32"))
    assert torch.equal(double, after(gentle(circuit), model))
    assert not torch.equal(double, single)
    assert_agree(double, single, atol=1e-4)


def test_rule_and_length_may_depend_on_the_number_of_inputs():
    model = alike()
    rules = lambda inputs: bs.Hebbian(gamma=0.0, momentum=0.0, learning_rate=0.1 / inputs)
    phase = bs.Sleep(bs.SteadyState(), rules, bs.stimuli.gaussian(), lambda inputs: 2 * inputs)
    together = after_network(phase, model)
    for number, inputs in ((0, 18), (2, 36)):
        alone = bs.Sleep(bs.SteadyState(), rules(inputs), bs.stimuli.gaussian(), 2 * inputs)
        assert torch.equal(after(alone, model[number]), together[number])
