"""`renew_statistics`: the running statistics of normalisations, once weights have changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm


@torch.no_grad()
def renew_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set the running means and variances of all normalisations to the means over some batches, in place.

    A sleep changes the activity of every layer at once. The running statistics of batch normalisation still describe
    the activity before the sleep, so a model in evaluation mode is far off until training has renewed the statistics.
    A few batches suffice. Nothing else changes; a model without running statistics stays as before. In a model in
    training mode, normalisations in evaluation mode count as frozen and stay as before.

    All other layers are in evaluation mode, so that dropout is off. Means are over batches, whatever the sizes, and
    over all uses of a batch normalisation that a model uses several times in a pass.

    Args:
        model: the model after a sleep, on any device and in any mode.
        batches: training inputs without labels, or tuples with the inputs first, such as a list or a DataLoader.

    Raises:
        TypeError: a batch is no tensor and no tuple that begins with one.
        ValueError: there is no batch.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> renew_statistics(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [6.0]])])
        >>> model[0].running_mean, model[0].running_var
        (tensor([3.]), tensor([5.]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if not isinstance(batches, Iterable) or getattr(batches, "ndim", 1) == 0:
        raise TypeError(f"batches must be a list of inputs, or a DataLoader; got {type(batches).__name__}")
    model = getattr(model, "_orig_mod", model)  # a compiled model would be compiled anew
    norms = [one for one in model.modules() if isinstance(one, _NormBase) and isinstance(one.running_mean, Tensor)]
    norms = [norm for norm in norms if norm.training or not model.training]
    if not norms:
        return
    counters = [(counter := norm.get_buffer("num_batches_tracked"), counter.clone()) for norm in norms]
    modes = [(one, one.training) for one in model.modules()]
    momenta = [one.momentum for one in norms]
    count = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            # batch normalisation without a momentum counts its uses, and the first replaces the old statistics
            norm.momentum = None
            norm.get_buffer("num_batches_tracked").zero_()
        for count, batch in enumerate(batches, 1):
            for norm in norms:
                if isinstance(norm, _InstanceNorm):  # which has no such count
                    norm.momentum = 1 / count
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(inputs, Tensor) or isinstance(batches, Tensor):
                kind = "a single tensor" if isinstance(batches, Tensor) else type(inputs).__name__
                raise TypeError(f"batches must be tensors of inputs, or tuples with the inputs first; got {kind}")
            model(inputs.to(norms[0].get_buffer("running_mean").device))
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, before in counters:
            counter.copy_(before)
    if not count:
        raise ValueError("batches must hold at least one batch of inputs; got none. Pass a list, or a DataLoader")
