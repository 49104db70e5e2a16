"""Optimisers of a run: small objects that make PyTorch's for a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bioshare.checks import flag, real
from bioshare.nn.deviation import Unshared, shared_by


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimisers of a run.

    Attributes:
        learning_rate: learning rate before the first milestone.
        weight_decay: weight decay.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        real("learning_rate", self.learning_rate, "a finite rate > 0", above=0, array=False)
        real("weight_decay", self.weight_decay, "a finite number >= 0", at_least=0, array=False)

    def make(self, parameters: Any, **options: Any) -> torch.optim.Optimizer:
        """PyTorch's optimiser of parameters."""
        raise NotImplementedError

    def groups(self, model: nn.Module) -> Any:
        """The parameters of a model, or groups of them in the same order with a ``factor`` of the learning rate."""
        return model.parameters()

    def build(self, model: nn.Module, capturable: bool | None = None) -> torch.optim.Optimizer:
        """The fused optimiser of a model's parameters.

        Args:
            model: the network, on its device.
            capturable: keep the learning rate in a tensor beside the weights, so that a CUDA graph can hold the step;
                None for True on a GPU only.
        """
        device = next(model.parameters()).device
        capturable = device.type == "cuda" if capturable is None else capturable
        optimizer = self.make(self.groups(model), capturable=capturable)
        if capturable:
            for group in optimizer.param_groups:
                group["lr"] = torch.full((), float(group["lr"]), device=device)
        return optimizer


@dataclass(frozen=True)
class AdamW(Optimizer):
    """The optimiser of Pogodin et al. (2021).

    Attributes:
        learning_rate: learning rate before the first milestone.
        weight_decay: decoupled weight decay.
    """

    weight_decay: float = 1e-2

    def make(self, parameters: Any, **options: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True, **options)


@dataclass(frozen=True)
class Adam(Optimizer):
    """The optimiser of Moskovitz et al. (2018), with L2 regularisation.

    Attributes:
        learning_rate: learning rate before the first milestone.
        weight_decay: factor of the L2 regularisation.
    """

    def make(self, parameters: Any, **options: Any) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True, **options)


@dataclass(frozen=True)
class SGD(Optimizer):
    """The optimiser of Akrout et al. (2019), with Nesterov momentum and L2 regularisation.

    Attributes:
        learning_rate: learning rate before the first milestone.
        weight_decay: factor of the L2 regularisation.
        momentum: momentum.
        nesterov: Nesterov's form of the momentum.
        match_positions: multiply the learning rates of locally and fully connected layers by the number of weights
            that a convolution shares: for biases the number of positions P, for a weight inside the kernels the number
            of positions that see the image at its tap (`bioshare.nn.deviation.shared_by`). A step moves the mean over
            these positions as far as a step of a convolution then. Weights decay as fast as those of a convolution.
            Weights outside the kernels keep the plain rate. The step takes no closure.
    """

    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    match_positions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real("momentum", self.momentum, "a number from 0 to 1, without 1", at_least=0, below=1, array=False)
        flag("nesterov", self.nesterov)
        flag("match_positions", self.match_positions)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; got 0")

    def groups(self, model: nn.Module) -> Any:
        """The parameters of a model; with ``match_positions`` a group for each, with the factors of its rates."""
        if not self.match_positions:
            return model.parameters()
        layers = _unshared(model)
        if any(getattr(layer, "class_tokens", 0) for layer in layers):
            raise ValueError("match_positions must be False for layers with class tokens, which share no weights")
        positions = {id(p): math.prod(layer.output_size) for layer in layers for p in layer.parameters(recurse=False)}
        factors = [(p, positions.get(id(p), 1)) for p in model.parameters()]
        return [
            {"params": [p], "lr": self.learning_rate * n, "factor": n, "weight_decay": self.weight_decay / n}
            for p, n in factors
        ]

    def build(self, model: nn.Module, capturable: bool | None = None) -> torch.optim.Optimizer:
        optimizer = super().build(model, capturable)
        if self.match_positions:
            layers = _unshared(model)
            scales = [(layer.weight, shared_by(layer).clamp(min=1) / math.prod(layer.output_size)) for layer in layers]

            @torch.no_grad()
            def scale_gradients(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
                if any(one is not None for one in (*arguments[1:], *named.values())):  # the first is the optimiser
                    raise TypeError("step must have no closure with match_positions; take the gradients before")
                for weight, scale in scales:  # P times the rate, and n / P or 1 / P of the gradient
                    if weight.grad is not None:
                        weight.grad.mul_(scale)

            optimizer.register_step_pre_hook(scale_gradients)
        return optimizer

    def make(self, parameters: Any, **options: Any) -> torch.optim.SGD:
        own = {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}
        return torch.optim.SGD(parameters, self.learning_rate, fused=True, **own)  # a fused step needs no "capturable"


def _unshared(model: nn.Module) -> list[Unshared]:
    """The layers without weight sharing."""
    return [layer for layer in model.modules() if isinstance(layer, Unshared)]
