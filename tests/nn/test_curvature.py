"""Gradient norm, top eigenvalue and interpolation, against whole Hessians and closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from bioshare.nn import (
    gradient_norm,
    interpolated,
    to_fully_connected,
    to_locally_connected,
    top_eigenvalue,
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


def test_feedback_weights_are_refused(model, batches):
    with pytest.raises(ValueError, match="no feedback weights"):
        gradient_norm(with_feedback(model), batches, loss)
