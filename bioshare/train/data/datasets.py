"""Data sets by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from bioshare.train.config import DatasetName
from bioshare.train.data.prepared import ImageFiles, pixel_statistics, prepared_file, read_prepared

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel in the paper for TinyImageNet and ImageNet."""
DIGITS_FOR_TRAINING = 1437


@dataclass(frozen=True)
class Usage:
    """Treatment of a data set in Sec. 5 of the paper.

    Attributes:
        side: rows and columns of the network's input.
        validation: number of training images to hold out for tuning.
        flip: whether half of the training images are mirrored.
        imagenet_statistics: whether images are normalised with ImageNet's mean and standard deviation, rather than
            with the mean and standard deviation of all training pixels.
    """

    side: int
    validation: int
    flip: bool = False
    imagenet_statistics: bool = False


USAGES = {
    "cifar10": Usage(32, 5_000),
    "cifar10-jpeg": Usage(32, 5_000),
    "cifar100": Usage(32, 5_000),
    "tinyimagenet": Usage(48, 10_000, imagenet_statistics=True),
    "imagenet": Usage(224, 10_000, flip=True, imagenet_statistics=True),
    "digits": Usage(8, DIGITS_FOR_TRAINING // 5),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their classes.

    Attributes:
        name: a key of `USAGES`.
        classes: names of the classes, in the order of the labels.
        train_images, test_images: (n, channels, rows, columns) uint8; or image files of any size.
        train_labels, test_labels: (n,) int64.
        mean, std: per channel, for normalisation; the brightest pixel counts as 1.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor | ImageFiles
    train_labels: Tensor
    test_images: Tensor | ImageFiles
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def usage(self) -> Usage:
        return USAGES[self.name]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of the network's input."""
        return len(self.mean), self.usage.side, self.usage.side


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """A data set by name. Images stay on disk until their first use: the file is mapped into memory.

    "digits" are scikit-learn's 1,797 handwritten digits of 8 x 8, and need no file. The 17 levels of grey become 0 to
    255. In a shuffled order with a fixed seed, the first 1,437 train and the last 360 test.

    Args:
        name: a key of `USAGES`.
        folder: folder of the file from ``python -m bioshare prepare``; None for the environment variable
            BIOSHARE_DATA, or ``data``.

    Raises:
        FileNotFoundError: the data set was not prepared; gives the command.
        ValueError: the name is unknown, or the file is damaged.
    """
    if name not in get_args(DatasetName):
        raise ValueError(f"name must be one of {', '.join(get_args(DatasetName))}; got {name!r}")
    if name == "digits":
        return _digits()
    train, test, facts = read_prepared(prepared_file(name, folder), name)
    mean, std = IMAGENET_STATISTICS if USAGES[name].imagenet_statistics else (facts["mean"], facts["std"])
    return Dataset(name, tuple(facts["classes"]), *train, *test, tuple(mean), tuple(std))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes half a second

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.rint(pixels[order] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(labels[order].astype(np.int64))
    train, test = slice(DIGITS_FOR_TRAINING), slice(DIGITS_FOR_TRAINING, None)
    mean, std = map(tuple, pixel_statistics(pixels[train]))
    names = tuple(map(str, range(10)))
    return Dataset("digits", names, images[train], labels[train], images[test], labels[test], mean, std)
