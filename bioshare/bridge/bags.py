"""The means of all sharing groups of a layer at once: two operations, where its modules one by one take dozens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from bioshare.bridge.lattice import Border, Geometry, sharing_modules
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical


@dataclass(frozen=True)
class Bags:
    """The positions of a layer in bags: one for every module, then one for each position that shares with no other.

    Attributes:
        positions: H_out x W_out numbers of positions, bag by bag.
        starts: where each bag begins.
        of: the bag of every position.
    """

    positions: Tensor
    starts: Tensor
    of: Tensor

    @staticmethod
    def of_layer(layer: LocallyConnected2d, border: Border) -> Bags:
        """Those of a layer, on the device of its weight; made once for every geometry and device."""
        return _bags(Geometry.of(layer, border), layer.weight.device)

    def means(self, weight: Tensor) -> Tensor:
        """The mean of every bag, (bags, out x K) in the order in memory, in at least float32."""
        flat = _flat(weight)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        return embedding_bag(self.positions, wide, self.starts, mode="mean")

    def average(self, weight: Tensor) -> None:
        """Set every position to the mean of its bag, in place."""
        means, flat = self.means(weight).to(weight.dtype), _flat(weight)
        if physical(weight).is_contiguous():  # flat is the weight itself
            torch.index_select(means, 0, self.of, out=flat)
        else:
            physical(weight).copy_(means[self.of].view(physical(weight).shape))


@cache  # for good: CUDA graphs hold the addresses of what is in it
def _bags(geometry: Geometry, device: torch.device) -> Bags:
    """The bags of a geometry."""
    numbers = np.arange(np.prod(geometry.output_size)).reshape(geometry.output_size)
    alone = np.ones(numbers.size, dtype=bool)
    bags = [numbers[module.rows, module.columns].ravel() for module in sharing_modules(geometry)]
    for bag in bags:
        alone[bag] = False
    bags += list(np.flatnonzero(alone)[:, None])
    sizes, positions = [len(bag) for bag in bags], np.concatenate(bags)
    of = np.empty_like(positions)
    of[positions] = np.arange(len(bags)).repeat(sizes)
    return Bags(*(torch.from_numpy(x).to(device) for x in (positions, np.cumsum([0, *sizes[:-1]]), of)))


def _flat(weight: Tensor) -> Tensor:
    """A row for every position, (H_out x W_out, out x K); a view of the weight where its layout is that of a layer."""
    return physical(weight).flatten(0, 1).flatten(1)
