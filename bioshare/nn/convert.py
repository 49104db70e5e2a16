"""From a convolutional network to a locally connected one, and back."""

from __future__ import annotations

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from bioshare.nn.locally_connected import LocallyConnected2d

Layers = dict[str, nn.Module]


def to_locally_connected(
    model: nn.Module,
    input_size: tuple[int, int, int],
    init: Literal["independent", "copy"] = "independent",
    keep_first: int = 0,
) -> nn.Module:
    """Copy a model with every `torch.nn.Conv2d` replaced by a `LocallyConnected2d`; the model stays as it is.

    The spatial sizes come from one forward pass without data (on PyTorch's meta device, in evaluation mode) that
    needs neither time nor memory and fires no hooks. Convolutions that a module computes by itself, with
    `torch.nn.functional.conv2d`, are not seen and stay.

    The copy has parameters of its own, so an optimiser made for the model would go on training the model. Convert
    first, then make the optimiser (and the gradient scaler, the moving average, the compiled or distributed module)
    from the copy.

    Args:
        model: any module made of `torch.nn.Conv2d` and layers that are no convolutions.
        input_size: (channels, rows, columns) of one input.
        init: "independent" draws a new kernel at every position from torch's default generator; "copy" puts
            the convolution's kernel at every position, so that the copy computes the same function.
        keep_first: how many convolutions stay convolutions, in the order of ``model.modules()`` (1 for the paper's
            networks with a convolutional first layer).

    Returns:
        The locally connected copy; everything but the convolutions is copied with its parameters, and a layer that
        is used twice stays one layer.

    Raises:
        TypeError: a layer is a convolution of another class, lazy, compiled, has hooks or a reparametrised weight,
            or shares a parameter with another layer.
        ValueError: the model does not run on an input of that size without data, or the pass does not reach a
            convolution, or reaches it with inputs of different sizes.

    Example:
        >>> to_locally_connected(nn.Conv2d(1, 4, 3), input_size=(1, 8, 8), init="copy").weight.shape
        torch.Size([6, 6, 4, 1, 3, 3])
    """
    if init not in ("independent", "copy"):
        raise ValueError(f'init must be "independent" or "copy"; got {init!r}')
    if not isinstance(keep_first, int) or isinstance(keep_first, bool) or keep_first < 0:
        raise ValueError(f"keep_first must be a number of convolutions >= 0; got {keep_first!r}")
    triple = isinstance(input_size, Sequence) and len(input_size) == 3
    if not triple or not all(isinstance(n, int) and n > 0 for n in input_size):
        raise ValueError(f"input_size must be (channels, rows, columns) of one input, all >= 1; got {input_size!r}")
    _refuse_unready(model)
    convs = dict(list(_labelled(model, _ConvNd).items())[keep_first:])
    _refuse_loss(model, convs, nn.Conv2d)
    sizes = _sizes_seen(model, convs, input_size) if convs else {}
    layers = {conv: _locally_connected(conv, sizes[label], init) for label, conv in convs.items()}
    return _copy_with(model, layers)


def to_convolutional(model: nn.Module, tolerance: float = 1e-6) -> nn.Module:
    """Copy a model with every `LocallyConnected2d` replaced by a `torch.nn.Conv2d`; the model stays as it is.

    The kernel (and bias) of the convolution is the mean over positions. Where all positions agree, it is theirs to
    the last bit. As in `to_locally_connected`, make the optimiser from the copy, afterwards.

    Args:
        model: any module with locally connected layers.
        tolerance: how far a weight may be from the mean over positions, as a fraction of the layer's largest weight
            (for a bias: of its largest bias). `math.inf` takes the mean, however different the positions are.

    Returns:
        The convolutional copy; everything but the locally connected layers is copied with its parameters.

    Raises:
        TypeError: a layer is a subclass, compiled, has hooks or a reparametrised weight, or shares a parameter.
        ValueError: the positions of a layer differ by more than the tolerance.

    Example:
        >>> conv = nn.Conv2d(1, 4, 3)
        >>> torch.equal(to_convolutional(to_locally_connected(conv, (1, 8, 8), init="copy")).weight, conv.weight)
        True
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a fraction >= 0, or math.inf for any difference; got {tolerance!r}")
    _refuse_unready(model)
    found = _labelled(model, LocallyConnected2d)
    _refuse_loss(model, found, LocallyConnected2d)
    return _copy_with(model, {layer: _convolutional(label, layer, tolerance) for label, layer in found.items()})


def _labelled(model: nn.Module, kind: type[nn.Module]) -> Layers:
    """The layers of a kind by the name that an error gives them; a layer used twice comes once."""
    named = ((f"model.{name}" if name else "model", module) for name, module in model.named_modules())
    return {label: module for label, module in named if isinstance(module, kind)}


def _copy_with(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A deep copy in which the replacements take their places, wherever the model refers to them."""
    return copy.deepcopy(model, {id(old): new for old, new in replacements.items()})


def _refuse_unready(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    for label, module in _labelled(model, nn.Module).items():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            raise TypeError(f"{label} is compiled; convert first, then compile the copy")
        if any(map(is_lazy, module.parameters(recurse=False))):
            raise TypeError(f"{label} is lazy, without a shape yet; run the model once on a batch before converting it")


def _refuse_loss(model: nn.Module, layers: Layers, expected: type[nn.Module]) -> None:
    """Raise where a layer has more to it than its replacement would get."""
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    for label, layer in layers.items():
        if type(layer) is not expected:
            raise TypeError(
                f"{label} is a {type(layer).__name__}; only {expected.__name__} itself, not its subclasses or other "
                "convolutions, has a counterpart. Replace that layer by hand"
            )
        hooks = (value for name, value in vars(layer).items() if name.endswith("_hooks"))
        more = layer._parameters.keys() != {"weight", "bias"} or layer._modules or layer._buffers
        if any(hooks) or more or "forward" in vars(layer):
            raise TypeError(
                f"{label} has hooks, a reparametrised weight, buffers or layers of its own, which would be lost; "
                "remove them"
            )
        if any(holders[id(parameter)] > 1 for parameter in layer.parameters()):
            raise TypeError(f"{label} shares a parameter with another layer; the two would part. Use one layer twice")


def _sizes_seen(model: nn.Module, convs: Layers, input_size: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
    """Rows and columns that every convolution sees in a pass without data."""
    probe, copies = _copy_without_data(model)
    seen: dict[str, set[tuple[int, int]]] = {label: set() for label in convs}
    for label, conv in convs.items():
        copies[id(conv)].register_forward_pre_hook(partial(_note_size, seen[label]), with_kwargs=True)
    dtype = next(next(iter(convs.values())).parameters()).dtype
    batch = torch.empty(1, *input_size, device="meta", dtype=dtype)
    try:
        with torch.no_grad(), torch.device("meta"):
            probe.eval()(batch)
    except Exception as error:
        raise ValueError(
            f"model must run on an input of shape {(1, *input_size)} without data, which tells the sizes of its "
            f"layers; got {type(error).__name__}: {error}. See that input_size is right. Where a forward looks at "
            "values (an if, .item(), a mask) or keeps tensors that are neither parameters nor buffers, convert the "
            "parts of the model that don't, and put them in their places"
        ) from error
    for label, sizes in seen.items():
        if len(sizes) != 1:
            told = f"inputs of the sizes {sorted(sizes)}" if sizes else "no input"
            raise ValueError(f"{label} must see inputs of one size in a forward pass; it saw {told}")
    return {label: sizes.pop() for label, sizes in seen.items()}


def _copy_without_data(model: nn.Module) -> tuple[nn.Module, dict[int, Any]]:
    """A copy on the meta device without hooks, and what became of every object, by its id."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo |= {id(hooks): OrderedDict() for hooks in (module._forward_pre_hooks, module._forward_hooks)}
        kept = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        memo |= {id(tensor): tensor.detach().to("meta") for tensor in kept if isinstance(tensor, Tensor)}
    return copy.deepcopy(model, memo), memo


def _note_size(sizes: set[tuple[int, int]], _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
    """A hook that notes the rows and columns of a layer's input."""
    rows, columns = (args[0] if args else kwargs["input"]).shape[-2:]
    sizes.add((rows, columns))


@torch.no_grad()
def _locally_connected(conv: nn.Module, input_size: tuple[int, int], init: str) -> LocallyConnected2d:
    assert isinstance(conv, nn.Conv2d)
    layer = LocallyConnected2d(**_options(conv), input_size=input_size).to_empty(device=conv.weight.device)
    if init == "independent":
        layer.reset_parameters()
    else:
        layer.weight.copy_(conv.weight)
        if layer.bias is not None and conv.bias is not None:
            layer.bias.copy_(conv.bias[:, None, None])
    _match(layer, conv)
    return layer


@torch.no_grad()
def _convolutional(label: str, layer: nn.Module, tolerance: float) -> nn.Conv2d:
    assert isinstance(layer, LocallyConnected2d)
    conv = nn.Conv2d(**_options(layer)).to_empty(device=layer.weight.device)
    conv.weight.copy_(_mean(f"{label}.weight", layer.weight, tolerance))
    if conv.bias is not None and layer.bias is not None:
        conv.bias.copy_(_mean(f"{label}.bias", layer.bias.movedim(0, -1), tolerance))
    _match(conv, layer)
    return conv


def _options(layer: nn.Conv2d | LocallyConnected2d) -> dict[str, Any]:
    """What both kinds of layer are made from; on the meta device, so that nothing is drawn to be thrown away."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"
    options = {name: getattr(layer, name) for name in names}
    return options | {"bias": layer.bias is not None, "device": "meta", "dtype": layer.weight.dtype}


def _match(new: nn.Module, old: nn.Module) -> None:
    """Train and evaluate as the old layer does."""
    new.train(old.training)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(old, name).requires_grad)


def _mean(label: str, values: Tensor, tolerance: float) -> Tensor:
    """Mean of (H_out, W_out, ...) over positions, without rounding where they are equal."""
    first = values[0, 0]
    mean = first + (values - first).mean((0, 1))
    if tolerance < math.inf:
        deviation, largest = (values - mean).abs().max().item(), values.abs().max().item()
        if not deviation <= tolerance * largest:
            raise ValueError(
                f"{label} must be the same at every position, to {tolerance:g} of the largest, {largest:.3g}; some are "
                f"{deviation:.3g} from the mean. Pass tolerance=math.inf to take the mean anyway"
            )
    return mean
