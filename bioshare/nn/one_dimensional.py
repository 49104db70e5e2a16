"""Layers for sequences: the layers for images, on images of a single row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bioshare.checks import whole
from bioshare.nn.functional import Pair
from bioshare.nn.locally_connected import SMALLEST, Layout, LocallyConnected2d, check_input
from bioshare.nn.periodic import PeriodicConv2d


class LocallyConnected1d(LocallyConnected2d):
    """A `torch.nn.Conv1d` without weight sharing: every position of the output has its own kernel.

    A `LocallyConnected2d` on images of a single row, so that every sleep and every tool treats the layer as such. All
    sizes are pairs, for the row and along the sequence. The modules of a sleep are every k-th position.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv1d`.
        kernel_size, stride, dilation: an int.
        padding: an int, "valid" (none) or "same" (an output of the input's size; stride 1 only).
        groups, bias, padding_mode, device, dtype, layout: as in `LocallyConnected2d`.
        input_size: length of the input.

    Attributes:
        weight: (1, L_out, out, in / groups, 1, k); ``weight[0, p, :, :, 0]`` is the kernel at position p.
            The functions of `torch.nn.init` draw far too small weights, see `LocallyConnected2d`.
        bias: (out, 1, L_out), or None.
        output_size: (1, L_out).

    Raises:
        TypeError, ValueError: an argument makes no sense, or the kernel is larger than the padded input.

    Example:
        >>> layer = LocallyConnected1d(2, 16, 3, input_size=100, padding=1)
        >>> layer.weight.shape, layer(torch.ones(4, 2, 100)).shape
        (torch.Size([1, 100, 16, 2, 1, 3]), torch.Size([4, 16, 100]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        input_size: int,
        layout: Layout = "contiguous",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            _along_the_row("kernel_size", kernel_size),
            _along_the_row("stride", stride),
            padding if isinstance(padding, str) else _along_the_row("padding", padding),
            _along_the_row("dilation", dilation),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            input_size=_along_the_row("input_size", input_size),
            layout=layout,
        )

    def _argument(self, name: str) -> Any:
        value = super()._argument(name)
        return value[-1] if isinstance(value, tuple) else value

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, L) to (batch, out, L_out); the batch axis may be missing.

        Raises:
            ValueError: the input has the wrong number of channels, or another length than `input_size`.
        """
        return super().forward(one_row(x, self.in_channels, self.input_size[1])).squeeze(-2)


class PeriodicConv1d(PeriodicConv2d):
    """A convolution of sequences with several kernels in turn: a `PeriodicConv2d` on images of a single row.

    Args:
        weight: (1, period, out, in / groups, 1, k), and all other arguments as for `PeriodicConv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, L) to (batch, out, L_out); the batch axis may be missing."""
        return super().forward(x.unsqueeze(-2)).squeeze(-2)


def _along_the_row(name: str, value: Any) -> Pair:
    """Return a size of a sequence, an int or as in `torch.nn.Conv1d` a tuple of a single int, as a size of a row."""
    length = value[0] if isinstance(value, tuple | list) and len(value) == 1 else value
    return SMALLEST[name], whole(name, length, "a whole number", at_least=SMALLEST[name])


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to check
def one_row(x: Tensor, channels: int, length: int) -> Tensor:
    """Check the size of sequences (batch, in, L), and add the axis of the row: (batch, in, 1, L)."""
    check_input(x, channels, length)
    return x.unsqueeze(-2)
