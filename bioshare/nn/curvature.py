"""The loss around a network: norm of the gradient, and largest eigenvalue of the Hessian.

Both are of the mean loss over a data set that the caller states, with the model in evaluation mode (d'Ascoli et al.
2019, Sec. 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bioshare.checks import real, shown, takes, whole
from bioshare.nn.feedback import signal_layers

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest eigenvalue of a Hessian.

    Attributes:
        value: the eigenvalue, with sign.
        residual: |H v - value v| for the unit vector v found; an eigenvalue lies within this distance of the value.
        products: number of products of the Hessian with a vector that were needed.
        vector: the eigenvector, a tensor for every parameter by name.
    """

    value: float
    residual: float
    products: int
    vector: dict[str, Tensor]

    def __str__(self) -> str:
        return f"{self.value:.6g}, residual {self.residual:.2g} ({self.products} products)"


def top_eigenvalue(
    model: nn.Module, batches: Batches, loss: Loss, tolerance: float = 1e-4, vectors: int = 20, seed: int = 0
) -> TopEigenvalue:
    """Find the largest eigenvalue of the Hessian of the mean loss, by Lanczos with Hessian-vector products.

    A product with a vector u is the derivative of the gradient along u, H u = d(grad . u) / d theta, in one more
    backward pass over all batches. A power iteration would find the eigenvalue of the largest size, perhaps a negative
    one, and is slow where the next eigenvalue is near.

    Args:
        model: the model, without feedback weights and not compiled. Dropout is off meanwhile, and normalisations keep
            their statistics. Parameters that require no gradient have no part.
        batches: a list of (inputs, labels), read once for every product; all images count the same.
        loss: function of the model's output and labels to the mean loss of a batch.
        tolerance: residual at which Lanczos stops, as a fraction of the eigenvalue; no residual is below rounding.
        vectors: number of vectors as long as all parameters that Lanczos keeps, in float64. With so few parameters, the
            whole Hessian takes the place of Lanczos.
        seed: seed of the first vector.

    Raises:
        TypeError, ValueError: an argument is of another kind, or the model has feedback weights.
        RuntimeError: the loss is not finite, or Lanczos did not converge: the tolerance is too small, or the loss has
            no curvature.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))]
        >>> round(top_eigenvalue(model, data, nn.functional.mse_loss).value, 6)  # the mean of 2 x x^T
        9.0
    """
    batches, parameters = checked_data(model, batches, loss)
    real("tolerance", tolerance, "a fraction above 0", above=0, array=False)
    whole("vectors", vectors, "a number of vectors", at_least=3)
    whole("seed", seed, "a non-negative integer", at_least=0)
    if any("_orig_mod" in module._modules for module in model.modules()):
        raise TypeError("model must not be compiled, which leaves out second derivatives; give the model from before")
    sizes, count = [p.numel() for p in parameters.values()], 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        total = _zeros(parameters)
        parts = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(total[0]).split(sizes)
        u = [part.view(p.shape) for part, p in zip(parts, total, strict=True)]
        images = 0
        for x, y in batches:
            gradient = summed_gradient(model, x, y, loss, parameters, create_graph=True)
            along = torch.stack([(g * one).sum() for g, one in zip(gradient, u, strict=True)]).sum()
            images += len(y)
            if along.requires_grad:  # a loss linear in all parameters has a constant gradient
                rows = torch.autograd.grad(along, [*parameters.values()], materialize_grads=True)
                total = [before + row for before, row in zip(total, rows, strict=True)]
        found = torch.cat([one.flatten() for one in total]).double().cpu().numpy() / images
        return _finite(found, bool(np.isfinite(found).all()))

    size = sum(sizes)
    hessian: Any = LinearOperator((size, size), product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(seed).standard_normal(size)
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # attention with second derivatives
        options: Any = {"v0": start, "ncv": vectors, "tol": tolerance, "maxiter": 1000}
        try:
            if size <= vectors:  # few enough for the whole matrix
                values, found = np.linalg.eigh(np.stack([product(unit) for unit in np.eye(size)]))
                values, found = values[-1:], found[:, -1:]
            else:
                values, found = eigsh(hessian, 1, which="LA", **options)
        except (ArpackError, np.linalg.LinAlgError) as error:
            raise RuntimeError(
                f"top_eigenvalue found no eigenvalue in {count} products ({error}). Take a larger tolerance or "
                "parameters in float64, and see that the loss is finite, and not linear in all parameters"
            ) from error
        residual = float(np.linalg.norm(product(found[:, 0]) - values[0] * found[:, 0]))
    parts = torch.from_numpy(found[:, 0].copy()).split(sizes)
    vector = {name: part.view(p.shape) for part, (name, p) in zip(parts, parameters.items(), strict=True)}
    return TopEigenvalue(float(values[0]), residual, count, vector)


def gradient_norm(model: nn.Module, batches: Batches, loss: Loss) -> float:
    """Measure the norm of the gradient of the mean loss over all batches, of the parameters that require one.

    Args:
        model, batches, loss: as for `top_eigenvalue`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> gradient_norm(model, [(torch.ones(2, 1), torch.zeros(2, 1))], nn.functional.mse_loss)
        2.0
    """
    batches, parameters = checked_data(model, batches, loss)
    total = _zeros(parameters)
    with evaluating(model):
        for x, y in batches:
            gradient = summed_gradient(model, x, y, loss, parameters)
            total = [before + one for before, one in zip(total, gradient, strict=True)]
    images = sum(len(y) for _, y in batches)
    squares = (torch.linalg.vector_norm(one, dtype=torch.float64) ** 2 for one in total)
    norm = float(sum(squares) ** 0.5) / images
    return _finite(norm, math.isfinite(norm))


def _zeros(parameters: dict[str, Any]) -> list[Tensor]:
    """Sums over batches, for half types in float32."""
    return [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters.values()]


def _finite(value: Any, finite: bool) -> Any:
    if not finite:
        raise RuntimeError("the loss must be finite, and so its derivatives; see the outputs of the model")
    return value


def summed_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, parameters: dict[str, Any], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradient of the summed loss of a batch; 0 for parameters without a part in the output."""
    value = loss(model(x), y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"loss must be a function to the mean loss of a batch, a single number; got {shown(value)}")
    options: Any = {"create_graph": create_graph, "materialize_grads": True}
    of_mean = torch.autograd.grad(value.sum(), [*parameters.values()], **options)
    return tuple(one.to(torch.promote_types(one.dtype, torch.float32)) * len(y) for one in of_mean)


def checked_data(
    model: nn.Module, batches: Batches, loss: Loss
) -> tuple[Sequence[tuple[Tensor, Tensor]], dict[str, Any]]:
    """Return the batches as a list, and the parameters that learn, by name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {shown(model)}")
    if signal_layers(model):
        raise ValueError("model must have no feedback weights, whose signals are no gradient; use without_feedback")
    expected = "a list of batches (inputs, labels), tensors of one length above 0"
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor | str | bytes):
        raise TypeError(f"batches must be {expected}; got {shown(batches)}")
    batches = list(batches)
    for batch in batches:
        pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(one, Tensor) for one in batch)
        if not pair or not all(one.ndim and len(one) for one in batch) or len(batch[0]) != len(batch[1]):
            raise TypeError(f"batches must be {expected}; got {shown(batch)}")
    if not batches:
        raise ValueError(f"batches must be {expected}; got none")
    if not takes(loss, None, None):
        raise TypeError(f"loss must be a function of the model's output and labels; got {shown(loss)}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model must have parameters that require gradients; there are none")
    return batches, parameters


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block with the model in evaluation mode and with gradients; the modes come back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.enable_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
