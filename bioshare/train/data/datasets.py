"""Data sets by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from bioshare.train.config import DatasetName
from bioshare.train.data.prepare import pixel_statistics, prepared_file
from bioshare.train.data.prepared import ImageFiles, read_prepared

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel that the paper normalises TinyImageNet and ImageNet with."""
DIGITS_FOR_TRAINING = 1437


@dataclass(frozen=True)
class Form:
    """How a data set is used in Sec. 5 of the paper.

    Attributes:
        side: rows and columns that networks see.
        validation: how many training images are held out for tuning.
        flip: whether half of the training images are mirrored.
        imagenet_statistics: whether images are normalised with ImageNet's mean and standard deviation, and not with
            those of all training pixels.
    """

    side: int
    validation: int
    flip: bool = False
    imagenet_statistics: bool = False


FORMS = {
    "cifar10": Form(32, 5_000),
    "cifar10-jpeg": Form(32, 5_000),
    "cifar100": Form(32, 5_000),
    "tinyimagenet": Form(48, 10_000, imagenet_statistics=True),
    "imagenet": Form(224, 10_000, flip=True, imagenet_statistics=True),
    "digits": Form(8, DIGITS_FOR_TRAINING // 5),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their classes.

    Attributes:
        name: a key of `FORMS`.
        classes: their names, in the order of the labels.
        train_images, test_images: (n, channels, rows, columns) uint8; or image files of any size.
        train_labels, test_labels: (n,) int64.
        mean, std: per channel, where the brightest pixel is 1; what images are normalised with.
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
    def form(self) -> Form:
        return FORMS[self.name]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, rows, columns) that networks see."""
        return len(self.mean), self.form.side, self.form.side


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """A data set by name. Its images stay on disk until they are used: the file is mapped into memory.

    "digits" are scikit-learn's 1,797 handwritten digits of 8 x 8, whose 17 levels of grey become 0 to 255. They need
    no file. They are shuffled with a fixed seed: the first 1,437 train, the last 360 test.

    Args:
        name: one of the names in `FORMS`.
        folder: where ``python -m bioshare prepare`` put the file; None for the environment variable BIOSHARE_DATA, or
            ``data``.

    Raises:
        FileNotFoundError: the data set was not prepared; gives the command.
        ValueError: the name is unknown, or the file is damaged.
    """
    if name not in get_args(DatasetName):
        raise ValueError(f"name must be one of {', '.join(get_args(DatasetName))}; got {name!r}")
    if name == "digits":
        return _digits()
    train, test, facts = read_prepared(prepared_file(name, folder), name)
    mean, std = IMAGENET_STATISTICS if FORMS[name].imagenet_statistics else (facts["mean"], facts["std"])
    return Dataset(name, tuple(facts["classes"]), *train, *test, tuple(mean), tuple(std))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # half a second that the other data sets can do without

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.rint(pixels[order] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(labels[order].astype(np.int64))
    train, test = slice(DIGITS_FOR_TRAINING), slice(DIGITS_FOR_TRAINING, None)
    mean, std = map(tuple, pixel_statistics(pixels[train]))
    names = tuple(map(str, range(10)))
    return Dataset("digits", names, images[train], labels[train], images[test], labels[test], mean, std)
