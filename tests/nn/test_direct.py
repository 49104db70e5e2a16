"""Direct and dense feedback against signals by hand."""

import copy
import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

from bioshare.nn import (
    angles,
    backpropagating,
    cifar_resnet,
    to_locally_connected,
    with_direct_feedback,
    without_feedback,
)
from bioshare.nn.feedback import degrees


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense_network():
    widths = 5, 4, 6, 3, 2
    parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
    return seeded(lambda: nn.Sequential(*parts[:-1]))


def gradients(model, x):
    """The gradients of half the sum of squares."""
    return torch.autograd.grad(model(x).square().sum() / 2, list(model.parameters()))


def activities(model, x):
    """Inputs x_1, ... of all layers, and the scores."""
    inputs = [x]
    for layer in model[::2]:
        inputs.append(layer(inputs[-1]).tanh())
    return inputs[:-1], model(x)


def test_all_random_matrices_are_independent_of_each_other_and_of_the_weights():
    """One seed of a generator for two purposes would draw the same numbers twice."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 40, bias=False) for _ in range(4)))
    ours = with_direct_feedback(model, (40,), dense=True)
    tensors = [tensor.flatten() for tensor in ours.state_dict().values()]
    assert len(tensors) == 4 + 4 + 3
    cosines = [nn.functional.cosine_similarity(a, b, 0).item() for a, b in combinations(tensors, 2)]
    assert max(map(abs, cosines)) < 5 / 40


def test_a_pass_without_gradients_needs_no_connections():
    x, model = draw(7, 5), dense_network()
    ours = with_direct_feedback(model, (5,))
    for matrix in (ours[6].direct0, ours[6].direct1, ours[6].direct2):
        matrix.fill_(math.nan)
    with torch.no_grad():
        assert torch.equal(ours(x), model(x))
    assert ours(x).isnan().all()


@torch.no_grad()
def test_every_layer_gets_the_error_through_a_matrix_of_its_own():
    x, model = draw(7, 5), dense_network()
    ours = with_direct_feedback(model, (5,))
    assert torch.equal(ours(x), model(x))
    with torch.enable_grad():
        found = gradients(ours, x)
    inputs, error = activities(model, x)
    matrices = [ours[6].direct0, ours[6].direct1, ours[6].direct2]
    signals = [(error @ a) * (1 - i**2) for a, i in zip(matrices, inputs[1:], strict=True)] + [error]
    expected = [g for s, i in zip(signals, inputs, strict=True) for g in (s.T @ i, s.sum(0))]
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-14


@torch.no_grad()
def test_dense_feedback_sums_the_signals_of_all_layers_above():
    x, model = draw(7, 5), dense_network()
    ours = with_direct_feedback(model, (5,), dense=True)
    assert torch.equal(ours(x), model(x))
    with torch.enable_grad():
        found = gradients(ours, x)
    inputs, error = activities(model, x)
    layers, signals = list(ours[::2]), {3: error}
    for index in (2, 1, 0):
        total = signals[index + 1] @ layers[index + 1].feedback  # the next layer
        for above in range(index + 2, 4):
            total = total + signals[above] @ getattr(layers[above], f"direct{index}")
        signals[index] = total * (1 - inputs[index + 1] ** 2)
    expected = [g for index in range(4) for g in (signals[index].T @ inputs[index], signals[index].sum(0))]
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-14


@pytest.mark.parametrize("dense", [False, True])
def test_without_direct_signals_gradients_are_those_of_the_loss(dense):
    x, model = draw(7, 5), dense_network()
    expected = gradients(model, x)
    ours = with_direct_feedback(model, (5,), dense)
    with backpropagating(ours):
        found = gradients(ours, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(gradients(ours, x)[0], expected[0])
    plain = without_feedback(ours)
    assert [type(layer) for layer in plain] == [type(layer) for layer in model]
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(plain, model, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain, x), expected, strict=True))


@pytest.mark.parametrize("dense", [False, True])
def test_angles_are_those_of_the_signals_and_the_gradients(dense):
    x, model = draw(7, 5), dense_network()
    ours = with_direct_feedback(model, (5,), dense)
    report = angles(ours, x, lambda y: y.square().sum() / 2)
    # the gradient with respect to a bias for a batch of one is the signal at the outputs of the layer
    pairs = [zip(gradients(ours, one)[1::2], gradients(model, one)[1::2], strict=True) for one in x[:, None]]
    layers = [[torch.stack(parts) for parts in zip(*layer, strict=True)] for layer in zip(*pairs, strict=True)]
    assert [row.signal for row in report.layers] == pytest.approx([degrees(*layer) for layer in layers], abs=1e-5)
    assert [row.signal_ratio for row in report.layers] == pytest.approx([float(a.norm() / b.norm()) for a, b in layers])
    assert all(math.isnan(row.weight) != dense and math.isnan(row.local) != dense for row in report.layers)
    assert all(layer.tapped is None for layer in ours[::2])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("locally_connected", [False, True])
def test_networks_of_images_learn(dense, locally_connected):
    make = lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    model = seeded(lambda: to_locally_connected(make(), (1, 8, 8)) if locally_connected else make())
    ours = with_direct_feedback(model, (1, 8, 8), dense)
    x, y = draw(30, 1, 8, 8), torch.arange(30) % 3
    optimizer = torch.optim.Adam(ours.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ours(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert ours[0].tapped is None  # nothing of a pass is kept


def test_copies_are_independent_and_states_carry_the_matrices():
    model = with_direct_feedback(dense_network(), (5,))
    other = copy.deepcopy(model)
    x = draw(7, 5)
    before = gradients(model, x)
    other[6].direct0.zero_()
    other(x)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(model, x), strict=True))
    again = with_direct_feedback(dense_network(), (5,), seed=9)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(again, x), strict=True))


def test_a_residual_network_runs_and_keeps_its_statistics():
    net = cifar_resnet(8, 10, width=0.25)
    before = copy.deepcopy(net.state_dict())
    ours = with_direct_feedback(net, (3, 8, 8))
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in ours.modules())
    ours(torch.ones(2, 3, 8, 8)).sum().backward()


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="model must have two layers for feedback to jump; got 1"):
        with_direct_feedback(nn.Linear(2, 2), (2,))
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="every layer must run once in a pass"):
        with_direct_feedback(nn.Sequential(layer, layer), (2,))
    with pytest.raises(TypeError, match="got the class Conv1d in '0'"):
        with_direct_feedback(nn.Sequential(nn.Conv1d(1, 1, 3), layer, nn.Linear(2, 2)), (1, 2))
    with pytest.raises(TypeError, match="got the subclass DirectLinear"):
        with_direct_feedback(with_direct_feedback(nn.Sequential(layer, nn.Linear(2, 2)), (2,)), (2,))


@pytest.mark.parametrize("dense", [False, True])
def test_a_pass_of_some_layers_leaves_a_model_that_can_be_copied(dense):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    ours = with_direct_feedback(model, (4,), dense)
    x = torch.ones(5, 4)
    ours[:4](x)
    assert torch.equal(copy.deepcopy(ours)(x), model(x))
    assert torch.equal(without_feedback(ours)(x), model(x))
    with pytest.raises(RuntimeError, match="a pass with direct feedback must run all layers"):
        copy.deepcopy(ours)[4](torch.ones(5, 8))
