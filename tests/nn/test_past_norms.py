"""Feedback past batch normalisation: mirrored weights against closed forms, signals against autograd."""

import copy
import pickle

import pytest
import torch
from torch import nn

from bioshare import Mirror
from bioshare.nn import angles, cifar_resnet, to_locally_connected, with_feedback, with_feedback_past_norms
from bioshare.nn import without_feedback as plain
from bioshare.nn.feedback import connected, feedback_layers
from bioshare.nn.past_norms import PassedNorm, PastNorm


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def network(local):
    """Layers with norms of uneven statistics, some gamma below 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Flatten(), nn.Linear(96, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3),
        ).double()  # fmt: skip
    model = to_locally_connected(model, (2, 8, 8)) if local else model
    for number, norm in enumerate(m for m in model if hasattr(m, "running_var")):
        norm.weight.copy_(draw(len(norm.weight), seed=number))
        norm.bias.copy_(draw(len(norm.weight), seed=number + 5))
        norm.running_mean.copy_(draw(len(norm.weight), seed=number + 10))
        norm.running_var.copy_(draw(len(norm.weight), seed=number + 15).square() + 0.1)
    return model


def gradients(model, x):
    return torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))


@pytest.mark.parametrize("noise", ["grid", "orthogonal"])
@pytest.mark.parametrize("local", [False, True])
def test_a_mirror_learns_layer_and_norm_and_the_signal_is_the_gradient(local, noise):
    model, x = network(local).eval(), draw(5, 2, 8, 8)
    fed = with_feedback(model, "zeros")
    ours = with_feedback_past_norms(fed, (2, 8, 8))
    assert torch.equal(ours(x), fed(x))
    report = Mirror(2.0, 1.0, "step", noise, samples=8)(ours, seed=0)
    for layer, norm in ((ours[3], ours[4]), (ours[7], ours[8])):
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        expected = torch.einsum("...oikl,o->...oikl" if layer.weight.ndim > 2 else "oi,o->oi", layer.weight, gain)
        seen = connected(layer) > 0
        assert (layer.feedback - expected)[seen].abs().max() < 1e-12
    assert all(row.angle < 1e-5 and abs(row.ratio - 1) < 1e-12 for row in report.layers)
    for found, expected in zip(gradients(ours, x), gradients(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_in_training_the_signal_lacks_only_the_projections():
    """Backpropagation takes the mean of the signal off, and its part along the normalised outputs, by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    model[1].weight.copy_(draw(4, seed=3))
    x, signal = draw(9, 5), draw(9, 4, seed=2)
    z = x @ model[0].weight.T
    gain = model[1].weight / (z.var(0, correction=0) + model[1].eps).sqrt()
    model[1].running_var.copy_(z.var(0, correction=0))
    ours = with_feedback_past_norms(with_feedback(model, "zeros"), (5,))
    Mirror.exact()(ours)
    down = {}
    for name, net in (("ours", ours), ("bp", model)):
        with torch.enable_grad():
            y = net(inputs := x.clone().requires_grad_())
        down[name] = torch.autograd.grad(y, inputs, signal)[0]
    normal = (z - z.mean(0)) / (z.var(0, correction=0) + model[1].eps).sqrt()
    projections = signal.mean(0) + normal * (signal * normal).mean(0)
    torch.testing.assert_close(down["ours"], (signal * gain) @ model[0].weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(down["ours"] - down["bp"], (projections * gain) @ model[0].weight, rtol=0, atol=1e-12)


def test_no_sigma_is_passed_down():
    """The signal below a norm does not depend on gamma and sigma at fixed B and fixed values."""
    ours = with_feedback_past_norms(with_feedback(network(False)), (2, 8, 8)).eval()
    x, signal = draw(1, 4, 8, 8).requires_grad_(), draw(1, 6, 4, 4)
    pair = nn.Sequential(ours[3], ours[4])
    (before,) = torch.autograd.grad(pair(x), x, signal)
    with torch.no_grad():
        ours[4].running_var.mul_(9)
        ours[4].weight.neg_()
    (after,) = torch.autograd.grad(pair(x), x, signal)
    assert torch.equal(before, after)
    assert before.any()


@pytest.mark.parametrize("local", [False, True])
def test_residual_networks_copies_states_and_angles(local):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = cifar_resnet(8, 10, width=0.25).double()
    net = to_locally_connected(net, (3, 8, 8)) if local else net
    fed, x = with_feedback(net), draw(4, 3, 8, 8)
    ours = copy.deepcopy(with_feedback_past_norms(fed, (3, 8, 8)))
    assert ours.state_dict().keys() == fed.state_dict().keys()
    past = [layer for _, layer in feedback_layers(ours) if isinstance(layer, PastNorm)]
    assert len(past) == len(feedback_layers(ours)) - 1  # all but the last
    assert torch.equal(ours(x), fed(x))
    assert all(layer.silent is None for layer in past)  # nothing of a pass is kept
    Mirror.exact()(ours.eval())
    report = angles(ours, x, lambda y: y.sin().sum())
    assert all(row.signal < 1e-4 for row in report.layers)
    assert all(row.weight < 1e-4 and row.local < 1e-4 for row in report.layers[1:])
    again = plain(ours)
    assert repr(again) == repr(net)
    assert not any(isinstance(module, PassedNorm | PastNorm) for module in again.modules())
    assert torch.equal(again.train()(x), fed.train()(x))


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="model must have feedback weights"):
        with_feedback_past_norms(nn.Linear(2, 2), (2,))
    behind_relu = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="right behind a layer with feedback; the graph of"):
        with_feedback_past_norms(with_feedback(behind_relu), (2,))
    norm = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="every norm, once"):
        with_feedback_past_norms(with_feedback(nn.Sequential(nn.Linear(2, 2), norm, nn.Linear(2, 2), norm)), (2,))


@pytest.mark.parametrize("between", [nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)])
def test_a_norm_with_a_step_between_stays_as_it_is(between):
    model = nn.Sequential(
        nn.Linear(4, 5), between, nn.BatchNorm1d(5), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)
    )
    ours = with_feedback_past_norms(with_feedback(model), (4,))
    assert [isinstance(module, PastNorm | PassedNorm) for module in ours] == [False, False, False, True, True, False]


def test_a_layer_that_is_used_twice_is_refused_whatever_is_behind():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(self.norm(self.a(x)).relu()))

    with pytest.raises(ValueError, match="every layer in front of a norm, and every norm, once in a forward pass"):
        with_feedback_past_norms(with_feedback(Twice()), (4,))


def test_a_model_that_takes_one_input_only_finds_its_norms_in_inference_mode_too():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return {"scores": self.norm(self.a(x.view(1, 4)))}

    with torch.inference_mode():
        ours = with_feedback_past_norms(with_feedback(One()), (4,))
    assert isinstance(ours.norm, PassedNorm)


@pytest.mark.parametrize("forward", [lambda h, norm: h + norm(h).relu(), lambda h, norm: (norm(h), h)])
def test_a_layer_whose_outputs_also_go_elsewhere_stays_as_it_is(forward):
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.c, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            out = forward(self.b(self.a(x)), self.norm)
            first, rest = out if isinstance(out, tuple) else (out, ())
            return self.last(self.c(first)), rest

    ours = with_feedback_past_norms(with_feedback(Branched(), "weights"), (4,))
    assert not isinstance(ours.b, PastNorm)
    assert isinstance(ours.c, PastNorm)


def test_a_pass_that_ends_before_the_norm_leaves_a_model_that_can_be_copied():
    ours = with_feedback_past_norms(with_feedback(network(False)), (2, 8, 8))
    ours[:4](draw(2, 2, 8, 8))
    x = draw(3, 2, 8, 8)
    assert torch.equal(copy.deepcopy(ours).eval()(x), ours.eval()(x))
    torch.testing.assert_close(plain(ours).eval()(x), ours(x), rtol=0, atol=1e-12)
    expected = ours(x)
    ours[0].compile(backend="eager")  # no part of a copy
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), expected)
