"""Layers of a model that can be replaced by others, without losing anything of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

Layers = dict[str, Any]
"""Layers by their names in errors."""

WRAPPERS = "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"
"""Classes of PyTorch around a model on several devices, by name, since some are expensive to import."""


def sharded(module: nn.Module) -> bool:
    """Return True for a module of fully_shard, and for parameters of which a process has a part (DTensor)."""
    classes = {cls.__name__ for cls in type(module).__mro__}
    return "FSDPModule" in classes or any(hasattr(p, "placements") for p in module.parameters(recurse=False))


def replaceable_layers(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    expected: Collection[type[nn.Module]],
    keep_first: int = 0,
) -> Layers:
    """Return the layers of a kind by their names in errors, all but the first; a layer in two places comes once.

    Raises:
        TypeError: a part of the model is compiled or lazy, or the replacement of a layer would lack some property.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    modules = {f"model.{name}" if name else "model": module for name, module in model.named_modules()}
    for label, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            raise TypeError(f"{label} is compiled; convert first, then compile the copy")
        if type(module).__name__ in WRAPPERS:
            raise TypeError(f"{label} is a {type(module).__name__}; convert {label}.module, then wrap the copy")
        if sharded(module):
            raise TypeError(f"{label} is sharded over processes; convert first, then shard the copy")
        if any(map(is_lazy, module.parameters(recurse=False))):
            raise TypeError(f"{label} is lazy, without a shape yet; run the model once on a batch before converting it")
    layers = dict([item for item in modules.items() if isinstance(item[1], kind)][keep_first:])
    holders = Counter(id(p) for module in modules.values() for p in module._parameters.values())
    for label, layer in layers.items():
        if hasattr(layer, "backpropagates"):
            raise TypeError(
                f"{label} has feedback weights; convert bioshare.nn.without_feedback(model), and give feedback to the "
                "copy"
            )
        if is_parametrized(layer):
            raise TypeError(
                f"{label} has a reparametrised weight, which would be lost; take it off by "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        if type(layer) not in expected:
            *names, last = (cls.__name__ for cls in expected)
            raise TypeError(
                f"{label} is a {type(layer).__name__}; only {', '.join(names)} and {last} have "
                "counterparts, not their subclasses or other convolutions. Replace that layer by hand, or keep it: "
                "convert the parts of the model without it, and put the copies in their places"
            )
        hooks = (value for name, value in vars(layer).items() if name.endswith("_hooks"))
        more = layer._parameters.keys() != {"weight", "bias"} or layer._modules or layer._buffers
        if any(hooks) or more or "forward" in vars(layer):
            raise TypeError(
                f"{label} has hooks, a reparametrised weight, buffers or layers of its own, which would be lost; "
                "remove them (a pruned weight by torch.nn.utils.prune.remove)"
            )
        if any(holders[id(parameter)] > 1 for parameter in layer.parameters()):
            raise TypeError(f"{label} shares a parameter with another layer; the two would part. Use one layer twice")
    return layers
