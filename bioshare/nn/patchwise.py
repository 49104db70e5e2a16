"""`PatchwiseLinear`: a linear layer whose matrix is different for every token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.checks import whole
from bioshare.nn.locally_connected import LocallyConnected2d


class PatchwiseLinear(LocallyConnected2d):
    """A `torch.nn.Linear` without weight sharing: every token has its own matrix (Pogodin 2021, appendix A.4).

    y[b, n] = weight[n] x[b, n] + bias[n]. A `LocallyConnected2d` with 1 x 1 kernels on an image of a single column, so
    that every sleep and every tool treats the layer as such. All tokens but the class tokens form one sharing module:
    a group has a neuron for each token, with K = in_features inputs.

    The tokens of a Mixer's token-mixing layer, which multiplies (batch, channels, patches), are the channels.

    The weights start as `torch.nn.Linear`'s, independently for every token: uniform up to 1 / sqrt(in_features) in
    size, and so the bias.

    Args:
        patches: N, number of tokens.
        in_features, out_features: as in `torch.nn.Linear`.
        bias: whether every token and output feature has its own bias.
        class_tokens: number of tokens at the start, before those of patches, that share with no other token.
        device, dtype: of the weights and the bias.

    Attributes:
        weight: (N, 1, out, in, 1, 1); ``weight[n, 0, :, :, 0, 0]`` is the matrix of token n.
        bias: (out, N, 1), or None.

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> layer = PatchwiseLinear(16, 32, 64)
        >>> layer.weight.numel(), layer(torch.ones(4, 16, 32)).shape
        (32768, torch.Size([4, 16, 64]))
    """

    def __init__(
        self,
        patches: int,
        in_features: int,
        out_features: int,
        bias: bool = False,
        class_tokens: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        patches = whole("patches", patches, "a number of tokens", at_least=1)
        in_features = whole("in_features", in_features, "a number of features", at_least=1)
        out_features = whole("out_features", out_features, "a number of features", at_least=1)
        class_tokens = whole("class_tokens", class_tokens, "a number of tokens", at_least=0)
        if class_tokens > patches:
            raise ValueError(f"class_tokens must be at most patches={patches}; got {class_tokens}")
        super().__init__(in_features, out_features, 1, bias=bias, device=device, dtype=dtype, input_size=(patches, 1))
        self.class_tokens = class_tokens

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights and biases anew, independently for every token."""
        limit = 1 / math.sqrt(self.in_channels)
        for parameter in self.parameters(recurse=False):
            parameter.uniform_(-limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, patches, in) to (batch, patches, out); the batch axis may be missing.

        Raises:
            ValueError: the input has another number of tokens or features.
        """
        # (batch, in, patches, 1) in channels_last, as x lies in memory
        return super().forward(one_column(x, self.input_size[0], self.in_channels)).squeeze(-1).transpose(-1, -2)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        sizes = f"patches={self.input_size[0]}, in_features={self.in_channels}, out_features={self.out_channels}"
        tokens = f", class_tokens={self.class_tokens}" if self.class_tokens else ""
        return f"{sizes}, bias={self.bias is not None}{tokens}"


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to check
def one_column(x: Tensor, patches: int, features: int) -> Tensor:
    """Check the size of tokens (batch, N, D), and view these as images of a column: (batch, D, N, 1)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor; got {type(x).__name__}")
    if x.ndim not in (2, 3) or x.shape[-2:] != (patches, features):
        raise ValueError(
            f"x must have the shape (batch, {patches}, {features}); got {tuple(x.shape)}. A patchwise layer has "
            "a matrix for every token: make it with the number of tokens of its later inputs"
        )
    return x.transpose(-1, -2).unsqueeze(-1)


def check_attention(model: nn.Module) -> None:
    """Raise TypeError for a model with torch's own attention, whose matrices are in no linear layer."""
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.MultiheadAttention):
            label = ".".join(filter(None, ("model", name)))
            raise TypeError(
                f"{label} is a MultiheadAttention, whose matrices are in no Linear; for linear=True take an attention "
                "of Linear layers in that place, such as bioshare.nn.SelfAttention"
            )


def check_class_tokens(label: str, layer: PatchwiseLinear, tolerance: float) -> None:
    """Raise ValueError for class tokens with a matrix unlike the last patch's, since a `Linear` has only one.

    Args:
        label: name of the layer in the error.
        layer: layer to be replaced by a `torch.nn.Linear`.
        tolerance: largest difference, as a fraction of the largest weight.
    """
    weight = layer.weight.detach()
    if ((weight[: layer.class_tokens] - weight[-1:]).abs() > tolerance * weight.abs().max()).any():
        raise ValueError(
            f"{label} has matrices of its own for class_tokens={layer.class_tokens}, and a Linear has a single matrix. "
            "Keep this layer, or convert a model without class tokens"
        )


def tokens_seen(label: str, layer: nn.Linear, size: tuple[int, ...]) -> int:
    """Return N for a linear layer with inputs (batch, N, D), and 0 for (batch, D), from the shape for a batch of one.

    Raises:
        ValueError: the inputs have another shape.
    """
    if size == (1, layer.in_features):
        return 0
    if len(size) != 3 or size[0] != 1:
        raise ValueError(
            f"{label} must see (batch, tokens, features) to have a matrix for every token; got {size} for a batch of "
            "one. Convert the parts of the model without such layers, and put the copies in their places"
        )
    return size[1]
