"""Which layers of a model have weights, and checks of weights before something changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from bioshare.checks import shown


def check_module(model: object) -> None:
    """Raise TypeError for a model that is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {shown(model)}")


def check_weights(layers: Sequence[tuple[str, Any]]) -> None:
    """Raise TypeError for a weight that is no parameter."""
    for name, layer in layers:
        if "weight" not in layer._parameters:
            raise TypeError(
                f"layer {name!r} must have a weight that is a Parameter; got one that is computed from others. Take "
                "the parametrization, weight_norm or pruning off (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
            )


def weighted_layers(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Any]:
    """The layers of some kinds, the only ones with matrices of a name with "weight", but for embeddings and scales.

    Raises:
        TypeError: a layer is of a subclass, or of another class with such a matrix.
    """
    layers = list[Any]()
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            kind = "subclass"
        elif _has_matrix(module):
            kind = "class"
        else:
            continue
        if type(module) not in kinds:
            names = ", ".join(kind.__name__ for kind in kinds)
            raise TypeError(
                f"layers must be {names} themselves, so that no error goes back through weights; got the {kind} "
                f"{type(module).__name__}{f' in {name!r}' if name else ''}. Put one of these in its place (for "
                "attention bioshare.nn.SelfAttention), take a reparametrisation off, or give feedback to the parts "
                "without it"
            )
        layers.append(module)
    return layers


def _has_matrix(module: nn.Module) -> bool:
    """True for a layer with weights between inputs and outputs."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm | nn.RMSNorm):
        return False
    own = module.named_parameters(recurse=False)
    matrix = any("weight" in name and sum(size > 1 for size in w.shape) > 1 for name, w in own)
    return matrix or isinstance(module, _ConvNd) or is_parametrized(module, "weight")
