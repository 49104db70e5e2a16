"""Gradient norm, top eigenvalue and interpolation, against whole Hessians and closed forms."""

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from bioshare.nn import (
    gradient_norm,
    interpolated,
    string_path,
    to_fully_connected,
    to_locally_connected,
    top_eigenvalue,
    with_direct_feedback,
    with_feedback,
)

loss = nn.functional.cross_entropy


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=generator)
    return [(draw(7), torch.arange(7) % 3), (draw(4), torch.arange(4) % 3)]  # batches of two sizes


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3)).double()


def whole_hessian(model, batches):
    """The Hessian of the mean loss over all images, by autograd over one vector of all parameters."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    named = dict(model.eval().named_parameters())
    sizes = [p.numel() for p in named.values()]

    def value(theta):
        parts = [part.view(p.shape) for part, p in zip(theta.split(sizes), named.values(), strict=True)]
        return loss(functional_call(model, dict(zip(named, parts, strict=True)), x), y)

    theta = torch.cat([p.detach().flatten() for p in named.values()])
    gradient = torch.func.grad(value)(theta)
    hessian: Any = torch.autograd.functional.hessian(value, theta)
    return hessian.numpy(), gradient


@pytest.mark.parametrize("space", ["conv", "local", "full"])
def test_the_top_eigenvalue_and_the_gradient_are_those_of_the_whole_hessian(model: Any, batches, space):
    if space != "conv":
        model = (
            to_locally_connected(model, (1, 4, 4), "copy") if space == "local" else to_fully_connected(model, (1, 4, 4))
        )
    model.train()
    found = top_eigenvalue(model, batches, loss, 1e-10)
    assert model[3].training
    hessian, gradient = whole_hessian(model, batches)
    exact = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(found.value, exact[-1], rtol=0, atol=1e-9)
    vector = torch.cat([part.flatten() for part in found.vector.values()]).numpy()
    np.testing.assert_allclose(hessian @ vector, found.value * vector, rtol=0, atol=1e-8)
    np.testing.assert_allclose(gradient_norm(model, batches, loss), float(gradient.norm()), rtol=0, atol=1e-12)


def test_the_residual_bounds_the_distance_to_the_nearest_eigenvalue(model, batches):
    found = top_eigenvalue(model, batches, loss, 0.3, vectors=4)
    exact = np.linalg.eigvalsh(whole_hessian(model, batches)[0])
    distance = np.abs(exact - found.value).min()
    assert 1e-8 < found.residual < 0.5 * found.value
    assert distance <= found.residual + 1e-12


@pytest.mark.parametrize("space", ["local", "full"])
def test_gradient_and_hessian_of_the_convolution_are_those_of_the_embedding_between_its_columns(model, batches, space):
    """grad_CNN = Phi^T grad, H_CNN = Phi^T H Phi for the linear embedding Phi of all parameters."""

    def embedded(model):
        if space == "local":
            return to_locally_connected(model, (1, 4, 4), "copy")
        return to_fully_connected(model, (1, 4, 4))

    def vector(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    small, gradient = whole_hessian(model, batches)
    large, above = whole_hessian(embedded(model), batches)
    columns, numbers = [], torch.eye(len(gradient), dtype=torch.float64)
    for unit in numbers:
        nn.utils.vector_to_parameters(unit, model.parameters())
        columns.append(vector(embedded(model)))
    phi = torch.stack(columns, 1)
    np.testing.assert_allclose(phi.T @ above, gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(phi.T.numpy() @ large @ phi.numpy(), small, rtol=0, atol=1e-12)
    copies = (phi.T @ phi).diagonal()
    assert torch.equal(phi.T @ phi, copies.diag())
    assert copies[:18].eq(4).all()  # 2 x 2 positions of every weight of the kernels


def test_interpolation_of_weights_and_of_outputs(model, batches):
    torch.manual_seed(1)
    other: Any = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3)).double().eval()
    )
    x = batches[0][0]
    model.eval()
    between: Any = interpolated(model, other, 0.3)
    expected = 0.7 * model[0].weight + 0.3 * other[0].weight
    torch.testing.assert_close(between[0].weight, expected, rtol=0, atol=1e-15)
    outputs = interpolated(model, other, 0.3, "outputs")
    torch.testing.assert_close(outputs(x), 0.7 * model(x) + 0.3 * other(x), rtol=0, atol=1e-15)
    assert (between(x) - outputs(x)).abs().max() > 1e-3
    torch.testing.assert_close(interpolated(model, other, 1.0)(x), other(x), rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="second must have the parameters and buffers of first"):
        interpolated(model, nn.Linear(1, 1), 0.5)


def test_a_few_parameters_and_no_curvature_have_an_eigenvalue():
    squares: Any = lambda scores, labels: (scores - labels).square().mean()
    data = [(torch.full((3, 1), 2.0), torch.ones(3, 1))]
    assert top_eigenvalue(nn.Linear(1, 1, bias=False), data, squares).value == 8  # the mean of 2 x^2
    assert top_eigenvalue(nn.Linear(1, 1), data, lambda scores, labels: scores.mean()).value == 0
    with pytest.raises(RuntimeError, match=r"found no eigenvalue .* not linear in all parameters"):
        top_eigenvalue(nn.Linear(1, 40), data, lambda scores, labels: scores.mean())


def test_parameters_without_a_part_in_the_output_change_nothing(model, batches):
    value, norm = top_eigenvalue(model, batches, loss, 1e-10).value, gradient_norm(model, batches, loss)
    model.register_parameter("unused", nn.Parameter(torch.ones(30, dtype=torch.float64)))
    np.testing.assert_allclose(top_eigenvalue(model, batches, loss, 1e-10).value, value, rtol=0, atol=1e-9)
    assert gradient_norm(model, batches, loss) == norm


@pytest.mark.parametrize("measure", [top_eigenvalue, gradient_norm])
def test_losses_of_every_image_and_batches_of_no_image_are_refused(model, batches, measure):
    with pytest.raises(ValueError, match="loss must be a function to the mean loss of a batch, a single number"):
        measure(model, batches, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(TypeError, match=r"batches must be .* of one length above 0"):
        measure(model, [*batches, (torch.zeros(0, 1, 4, 4), torch.zeros(0))], loss)


def test_complex_weights_are_interpolated():
    first, second = (nn.Linear(1, 1, dtype=torch.complex128) for _ in range(2))
    between: Any = interpolated(first, second, 0.25)
    expected = 0.75 * first.weight + 0.25 * second.weight
    torch.testing.assert_close(between.weight, expected, rtol=0, atol=1e-15)


def lines(slopes):
    """Linear maps of two inputs to a number."""
    models = [nn.Linear(2, 1, bias=False, dtype=torch.float64) for _ in slopes]
    for model, slope in zip(models, slopes, strict=True):
        model.weight.data = torch.from_numpy(slope[None])
    return models


def test_a_string_comes_to_rest_where_springs_and_losses_balance():
    """Least squares: A (x_i - x*) + k (2 x_i - x_(i-1) - x_(i+1)) = 0 is a linear system."""
    rng, k, n = np.random.default_rng(0), 0.7, 6
    x, best = rng.normal(size=(8, 2)), np.array([3.0, 2.0])
    ends = np.array([[-1.0, 0.5], [1.0, -2.0]])
    batch = torch.from_numpy(x), torch.from_numpy(x @ best)[:, None]
    first, second = lines(ends)
    path: Any = string_path(first, second, [batch], nn.functional.mse_loss, n, k, 0.1, 2000)
    inner = n - 2
    laplacian = 2 * np.eye(inner) - np.eye(inner, k=1) - np.eye(inner, k=-1)
    curvature = 2 * x.T @ x / len(x)
    matrix = np.kron(np.eye(inner), curvature) + k * np.kron(laplacian, np.eye(2))
    right = np.tile(curvature @ best, inner)
    right[:2] += k * ends[0]
    right[-2:] += k * ends[1]
    found = np.concatenate([model.weight.detach().numpy() for model in path])
    np.testing.assert_allclose(found[1:-1].ravel(), np.linalg.solve(matrix, right), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found[[0, -1]], ends)


@pytest.mark.parametrize("stiffness", [0.0, 2.0])
def test_the_steps_of_a_string_are_those_of_a_loop(model, batches, stiffness):
    other: Any = interpolated(model, model, 1.0)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.3
    named = [dict(model.named_parameters()), dict(other.named_parameters())]
    points = [{name: (1 - a) * named[0][name] + a * named[1][name] for name in named[0]} for a in (0, 1 / 3, 2 / 3, 1)]
    points = [{name: p.detach().requires_grad_() for name, p in point.items()} for point in points]
    for x, y in batches * 2:
        energy = sum(
            stiffness / 2 * (after[name] - before[name]).square().sum()
            for before, after in pairwise(points)
            for name in before
        )
        total: Any = energy + sum(loss(functional_call(model.eval(), point, x), y) for point in points[1:-1])
        for point in points[1:-1]:
            gradient = torch.autograd.grad(total, [*point.values()], retain_graph=True)
            point.update({n: (p - 0.05 * g).detach() for (n, p), g in zip(point.items(), gradient, strict=True)})
        points = [{name: p.detach().requires_grad_() for name, p in point.items()} for point in points]
    model.train()
    path = string_path(model, other, batches, loss, 4, stiffness, 0.05, 2)
    assert path[0] is model
    assert path[3] is other
    assert model.training
    for found, expected in zip(path, points, strict=True):
        for name, p in found.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=0, atol=1e-13)


def test_springs_that_would_overshoot_are_refused(model, batches):
    with pytest.raises(ValueError, match=r"rate must be below 1 / \(2 stiffness\), which is 0.25; got 0.25"):
        string_path(model, model, batches, loss, stiffness=2.0, rate=0.25)


def test_feedback_weights_are_refused(model, batches):
    for fed in (with_feedback(model), with_direct_feedback(model, tuple(batches[0][0].shape[1:]))):
        with pytest.raises(ValueError, match="no feedback weights"):
            gradient_norm(fed, batches, loss)


def test_many_batches_of_a_model_in_bfloat16_add_up_in_float32():
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3), torch.randn(20, 5), torch.randint(3, (20,))
    half = copy.deepcopy(model).bfloat16()
    one, many = (gradient_norm(half, [(x.bfloat16(), y)] * n, loss) for n in (1, 300))
    assert many == pytest.approx(one, rel=1e-6)
    assert many == pytest.approx(gradient_norm(model, [(x, y)], loss), rel=0.02)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0].flatten(1)[:, :3]


def test_the_hessian_of_attention_is_found():
    torch.manual_seed(0)
    attending = Attending().double()
    images = [(torch.randn(7, 5, 4, dtype=torch.float64), torch.arange(7) % 3)]
    with sdpa_kernel(SDPBackend.MATH):
        hessian, _ = whole_hessian(attending, images)
    found = top_eigenvalue(attending, images, loss, tolerance=1e-9)
    assert found.value == pytest.approx(float(np.linalg.eigvalsh(hessian)[-1]), abs=1e-7)


def test_a_loss_without_a_value_is_refused():
    data = [(torch.full((2, 2), math.nan), torch.zeros(2, 1))]
    for size in (1, 30):  # the whole matrix, and Lanczos
        model = nn.Linear(2, size, bias=False)
        batches = [(data[0][0], torch.zeros(2, size))]
        for measure in (top_eigenvalue, gradient_norm):
            with pytest.raises(RuntimeError, match=r"^the loss must be finite"):
                measure(model, batches, nn.functional.mse_loss)


def test_a_compiled_model_is_refused():
    model = torch.compile(nn.Linear(2, 1), backend="eager")
    with pytest.raises(TypeError, match=r"^model must not be compiled"):
        top_eigenvalue(model, [(torch.ones(2, 2), torch.zeros(2, 1))], nn.functional.mse_loss)
