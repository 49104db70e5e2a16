"""The batches of a data set, for training and testing.

A batch is a pure function of the seed, the epoch and the index, so that a run resumes at any batch without a saved
state. All random numbers come from the CPU, a few per image: every device and every number of processes has the same
crops.
"""

# ruff: noqa: PT028 (test_batches is no test)
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from bioshare.train.config import ImageNet, TrainConfig
from bioshare.train.data.datasets import USAGES, Dataset, ImageFiles
from bioshare.train.data.order import Batches, seeded


def training_batches(
    dataset: Dataset, config: TrainConfig, device: torch.device, rank: int = 0, world: int = 1
) -> Batches:
    """The training images of a run, in a new order and in new crops in every epoch.

    An epoch is one pass over the images. A batch has batch_size / repetitions different images, each
    ``config.repetitions`` times in a row, in different crops; an epoch has ``config.repetitions`` times as many batches
    as without repetitions.

    Crops (Sec. 5.1): CIFAR's images and digits have a border of ``config.padding`` pixels that are 0 after
    normalisation, and are cropped to their size; TinyImageNet's central (48 + 2 padding) x (48 + 2 padding) pixels are
    cropped to 48 x 48; ImageNet's smaller side becomes 256 pixels, and the image is cropped to 224 x 224 or by
    `ImageNet.crop`, at any padding. ``config.flip`` mirrors half of the images; None mirrors ImageNet only.

    Args:
        dataset: a data set from `load`.
        config: the configuration of the run.
        device: device of the batches; decoded images move there whole.
        rank, world: number of this process, and of all processes. Each process gets consecutive images of every batch;
            the numbers differ by one image at most, and may be 0 in a small batch.

    Raises:
        ValueError: ``config`` asks for more images than there are, or for more padding than TinyImageNet has;
            ``rank`` isn't below ``world``.
    """
    chosen = np.arange(len(dataset.train_labels))
    if config.validation:
        chosen = np.setdiff1d(chosen, _held_out(dataset))
    if config.train_images is not None:
        if config.train_images > len(chosen):
            raise ValueError(f"train_images must be at most {len(chosen)} here; got {config.train_images}")
        chosen = np.sort(seeded("subset", config.seed).choice(chosen, config.train_images, replace=False))
    flip = USAGES[dataset.name].flip if config.flip is None else config.flip
    order = {"repetitions": config.repetitions, "seed": config.seed, "flip": flip, "rank": rank, "world": world}
    random_resized = isinstance(config.dataset, ImageNet) and config.dataset.crop == "random-resized"
    return _batches(dataset, "train", chosen, config, device, config.padding, random_resized, **order)


def test_batches(dataset: Dataset, config: TrainConfig, device: torch.device, rank: int = 0, world: int = 1) -> Batches:
    """The test images in order, or with ``config.validation`` the held-out training images; the same every epoch.

    Images are not padded; the network sees the centre of larger images. The arguments are as for `training_batches`.
    """
    chosen = _held_out(dataset) if config.validation else np.arange(len(dataset.test_labels))
    part = "train" if config.validation else "test"
    return _batches(dataset, part, chosen, config, device, rank=rank, world=world)


test_batches.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] (nor where it is imported)


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


def _batches(
    dataset: Dataset,
    part: Literal["train", "test"],
    chosen: np.ndarray,
    config: TrainConfig,
    device: torch.device,
    padding: int = 0,
    random_resized: bool = False,
    **fields: Any,
) -> Batches:
    """The batches of the chosen training or test images, with further fields of `Batches`."""
    if not 0 <= fields["rank"] < fields["world"]:
        raise ValueError(f"rank must be from 0 to world - 1 = {fields['world'] - 1}; got {fields['rank']}")
    images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
    if len(chosen) < len(images):
        images, labels = images[chosen], labels[chosen]
    side = USAGES[dataset.name].side
    mean, std = (255 * torch.tensor(v, device=device)[:, None, None] for v in (dataset.mean, dataset.std))
    fields |= {"images": len(chosen), "batch_size": config.batch_size, "side": side, "mean": mean, "std": std}
    if isinstance(images, ImageFiles):
        from bioshare.train.data.streams import StreamedBatches  # not for small images

        return StreamedBatches(files=images, labels=labels, random_resized=random_resized, **fields)
    most = (images.shape[-1] - side) // 2
    if most and padding > most:
        raise ValueError(
            f"padding must be at most {most} for {dataset.name}, since {side} + 2 padding of the "
            f"{images.shape[-1]} rows and columns of an image are used; got {padding}"
        )
    return DecodedBatches(pixels=images.to(device), labels=labels.to(device), padding=padding, **fields)


def _held_out(dataset: Dataset) -> np.ndarray:
    """Indices of the validation images among the training images, the same for all seeds."""
    held_out, images = USAGES[dataset.name].validation, len(dataset.train_labels)
    if held_out >= images:
        raise ValueError(f"validation=True holds out {held_out} images; {dataset.name} has only {images} here")
    return np.sort(seeded("validation", 0).choice(images, held_out, replace=False))
