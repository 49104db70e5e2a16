"""`LocallyConnected2d`: a convolution whose kernel is different at every position."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bioshare.checks import choice, flag, shown, whole
from bioshare.nn.functional import Pair, locally_connected2d, pair
from bioshare.nn.plan import FIXED, new_weight, output_size, physical

SMALLEST = {"kernel_size": 1, "input_size": 1, "stride": 1, "dilation": 1, "padding": 0}
"""Smallest number of every attribute with a number for rows and a number for columns."""

Layout = Literal["contiguous", "channels_last"]
"""Order of a layer's weights in memory: the order of the axes, or `bioshare.nn.functional.physical`."""

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class LocallyConnected2d(nn.Module):
    """A convolution without weight sharing: position (h, w) of the output has its own kernel ``weight[h, w]``.

    y[b, :, h, w] = weight[h, w] applied to the patch under (h, w). The arguments are `torch.nn.Conv2d`'s, and
    `input_size`; by default without a bias, as in the paper. A backward pass needs only the input and the weights
    (after a padding_mode other than zeros, the padded input).

    The weights start as independent draws from N(0, 2 / (out_channels kh kw)) at every position (Kaiming normal,
    fan-out, ReLU gain), from torch's default generator; the bias starts at 0.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv2d`.
        kernel_size, stride, dilation: an int, or a pair for rows and columns.
        padding: an int, a pair, "valid" (none) or "same" (an output of the input's size; stride 1 only).
        groups: blocks of input channels, each for its own block of output channels.
        bias: whether every position and output channel has its own bias.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device, dtype: of the weights and the bias.
        input_size: rows and columns of the input; an int for a square.
        layout: order of the weights in memory. "contiguous", the order of the axes, suits every PyTorch tool.
            "channels_last" trains up to 1.5 times faster with the same results, but refuses ``view``: LBFGS,
            parameters_to_vector, pruning, fully_shard and safetensors' save_file raise errors.

    Attributes:
        weight: (H_out, W_out, out, in / groups, kh, kw); ``weight[h, w]`` is an ordinary convolution kernel. The
            functions of `torch.nn.init` take the positions for channels: ``kaiming_normal_(layer.weight)`` draws far
            too small weights. Call `reset_parameters`, or ``kaiming_normal_(layer.weight[h, w])`` for every position.
        bias: (out, H_out, W_out), or None.
        output_size: (H_out, W_out).

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
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        input_size: int | Pair,
        layout: Layout = "contiguous",
    ) -> None:
        super().__init__()
        choice("layout", layout, get_args(Layout))
        flag("bias", bias)
        if isinstance(dtype, torch.dtype) and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(f"dtype must be a floating-point or complex type; got {dtype}")
        groups = whole("groups", groups, "a whole number", at_least=1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if whole(name, channels, "a whole number", at_least=1) % groups:
                raise ValueError(f"{name} must be a multiple of groups={groups}; got {channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.input_size = pair("kernel_size", kernel_size, 1), pair("input_size", input_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, 0)
        if not isinstance(padding_mode, str):
            raise TypeError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {shown(padding_mode)}")
        self.padding_mode = padding_mode
        shape = *self.output_size, out_channels, in_channels // groups, *self.kernel_size
        try:
            device = torch.get_default_device() if device is None else torch.device(device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f'device must be one that torch can use, like "cpu"; got {shown(device)}') from error
        weight, offsets = new_weight(shape, dtype, device), torch.empty(*shape[:3], dtype=dtype, device=device)
        offsets = offsets.permute(2, 0, 1)
        if layout == "contiguous":
            weight, offsets = weight.contiguous(), offsets.contiguous()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", nn.Parameter(offsets) if bias else None)
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; sizes are checked at any time, and stored as pairs."""
        if name in SMALLEST and not (name == "padding" and isinstance(value, str)):
            value = pair(name, value, SMALLEST[name])
        super().__setattr__(name, value)  # pyright: ignore[reportArgumentType]

    @property
    def pad(self) -> tuple[int, int, int, int]:
        """Padding on the left, right, top and bottom."""
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {self.padding_mode!r}")
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            if self.stride != (1, 1):
                raise ValueError(f'padding="same" needs stride=1; got stride={self.stride}')
            rows, columns = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            pad = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
        elif isinstance(self.padding, str):
            raise ValueError(f'padding must be an int, a pair, "same" or "valid"; got {self.padding!r}')
        else:
            rows, columns = self.padding
            pad = columns, columns, rows, rows
        room = {"reflect": -1, "circular": 0}.get(self.padding_mode, math.inf)
        if pad[3] > self.input_size[0] + room or pad[1] > self.input_size[1] + room:
            raise ValueError(
                f"padding must {'be smaller than' if room else 'not exceed'} input_size={self.input_size} with "
                f"padding_mode={self.padding_mode!r}; got {self.padding!r}"
            )
        return pad

    @property
    def output_size(self) -> Pair:
        """Rows and columns of the output, as for a convolution."""
        rows, columns = output_size(self.input_size, self.kernel_size, self.stride, self.pad, self.dilation)
        if rows < 1 or columns < 1:
            raise ValueError(
                f"kernel_size must fit into the padded input; got kernel_size={self.kernel_size} with "
                f"dilation={self.dilation} for input_size={self.input_size} with padding={self.padding}. "
                "Take a smaller kernel or dilation, or more padding"
            )
        weight = getattr(self, "weight", None)
        if weight is not None and weight.shape[:2] != (rows, columns):
            raise ValueError(
                f"the layer has kernels for {tuple(weight.shape[:2])} positions, but its sizes now ask for "
                f"{rows, columns}. {FIXED}"
            )
        kernel = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        if weight is not None and weight.shape[2:] != kernel:
            raise ValueError(
                f"the layer has kernels of {tuple(weight.shape[2:])}, but its sizes now ask for {kernel}. {FIXED}"
            )
        return rows, columns

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew, independently at every position, and set the bias to 0."""
        kernels = physical(self.weight)  # the same draws in both layouts
        draws = kernels if kernels.is_contiguous() else torch.empty_like(kernels, memory_format=torch.contiguous_format)
        kernels.copy_(draws.normal_(0, math.sqrt(2 / (self.out_channels * math.prod(self.kernel_size)))))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out); the batch axis may be missing.

        Raises:
            ValueError: the input has the wrong number of channels, or another size than `input_size`.
        """
        return padded_product(x, self.weight, self.bias, *self._geometry())

    def _geometry(self) -> tuple[Pair, str, tuple[int, int, int, int], Pair, Pair, int]:
        return self.input_size, self.padding_mode, self.pad, self.stride, self.dilation, self.groups

    def __prepare_scriptable__(self) -> None:
        """Refuse `torch.jit.script`, which cannot read the layer."""
        name = type(self).__name__
        raise TypeError(f"{name} can't be scripted; use torch.export.export or torch.jit.trace instead")

    def extra_repr(self) -> str:
        """Return the constructor's arguments, without defaults; the layout is the present order in memory."""
        defaults = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        changed = {name: self._argument(name) for name, value in defaults.items() if getattr(self, name) != value}
        changed |= {"bias": True} if self.bias is not None else {}
        if not all(p.is_contiguous() for p in self.parameters(recurse=False)):
            changed["layout"] = "channels_last"
        options = "".join(f", {name}={value!r}" for name, value in changed.items())
        required = f"{self.in_channels}, {self.out_channels}, kernel_size={self._argument('kernel_size')}"
        return f"{required}, input_size={self._argument('input_size')}{options}"

    def _argument(self, name: str) -> Any:
        """An argument of the constructor as it was given."""
        return getattr(self, name)


def check_input(x: Tensor, *expected: int) -> None:
    """Raise TypeError or ValueError unless x has the channels and sizes of a layer, with or without a batch axis."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor; got {type(x).__name__}")
    if x.ndim - len(expected) not in (0, 1) or x.shape[-len(expected) :] != expected:
        raise ValueError(
            f"x must have the shape (batch, {', '.join(map(str, expected))}); got {tuple(x.shape)}. A layer "
            "with weights for every position has one size: make it with the input_size of its later inputs"
        )


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to check
def padded_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    padding_mode: str,
    pad: tuple[int, int, int, int],
    stride: Pair,
    dilation: Pair,
    groups: int,
    feedback: Tensor | None = None,
    noise: float = 0.0,
) -> Tensor:
    """Check the size of x, add the padding of a mode, and apply the kernels."""
    check_input(x, weight.shape[3] * groups, *input_size)
    images = x[None] if x.ndim == 3 else x
    if padding_mode != "zeros":
        images, pad = nn.functional.pad(images, pad, mode=padding_mode), (0, 0, 0, 0)
    y = locally_connected2d(images, weight, bias, stride, pad, dilation, groups, feedback, noise)
    return y[0] if x.ndim == 3 else y
