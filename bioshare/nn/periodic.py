"""`PeriodicConv2d`: a convolution whose kernel repeats over the positions with a period."""

from __future__ import annotations

import itertools

import torch
from einops import rearrange
from torch import Tensor, nn

from bioshare.checks import choice, whole
from bioshare.nn.functional import margins, pair

Pair = tuple[int, int]


class PeriodicConv2d(nn.Module):
    """A convolution with several kernels in turn: position (h, w) of the output has ``weight[h % rows, w % columns]``.

    A forward pass is one `torch.nn.functional.conv2d` for each kernel, at every (rows, columns)-th position, and costs
    the operations of a single convolution. With a period of (1, 1) the layer is a `torch.nn.Conv2d`.

    Args:
        weight: (rows, columns, out, in / groups, kh, kw), the kernels of one period.
        bias: (rows, columns, out), or None.
        stride, dilation: pairs for rows and columns.
        padding: width on the left, right, top and bottom, as in `torch.nn.functional.pad`.
        groups: blocks of input channels, each for a separate block of output channels.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Example:
        >>> layer = PeriodicConv2d(torch.ones(3, 3, 16, 4, 3, 3), padding=(1, 1, 1, 1))
        >>> layer(torch.ones(2, 4, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Pair = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
            raise TypeError(f"weight and bias must be tensors; got {type(weight).__name__} and {type(bias).__name__}")
        if weight.ndim != 6:
            raise ValueError(
                f"weight must have the axes (rows, columns, out, in / groups, kh, kw); got shape {tuple(weight.shape)}"
            )
        if bias is not None and bias.shape != weight.shape[:3]:
            raise ValueError(f"bias must have the shape {tuple(weight.shape[:3])}; got {tuple(bias.shape)}")
        if weight.shape[2] % whole("groups", groups, "a whole number", at_least=1):
            raise ValueError(f"groups must divide the {weight.shape[2]} output channels of weight; got {groups}")
        choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        self.padding, self.groups = margins(padding), groups
        self.padding_mode = padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out); the batch axis may be missing."""
        geometry = self.padding_mode, self.padding, self.stride, self.dilation, self.groups
        return periodic_product(x, self.weight, self.bias, *geometry)

    def __prepare_scriptable__(self) -> None:
        """Refuse `torch.jit.script`, which cannot read the layer."""
        raise TypeError(f"{type(self).__name__} can't be scripted; use torch.export.export or torch.jit.trace instead")

    def extra_repr(self) -> str:
        """Return the shape of the kernels, and the arguments."""
        names = "stride", "padding", "dilation", "groups", "padding_mode"
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"weight={tuple(self.weight.shape)}, bias={self.bias is not None}, {options}"


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to compute with
def periodic_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding_mode: str,
    padding: tuple[int, int, int, int],
    stride: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Apply the kernels of a period in turn."""
    if x.ndim == 3:
        return periodic_product(x[None], weight, bias, padding_mode, padding, stride, dilation, groups)[0]
    mode = "constant" if padding_mode == "zeros" else padding_mode
    x = nn.functional.pad(x, padding, mode)
    period, taps = weight.shape[:2], weight.shape[4:]
    sizes, spans = [], []  # of the output, and of the input to each kernel, along both axes
    for n, p, k, s, d in zip(x.shape[2:], period, taps, stride, dilation, strict=True):
        reach = d * (k - 1) + 1
        sizes.append((n - reach) // s + 1)
        spans.append(((sizes[-1] - 1) // p) * s * p + reach)
    ends = [(p - 1) * s + span - n for n, p, s, span in zip(x.shape[2:], period, stride, spans, strict=True)]
    # zeros at the end, if need be, so that all kernels have as many positions; positions in excess are cut off
    x = nn.functional.pad(x, (0, max(0, ends[1]), 0, max(0, ends[0])))
    step = stride[0] * period[0], stride[1] * period[1]
    parts = []
    for i, j in itertools.product(*map(range, period)):
        top, left = i * stride[0], j * stride[1]
        offsets = None if bias is None else bias[i, j]
        part = x[:, :, top : top + spans[0], left : left + spans[1]]
        parts.append(nn.functional.conv2d(part, weight[i, j], offsets, step, 0, dilation, groups))
    y = rearrange(torch.stack(parts), "(i j) b o h w -> b o (h i) (w j)", i=period[0])
    return y[:, :, : sizes[0], : sizes[1]]
