"""Phases behind an optimiser's steps, against the same loop by hand."""

import copy

import pytest
import torch
from small_layers import gentle, network, weights

import bioshare as bs
from bioshare.bridge.hooks import PhaseHook

SLEEP = gentle(bs.SteadyState(5.0))


def trained(model, steps, after_step, start=0, **options):
    """Train a copy of a model by `steps` steps of gradient descent, with a call after each."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    hook = after_step(model, optimizer)
    for step in range(start, steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(2, 2, 11, 10, generator=generator).double()).square().mean().backward()
        optimizer.step()
        hook(step + 1)
    return model


def by_hand(model, optimizer):
    return lambda step: SLEEP(model, seed=step) if step % 3 == 0 else None


def by_hook(model, optimizer, **options):
    optimizer.register_step_post_hook(PhaseHook(SLEEP, model, every=3, **options))
    return lambda step: None


def test_a_hook_sleeps_after_every_nth_step_with_the_step_as_seed():
    model = network()
    assert all(map(torch.equal, weights(trained(model, 7, by_hand)), weights(trained(model, 7, by_hook))))


def test_a_hook_goes_on_from_the_steps_of_a_checkpoint():
    model = network()
    half = trained(model, 4, by_hook)
    resumed = trained(half, 7, lambda *of: by_hook(*of, steps=4), start=4)
    assert all(map(torch.equal, weights(trained(model, 7, by_hook)), weights(resumed)))


def test_the_optimizer_of_the_step_is_the_phases():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.register_step_post_hook(PhaseHook(bs.InstantSharing(moments="reset"), model))
    model(torch.ones(1, 2, 11, 10).double()).sum().backward()
    optimizer.step()
    assert not optimizer.state[model[0].weight]["exp_avg"].any()


def test_a_hook_checks_the_model_and_numbers_at_once():
    with pytest.raises(ValueError, match="model must have a LocallyConnected2d layer"):
        PhaseHook(SLEEP, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="every must be a number of steps, at least 1"):
        PhaseHook(SLEEP, network(), every=0)


def test_sleeps_without_a_seed_differ_and_are_the_sleeps_with_the_seeds_0_1_2():
    model = network()
    numbered, counted = copy.deepcopy(model), copy.deepcopy(model)
    for seed in range(4):
        expected = SLEEP(numbered, seed=seed)
        report = SLEEP(counted) if seed != 2 else SLEEP.change(counted)
        assert all(map(torch.equal, weights(numbered), weights(counted)))
        assert expected.seed == seed
        assert report is None or report.seed == seed
    other = copy.deepcopy(model)  # every model has a count of its own
    assert SLEEP(other).seed == 0
    assert SLEEP(other, seed=7).seed == 7
    assert SLEEP(other).seed == 1
    assert SLEEP(copy.deepcopy(other)).seed == 0
