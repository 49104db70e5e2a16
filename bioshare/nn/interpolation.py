"""Paths from one network to another: lines, means of outputs, elastic strings (d'Ascoli et al. 2019, Appendix C)."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioshare.checks import choice, real, shown, whole
from bioshare.nn.curvature import Batches, Loss, checked_data, evaluating, summed_gradient


def interpolated(
    first: nn.Module, second: nn.Module, part: float, of: Literal["weights", "outputs"] = "weights"
) -> nn.Module:
    """Make the network at a part of the way from one network to another (d'Ascoli et al. 2019, Appendix C).

    Args:
        first, second: two models with the same parameters and buffers; for "outputs", with the same inputs.
        part: 0 for the first, 1 for the second; further numbers lie beyond.
        of: "weights" for (1 - part) theta_1 + part theta_2, a copy of the first, whose statistics of batch
            normalisation are to be renewed (`bioshare.bridge.renew_statistics`); "outputs" for the mean
            (1 - part) f_1(x) + part f_2(x) of the outputs of both, a model that holds the two themselves.

    Raises:
        TypeError, ValueError: an argument is of another kind, or the models have different parameters.

    Example:
        >>> ones, zeros = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for model, value in ((ones, 1.0), (zeros, 0.0)):
        ...     _ = [nn.init.constant_(p, value) for p in model.parameters()]
        >>> interpolated(ones, zeros, 0.25).weight.item()
        0.75
    """
    for name, model in (("first", first), ("second", second)):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name} must be a torch.nn.Module; got {shown(model)}")
    real("part", part, "a number, 0 for the first model and 1 for the second", array=False)
    choice("of", of, ("weights", "outputs"))
    if of == "outputs":
        return MeanOutput(first, second, part)
    if (key := first_difference(first, second)) is not None:
        raise ValueError(
            f"second must have the parameters and buffers of first, by name and shape; they differ in {key}. Embed a "
            "convolution with bioshare.nn.to_fully_connected first, and give the modules inside torch.compile and "
            "DataParallel"
        )
    ours, theirs = first.state_dict(), second.state_dict()
    between = copy.deepcopy(first)
    with torch.no_grad():
        for name, one in between.state_dict().items():
            if one.is_floating_point() or one.is_complex():
                one.copy_((1 - part) * ours[name] + part * theirs[name])
    return between


def first_difference(first: nn.Module, second: nn.Module) -> str | None:
    """The name of the first parameter or buffer of one model that the other has not, or in another shape."""
    ours, theirs = ({key: one.shape for key, one in model.state_dict().items()} for model in (first, second))
    return next((key for key in [*ours, *theirs] if ours.get(key) != theirs.get(key)), None)


def string_path(
    first: nn.Module,
    second: nn.Module,
    batches: Batches,
    loss: Loss,
    points: int = 5,
    stiffness: float = 1.0,
    rate: float = 0.1,
    epochs: int = 3,
) -> list[nn.Module]:
    """Bend the straight path between two networks towards smaller losses (d'Ascoli et al. 2019, Eq. 2).

    The path is an elastic string of networks x_i with fixed ends. All networks between take a step for every batch,

        x_i <- x_i - rate (grad L(x_i) + stiffness (2 x_i - x_(i-1) - x_(i+1)))

    down the sum of the losses and the elastic energy stiffness / 2 sum_i |x_(i+1) - x_i|^2. A stiff string stays
    straight; without stiffness all networks learn alone. All are in evaluation mode meanwhile.

    Args:
        first, second: two models with the same parameters and buffers, the ends.
        batches, loss: as for `top_eigenvalue`; every batch is a step.
        points: number of networks, the ends included; memory holds all.
        stiffness: constant of the springs between neighbours.
        rate: learning rate, below 1 / (2 stiffness): a larger step of the springs would be unstable.
        epochs: passes over the batches.

    Returns:
        The networks from ``first`` to ``second``; all but these two are copies.

    Raises:
        TypeError, ValueError: an argument is of another kind, or the models have different parameters.

    Example:
        >>> ends = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> len(string_path(*ends, [(torch.ones(2, 1), torch.zeros(2, 1))], nn.functional.mse_loss))
        5
    """
    whole("points", points, "a number of networks", at_least=3)
    real("stiffness", stiffness, "a number of at least 0", at_least=0, array=False)
    real("rate", rate, "a learning rate above 0", above=0, array=False)
    whole("epochs", epochs, "a number of passes over the batches", at_least=1)
    if rate * stiffness >= 0.5:
        raise ValueError(f"rate must be below 1 / (2 stiffness), which is {0.5 / stiffness:g}; got {rate}")
    path = [first, *(interpolated(first, second, i / (points - 1)) for i in range(1, points - 1)), second]
    batches, parameters = checked_data(first, batches, loss)
    weights = [[model.get_parameter(name) for name in parameters] for model in path]
    for _ in range(epochs):
        for x, y in batches:
            steps = []  # of all networks between the ends
            for model, left, own, right in zip(path[1:-1], weights[:-2], weights[1:-1], weights[2:], strict=True):
                with evaluating(model):
                    gradient = summed_gradient(model, x, y, loss, dict(zip(parameters, own, strict=True)))
                with torch.no_grad():
                    springs = [2 * p - before - after for p, before, after in zip(own, left, right, strict=True)]
                    steps.append([g / len(y) + stiffness * pull for g, pull in zip(gradient, springs, strict=True)])
            with torch.no_grad():
                for own, step in zip(weights[1:-1], steps, strict=True):
                    for p, change in zip(own, step, strict=True):
                        p -= rate * change
    return path


class MeanOutput(nn.Module):
    """Weighted mean of the outputs of two models."""

    def __init__(self, first: nn.Module, second: nn.Module, part: float) -> None:
        super().__init__()
        self.first, self.second, self.part = first, second, part

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return (1 - part) first(x) + part second(x)."""
        return (1 - self.part) * self.first(*inputs, **named) + self.part * self.second(*inputs, **named)
