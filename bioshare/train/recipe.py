"""What a `TrainConfig` stands for: its network, its optimiser, its learning rates and its types of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from bioshare.nn import LocallyConnected2d, resnet18, resnet20, to_locally_connected
from bioshare.train.config import TrainConfig

NETWORKS = {"resnet20": resnet20, "resnet18": resnet18}
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def network(config: TrainConfig, num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """The network of a configuration, its weights drawn from the seed; the global generator stays as it was.

    Args:
        config: names the network.
        num_classes: of the data set.
        input_size: channels, rows and columns of its images.

    Raises:
        ValueError: ``keep_first`` leaves nothing to be locally connected.
    """
    channels, rows, columns = input_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = NETWORKS[config.network](num_classes, in_channels=channels)
        if config.locally_connected:
            model = to_locally_connected(model, (channels, rows, columns), "independent", config.keep_first)
    if config.locally_connected and not any(isinstance(module, LocallyConnected2d) for module in model.modules()):
        raise ValueError(f"keep_first must leave a convolution of {config.network}; got {config.keep_first}")
    return model


def optimizer(model: nn.Module, config: TrainConfig, capturable: bool | None = None) -> torch.optim.AdamW:
    """AdamW of a configuration, at its first learning rate; fused, which is the fastest on every device.

    Args:
        model: whose parameters it learns.
        config: learning rate and weight decay count here.
        capturable: whether the learning rate is a tensor beside the weights, so that a CUDA graph can hold the step;
            None for that on a GPU and a number elsewhere.
    """
    device, rate = next(model.parameters()).device, config.learning_rate
    capturable = device.type == "cuda" if capturable is None else capturable
    found = torch.optim.AdamW(
        model.parameters(), rate, weight_decay=config.weight_decay, fused=True, capturable=capturable
    )
    if capturable:
        for group in found.param_groups:
            group["lr"] = torch.full((), rate, device=device)
    return found


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give an optimiser another learning rate; one that lies on a GPU is filled in place, where a graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch (from 0): divided by 4 at every milestone."""
    passed = sum(epoch >= round(milestone * config.epochs, 9) for milestone in config.milestones)
    return config.learning_rate / 4**passed


def half(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The type of automatic mixed precision; None for float32 throughout."""
    precision = config.precision
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    return HALVES.get(precision)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Automatic mixed precision of that type; of none for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
