"""From a convolutional network to a locally connected one."""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bioshare.nn.locally_connected import LocallyConnected2d, Pair


def to_locally_connected(
    model: nn.Module,
    input_size: tuple[int, int, int],
    init: Literal["independent", "copy"] = "independent",
    keep_first: int = 0,
) -> nn.Module:
    """Copy a model with every `torch.nn.Conv2d` replaced by a `LocallyConnected2d`; the model stays as it is.

    The spatial sizes come from one forward pass of zeros through a copy in evaluation mode.

    Args:
        model: any module made of `torch.nn.Conv2d` and layers that are no convolutions.
        input_size: (channels, rows, columns) of one input.
        init: "independent" draws a new kernel at every position from torch's default generator; "copy" puts
            the convolution's kernel at every position, so that the copy computes the same function.
        keep_first: how many convolutions stay convolutions, in the order of ``model.modules()`` (1 for the paper's
            networks with a convolutional first layer).

    Returns:
        The locally connected copy; everything but the convolutions is copied with its parameters.

    Raises:
        TypeError: a layer is a convolution of another class, or has hooks or a reparametrised weight.
        ValueError: a convolution's padding has no locally connected counterpart, the forward pass does not
            reach it, or it sees inputs of different sizes.

    Example:
        >>> to_locally_connected(nn.Conv2d(1, 4, 3), input_size=(1, 8, 8), init="copy")
        LocallyConnected2d(1, 4, kernel_size=(3, 3), input_size=(8, 8), bias=True)
    """
    if init not in ("independent", "copy"):
        raise ValueError(f'init must be "independent" or "copy"; got {init!r}')
    if not isinstance(keep_first, int) or keep_first < 0:
        raise ValueError(f"keep_first must be a number of convolutions >= 0; got {keep_first!r}")
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            _refuse_unknown(name, module)
    sizes = _input_sizes(model, input_size)
    converted = copy.deepcopy(model)
    kept = [module for module in converted.modules() if isinstance(module, nn.Conv2d)][:keep_first]
    layers: dict[nn.Module, LocallyConnected2d] = {}
    for name, conv in list(converted.named_modules(remove_duplicate=False)):
        if not isinstance(conv, nn.Conv2d) or conv in kept:
            continue
        if conv not in layers:  # a layer used twice stays one layer
            layers[conv] = _locally_connected(conv, sizes[name], init)
        if not name:
            return layers[conv]
        converted.set_submodule(name, layers[conv])
    return converted


def _refuse_unknown(name: str, module: _ConvNd) -> None:
    label = f"model.{name}" if name else "model"
    if type(module) is not nn.Conv2d:
        raise TypeError(
            f"{label} is a {type(module).__name__}; only torch.nn.Conv2d itself, not its subclasses or other "
            "convolutions, has a locally connected counterpart. Replace that layer by hand"
        )
    if "weight" not in module._parameters or module._forward_pre_hooks or module._forward_hooks:
        raise TypeError(f"{label} has hooks or a reparametrised weight, which would be lost; remove them first")
    if module.padding_mode != "zeros":
        raise ValueError(f'{label} must have padding_mode="zeros"; got {module.padding_mode!r}')
    try:
        _padding(module)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _input_sizes(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, Pair]:
    """Rows and columns that every convolution sees, by name."""
    probe = copy.deepcopy(model).eval()
    seen: dict[str, set[Pair]] = {}
    for name, module in probe.named_modules():
        if isinstance(module, nn.Conv2d):
            seen[name] = set()
            module.register_forward_pre_hook(partial(_note_size, seen[name]))
    like = next(probe.parameters(), torch.empty(0))
    with torch.no_grad():
        probe(torch.zeros(1, *input_size, device=like.device, dtype=like.dtype))
    for name, sizes in seen.items():
        if len(sizes) != 1:
            told = f"inputs of the sizes {sorted(sizes)}" if sizes else "no input"
            raise ValueError(f"model.{name} must see inputs of one size in a forward pass; it saw {told}")
    return {name: sizes.pop() for name, sizes in seen.items()}


def _note_size(sizes: set[Pair], _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A hook that notes the rows and columns of a layer's input."""
    sizes.add((inputs[0].shape[-2], inputs[0].shape[-1]))


def _locally_connected(conv: nn.Conv2d, input_size: Pair, init: str) -> LocallyConnected2d:
    layer = LocallyConnected2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        input_size=input_size,
        stride=(conv.stride[0], conv.stride[1]),
        padding=_padding(conv),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
    ).to(device=conv.weight.device, dtype=conv.weight.dtype)
    if init == "copy":
        with torch.no_grad():
            layer.weight.copy_(conv.weight)
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias[:, None, None])
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(getattr(conv, name).requires_grad)
    return layer.train(conv.training)


def _padding(conv: nn.Conv2d) -> Pair:
    """A convolution's padding as a pair, "valid" and "same" included."""
    if not isinstance(conv.padding, str):
        return conv.padding[0], conv.padding[1]
    if conv.padding == "valid":
        return 0, 0
    rows, columns = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    if rows % 2 or columns % 2:
        raise ValueError(f'padding="same" must be the same on both sides; it is not for {conv}. Pad before the layer')
    return rows // 2, columns // 2
