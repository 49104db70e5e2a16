"""Convolutional networks made locally connected, and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bioshare.checks import choice, flag, machine_memory, real, whole
from bioshare.nn.locally_connected import Layout, LocallyConnected2d
from bioshare.nn.one_dimensional import LocallyConnected1d
from bioshare.nn.patchwise import PatchwiseLinear, check_attention, check_class_tokens, tokens_seen
from bioshare.nn.probe import input_sizes
from bioshare.nn.replaceable import Layers, replaceable_layers
from bioshare.nn.sizes import ConversionTable

COUNTERPARTS: dict[Any, Any] = {nn.Conv1d: LocallyConnected1d, nn.Conv2d: LocallyConnected2d}
"""Locally connected layers by the class of the convolution."""
LINEAR: dict[Any, Any] = {nn.Linear: PatchwiseLinear}
"""The layer without sharing for a linear layer that sees tokens."""


def to_locally_connected(
    model: nn.Module,
    input_size: tuple[int, ...],
    init: Literal["independent", "copy"] = "independent",
    keep_first: int = 0,
    *,
    layout: Layout = "contiguous",
    linear: bool = False,
    class_tokens: int = 0,
) -> nn.Module:
    """Copy a model with every `torch.nn.Conv2d` replaced by a `LocallyConnected2d`; the model itself doesn't change.

    Every `torch.nn.Conv1d` becomes a `LocallyConnected1d`. A model with other convolutions (three-dimensional,
    transposed) is refused: convert the parts without them. Calls of `torch.nn.functional.conv2d` stay.

    The spatial sizes come from one forward pass without data, on PyTorch's meta device in evaluation mode, at no cost
    of time or memory and without hooks.

    The copy has parameters of its own, so an optimiser made for the model would go on training the model. Convert
    first, then make the optimiser (and the gradient scaler, the moving average, the compiled or distributed module)
    from the copy.

    Args:
        model: any module of `torch.nn.Conv2d`, `torch.nn.Conv1d` and layers other than convolutions.
        input_size: (channels, rows, columns) of one input, or (channels, length) of a sequence.
        init: "independent" draws a new kernel at every position from torch's default generator; "copy" puts
            the convolution's kernel at every position, for a copy with the same function.
        keep_first: number of convolutions (with ``linear`` of convolutions and linear layers) to keep, in the order of
            ``model.modules()`` (1 for the paper's networks with a convolutional first layer).
        layout: order of the weights in memory: "contiguous" for every PyTorch tool, or "channels_last" for speed, see
            `LocallyConnected2d`.
        linear: True to replace every `torch.nn.Linear` that sees tokens (batch, N, D) by a `PatchwiseLinear`, too. A
            linear layer that sees (batch, D), as a classifier does, stays, and so do position embeddings.
        class_tokens: number of tokens before those of patches, as the class token of a vision transformer. Each keeps a
            matrix that it shares with no other token. A linear layer that sees so many tokens fewer than another, as
            a linear patch embedding does, comes before the class tokens and has none.

    Returns:
        The locally connected copy, with copies of all other layers and their parameters; a layer in two places of
        the model stays a single layer.

    Raises:
        TypeError: a layer is a convolution of another class, lazy, compiled, has hooks or a reparametrised weight,
            or shares a parameter with another layer; or the model is wrapped for several processes, or sharded.
            With ``linear``, a `torch.nn.MultiheadAttention`, whose matrices are in no layer.
        ValueError: the model does not run on such an input without data, or a layer gets no input, or inputs of
            different sizes; or a linear layer sees tokens in another form.
        MemoryError: the weights need more memory than there is.

    Example:
        >>> to_locally_connected(nn.Conv2d(1, 4, 3), input_size=(1, 8, 8), init="copy").weight.shape
        torch.Size([6, 6, 4, 1, 3, 3])
    """
    choice("init", init, ("independent", "copy"))
    choice("layout", layout, get_args(Layout))
    convs, layers = _without_data(model, input_size, keep_first, layout, linear, class_tokens)
    of_model = [module.class_token for module in model.modules() if hasattr(module, "class_token")]
    own = sum(token is not None for token in of_model)
    if of_model and class_tokens != own and any(isinstance(layer, PatchwiseLinear) for layer in layers.values()):
        raise ValueError(f"class_tokens must be {own}, as the model has; got {class_tokens}")
    table = ConversionTable.of(model, convs, layers)  # first, so that no time is lost on a model that is too large
    with enough_memory(table.layers_bytes, convs.values(), table.too_large):
        copies = {id(conv): _filled(layers[label], conv, init) for label, conv in convs.items()}
    return copy.deepcopy(model, copies)


@contextmanager
def enough_memory(needed: int, layers: Iterable[Any], too_large: Callable[[str], str]) -> Iterator[None]:
    """A block in which new layers take memory beside old ones; raises MemoryError with the text of ``too_large``."""
    if needed > machine_memory() and "cpu" in {layer.weight.device.type for layer in layers}:
        raise MemoryError(too_large("this machine has"))
    try:
        yield
    except RuntimeError as error:  # PyTorch has no class of errors for too little memory on a CPU
        if "memory" not in str(error):
            raise
        raise MemoryError(too_large("is free")) from error


def conversion_table(
    model: nn.Module, input_size: tuple[int, ...], keep_first: int = 0, *, linear: bool = False
) -> ConversionTable:
    """Tell the parameters and the memory of a model before and after `to_locally_connected`, at no cost.

    Every position gets a kernel, so a layer grows by the number of positions. The sizes come from shapes alone, also
    for a model on PyTorch's meta device; no weights are made.

    Args:
        model, input_size, keep_first, linear: as for `to_locally_connected`.

    Returns:
        The table: printed with a row for every layer, the sum, and the memory of a training.

    Raises:
        TypeError, ValueError: `to_locally_connected` would refuse the model.

    Example:
        >>> conversion_table(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False)), (3, 32, 32))
        layer      positions  parameters now    after   factor    MB
        0            32 x 32             432  442,368  1,024.0  1.77
        the model                        432  442,368  1,024.0  1.77
        weights: 1.77 MB
        weights and gradients: 3.54 MB
        weights, gradients and AdamW's two moments: 7.08 MB
        (without activations)
    """
    return ConversionTable.of(model, *_without_data(model, input_size, keep_first, linear=linear))


def to_convolutional(model: nn.Module, tolerance: float = 1e-6) -> nn.Module:
    """Copy a model with every `LocallyConnected2d` replaced by a `torch.nn.Conv2d`; the model itself doesn't change.

    The convolution gets the mean over positions of the kernels (and biases), to the last bit where all positions agree.
    Weights for zeros around the image, which have no part in the function, have none in the mean.
    A `LocallyConnected1d` becomes a `torch.nn.Conv1d`, and a `PatchwiseLinear` a `torch.nn.Linear`. As in
    `to_locally_connected`, make the optimiser from the copy, afterwards.

    Args:
        model: any module with locally connected layers.
        tolerance: largest distance of a weight from the mean over positions, as a fraction of the layer's largest
            weight (for a bias, of the largest bias). `math.inf` takes the mean of any positions.

    Returns:
        The convolutional copy, with copies of all other layers and their parameters.

    Raises:
        TypeError: a layer is a subclass, compiled, has hooks or a reparametrised weight, shares a parameter, or is
            fully connected, from where there is no way back.
        ValueError: the positions of a layer differ by more than the tolerance.

    Example:
        >>> conv = nn.Conv2d(1, 4, 3)
        >>> torch.equal(to_convolutional(to_locally_connected(conv, (1, 8, 8), init="copy")).weight, conv.weight)
        True
    """
    expected = "a fraction of at least 0, or math.inf for any difference"
    limit = float(real("tolerance", tolerance, expected, at_least=0, infinite=True, array=False))
    layers = replaceable_layers(model, LocallyConnected2d, (COUNTERPARTS | LINEAR).values())
    _check_not_dense(model)
    return copy.deepcopy(model, {id(layer): shared_layer(label, layer, limit) for label, layer in layers.items()})


def _without_data(
    model: nn.Module,
    input_size: tuple[int, ...],
    keep_first: int,
    layout: Layout = "contiguous",
    linear: bool = False,
    class_tokens: int = 0,
) -> tuple[Layers, Layers]:
    """Return the layers to replace, and the locally connected layers on the meta device, both by name."""
    keep_first = whole("keep_first", keep_first, "a number of convolutions", at_least=0)
    class_tokens = whole("class_tokens", class_tokens, "a number of tokens", at_least=0)
    flag("linear", linear)
    kinds, known = ((_ConvNd, nn.Linear), COUNTERPARTS | LINEAR) if linear else ((_ConvNd,), COUNTERPARTS)
    if linear:
        check_attention(model)
    elif class_tokens:
        raise ValueError(f"class_tokens must be 0 without linear=True; got {class_tokens}")
    convs = replaceable_layers(model, kinds, known, keep_first)
    _check_not_dense(model)
    expected, lengths = "(channels, rows, columns) of one input, whole numbers", (3,)
    if linear or not convs or nn.Conv1d in map(type, convs.values()):
        expected, lengths = f"(channels, length) or {expected}", (2, 3)
    if not isinstance(input_size, tuple | list) or len(input_size) not in lengths:
        raise ValueError(f"input_size must be {expected}; got {input_size!r}")
    for size in input_size:
        whole("input_size", size, expected, at_least=1)
    sizes = input_sizes(model, convs, input_size) if convs else {}
    linears = ((label, conv) for label, conv in convs.items() if isinstance(conv, nn.Linear))
    tokens_of = {label: tokens_seen(label, layer, sizes[label]) for label, layer in linears}
    patches = max(tokens_of.values(), default=0) - class_tokens
    layers: Layers = {}
    for label, conv in convs.items():
        if not isinstance(conv, nn.Linear):
            kind = partial(COUNTERPARTS[type(conv)], input_size=sizes[label], layout=layout)
            layers[label] = counterpart(kind, conv)
        elif tokens := tokens_of[label]:
            shape = tokens, conv.in_features, conv.out_features, conv.bias is not None
            own = 0 if tokens == patches else class_tokens  # patches alone: a layer before the class tokens
            new = PatchwiseLinear(*shape, own, device="meta", dtype=conv.weight.dtype)
            layers[label] = made_like(new, conv)
    return {label: convs[label] for label in layers}, layers


def _check_not_dense(model: nn.Module) -> None:
    from bioshare.nn.fully_connected import FullyConnected2d  # which is made of these conversions

    for name, layer in model.named_modules():
        if isinstance(layer, FullyConnected2d):
            label = ".".join(filter(None, ("model", name)))
            raise TypeError(
                f"{label} is fully connected, and no layer with fewer weights computes the same; convert the model "
                "from before to_fully_connected, and see bioshare.nn.deviation for the parts of the weights"
            )


@torch.no_grad()
def _filled(layer: LocallyConnected2d, conv: nn.Conv1d | nn.Conv2d | nn.Linear, init: str) -> LocallyConnected2d:
    """Give a layer without data memory next to the convolution, and its first weights."""
    layer.to_empty(device=conv.weight.device)
    if init == "independent":
        layer.reset_parameters()
    else:
        layer.weight.copy_(conv.weight.reshape(layer.weight.shape[2:]))
        if conv.bias is not None and layer.bias is not None:
            layer.bias.copy_(conv.bias[:, None, None])
    return layer


@torch.no_grad()
def shared_layer(label: str, layer: LocallyConnected2d, tolerance: float) -> nn.Conv1d | nn.Conv2d | nn.Linear:
    """Make the convolution or linear layer with the mean weights of a locally connected layer."""
    from bioshare.nn.deviation import locality  # of fully connected layers, too

    if isinstance(layer, PatchwiseLinear):
        check_class_tokens(label, layer, tolerance)
        sizes, dtype = (layer.in_channels, layer.out_channels, layer.bias is not None), layer.weight.dtype
        conv = made_like(nn.Linear(*sizes, device="meta", dtype=dtype), layer)
    else:
        (kind,) = (kind for kind, counterpart in COUNTERPARTS.items() if type(layer) is counterpart)
        conv = counterpart(kind, layer)
    conv = conv.to_empty(device=layer.weight.device)
    mean = position_mean(f"{label}.weight", layer.weight, tolerance, locality(layer))
    conv.weight.copy_(mean.view_as(conv.weight))
    if layer.bias is not None:
        conv.bias.copy_(position_mean(f"{label}.bias", layer.bias.movedim(0, -1), tolerance))
    return conv


def counterpart(kind: Callable[..., Any], old: Any) -> Any:
    """Make a layer with the arguments of a layer, on the meta device, without values."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"
    axes = 1 if isinstance(old, LocallyConnected1d) else 2  # a sequence has no rows
    options = {name: size[-axes:] if isinstance(size := getattr(old, name), tuple) else size for name in names}
    return made_like(kind(**options, bias=old.bias is not None, device="meta", dtype=old.weight.dtype), old)


def made_like(new: Any, old: Any) -> Any:
    """Give a new layer the mode and requires_grad of a layer."""
    for name, parameter in new.train(old.training).named_parameters():
        parameter.requires_grad_(getattr(old, name).requires_grad)
    return new


ADVICE = "After a sleep, bioshare.bridge.to_periodic keeps a kernel for every module"


def position_mean(
    label: str, values: Tensor, tolerance: float, seen: Tensor | None = None, advice: str = ADVICE
) -> Tensor:
    """Return the mean of (H_out, W_out, ...) over positions, without rounding where all positions are equal.

    With ``seen``, over the positions where it is True, or all where it nowhere is.
    """
    seen = torch.ones_like(values, dtype=torch.bool) if seen is None else seen
    seen = seen | ~seen.any(0).any(0)
    place = seen.flatten(0, 1).int().argmax(0)[None]  # of the first position
    first = values.flatten(0, 1).gather(0, place)[0]
    values = torch.where(seen, values, first)  # whatever the others are
    mean = first + (values - first).sum((0, 1)) / seen.sum((0, 1))
    if tolerance < math.inf:
        deviation, largest = (values - mean).abs().max().item(), values.abs().max().item()
        if not deviation <= tolerance * largest:
            raise ValueError(
                f"{label} must be the same at every position, to {tolerance:g} of the largest, {largest:.3g}; some are "
                f"{deviation:.3g} from the mean, which computes another function. {advice}. Pass tolerance=math.inf to "
                "take the mean anyway"
            )
    return mean
