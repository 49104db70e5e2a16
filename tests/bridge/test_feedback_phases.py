"""Sign symmetry, Kolen-Pollack, fixed signs and norms, against explicit training of two sets of weights."""

import math

import pytest
import torch
from torch import nn

from bioshare import KolenPollack, Mirror, SignSymmetry
from bioshare.bridge import FixedNorms, FixedSigns
from bioshare.nn import with_feedback, without_feedback
from bioshare.nn.feedback import degrees, feedback_layers


def gaussian(outputs=500, inputs=200, seed=0):
    """A dense layer with feedback, of Gaussian weights."""
    layer = with_feedback(nn.Linear(inputs, outputs, bias=False).double(), seed=seed + 1)
    with torch.no_grad():
        layer.weight.copy_(
            torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        )
    return layer


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    return with_feedback(model.double())


def learn(model, optimizer, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (16,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_signs_with_the_norm_of_the_layer():
    layer = gaussian()
    with torch.no_grad():
        layer.weight[0, :3] = 0
    SignSymmetry("norm")(layer)
    assert float(layer.feedback.norm()) == pytest.approx(float(layer.weight.detach().norm()), rel=1e-12)
    assert len(layer.feedback.abs().unique()) == 2  # 0 and the size
    assert torch.equal(layer.feedback.sign(), layer.weight.sign())
    assert abs(degrees(layer.feedback, layer.weight) - math.degrees(math.acos(math.sqrt(2 / math.pi)))) < 0.5  # 37.1


def test_signs_with_the_sizes_of_the_start():
    layer = gaussian()
    sizes = layer.feedback.abs().clone()
    SignSymmetry("init")(layer)
    assert torch.equal(layer.feedback.abs(), sizes)
    assert torch.equal(layer.feedback.sign(), layer.weight.sign())
    assert abs(degrees(layer.feedback, layer.weight) - math.degrees(math.acos(2 / math.pi))) < 0.5  # 50.5
    with torch.no_grad():
        layer.weight.neg_()
    SignSymmetry("init")(layer)
    assert torch.equal(layer.feedback.abs(), sizes)
    assert torch.equal(layer.feedback.sign(), layer.weight.sign())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.3, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kolen_pollack_is_two_sets_of_weights_with_the_same_gradients(name):
    """The oracle trains B by an optimiser of its own, with the gradients of W."""
    model, oracle = network(), network()
    KolenPollack().prepare(model)
    optimizer, other = (OPTIMIZERS[name](m.parameters()) for m in (model, oracle))
    partners = [nn.Parameter(layer.feedback.clone()) for _, layer in feedback_layers(oracle)]
    third = OPTIMIZERS[name](partners)
    for step in range(40):
        if step == 20:
            for group in (*optimizer.param_groups, *other.param_groups, *third.param_groups):
                group["lr"] /= 4
        learn(model, optimizer, step)
        KolenPollack()(model, optimizer=optimizer)
        learn(oracle, other, step)
        with torch.no_grad():
            for partner, (_, layer) in zip(partners, feedback_layers(oracle), strict=True):
                partner.grad = layer.weight.grad.clone()
        third.step()
        for partner, (_, layer) in zip(partners, feedback_layers(oracle), strict=True):
            layer.feedback.copy_(partner.detach())
    start = network()
    for (_, ours), (_, theirs), (_, first) in zip(*map(feedback_layers, (model, oracle, start)), strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.feedback, theirs.feedback, rtol=0, atol=1e-10)
        now, before = (layer.weight.detach() - layer.feedback for layer in (ours, first))
        cosine = nn.functional.cosine_similarity(now.flatten(), before.flatten(), dim=0)
        assert abs(cosine) > 1 - 1e-6  # momentum may swing the difference through 0
        if name in ("sgd", "adamw"):
            rate = {"sgd": 0.1, "adamw": 0.01}[name]
            expected = (1 - 0.3 * rate) ** 20 * (1 - 0.3 * rate / 4) ** 20
            assert float(now.norm() / before.norm()) == pytest.approx(expected, rel=1e-9)


def test_kolen_pollack_refuses_what_has_no_common_decay():
    model = network()
    KolenPollack().prepare(model)
    l2 = torch.optim.Adam(model.parameters(), weight_decay=0.1)
    with pytest.raises(ValueError, match="got Adam with L2 regularisation"):
        KolenPollack()(model, optimizer=l2)
    with pytest.raises(ValueError, match="got RMSprop"):
        KolenPollack()(model, optimizer=torch.optim.RMSprop(model.parameters()))
    with pytest.raises(ValueError, match="got NoneType"):
        KolenPollack()(model)
    with pytest.raises(ValueError, match="SGD without dampening"):
        KolenPollack()(model, optimizer=torch.optim.SGD(model.parameters(), momentum=0.9, dampening=0.5))
    with pytest.raises(ValueError, match="optimizer must hold the weight of layer '0'"):
        KolenPollack()(model, optimizer=torch.optim.SGD(network().parameters()))
    with pytest.raises(ValueError, match=r"call KolenPollack\(\).prepare\(model\) before training"):
        KolenPollack()(network(), optimizer=torch.optim.SGD(network().parameters()))
    decoupled = torch.optim.Adam(model.parameters(), weight_decay=0.1, decoupled_weight_decay=True)
    learn(model, decoupled, 0)
    KolenPollack()(model, optimizer=decoupled)
    assert float(model[0].remaining[0]) == pytest.approx(1 - 1e-4)


def test_kolen_pollack_leaves_layers_that_do_not_learn():
    model = network()
    frozen = model[0]
    frozen.weight.requires_grad_(False)
    KolenPollack().prepare(model)
    before = frozen.feedback.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, weight_decay=0.5)
    learn(model, optimizer, 0)
    KolenPollack()(model, optimizer=optimizer)
    assert torch.equal(frozen.feedback, before)
    assert [float(layer.remaining[0]) for _, layer in feedback_layers(model)] == [1.0, 0.95, 0.95]


def test_signs_are_those_of_the_first_change_whatever_the_feedback_weights_are():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    FixedSigns().prepare(model)
    learn(model, optimizer, 0)
    first = [layer.weight.detach().clone() for _, layer in feedback_layers(model)]
    for step in range(30):
        FixedSigns()(model)
        assert step or all(
            torch.equal(layer.weight, w) for (_, layer), w in zip(feedback_layers(model), first, strict=True)
        )
        learn(model, optimizer, step)
    FixedSigns()(model)
    for (_, layer), weight in zip(feedback_layers(model), first, strict=True):
        assert torch.equal(layer.weight.sign(), weight.sign())
        assert not torch.equal(layer.feedback.sign(), weight.sign())
    with pytest.raises(ValueError, match=r"call FixedSigns\(\).prepare\(model\) before training"):
        FixedSigns()(network())


def test_no_sign_changes_while_signs_are_fixed():
    model = network()
    FixedSigns().prepare(model)
    for phase in (FixedSigns(), SignSymmetry()):
        phase(model)
    signs = [layer.weight.sign() for _, layer in feedback_layers(model)]
    feedback = [layer.feedback.clone() for _, layer in feedback_layers(model)]
    before = [layer.weight.detach().clone() for _, layer in feedback_layers(model)]
    optimizer, at_floor = torch.optim.Adam(model.parameters(), 0.05), 0
    for step in range(30):
        learn(model, optimizer, step)
        for phase in (FixedSigns(), SignSymmetry()):
            phase(model, optimizer=optimizer)
        for (_, layer), sign, kept in zip(feedback_layers(model), signs, feedback, strict=True):
            assert torch.equal(layer.weight.sign(), sign)
            assert torch.equal(layer.feedback, kept)
            at_floor += int((layer.weight.abs() == 1e-10).sum())
    assert at_floor > 0  # some weights would have changed sign
    assert all(
        not torch.equal(layer.weight, old) for (_, layer), old in zip(feedback_layers(model), before, strict=True)
    )


def test_norms_stay_and_weights_move():
    model = network()
    FixedNorms().prepare(model)
    before = [layer.weight.detach().clone() for _, layer in feedback_layers(model)]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(10):
        learn(model, optimizer, step)
        FixedNorms()(model)
    for (_, layer), old in zip(feedback_layers(model), before, strict=True):
        assert float(layer.weight.detach().norm()) == pytest.approx(float(old.norm()), rel=1e-12)
        assert (layer.weight - old).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"call FixedNorms\(\).prepare\(model\)"):
        FixedNorms()(network())


def test_weights_of_zero_have_no_norm_to_keep():
    model = with_feedback(nn.Linear(3, 2))
    nn.init.zeros_(model.weight)
    with pytest.raises(ValueError, match="layer '' must have weights other than 0"):
        FixedNorms().prepare(model)


def test_signs_before_norms_keep_both():
    model = network()
    FixedNorms().prepare(model)
    FixedSigns().prepare(model)
    for phase in (FixedSigns(), SignSymmetry()):
        phase(model)
    signs, norms = ([f(layer.weight.detach()) for _, layer in feedback_layers(model)] for f in (torch.sign, torch.norm))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for step in range(10):
        learn(model, optimizer, step)
        for phase in (FixedSigns(), FixedNorms(), SignSymmetry()):
            phase(model)
    for (_, layer), sign, norm in zip(feedback_layers(model), signs, norms, strict=True):
        assert torch.equal(layer.weight.sign(), sign)
        assert float(layer.weight.detach().norm()) == pytest.approx(float(norm), rel=1e-12)


def test_nothing_of_the_phases_is_left_in_a_plain_model():
    model, phases = network(), (FixedSigns(), FixedNorms(), KolenPollack())
    for phase in phases:
        phase.prepare(model)
    assert {name.rpartition(".")[2] for name in model.state_dict()} >= {phase.buffer for phase in phases}
    model[0].register_buffer("mine", torch.ones(2))
    plain = without_feedback(network()).state_dict().keys()
    assert without_feedback(model).state_dict().keys() == {*plain, "0.mine"}


@pytest.mark.parametrize("phase", [SignSymmetry(), FixedSigns(), FixedNorms(), KolenPollack(), Mirror()])
def test_weights_that_are_computed_from_others_are_refused(phase):
    model = network()
    nn.utils.parametrizations.weight_norm(model[0])
    for call in (phase, phase.prepare):
        with pytest.raises(TypeError, match="layer '0' must have a weight that is a Parameter"):
            call(model)


@pytest.mark.parametrize("phase", [SignSymmetry(), FixedSigns(), FixedNorms(), KolenPollack()])
def test_a_model_without_feedback_is_refused(phase):
    with pytest.raises(ValueError, match="model must have feedback weights"):
        phase(nn.Linear(2, 2))
