"""Centring of activity over connected positions, in place of the mean over the batch in batch normalisation."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from bioshare.nn.functional import pair
from bioshare.nn.locally_connected import LocallyConnected2d


class LateralCentring2d(nn.Module):
    """Subtract the mean over connected positions from every image's activity, channel by channel.

    y[b, c, h, w] = x[b, c, h, w] - mean of x[b, c, h', w'] over h' = h mod kh and w' = w mod kw

    The connections are the lateral connections of a sharing module in Pogodin et al. (2021), Sec. 4.1, so that the
    inhibitory neuron of a module can compute the mean (Sec. 6). No batch takes part, so training and evaluation agree.

    Args:
        period: (kh, kw), distance of connected positions in rows and in columns.

    Example:
        >>> LateralCentring2d((1, 2))(torch.tensor([[[[1.0, 5.0, 3.0, 9.0]]]]))
        tensor([[[[-1., -2.,  1.,  2.]]]])
    """

    def __init__(self, period: tuple[int, int]) -> None:
        super().__init__()
        self.period = pair("period", period, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Centre x (batch, channels, H, W); a position without connections becomes 0."""
        (rows, columns), (kh, kw) = x.shape[-2:], self.period
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        means = self._sums(wide) / self._sums(torch.ones_like(wide[:1, :1]))  # (batch, channels, kh, kw)
        tiled = means.repeat(1, 1, -(-rows // kh), -(-columns // kw))[..., :rows, :columns]
        return (wide - tiled).to(x.dtype)

    def _sums(self, x: Tensor) -> Tensor:
        """The sums over connected positions of x (batch, channels, H, W), (batch, channels, kh, kw)."""
        (rows, columns), (kh, kw) = x.shape[-2:], self.period
        padded = nn.functional.pad(x, (0, -columns % kw, 0, -rows % kh))
        return padded.unflatten(-1, (-1, kw)).unflatten(-3, (-1, kh)).sum((-4, -2))

    def extra_repr(self) -> str:
        """Return the period."""
        return f"period={self.period}"


def with_lateral_centring(model: nn.Module) -> nn.Module:
    """Copy a model with `LateralCentring2d` before batch normalisations; the model itself doesn't change.

    A `torch.nn.BatchNorm2d` that follows a `LocallyConnected2d` with as many channels in the order of
    ``model.modules()`` becomes a Sequential of the centring and the batch normalisation. The period of the centring is
    k / gcd(k, stride) for kernels of size k. The centred activity has a mean of 0, so batch normalisation subtracts
    nothing more: only the division by the standard deviation over batch and positions remains, with the scale and the
    offset of the channel.

    Centring would silence a neuron without connections, so a layer keeps plain batch normalisation if some module has
    a single neuron: 3 x 3 kernels with an output of 4 x 4 positions. So do layers behind convolutions.

    Args:
        model: a model with locally connected layers, see `to_locally_connected`.

    Returns:
        The copy. Make the optimiser afterwards, from the copy.

    Raises:
        ValueError: no batch normalisation can be centred.

    Example:
        >>> with_lateral_centring(nn.Sequential(LocallyConnected2d(1, 4, 3, input_size=8), nn.BatchNorm2d(4)))[1][0]
        LateralCentring2d(period=(3, 3))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    replaced: dict[int, nn.Module] = {}
    for layer, norm in pairwise(model.modules()):
        if not isinstance(layer, LocallyConnected2d) or type(norm) is not nn.BatchNorm2d:
            continue
        rows, columns = (k // math.gcd(k, s) for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        # neurons of the smallest module
        smallest = math.prod(max(1, n // k) for n, k in zip(layer.output_size, (rows, columns), strict=True))
        if norm.num_features == layer.out_channels and smallest > 1:
            replaced[id(norm)] = nn.Sequential(LateralCentring2d((rows, columns)), copy.deepcopy(norm))
    if not replaced:
        raise ValueError(
            "model must have a BatchNorm2d right behind a LocallyConnected2d with two neurons in every sharing module; "
            "without such a layer nothing is centred. Take smaller kernels or larger images, or leave the model as is"
        )
    return copy.deepcopy(model, replaced)
