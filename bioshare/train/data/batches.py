"""Batches of images: pure functions of the seed, the epoch and the index.

A run therefore resumes at any batch without a saved state. All random numbers come from the CPU, a few per image: every
device and every number of processes has the same crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from bioshare.train.seeds import seeded

BatchPart = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The part of a batch for one process: indices, draws and flips of the images, see `Batches.parts`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batches:
    """The batches of every epoch, or the parts for one process.

    Attributes:
        images: number of different images in an epoch, over all processes.
        batch_size: images in a batch, repetitions included, over all processes.
        repetitions: copies of every image in its batch, in a row.
        seed: seed of the orders and the crops; None for images in order, cropped at the centre.
        flip: whether half of the images are mirrored.
        rank, world: number of this process, and of all processes.
    """

    images: int
    batch_size: int
    repetitions: int = 1
    seed: int | None = None
    flip: bool = False
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        """Batches in an epoch, the last, smaller batch included."""
        return -(-self.images * self.repetitions // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number ``start`` on.

        Yields:
            Normalised images (b, channels, rows, columns) float32, and labels (b,) int64, both on the device.
        """
        raise NotImplementedError

    def parts(self, epoch: int, start: int = 0) -> Iterator[BatchPart]:
        """The parts for this process of the batches from number ``start`` on.

        Yields:
            Numbers of the images, (b,); uniform numbers between 0 and 1 for the row and the column of a crop, the
            mirroring, and the area and the aspect of a random-resized crop, (b, 5), where row and column 0.5 are the
            centre; and whether each image is mirrored, (b,).
        """
        order = (
            np.arange(self.images) if self.seed is None else seeded("order", self.seed, epoch).permutation(self.images)
        )
        different = self.batch_size // self.repetitions
        for batch in range(start, len(self)):
            indices = order[batch * different : (batch + 1) * different].repeat(self.repetitions)
            draws = np.full((len(indices), 5), 0.5)
            if self.seed is not None:
                rng = seeded("crops", self.seed, epoch, batch)
                draws = np.hstack([rng.random((len(indices), width)) for width in (3, 2)])
            first, stop = (len(indices) * rank // self.world for rank in (self.rank, self.rank + 1))
            flips = self.flip & (draws[:, 2] < 0.5)
            yield indices[first:stop], draws[first:stop], flips[first:stop]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedBatches(Batches):
    """Batches of uint8 images on the device, where a whole batch is cropped and normalised at once."""

    pixels: Tensor
    labels: Tensor
    padding: int
    side: int
    mean: Tensor
    std: Tensor

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.pixels.device
        for indices, draws, flips in self.parts(epoch, start):
            corners = np.floor(draws[:, :2] * (2 * self.padding + 1)).astype(np.int64)  # (b, 2), from 0 to 2 padding
            places = torch.from_numpy(np.stack([indices, *corners.T, flips]))  # (4, b)
            places = places.pin_memory() if device.type == "cuda" else places  # then the host does not wait
            indices, rows, columns, flips = places.to(device, non_blocking=True)
            images = (self.pixels[indices] - self.mean) / self.std  # first, so that the padding is 0
            images = crops(images, rows, columns, self.side, self.padding)
            if self.flip:
                images = torch.where(flips.bool()[:, None, None, None], images.flip(-1), images)
            yield images, self.labels[indices]


def crops(images: Tensor, rows: Tensor, columns: Tensor, side: int, padding: int) -> Tensor:
    """Cut side x side pixels out of every image.

    Places count from the corner of the central (side + 2 padding) x (side + 2 padding) pixels, zeros beyond the image.

    Args:
        images: (b, channels, rows, columns), square.
        rows, columns: place of the upper left corner, (b,), from 0 to 2 padding.
        side: rows and columns of a crop.
        padding: largest shift of a crop from the centre, in pixels.

    Returns:
        (b, channels, side, side).
    """
    margin = (side + 2 * padding - images.shape[-1]) // 2  # negative: pixels to leave out
    framed = pad(images, (margin,) * 4)
    views = framed.unfold(2, side, 1).unfold(3, side, 1)  # (b, channels, 2 padding + 1, 2 padding + 1, side, side)
    return views[torch.arange(len(images), device=images.device), :, rows, columns]
