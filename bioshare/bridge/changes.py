"""What can become of a layer's sharing groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bioshare.bridge.bags import Bags
from bioshare.bridge.lattice import SharingModule
from bioshare.circuit.exact import SleepMap

TOGETHER = 64
"""Neurons that a CPU sums at a time."""


class Change(ABC):
    """What becomes of the sharing groups of one layer."""

    @abstractmethod
    def __call__(
        self, weight: Tensor, modules: Sequence[SharingModule]
    ) -> Iterator[tuple[SharingModule, Tensor, Tensor]]:
        """Every module with its groups before and after, both (out, N, K); ``weight`` stays as it is."""

    def apply_to(self, weight: Tensor, modules: Sequence[SharingModule]) -> None:
        """Change a weight in place, to the same bits as module by module."""
        for module, _, after in self(weight, modules):
            module.write(weight, after)


class AffineChange(Change):
    """A change that is affine in the weights, so that differences of weights obey its linear part."""

    @abstractmethod
    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        """The linear part on something in the shape of a weight, in place."""


@dataclass(frozen=True)
class Averaging(AffineChange):
    """Every group becomes its mean."""

    bags: Bags

    def __call__(
        self, weight: Tensor, modules: Sequence[SharingModule]
    ) -> Iterator[tuple[SharingModule, Tensor, Tensor]]:
        means = self.bags.means(weight)
        for module, mean in zip(modules, means, strict=False):  # the bags after theirs have a single position
            before = module.groups(weight)
            yield module, before, mean.view(len(before), 1, -1).expand_as(before)

    def apply_to(self, weight: Tensor, modules: Sequence[SharingModule]) -> None:
        self.bags.average(weight)

    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        self.bags.average(moment)


@dataclass(frozen=True)
class LinearSleep(AffineChange):
    """A whole sleep as one linear map, w_i = mu' + A (w_i^init - mu) with mu' = B mu + c.

    The mean is what sleep must keep, and its part of the work is small: it passes in float64, whatever precision
    ``torch.set_float32_matmul_precision`` allows for the deviations, and is rounded when it is added to them.

    Attributes:
        A: (K, K), in the coordinates of the pattern.
        B: the same, in float64 where the device has it.
        c: (K,), as B.
    """

    A: Tensor
    B: Tensor
    c: Tensor

    @classmethod
    def of(cls, sleep: SleepMap, weight: Tensor) -> LinearSleep:
        """The map on the device of a weight; A in its precision, but at least float32."""
        narrow = torch.promote_types(weight.dtype, torch.float32)
        wide = torch.float32 if weight.device.type == "mps" else torch.float64  # mps has no float64
        dtypes = narrow, wide, wide
        return cls(
            *(torch.from_numpy(part).to(dtype).to(weight.device) for part, dtype in zip(sleep, dtypes, strict=True))
        )

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.numel() * part.element_size() for part in (self.A, self.B, self.c))

    def __call__(
        self, weight: Tensor, modules: Sequence[SharingModule]
    ) -> Iterator[tuple[SharingModule, Tensor, Tensor]]:
        for module in modules:
            before = module.groups(weight)
            yield module, before, self.apply(module, before)

    def apply(self, module: SharingModule, groups: Tensor) -> Tensor:
        """What becomes of the groups (out, N, K) of one module."""
        return self._apply(module, groups, self.c)

    def apply_linear_to(self, moment: Tensor, modules: Sequence[SharingModule]) -> None:
        none = torch.zeros_like(self.c)
        for module in modules:
            module.write(moment, self._apply(module, module.groups(moment), none))

    def _apply(self, module: SharingModule, groups: Tensor, c: Tensor) -> Tensor:
        """The map is brought to the taps of the module, which is less work than to bring all weights to the map."""
        taps, back = module.taps(groups.device)
        neurons = groups.transpose(0, 1).to(self.A.dtype)  # as they lie in memory
        mean = _mean(neurons, self.B.dtype)
        slept_mean = (mean[:, back] @ self.B.mT + c)[:, taps]
        deviations = (neurons - mean.to(neurons.dtype)).flatten(0, 1) @ self.A[taps][:, taps].mT
        return deviations.view_as(neurons).add_(slept_mean.to(neurons.dtype)).transpose(0, 1)


def _mean(neurons: Tensor, dtype: torch.dtype) -> Tensor:
    """The mean of neurons (N, ...) in another precision; a CPU copies them for it, and so has some at a time."""
    parts = neurons.split(TOGETHER) if neurons.device.type == "cpu" else [neurons]
    return torch.stack([part.sum(0, dtype=dtype) for part in parts]).sum(0) / len(neurons)
