"""Sleep neuron by neuron: noise of their own, in chunks that fit into memory."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from small_layers import GENTLE, RATE, after, assert_agree, gentle, layer, network, positions, weights

import bioshare as bs
from bioshare.bench.harness import peak_bytes
from bioshare.bridge.changes import BYTES_PER_WEIGHT
from bioshare.circuit.stimuli import derived, generators
from bioshare.nn import LocallyConnected2d

CPU = torch.device("cpu")
NOISY = bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)
circuits = pytest.mark.parametrize("circuit", [bs.SteadyState(), bs.SteadyState(5.0), RATE], ids=repr)
engines = pytest.mark.parametrize("engine", ["exact", "loop"])


def channel_bytes(model):
    """What one output channel of a layer needs."""
    return BYTES_PER_WEIGHT * model.weight[:, :, 0].numel()


@circuits
@engines
def test_memory_does_not_change_the_result(circuit, engine):
    model = layer(kernel_size=3, padding=1, outputs=7)
    results = [
        after(gentle(circuit, NOISY, engine=engine, memory=memory), model)
        for memory in (1e9, 3.5 * channel_bytes(model), 1.01 * channel_bytes(model))
    ]
    assert not torch.equal(results[0], model.weight)
    assert torch.equal(results[0], results[1])  # bit for bit
    assert torch.equal(results[0], results[2])


@circuits
def test_engines_agree_on_noise(circuit):
    model = layer(kernel_size=(2, 3), stride=(2, 1), padding=1, groups=2)
    exact, loop = (after(gentle(circuit, NOISY, engine=engine), model) for engine in ("exact", "loop"))
    assert_agree(exact, loop, atol=1e-10)


def test_noise_reaches_every_neuron_but_not_every_channel():
    model = layer(kernel_size=3, padding=1)
    with torch.no_grad():
        model.weight[:, :, 1] = model.weight[:, :, 0]
    rule = bs.Hebbian(gamma=0.01, momentum=0.0, learning_rate=0.05)
    clean, noisy = (
        after(bs.Sleep(bs.SteadyState(), rule, stimulus, 40), model, seed=2)
        for stimulus in (bs.stimuli.grid(), bs.stimuli.noise(bs.stimuli.grid(), std=0.1))
    )
    moved = noisy - clean
    assert 1e-3 < moved.abs().max() < 1
    assert moved.flatten(2).abs().amax(-1).min() > 1e-6
    assert torch.equal(noisy[:, :, 0], noisy[:, :, 1])


@circuits
def test_every_neuron_has_noise_of_its_own(circuit):
    """Equal weights, equal patterns: whatever sets neurons apart afterwards is their own noise."""
    model = layer(kernel_size=3, padding=1)
    with torch.no_grad():
        model.weight.fill_(1.0)
    noisy = after(gentle(circuit, NOISY), model)
    for rows, columns in positions(model):
        slept = noisy[rows, columns].flatten(1)
        assert len(torch.unique(slept, dim=0)) == len(slept)
    modules = [noisy[rows[0], columns[0]] for rows, columns in positions(model)]
    assert len(torch.unique(torch.stack(modules), dim=0)) == len(modules)


@circuits
def test_noise_that_vanishes_is_no_noise(circuit):
    model = layer(kernel_size=3, padding=1)
    tiny = bs.stimuli.noise(bs.stimuli.gaussian(), 1e-13)
    assert_agree(after(gentle(circuit, tiny), model), after(gentle(circuit), model), atol=1e-10)


@circuits
def test_layers_and_sleeps_have_noise_of_their_own(circuit):
    twins = torch.nn.Sequential(layer(kernel_size=3, inputs=4, padding=1), layer(kernel_size=3, inputs=4, padding=1))
    phase = gentle(circuit, NOISY)
    phase(twins)
    assert not torch.equal(twins[0].weight, twins[1].weight)
    first, second = (after(phase, layer(kernel_size=3, padding=1), seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)


@circuits
def test_a_noisy_sleep_is_the_exact_engine_on_the_modules_own_neurons(circuit):
    """By hand, from the seeds: patterns and noise belong to the pattern's inputs, which every module sees shifted."""
    model = layer(kernel_size=2, padding=1, input_size=(7, 7))  # 8 x 8 positions: four modules of 16
    slept = after(gentle(circuit, NOISY), model, seed=3)
    patterns = bs.stimuli.gaussian().draw(20, 8, seed=derived(3, 8))
    rng = generators(derived(derived(3, 8, 0), 16))[1]
    noise = 0.1 * np.stack([rng.standard_normal((4, 16, 8)) for _ in range(20)])
    for number, module in enumerate(bs.bridge.modules(model)):
        stimuli = (patterns[:, None] + noise[:, number])[..., module.seen.numpy()]  # (P, N, K)
        groups = module.groups(model.weight.detach()).numpy()
        run = bs.simulate(groups, stimuli[None], circuit, GENTLE)
        assert_agree(module.groups(slept), torch.from_numpy(run.weights), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_rescaled_layer_of_less_precision_is_rounded_once(dtype):
    """Rounded before its means are measured, every group would get a factor of its own that is off by a rounding."""
    model, phase = layer(kernel_size=3, padding=1).to(dtype), gentle(bs.SteadyState(2.0), NOISY, rescale=True)
    expected = after(phase, copy.deepcopy(model).double()).to(dtype)
    assert (after(phase, model) == expected).double().mean() > 0.99


def test_too_small_a_memory_is_refused_before_any_weight_changes():
    model = network()
    before, needed = weights(model), channel_bytes(model[1])
    assert needed > channel_bytes(model[0])
    with pytest.raises(ValueError, match=r"memory must be at least .* for one channel of layer '1'; got "):
        gentle(bs.SteadyState(), NOISY, memory=needed - 1)(model)
    assert all(map(torch.equal, before, weights(model)))
    gentle(bs.SteadyState(), NOISY, memory=needed)(model)
    assert not any(map(torch.equal, before, weights(model)))


def test_a_sleep_that_is_cut_short_does_not_pass_for_a_whole_one():
    class Interrupted(bs.circuit.exact.Exact):
        def run(self, problem, progress=True):
            outcome = super().run(problem, progress)
            outcome.presentations -= 1
            return outcome

    model = network()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        gentle(bs.SteadyState(), NOISY, engine=Interrupted())(model)
    assert all(map(torch.equal, before, weights(model)))


def noisy_sleep(memory):
    """A sleep of a layer with nine modules of 100; torch and its allocators are warm."""
    model = LocallyConnected2d(8, 32, 3, padding=1, input_size=30)
    phase = bs.Sleep(bs.SteadyState(5.0), bs.Hebbian(learning_rate=1e-6), NOISY, 12, memory=memory)
    phase(LocallyConnected2d(1, 1, 3, input_size=8))
    return lambda: phase(model, progress=False)


@pytest.mark.slow
def test_peak_memory_stays_within_its_budget(monkeypatch):
    """A layer whose simulation in one piece needs five times as much; its new weights come on top."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "262144")  # glibc gives back what is freed, so that peaks are needs
    numbers = 30 * 30 * 32 * 8 * 9
    budget, new_weights = BYTES_PER_WEIGHT * numbers / 5, 4 * numbers
    peak = peak_bytes(partial(noisy_sleep, budget), CPU)
    if peak is None:
        pytest.skip("only Linux counts the peak of a process")
    assert peak < budget + new_weights
    assert 2 * budget < peak_bytes(partial(noisy_sleep, 5 * budget), CPU) < 5 * budget + new_weights
