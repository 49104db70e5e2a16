"""`LocallyConnected2d`: a convolution whose kernel is different at every position."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor, nn

Pair = tuple[int, int]


class LocallyConnected2d(nn.Module):
    """A convolution without weight sharing: position (h, w) of the output has its own kernel ``weight[h, w]``.

    y[b, :, h, w] = weight[h, w] applied to the patch that a convolution sees there. The weights start as
    independent draws from N(0, 2 / (out_channels kh kw)) at every position (Kaiming normal, fan-out, ReLU gain),
    from torch's default generator; the bias starts at 0.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv2d`.
        kernel_size, stride, padding, dilation: an int, or a pair for rows and columns. Padding is with zeros.
        input_size: rows and columns of the input; an int for a square.
        groups: blocks of input channels that feed separate blocks of output channels.
        bias: whether every position and output channel has its own bias.

    Attributes:
        weight: (H_out, W_out, out, in / groups, kh, kw); ``weight[h, w]`` is an ordinary convolution kernel.
        bias: (out, H_out, W_out), or None.

    Raises:
        TypeError, ValueError: an argument makes no sense, or the kernel is larger than the padded input.

    Example:
        >>> layer = LocallyConnected2d(3, 16, 3, input_size=(32, 32), stride=2, padding=1)
        >>> layer.weight.shape
        torch.Size([16, 16, 16, 3, 3, 3])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        input_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        groups, in_channels, out_channels = map(operator.index, (groups, in_channels, out_channels))
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels < 1 or channels % groups:
                raise ValueError(f"{name} must be a positive multiple of groups={groups} >= 1; got {channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.input_size = _pair("input_size", input_size, 1)
        self.stride, self.dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
        self.padding = _pair("padding", padding, 0)
        self.output_size = self._output_size()
        kernel = out_channels, in_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(*self.output_size, *kernel))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels, *self.output_size)) if bias else None)
        self.reset_parameters()

    def _output_size(self) -> Pair:
        """Rows and columns of the output, as for a convolution."""
        axes = zip(self.input_size, self.padding, self.kernel_size, self.dilation, self.stride, strict=True)
        slack = [(n + 2 * p - d * (k - 1) - 1, s) for n, p, k, d, s in axes]
        if min(room for room, _ in slack) < 0:
            raise ValueError(
                f"kernel_size must fit into the padded input; got kernel_size={self.kernel_size} with "
                f"dilation={self.dilation} for input_size={self.input_size} with padding={self.padding}. "
                "Take a smaller kernel or dilation, or more padding"
            )
        rows, columns = (room // s + 1 for room, s in slack)
        return rows, columns

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew, independently at every position, and set the bias to 0."""
        self.weight.normal_(0, math.sqrt(2 / (self.out_channels * math.prod(self.kernel_size))))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out); the batch axis may be missing.

        Raises:
            ValueError: the input has other channels or another size than the layer was made for.
        """
        expected = self.in_channels, *self.input_size
        if x.ndim not in (3, 4) or x.shape[-3:] != expected:
            raise ValueError(
                f"x must have the shape (batch, {', '.join(map(str, expected))}); got {tuple(x.shape)}. A locally "
                "connected layer has a kernel for every position: make it with the input_size that it will see"
            )
        patches = nn.functional.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        patches = patches.unflatten(-2, (self.groups, -1)).unflatten(-1, self.output_size)
        kernels = self.weight.flatten(3).unflatten(2, (self.groups, -1))
        y = torch.einsum("...gkhw,hwgok->...gohw", patches, kernels).flatten(-4, -3)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their defaults left out."""
        defaults = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        changed = {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}
        changed |= {"bias": True} if self.bias is not None else {}
        options = "".join(f", {name}={value}" for name, value in changed.items())
        required = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return f"{required}, input_size={self.input_size}{options}"


def _pair(name: str, value: int | Pair, at_least: int) -> Pair:
    """An int for both axes, or one for each."""
    try:
        pair = tuple(map(operator.index, value if isinstance(value, tuple | list) else (value, value)))
        rows, columns = pair
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an int or a pair of ints (rows, columns); got {value!r}") from None
    if min(pair) < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {value!r}")
    return rows, columns
