"""An optimiser's moments are left alone, follow the weights, or start anew."""

import copy

import pytest
import torch
from small_layers import GENTLE, RATE, after, assert_agree, borders, gentle, layer, network, positions, weights
from torch import nn, optim

import bioshare as bs
from bioshare.bridge.moments import LINEAR, SQUARES

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, dampened": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, nesterov=False),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "AdamW, fused": lambda p: optim.AdamW(p, lr=0.1, fused=True),
    "AdamW, amsgrad": lambda p: optim.AdamW(p, lr=0.1, amsgrad=True),
    "Adam": lambda p: optim.Adam(p, lr=0.1, foreach=True),
    "NAdam": lambda p: optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: optim.RAdam(p, lr=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "Adagrad, from 0.5": lambda p: optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
}
RESET_ONLY = {
    "Adamax": lambda p: optim.Adamax(p, lr=0.1),
    "Adadelta": lambda p: optim.Adadelta(p, lr=0.1),
}
ADAGRADS = OPTIMIZERS["Adagrad"], OPTIMIZERS["Adagrad, from 0.5"]
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
SHARED = {
    "instant": lambda **options: bs.InstantSharing(**options),
    "hebbian": lambda **options: bs.HebbianSharing(updates=2, **options),
    "steady": lambda **options: gentle(bs.SteadyState(5.0), **options),
    "rate circuit": lambda **options: gentle(RATE, **options),
    "relayed": lambda **options: gentle(bs.SteadyState(), patterns="relayed", **options),
    "pool": lambda **options: gentle(bs.SteadyState(), pool=2, **options),
}
CALLS = bs.InstantSharing, bs.HebbianSharing, lambda **options: gentle(bs.SteadyState(), **options)
changes = pytest.mark.parametrize("change", SHARED.values(), ids=SHARED)
treatments = pytest.mark.parametrize("treatment", ["keep", "share", "reset"])


def stepped(make, model, steps=3):
    """An optimiser of a model that has taken some steps along gradients of its own."""
    optimizer, generator = make(model.parameters()), torch.Generator().manual_seed(5)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
    return optimizer


def state_of(optimizer, parameter):
    """Copies of the tensors that an optimiser keeps for a parameter, by name."""
    state = optimizer.state[parameter]
    return {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}


@optimizers
@changes
def test_keep_leaves_the_state_as_it_is_to_the_bit(make, change):
    model = network()
    optimizer = stepped(make, model)
    before = copy.deepcopy(optimizer.state_dict())
    change()(model, optimizer=optimizer)
    after_it = optimizer.state_dict()
    assert before["param_groups"] == after_it["param_groups"]
    for number, state in before["state"].items():
        for name, value in state.items():
            new = after_it["state"][number][name]
            assert torch.equal(value, new) if isinstance(value, torch.Tensor) else value == new


@optimizers
@changes
@borders
def test_shared_sums_of_gradients_move_as_a_difference_of_weights_would(make, change, border):
    """sleep(w + m) - sleep(w) is the linear part of the sleep applied to m, exactly."""
    model = layer(kernel_size=3, padding=1)
    optimizer, phase = stepped(make, model), change(border=border, moments="share")
    before = state_of(optimizer, model.weight)
    linear = [name for name in before if name in LINEAR]
    assert linear or make in ADAGRADS
    start, sleep_only = copy.deepcopy(model), change(border=border)
    phase(model, seed=3, optimizer=optimizer)
    assert torch.equal(model.weight, after(sleep_only, start, seed=3))
    for name in linear:
        moved = copy.deepcopy(start)
        with torch.no_grad():
            moved.weight += before[name]
        difference = after(sleep_only, moved, seed=3) - after(sleep_only, start, seed=3)
        assert_agree(optimizer.state[model.weight][name], difference, atol=1e-12)
        assert (difference - before[name]).abs().max() > 1e-3


@optimizers
@changes
@borders
def test_shared_sums_of_squares_become_the_mean_of_their_group(make, change, border):
    model = layer(kernel_size=3, stride=2, padding=1)
    optimizer = stepped(make, model)
    before = state_of(optimizer, model.weight)
    change(border=border, moments="share")(model, optimizer=optimizer)
    squares = [name for name in before if name in SQUARES]
    assert squares or make in (OPTIMIZERS["SGD"], OPTIMIZERS["SGD, dampened"])
    for name in squares:
        expected = before[name].clone()
        for rows, columns in positions(model, border):
            expected[rows, columns] = expected[rows, columns].mean(0)
        shared = optimizer.state[model.weight][name]
        assert_agree(shared, expected, atol=1e-12)
        assert (shared >= 0).all()


@optimizers
def test_sharing_leaves_counters_and_other_parameters_alone(make):
    model = nn.Sequential(layer(kernel_size=3), nn.BatchNorm2d(4).double())
    optimizer = stepped(make, model)
    others = {name: state_of(optimizer, p) for name, p in model.named_parameters() if name != "0.weight"}
    counters = {n: v for n, v in state_of(optimizer, model[0].weight).items() if not v.ndim}
    bs.InstantSharing(moments="share")(model, optimizer=optimizer)
    for name, before in others.items():
        now = state_of(optimizer, model.get_parameter(name))
        assert now.keys() == before.keys()
        assert all(torch.equal(now[key], before[key]) for key in before)
    assert all(torch.equal(state_of(optimizer, model[0].weight)[key], value) for key, value in counters.items())


def test_positions_outside_a_kept_border_keep_their_moments():
    model = layer(kernel_size=3, padding=1)
    optimizer = stepped(OPTIMIZERS["AdamW"], model)
    before = state_of(optimizer, model.weight)
    gentle(bs.SteadyState(), border="keep", moments="share")(model, optimizer=optimizer)
    ring = torch.ones(model.output_size, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    for name in ("exp_avg", "exp_avg_sq"):
        now = optimizer.state[model.weight][name]
        assert torch.equal(now[ring], before[name][ring])
        assert not (now == before[name])[~ring].any()


@pytest.mark.parametrize("make", (OPTIMIZERS | RESET_ONLY).values(), ids=OPTIMIZERS | RESET_ONLY)
@pytest.mark.parametrize("change", [SHARED["instant"], SHARED["rate circuit"]], ids=["instant", "rate circuit"])
def test_after_a_reset_the_next_step_is_a_first_step(make, change):
    model = layer(kernel_size=3, padding=1)
    optimizer = stepped(make, model)
    change(moments="reset")(model, optimizer=optimizer)
    start = 0.5 if make is OPTIMIZERS["Adagrad, from 0.5"] else 0.0
    for value in state_of(optimizer, model.weight).values():
        assert (value == start).all() or value.ndim == 0
    fresh_model = copy.deepcopy(model)
    fresh = make(fresh_model.parameters())
    if make is OPTIMIZERS["SGD, dampened"]:
        assert not optimizer.state[model.weight]["momentum_buffer"].any()  # torch does not dampen a first step
        return
    for _ in range(3):
        for m, o in ((model, optimizer), (fresh_model, fresh)):
            m.weight.grad = torch.full_like(m.weight, 0.3)
            o.step()
    assert_agree(model.weight.detach(), fresh_model.weight.detach(), atol=1e-12)


def test_a_reset_follows_a_noisy_sleep_too():
    model = layer(kernel_size=3, padding=1)
    optimizer = stepped(OPTIMIZERS["AdamW"], model)
    phase = gentle(bs.SteadyState(), bs.stimuli.noise(bs.stimuli.grid(), 0.1), moments="reset")
    phase(model, optimizer=optimizer)
    assert not any(value.any() for value in state_of(optimizer, model.weight).values())


@optimizers
@treatments
def test_before_the_first_step_there_is_nothing_to_treat(make, treatment):
    model = network()
    optimizer, before = make(model.parameters()), weights(model)
    keys = {name: list(state) for name, state in optimizer.state.items()}
    bs.InstantSharing(moments=treatment)(model, optimizer=optimizer)
    assert not torch.equal(before[0], model[0].weight)
    assert keys == {name: list(state) for name, state in optimizer.state.items()}


@optimizers
@treatments
def test_training_goes_on(make, treatment):
    model = network()
    optimizer = stepped(make, model)
    gentle(bs.SteadyState(), moments=treatment)(model, optimizer=optimizer)
    before = weights(model)
    images = torch.ones(2, 2, 11, 10, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    for old, new in zip(before, weights(model), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize(
    ("make", "treatment", "kept"),
    [
        (optim.Adamax, "share", "exp_inf: how"),
        (optim.Adadelta, "share", "acc_delta: how"),
        (optim.Adafactor, "share", "col_var, row_var, variance: how"),
        (optim.Rprop, "share", "prev, step_size: how"),
        (optim.Rprop, "reset", "prev, step_size: what"),
        (optim.ASGD, "reset", "ax, eta, mu: what"),
    ],
)
def test_moments_of_an_unknown_kind_are_refused_before_any_weight_changes(make, treatment, kept):
    model = network()
    model.register_parameter("scale", nn.Parameter(torch.ones(3).double()))
    optimizer = stepped(make, model)
    before = weights(model)
    for change in CALLS:
        with pytest.raises(ValueError, match=f'moments must not be "{treatment}" for {make.__name__}, .* {kept}'):
            change(moments=treatment)(model, optimizer=optimizer)
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("treatment", ["share", "reset"])
@pytest.mark.parametrize("form", ["another model", "the first layer"])
def test_the_optimizer_of_other_weights_is_refused_before_any_changes(treatment, form):
    model = network()
    optimizer = stepped(OPTIMIZERS["AdamW"], network() if form == "another model" else model[0])
    name = "0" if form == "another model" else "1"
    before, state = weights(model), copy.deepcopy(optimizer.state_dict()["state"])
    for change in CALLS:
        with pytest.raises(ValueError, match=f"optimizer must hold the weight of layer '{name}' for moments="):
            change(moments=treatment)(model, optimizer=optimizer)
    assert all(map(torch.equal, before, weights(model)))
    for number, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[number][key]) for key, value in moments.items())


@pytest.mark.parametrize("treatment", ["share", "reset"])
def test_frozen_layers_need_no_optimizer(treatment):
    model = network()
    model[1].weight.requires_grad_(False)
    optimizer, before = stepped(OPTIMIZERS["AdamW"], model[0]), weights(model)
    for change in CALLS:
        change(moments=treatment)(model, optimizer=optimizer)
    assert list(map(torch.equal, before, weights(model))) == [False, True]
    for change in CALLS:
        change(moments=treatment, layers=("*",))(model, optimizer=optimizer)
    assert not any(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("treatment", ["share", "reset"])
@pytest.mark.parametrize("given", [None, "AdamW"])
def test_moments_need_their_optimizer(treatment, given):
    model = network()
    before = weights(model)
    for change in CALLS:
        message = f'moments="{treatment}" needs the optimizer|optimizer must be a torch.optim.Optimizer or None'
        with pytest.raises((TypeError, ValueError), match=message):
            change(moments=treatment)(model, optimizer=given)
    assert all(map(torch.equal, before, weights(model)))


def test_a_sleep_that_is_no_linear_map_cannot_share_moments():
    for options in ({"engine": "loop"}, {"stimulus": bs.stimuli.noise(bs.stimuli.grid(), 0.1)}):
        arguments = {"stimulus": bs.stimuli.grid(), "presentations": 3, "moments": "share"} | options
        with pytest.raises(ValueError, match='moments="share" needs a sleep that is one linear map'):
            bs.Sleep(bs.SteadyState(), GENTLE, **arguments)
