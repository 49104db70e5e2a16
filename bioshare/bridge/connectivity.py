"""`LearnedGroups`: sharing among positions that correlated inputs have connected, without given connections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bioshare.bridge.geometry import GroupMeans, checked_layers, class_tokens_of, layers_of
from bioshare.bridge.phase import Phase
from bioshare.checks import real, whole
from bioshare.nn import LocallyConnected2d


@dataclass(frozen=True)
class LearnedGroups(Phase):
    """Set every group of positions to the group's mean, where correlations of the inputs have made the groups.

    The paper suggests that lateral connectivity is "learned early on using correlations in the input data" (Sec. 6).
    Every layer sees images of Gaussian patterns that repeat with the period of the kernel, as `bioshare.Sleep` does.
    Two positions become connected if the correlation of both positions' inputs, over all taps and images, exceeds a
    threshold; connected components are the groups. Groups are found once for every geometry of a layer.

    Away from the border the groups are the `bioshare.bridge.modules` of a layer. The image ends at the border, unlike
    the pattern of `bioshare.Sleep`: padding is silent. Two neurons of a module with n1 and n2 taps inside the image,
    and n12 taps inside for both, correlate by n12 / sqrt(n1 n2): for 3 x 3 kernels with a padding of 1, an edge and
    the interior by 0.82, a corner and the interior by 0.67, opposite edges by 0.5 and opposite corners by 0.25. At the
    default threshold only positions with the same taps inside the image are connected, so that edges form separate
    groups and every corner is alone; at 0.2 the groups are the modules, border included.

    Args:
        images: number of images; a correlation by chance is about 1 / sqrt(images K).
        threshold: smallest correlation of connected positions, between 0 and 1.
        noise: standard deviation of noise in every pixel of every image, where patterns have 1; correlations within
            a group fall to 1 / (1 + noise^2), and a threshold above connects no positions.
        images_seed: seed of the images.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = LearnedGroups()(layer)
        >>> torch.allclose(layer.weight[0, 0], layer.weight[3, 3])
        True
    """

    images: int = 100
    threshold: float = 0.9
    noise: float = 0.0
    images_seed: int = 0

    def __post_init__(self) -> None:
        whole("images", self.images, "a number of images", at_least=1)
        real("threshold", self.threshold, "a correlation between 0 and 1", above=0, below=1, array=False)
        real("noise", self.noise, "a standard deviation >= 0", at_least=0, array=False)
        whole("images_seed", self.images_seed, "a non-negative integer", at_least=0)

    def check(self, model: nn.Module) -> None:
        """Raise TypeError or ValueError if the layers of a model cannot share, before any time is spent."""
        checked_layers(model)

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set all groups of all locally connected layers to the means; neither the seed nor the optimiser matters."""
        for _, layer in layers_of(model):
            group_means = _means_of_wiring(self, _Wiring.of(layer), layer.weight.device)
            group_means.average(layer.weight)
            if layer.bias is not None:
                group_means.average_bias(layer.bias)

    def groups(self, layer: LocallyConnected2d) -> Tensor:
        """Return the number of the group of every position, (H_out, W_out)."""
        return _groups(self, _Wiring.of(layer)).view(layer.output_size)


class _Wiring(NamedTuple):
    """Everything of a layer that decides on the inputs to the neurons."""

    channels: int
    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int, int, int]
    padding_mode: str
    class_tokens: int

    @classmethod
    def of(cls, layer: LocallyConnected2d) -> _Wiring:
        own = (getattr(layer, name) for name in cls._fields[1:-1])
        return cls(layer.weight.shape[3], *own, class_tokens=class_tokens_of(layer))


@cache
def _groups(phase: LearnedGroups, wiring: _Wiring) -> Tensor:
    """The number of the group of every position, (positions,), on the CPU."""
    (rows, columns), (kh, kw) = wiring.input_size, wiring.kernel_size
    mode = "constant" if wiring.padding_mode == "zeros" else wiring.padding_mode
    generator = torch.Generator("cpu").manual_seed(phase.images_seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    total: Any = 0.0
    for _ in range(phase.images):
        tiles = normal(wiring.channels, kh, kw).repeat(1, -(-rows // kh), -(-columns // kw))
        image = tiles[:, :rows, :columns] + phase.noise * normal(wiring.channels, rows, columns)
        padded = nn.functional.pad(image[None], wiring.pad, mode)
        x = nn.functional.unfold(padded, wiring.kernel_size, wiring.dilation, stride=wiring.stride)[0]  # (K, positions)
        total = total + x.mT @ x  # sum of x_p . x_q over images, (positions, positions); the mean of x is 0
    norms = total.diagonal().sqrt()
    connected = total > phase.threshold * norms[:, None] * norms
    connected[: wiring.class_tokens] = connected[:, : wiring.class_tokens] = False  # no patch reaches a class token
    return _components(connected)


def _components(connected: Tensor) -> Tensor:
    """The number of the connected component of every node, (n,), from the matrix of connections (n, n)."""
    numbers = torch.arange(len(connected), device="cpu")
    while True:
        lowest = torch.where(connected, numbers, len(connected)).amin(1).minimum(numbers)
        if torch.equal(lowest, numbers):
            return numbers.unique(return_inverse=True)[1]
        numbers = lowest


@cache
def _means_of_wiring(phase: LearnedGroups, wiring: _Wiring, device: torch.device) -> GroupMeans:
    groups = _groups(phase, wiring)
    sizes = groups.bincount()
    return GroupMeans(*(x.to(device) for x in (groups.argsort(stable=True), sizes.cumsum(0) - sizes, groups)))
