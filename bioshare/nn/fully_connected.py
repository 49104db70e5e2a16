"""Convolutional and locally connected networks made fully connected (d'Ascoli et al. 2019)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bioshare.checks import flag, whole
from bioshare.nn.convert import counterpart, enough_memory, made_like
from bioshare.nn.locally_connected import LocallyConnected2d, check_input
from bioshare.nn.probe import input_sizes
from bioshare.nn.replaceable import replaceable_layers
from bioshare.nn.sizes import readable


class FullyConnected2d(nn.Module):
    """A dense layer between images: every output of every channel sees every pixel of every channel.

    Args:
        layer: a locally connected layer with the sizes, on PyTorch's meta device or with data.
        padded_columns: True for columns also of the padding around the image, as in d'Ascoli et al. (2019).

    Attributes:
        weight: (out H_out W_out, in H W), with the rows and columns of the padded image with ``padded_columns``.
        bias: (out H_out W_out), or None.
        image_size: rows and columns of the image that the weights see, the padded one with ``padded_columns``.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: LocallyConnected2d, padded_columns: bool) -> None:
        super().__init__()
        self.in_channels, self.input_size = layer.in_channels, layer.input_size
        self.out_channels, self.output_size = layer.out_channels, layer.output_size
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.groups, self.kernel_pad, self.padded_columns = layer.groups, layer.pad, padded_columns
        self.padding_mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        self.pad = layer.pad if padded_columns else (0, 0, 0, 0)
        left, right, top, bottom = self.pad
        self.image_size = self.input_size[0] + top + bottom, self.input_size[1] + left + right
        outputs = self.out_channels * math.prod(self.output_size)
        empty = partial(torch.empty, device="meta", dtype=layer.weight.dtype)
        self.weight = nn.Parameter(empty(outputs, self.in_channels * math.prod(self.image_size)))
        self.register_parameter("bias", None if layer.bias is None else nn.Parameter(empty(outputs)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights and biases anew, as those of a `torch.nn.Linear`: uniform up to 1 / sqrt(inputs)."""
        limit = 1 / math.sqrt(self.weight.shape[1])
        for parameter in self.parameters(recurse=False):
            parameter.uniform_(-limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out); the batch axis may be missing."""
        sizes = (self.in_channels, *self.input_size), (self.out_channels, *self.output_size)
        return dense_product(x, self.weight, self.bias, *sizes, self.pad, self.padding_mode)

    def taps(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the number of every tap of a kernel, the positions whose tap sees a pixel, and the pixels (n,), (n,).

        Positions and pixels are numbered row by row. Zeros around the image have no pixels without padded columns.
        """
        left, right, top, bottom = self.kernel_pad
        rows, columns = self.input_size
        if self.padded_columns:
            shape = rows + top + bottom, columns + left + right
            numbers = torch.arange(math.prod(shape)).view(shape)
        else:
            inside = torch.arange(rows * columns, dtype=torch.float64).view(1, 1, rows, columns)
            fill = {"value": -1} if self.padding_mode == "constant" else {}
            numbers = nn.functional.pad(inside, self.kernel_pad, self.padding_mode, **fill)[0, 0].long()
        (down, across), (dh, dw) = self.stride, self.dilation
        for tap in range(math.prod(self.kernel_size)):
            a, b = divmod(tap, self.kernel_size[1])
            seen = numbers[a * dh :: down, b * dw :: across][: self.output_size[0], : self.output_size[1]].flatten()
            positions = (seen >= 0).nonzero()[:, 0]
            yield tap, positions, seen[positions]

    def blocks(self) -> Tensor:
        """View the weights as (groups, out / groups, positions, groups, in / groups, pixels)."""
        per_group = self.out_channels // self.groups, self.in_channels // self.groups
        sizes = per_group[0], math.prod(self.output_size), self.groups, per_group[1]
        return self.weight.view(self.groups, *sizes, math.prod(self.image_size))

    def filter(self, channel: int, row: int, column: int) -> Tensor:
        """View the weights of one output, from all pixels, (in, rows, columns)."""
        output = (channel * self.output_size[0] + row) * self.output_size[1] + column
        return self.weight[output].view(self.in_channels, *self.image_size)

    def extra_repr(self) -> str:
        """Return the channels and sizes."""
        sizes = f"input_size={self.input_size}, output_size={self.output_size}"
        return f"{self.in_channels}, {self.out_channels}, {sizes}, bias={self.bias is not None}"


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to check
def dense_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: tuple[int, int, int],
    output_size: tuple[int, int, int],
    pad: tuple[int, int, int, int],
    padding_mode: str,
) -> Tensor:
    """Map images of a size (channels, rows, columns) to images of another size, with or without a batch axis."""
    check_input(x, *input_size)
    images = x[None] if x.ndim == 3 else x
    images = nn.functional.pad(images, pad, padding_mode) if any(pad) else images
    y = nn.functional.linear(images.flatten(1), weight, bias).unflatten(1, output_size)
    return y[0] if x.ndim == 3 else y


def to_fully_connected(model: nn.Module, input_size: tuple[int, ...], padded_columns: bool = False) -> nn.Module:
    """Copy a model with every convolution replaced by a dense layer with the same function.

    Every `torch.nn.Conv2d` and `LocallyConnected2d` becomes a layer with a weight from every pixel of every channel to
    every output; weights outside the kernels start at 0, and can be trained (d'Ascoli et al. 2019). The step between,
    without sharing but with the local connections alone, is `to_locally_connected` with ``init="copy"``. Make the
    optimiser from the copy, afterwards. Random weights come from the layers' ``reset_parameters()``.

    Calls of `torch.nn.functional.conv2d` stay, and so does every `torch.nn.Linear`, also one that sees many tokens or
    positions and goes on sharing its weights between them.

    Args:
        model: any module of `torch.nn.Conv2d`, `LocallyConnected2d` and layers other than convolutions.
        input_size: (channels, rows, columns) of one input.
        padded_columns: True for weights also from the pixels of the padding, as in the code of d'Ascoli et al. Zeros of
            the padding leave such weights without gradients.

    Returns:
        The fully connected copy: ``weight`` (out H_out W_out, in H W) and ``bias`` (out H_out W_out).

    Raises:
        TypeError: `to_locally_connected` would refuse the model, or a layer is not two-dimensional.
        ValueError: the model does not run on such an input without data, or a layer gets no input, or inputs of
            different sizes.
        MemoryError: the weights need more memory than there is.

    Example:
        >>> to_fully_connected(nn.Conv2d(1, 4, 3), input_size=(1, 8, 8)).weight.shape
        torch.Size([144, 64])
    """
    flag("padded_columns", padded_columns)
    layers = replaceable_layers(model, (_ConvNd, LocallyConnected2d), (nn.Conv2d, LocallyConnected2d))
    expected = "(channels, rows, columns) of one input, whole numbers"
    if not isinstance(input_size, tuple | list) or len(input_size) != 3:
        raise ValueError(f"input_size must be {expected}; got {input_size!r}")
    for size in input_size:
        whole("input_size", size, expected, at_least=1)
    sizes = input_sizes(model, layers, input_size) if layers else {}
    local: dict[str, LocallyConnected2d] = {}
    for label, layer in layers.items():
        rows, columns = sizes[label][-2:]
        local[label] = counterpart(partial(LocallyConnected2d, input_size=(rows, columns)), layer)
    dense = {label: made_like(FullyConnected2d(layer, padded_columns), layers[label]) for label, layer in local.items()}
    needed = sum(p.numel() * p.element_size() for layer in dense.values() for p in layer.parameters())

    def too_large(memory: str) -> str:
        return (
            f"the {len(dense)} fully connected layers need {readable(needed)} for their weights, more than {memory}. "
            "Take a smaller input_size, fewer channels, or bioshare.nn.to_locally_connected"
        )

    with enough_memory(needed, layers.values(), too_large):
        copies = {id(old): _placed(dense[label], local[label], old) for label, old in layers.items()}
    return copy.deepcopy(model, copies)


@torch.no_grad()
def _placed(dense: FullyConnected2d, local: LocallyConnected2d, old: nn.Conv2d | LocallyConnected2d) -> nn.Module:
    """Give a dense layer memory next to a layer, and its weights: one scatter for every tap of every group."""
    if old.weight.is_meta:
        return dense
    dense.to_empty(device=old.weight.device)
    dense.weight.zero_()
    if dense.bias is not None and old.bias is not None:
        bias = old.bias if old.bias.ndim == 3 else old.bias[:, None, None]
        dense.bias.copy_(bias.expand(-1, *local.output_size).flatten())
    kernels = old.weight.expand(local.weight.shape).flatten(0, 1).flatten(-2)  # (positions, out, in / groups, taps)
    blocks = dense.blocks()
    for tap, positions, pixels in dense.taps():
        for group, values in enumerate(kernels[positions, :, :, tap].chunk(dense.groups, 1)):
            blocks[group, :, :, group][:, positions, :, pixels] += values  # some paddings show a pixel to several taps
    return dense
