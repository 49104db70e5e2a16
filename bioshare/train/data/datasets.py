"""Data sets: images with labels, which check themselves, and the paper's treatment of the known data sets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bioshare.checks import real

if TYPE_CHECKING:
    from bioshare.train.data.streams import ImageFiles

PARTS = "train", "test"
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel in the paper for TinyImageNet and ImageNet."""
DIGITS_FOR_TRAINING = 1437


@dataclass(frozen=True)
class Usage:
    """Treatment of a data set in Sec. 5 of the paper.

    Attributes:
        side: rows and columns of the network's input.
        validation: number of training images to hold out for tuning.
        stored: (channels, rows, columns) of every image; None for image files of any size.
        flip: whether half of the training images are mirrored.
        imagenet_statistics: whether images are normalised with ImageNet's mean and standard deviation, rather than
            with the mean and standard deviation of all training pixels.
    """

    side: int
    validation: int
    stored: tuple[int, ...] | None
    flip: bool = False
    imagenet_statistics: bool = False


USAGES = {
    "cifar10": Usage(32, 5_000, (3, 32, 32)),
    "cifar10-jpeg": Usage(32, 5_000, (3, 32, 32)),
    "cifar100": Usage(32, 5_000, (3, 32, 32)),
    "cifar10-16": Usage(16, 5_000, (3, 16, 16)),
    "cifar10-jpeg-16": Usage(16, 5_000, (3, 16, 16)),
    "mnist": Usage(28, 5_000, (1, 28, 28)),
    "tinyimagenet": Usage(48, 10_000, (3, 64, 64), imagenet_statistics=True),
    "imagenet": Usage(224, 10_000, None, flip=True, imagenet_statistics=True),
    "digits": Usage(8, DIGITS_FOR_TRAINING // 5, (1, 8, 8)),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their classes.

    Attributes:
        name: a key of `USAGES`, or the name of images of one's own.
        classes: names of the classes, in the order of the labels.
        train_images, test_images: (n, channels, rows, columns) uint8, square; or image files of any size.
        train_labels, test_labels: (n,) int64.
        mean, std: per channel, for normalisation; the brightest pixel counts as 1.

    Raises:
        ValueError: a tensor is of another type or shape, a label belongs to no class, a class is named twice, or a
            number is not finite.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor | ImageFiles
    train_labels: Tensor
    test_images: Tensor | ImageFiles
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_classes("classes", self.classes)
        for part in PARTS:
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if self.shape:
                _check_pixels(f"{part}_images", images, self.shape)
            if labels.dtype != torch.int64:
                raise ValueError(f"{part}_labels must be int64; got {labels.dtype}")
            check_labels(f"{part}_labels", labels.numpy(), len(self.classes))
            if not len(labels) == len(images) > 0:
                raise ValueError(
                    f"{part}_images and {part}_labels must be equally many, at least one; "
                    f"got {len(images)} and {len(labels)}"
                )
        channels = self.shape[0] if self.shape else 3
        for name, above in (("mean", -np.inf), ("std", 0.0)):
            expected = f"{channels} numbers above {above}, one per channel"
            if np.shape(real(name, getattr(self, name), expected, above=above)) != (channels,):
                raise ValueError(f"{name} must be {expected}; got {getattr(self, name)}")

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(channels, rows, columns) of every image; None for image files of any size."""
        if self.name in USAGES:
            return USAGES[self.name].stored
        assert isinstance(self.train_images, Tensor)
        return tuple(self.train_images.shape[1:])

    @property
    def usage(self) -> Usage:
        """The treatment; images of one's own are used whole, and a tenth of the training images is held out."""
        if self.name in USAGES:
            return USAGES[self.name]
        assert isinstance(self.train_images, Tensor)
        return Usage(self.train_images.shape[-1], len(self.train_images) // 10, self.shape)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of the network's input."""
        return len(self.mean), self.usage.side, self.usage.side

    @cached_property
    def checksum(self) -> str:
        """CRC-32 of all pixels and labels, in hexadecimal; of image files the names are counted, not the pixels."""
        crc = 0
        for part in PARTS:
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            pixels = (images.numpy(),) if isinstance(images, Tensor) else (images.names, images.starts, images.ends)
            for array in (*pixels, labels.numpy()):
                crc = zlib.crc32(f"{array.dtype} {array.shape}".encode(), crc)
                crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
        return f"{crc:08x}"


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Check that the names of the classes are different texts."""
    if not all(isinstance(one, str) and one for one in classes) or len(set(classes)) < len(classes):
        raise ValueError(f"{name} must be different names; got {', '.join(map(repr, classes)):.200}")


def check_labels(name: str, labels: np.ndarray, classes: int) -> None:
    """Check that labels are whole numbers on one axis, from 0 to ``classes`` - 1."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(
            f"{name} must be whole numbers on one axis; got the type {labels.dtype} and the shape {labels.shape}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(f"{name} must have labels from 0 to {classes - 1}; record {wrong[0]} has {labels[wrong[0]]}")


def _check_pixels(name: str, images: Tensor, shape: tuple[int, ...]) -> None:
    """Check the type and the shape of decoded images, as many rows as columns."""
    square = len(shape) == 3 and shape[1] == shape[2] > 0
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not square:
        raise ValueError(
            f"{name} must be uint8 of the shape (n, {', '.join(map(str, shape))}), as many rows as columns; "
            f"got {images.dtype} of the shape {tuple(images.shape)}"
        )


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (n, channels, rows, columns) uint8, where 255 counts as 1."""
    counts = np.zeros((images.shape[1], 256))
    for part in np.array_split(images, -(-len(images) // 1000)):  # bincount needs eight bytes per pixel
        counts += [np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()
